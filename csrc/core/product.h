// A product of two matrices, each read at any steps: what of a recurrent layer is not done step by step. float32.
#pragma once

#include "types.h"

namespace normkit {

// Scalar math: out[i][j] = sum over k of a[i * a_row + k * a_deep] * b[k * b_deep + j * b_col].
struct Product {
  int64_t n_rows, n_deep, n_cols;  // none is 0
  const float* a;
  int64_t a_row, a_deep;
  const float* b;
  int64_t b_deep, b_col;
  float* out;  // [n_rows, n_cols]
  ParallelFor parallel_for;
};

struct ProductKernels {
  void (*multiply)(const Product&);
};

void multiply(const Product& args);

}  // namespace normkit
