#include "isa.h"

namespace normkit::NK_ISA {

#include "../dropout.h"
#include "../rows_stats.h"
#include "../rows_forward.h"
#include "../rows_backward.h"

void row_norm_forward(const RowNormForward& a) {
  by_dtype(a.dtype, [&](auto zero) {
    using T = decltype(zero);
    a.norm == RowNorm::kLayerNorm ? row_forward<RowNorm::kLayerNorm, T>(a) : row_forward<RowNorm::kRmsNorm, T>(a);
  });
}

void row_norm_backward(const RowNormBackward& a) {
  by_dtype(a.dtype, [&](auto zero) {
    using T = decltype(zero);
    a.norm == RowNorm::kLayerNorm ? row_backward<RowNorm::kLayerNorm, T>(a) : row_backward<RowNorm::kRmsNorm, T>(a);
  });
}

extern const RowKernels row_kernels = {row_norm_forward, row_norm_backward};

}  // namespace normkit::NK_ISA
