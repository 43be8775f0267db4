// LayerNorm2d over planes: x of [n_samples, n_channels, n_positions], contiguous; each position of a sample is
// normalized over its channels. Weight and bias are [n_channels].
#pragma once

#include "types.h"

namespace normkit {

struct LayerNorm2dShape {
  DType dtype;
  int64_t n_samples;
  int64_t n_channels;
  int64_t n_positions;
};
static constexpr int64_t size_of(const LayerNorm2dShape& s) { return s.n_samples * s.n_channels * s.n_positions; }

// What is kept for the backward, as float32 (float64 for float64 data): [n_samples, 3, n_positions], which are m0, dm
// and rstd of each position; m0 + dm is the mean to twice the precision.
constexpr int64_t kStatsPerPosition = 3;

struct LayerNorm2dForward {
  LayerNorm2dShape shape;
  double eps;
  const void* x;
  ConstArray w;  // data may be null
  ConstArray b;
  void* y;      // may be x
  void* stats;  // may be null
  ParallelFor parallel_for;
};

struct LayerNorm2dBackward {
  LayerNorm2dShape shape;
  double eps;
  const void* dy;
  const void* x;
  const void* stats;
  ConstArray w;
  void* dx;         // may be null when not needed
  MutableArray dw;  // data may be null when not needed
  MutableArray db;
  ParallelFor parallel_for;
};

struct LayerNorm2dKernels {
  void (*forward)(const LayerNorm2dForward&);
  void (*backward)(const LayerNorm2dBackward&);
};

// With the kernels chosen for this processor.
void layer_norm2d_forward(const LayerNorm2dForward& args);
void layer_norm2d_backward(const LayerNorm2dBackward& args);

}  // namespace normkit
