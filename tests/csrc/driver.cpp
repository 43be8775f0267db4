// Runs every row kernel of every instruction set that this processor has over heap blocks of exactly the size
// that a call may touch, so that AddressSanitizer sees any access beyond, and compares the bits between them.
// Prints "ok" and what it ran, or says what differed and returns 1.
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <thread>
#include <vector>

#include "../../csrc/core/kernels.h"

using namespace normkit;

namespace {

// A parallel_for that cuts the range differently from torch's: ranges of one item, on three threads.
void three_threads(int64_t begin, int64_t end, int64_t, RangeFn fn, void* context) {
  std::vector<std::thread> threads;
  for (int t = 0; t < 3; ++t) {
    threads.emplace_back([=] {
      for (int64_t i = begin + t; i < end; i += 3) fn(i, i + 1, context);
    });
  }
  for (std::thread& t : threads) t.join();
}
void serial(int64_t begin, int64_t end, int64_t, RangeFn fn, void* context) { fn(begin, end, context); }

using Bytes = std::vector<unsigned char>;

uint32_t next_random(uint32_t& state) { return state = state * 1664525u + 1013904223u; }

// n numbers between -2 and 2 of the dtype, and now and then something harder.
Bytes numbers(int64_t n, DType dtype, uint32_t seed, bool hard) {
  Bytes bytes(size_t(n * size_of(dtype)));
  for (int64_t i = 0; i < n; ++i) {
    const uint32_t r = next_random(seed);
    if (dtype == DType::kFloat32 || dtype == DType::kBFloat16) {
      uint32_t bits = 0x3f000000u + (r >> 8) % 0x01000000u + (r & 0x80000000u);
      if (hard && r % 61 == 0) bits = r % 122 == 0 ? 0x7f800000u : 0x00000001u;
      if (hard && r % 67 == 0) bits = 0x7f000000u;
      const uint16_t upper = uint16_t(bits >> 16);
      if (dtype == DType::kFloat32) std::memcpy(&bytes[size_t(4 * i)], &bits, 4);
      else std::memcpy(&bytes[size_t(2 * i)], &upper, 2);
    } else if (dtype == DType::kFloat16) {
      const uint16_t bits = hard && r % 61 == 0 ? 0x0001u : uint16_t(0x3800u + (r >> 8) % 0x0800u);
      std::memcpy(&bytes[size_t(2 * i)], &bits, 2);
    } else {
      const double value = double(int32_t(r)) / 1073741824.0;
      std::memcpy(&bytes[size_t(8 * i)], &value, 8);
    }
  }
  return bytes;
}

// One NaN for all: which of its bits are set is the processor's and the compiler's choice.
void unify_nan(Bytes& bytes, DType dtype) {
  const size_t size = size_t(size_of(dtype));
  for (size_t i = 0; i < bytes.size(); i += size) {
    uint64_t bits = 0;
    std::memcpy(&bits, &bytes[i], size);
    const uint64_t sign = uint64_t(1) << (8 * size - 1);
    const uint64_t infinity = dtype == DType::kFloat64    ? 0x7ff0000000000000u
                              : dtype == DType::kFloat32  ? 0x7f800000u
                              : dtype == DType::kBFloat16 ? 0x7f80u
                                                          : 0x7c00u;
    if ((bits & ~sign) > infinity) std::memset(&bytes[i], 0xff, size);
  }
}

struct Case {
  RowNorm norm;
  DType dtype;
  DType parameters;
  int64_t n_rows, n_cols;
  bool affine, add, hard;
};

std::vector<Bytes> run(const Kernels& kernels, const Case& c, ParallelFor parallel_for) {
  const int64_t n = c.n_rows * c.n_cols;
  const DType stats_dtype = c.dtype == DType::kFloat64 ? DType::kFloat64 : DType::kFloat32;
  const Bytes x = numbers(n, c.dtype, 1, c.hard), dy = numbers(n, c.dtype, 2, false);
  const Bytes residual = numbers(n, c.dtype, 3, false), dz = numbers(n, c.dtype, 4, false);
  const Bytes w = numbers(c.n_cols, c.parameters, 5, false), b = numbers(c.n_cols, c.parameters, 6, false);
  Bytes y(x.size()), z(x.size()), dx(x.size()), dropped(x.size()), dw(w.size()), db(b.size());
  Bytes stats(size_t(c.n_rows * stats_per_row(c.norm) * size_of(stats_dtype)));

  RowNormForward f{};
  f.norm = c.norm, f.dtype = c.dtype, f.n_rows = c.n_rows, f.n_cols = c.n_cols, f.eps = 1e-5;
  f.x = x.data(), f.y = y.data(), f.stats = stats.data(), f.parallel_for = parallel_for;
  if (c.affine) f.w = {w.data(), c.parameters}, f.b = {b.data(), c.parameters};
  if (c.add) f.residual = residual.data(), f.z = z.data(), f.dropout = {0.25, 42};
  kernels.rows.forward(f);

  RowNormBackward g{};
  g.norm = c.norm, g.dtype = c.dtype, g.n_rows = c.n_rows, g.n_cols = c.n_cols, g.eps = 1e-5;
  g.dy = dy.data(), g.x = c.add ? z.data() : x.data(), g.stats = stats.data(), g.dx = dx.data();
  g.parallel_for = parallel_for;
  if (c.affine) g.w = f.w, g.dw = {dw.data(), c.parameters}, g.db = {db.data(), c.parameters};
  if (c.norm == RowNorm::kRmsNorm) g.db = {};
  if (c.add) g.dz = dz.data(), g.dropped = dropped.data(), g.dropout = f.dropout;
  kernels.rows.backward(g);
  std::vector<Bytes> results{y, z, stats, dx, dropped, dw, db};
  const DType dtypes[] = {c.dtype, c.dtype, stats_dtype, c.dtype, c.dtype, c.parameters, c.parameters};
  for (size_t i = 0; i < results.size(); ++i) unify_nan(results[i], dtypes[i]);
  return results;
}

}  // namespace

int main() {
  std::vector<const Kernels*> all;
  for (const char* isa : {"portable", "avx2", "avx512"}) {
    if (const Kernels* found = find_kernels(isa)) all.push_back(found);
  }
  int cases = 0;
  for (RowNorm norm : {RowNorm::kLayerNorm, RowNorm::kRmsNorm}) {
    for (DType dtype : {DType::kFloat32, DType::kBFloat16, DType::kFloat16, DType::kFloat64}) {
      for (int64_t n_cols : {1, 5, 16, 47, 64, 1029, 4096 + 33}) {
        for (int64_t n_rows : {1, 3, 34, 130}) {
          if (n_cols * n_rows > 40000) continue;
          for (int variant = 0; variant < 4; ++variant) {
            const Case c{norm,   dtype,  variant == 1 ? DType::kFloat32 : dtype, n_rows, n_cols, variant != 2, variant == 3,
                         variant == 1};
            const std::vector<Bytes> expected = run(*all[0], c, serial);
            for (const Kernels* kernels : all) {
              if (run(*kernels, c, n_rows == 130 ? three_threads : serial) == expected) continue;
              std::printf("%s differs: norm %d dtype %d shape %lld x %lld variant %d\n", kernels->isa, int(norm),
                          int(dtype), (long long)n_rows, (long long)n_cols, variant);
              return 1;
            }
            ++cases;
          }
        }
      }
    }
  }
  std::printf("ok: %d cases on", cases);
  for (const Kernels* kernels : all) std::printf(" %s", kernels->isa);
  std::printf("\n");
}
