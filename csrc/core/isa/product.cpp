#include "isa.h"

namespace normkit::NK_ISA {

#include "../gemm.h"

// So deep a part of b is laid out at once.
static int64_t depth_at_once(int64_t n_cols) {
  constexpr int64_t kValues = int64_t(1) << 18, kLeast = 512;
  const int64_t depth = kValues / n_cols / kDepth * kDepth;
  return depth > kLeast ? depth : kLeast;
}

static void multiply(const Product& p) {
  constexpr int64_t kAtOnce = 256;                     // rows: a part of a that stays in the second cache
  constexpr int64_t kWorthAThread = int64_t(1) << 18;  // multiplications
  const int64_t tiles = ceil_div(p.n_rows, kProductRows), at_once = depth_at_once(p.n_cols);
  for (int64_t k = 0; k < p.n_deep; k += at_once) {
    const int64_t depth = p.n_deep - k < at_once ? p.n_deep - k : at_once;
    const Panels b(p.b + k * p.b_deep, depth, p.n_cols, p.b_deep, p.b_col, 1, p.parallel_for);
    const Panels::Rows rows = {p.a + k * p.a_deep, p.a_row, p.a_deep, p.out, p.n_cols, k > 0};
    for_range(p.parallel_for, 0, tiles, ceil_div(kWorthAThread, kProductRows * depth * p.n_cols), [&](int64_t first, int64_t last) {
      const int64_t end = last * kProductRows < p.n_rows ? last * kProductRows : p.n_rows;
      for (int64_t i = first * kProductRows; i < end; i += kAtOnce) b.multiply(rows.from(i), end - i < kAtOnce ? end - i : kAtOnce);
    });
  }
}

extern const ProductKernels product_kernels = {multiply};

}  // namespace normkit::NK_ISA
