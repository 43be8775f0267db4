// The row kernels, as driver.cpp runs them.
#pragma once

#include "support.h"

namespace rows {

struct Case {
  RowNorm norm;
  DType dtype;
  DType parameters;
  int64_t n_rows, n_cols;
  bool affine, add, hard;
};

inline std::vector<Bytes> run(const Kernels& kernels, const Case& c, ParallelFor parallel_for) {
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

// How many cases every instruction set computed to the same bits; -1 if one differs.
inline int check(const std::vector<const Kernels*>& all) {
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
              return -1;
            }
            ++cases;
          }
        }
      }
    }
  }
  return cases;
}

}  // namespace rows
