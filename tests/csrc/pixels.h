// The kernels of LayerNorm2d, as driver.cpp runs them.
#pragma once

#include "support.h"

namespace pixels {

struct Case {
  LayerNorm2dShape shape;
  DType parameters;
  bool affine, hard;
};

inline std::vector<Bytes> run(const Kernels& kernels, const Case& c, ParallelFor parallel_for) {
  const DType dtype = c.shape.dtype, wide = dtype == DType::kFloat64 ? DType::kFloat64 : DType::kFloat32;
  const int64_t n = size_of(c.shape), n_channels = c.shape.n_channels;
  const Bytes x = numbers(n, dtype, 1, c.hard), dy = numbers(n, dtype, 2, false);
  const Bytes w = numbers(n_channels, c.parameters, 5, false), b = numbers(n_channels, c.parameters, 6, false);
  Bytes y(x.size()), dx(x.size()), dw(w.size()), db(b.size());
  Bytes stats(size_t(c.shape.n_samples * kStatsPerPosition * c.shape.n_positions * size_of(wide)));

  LayerNorm2dForward f{};
  f.shape = c.shape, f.eps = 1e-5, f.x = x.data(), f.y = y.data(), f.stats = stats.data(), f.parallel_for = parallel_for;
  if (c.affine) f.w = {w.data(), c.parameters}, f.b = {b.data(), c.parameters};
  kernels.layer_norm2d.forward(f);

  LayerNorm2dBackward g{};
  g.shape = c.shape, g.eps = f.eps, g.dy = dy.data(), g.x = x.data(), g.stats = stats.data(), g.w = f.w, g.dx = dx.data();
  if (c.affine) g.dw = {dw.data(), c.parameters}, g.db = {db.data(), c.parameters};
  g.parallel_for = parallel_for;
  kernels.layer_norm2d.backward(g);
  std::vector<Bytes> results{y, stats, dx, dw, db};
  const DType dtypes[] = {dtype, wide, dtype, c.parameters, c.parameters};
  for (size_t i = 0; i < results.size(); ++i) unify_nan(results[i], dtypes[i]);
  return results;
}

// How many cases every instruction set computed to the same bits; -1 if one differs.
inline int check(const std::vector<const Kernels*>& all) {
  struct Sizes {
    int64_t n_samples, n_channels, n_positions;
  };
  int cases = 0;
  for (DType dtype : {DType::kFloat32, DType::kBFloat16, DType::kFloat16, DType::kFloat64}) {
    for (const Sizes s : {Sizes{2, 1, 5}, Sizes{3, 6, 1}, Sizes{2, 17, 33}, Sizes{1, 64, 49}, Sizes{5, 3, 131}, Sizes{1, 2, 4100}}) {
      for (int variant = 0; variant < 3; ++variant) {
        const Case c{{dtype, s.n_samples, s.n_channels, s.n_positions},
                     variant == 1 && dtype != DType::kFloat64 ? DType::kFloat32 : dtype,
                     variant != 2,
                     variant == 1};
        const std::vector<Bytes> expected = run(*all[0], c, serial);
        for (const Kernels* kernels : all) {
          if (run(*kernels, c, variant == 0 ? three_threads : serial) == expected) continue;
          std::printf("%s differs: pixels, dtype %d shape %lld x %lld x %lld variant %d\n", kernels->isa, int(dtype),
                      (long long)s.n_samples, (long long)s.n_channels, (long long)s.n_positions, variant);
          return -1;
        }
        ++cases;
      }
    }
  }
  return cases;
}

}  // namespace pixels
