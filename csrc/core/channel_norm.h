// BatchNorm, GroupNorm and InstanceNorm: a mean and a variance for each slab of x, a weight and a bias for each
// channel. A slab is one channel of the whole batch (BatchNorm) or one group of channels of one sample.
#pragma once

#include "types.h"

namespace normkit {

// How the channels of a sample lie in memory: one after the other, as planes of positions (contiguous N, C, *), or
// together at each position, as a pixel holds its colours (channels_last, and N, C).
enum class ChannelLayout : int32_t { kPlanes = 0, kPixels = 1 };

struct ChannelShape {
  ChannelLayout layout;
  DType dtype;
  int64_t n_samples;
  int64_t n_channels;
  int64_t n_positions;
  int64_t n_groups;  // in each sample; 0: BatchNorm, whose slabs are the channels of the batch
  int64_t n_calls = 1;  // of this shape, that make one

  // Inlined always: each instruction set keeps its own copy (see isa/isa.h).
#define NK_SHAPE __attribute__((always_inline)) constexpr
  NK_SHAPE bool over_batch() const { return n_groups == 0; }
  NK_SHAPE int64_t slabs() const { return over_batch() ? n_channels : n_samples * n_groups; }
  NK_SHAPE int64_t channels_per_slab() const { return over_batch() ? 1 : n_channels / n_groups; }
  NK_SHAPE int64_t slab_size() const { return n_positions * (over_batch() ? n_samples : channels_per_slab()); }
  NK_SHAPE int64_t size() const { return n_samples * n_channels * n_positions; }
  NK_SHAPE int64_t size_in_all() const { return size() * n_calls; }
#undef NK_SHAPE
};

// Applied to the normalized value before it is rounded. gelu is the exact one, by the normal distribution function.
enum class Activation : int32_t { kNone = 0, kRelu = 1, kSilu = 2, kGelu = 3 };

// What is kept of a slab, as float32 (float64 for float64 data): m0, dm, rstd, var. m0 + dm is the mean to twice
// the precision, var the population variance.
constexpr int64_t kStatsPerSlab = 4;

// running = (1 - momentum) * running + momentum * (mean, unbiased variance), averaged over the samples where these
// have statistics of their own. data may be null: there are none.
struct RunningStats {
  MutableArray mean;
  MutableArray var;
  double momentum = 0.0;
};

struct ChannelForward {
  ChannelShape shape;
  double eps;
  const void* x;
  const void* residual;  // may be null; added before the activation, which is then kNone or kRelu
  ConstArray w;          // [n_channels]; data may be null
  ConstArray b;
  Activation activation;
  ConstArray mean;  // [n_channels], normalizing in place of the input's own; data may be null (BatchNorm only)
  ConstArray var;
  void* y;
  void* stats;  // [slabs, kStatsPerSlab]
  RunningStats running;
  ParallelFor parallel_for;
  // [n_samples, n_positions], 0 where a position does not count; may be null: all do.
  const uint8_t* mask;
};

struct ChannelBackward {
  ChannelShape shape;
  double eps;
  bool constant_stats;  // the statistics were given: they do not depend on x
  const void* dy;
  const void* x;
  const void* stats;
  ConstArray w;
  ConstArray b;  // read with an activation only
  Activation activation;
  void* dx;         // may be null when not needed
  MutableArray dw;  // data may be null when not needed
  MutableArray db;
  ParallelFor parallel_for;
  const uint8_t* mask;  // as in the forward
};

struct ChannelKernels {
  void (*forward)(const ChannelForward&);
  void (*backward)(const ChannelBackward&);
};

// With the kernels chosen for this processor.
void channel_norm_forward(const ChannelForward& args);
void channel_norm_backward(const ChannelBackward& args);

}  // namespace normkit
