// LayerNorm and RMSNorm over contiguous rows, alone or after a residual add: the arguments of their kernels.
// x, y, dy, dx, residual and z are [n_rows, n_cols] of `dtype`; weight and bias [n_cols] of a dtype of their own.
#pragma once

#include "types.h"

namespace normkit {

enum class RowNorm : int32_t { kLayerNorm = 0, kRmsNorm = 1 };

// x is scaled by 1/(1-p) or set to 0, by a Philox4x32-10 stream whose counter is the element's index.
struct Dropout {
  double p = 0.0;
  uint64_t seed = 0;
};

// What is kept of a row for the backward, as float32 (float64 for float64 data):
// LayerNorm [n_rows, 3]: m0, dm, rstd, where m0 + dm is the mean to twice the precision; RMSNorm [n_rows]: rstd.
static constexpr int64_t stats_per_row(RowNorm norm) { return norm == RowNorm::kLayerNorm ? 3 : 1; }

struct RowNormForward {
  RowNorm norm;
  DType dtype;
  int64_t n_rows;
  int64_t n_cols;
  double eps;
  const void* x;
  ConstArray w;
  ConstArray b;
  void* y;
  void* stats;           // may be null
  const void* residual;  // may be null; else z = residual + dropout(x) is written and normalized
  void* z;
  Dropout dropout;
  ParallelFor parallel_for;
};

struct RowNormBackward {
  RowNorm norm;
  DType dtype;
  int64_t n_rows;
  int64_t n_cols;
  double eps;
  const void* dy;
  const void* x;  // what was normalized: z after a residual add
  const void* stats;
  ConstArray w;
  const void* dz;  // may be null; the gradient of z by its other use, added to dx
  void* dx;        // may be null when not needed
  void* dropped;   // may be null; dx through the dropout: the gradient of the x that was dropped out
  Dropout dropout;
  MutableArray dw;  // data may be null when not needed
  MutableArray db;
  ParallelFor parallel_for;
};

struct RowKernels {
  void (*forward)(const RowNormForward&);
  void (*backward)(const RowNormBackward&);
};

// Rows are added up in chunks of about this many, or more; the second term bounds the memory that very long rows take.
static constexpr Chunks row_chunks(int64_t n_rows, int64_t n_cols) { return chunks_of(n_rows, n_cols <= 16384 ? 64 : 16); }

// The kernels of this processor, after advising huge pages for what they are about to write.
void row_norm_forward(const RowNormForward& args);
void row_norm_backward(const RowNormBackward& args);

}  // namespace normkit
