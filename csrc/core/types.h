// Types shared by every kernel and by the caller. No code here depends on the instruction set, and nothing
// here knows torch. Functions are static: each instruction set keeps its own copy (see isa/isa.h).
#pragma once

#include <cstddef>
#include <cstdint>

namespace normkit {

enum class DType : int32_t { kFloat32 = 0, kBFloat16 = 1, kFloat16 = 2, kFloat64 = 3 };

// Storage only: kernels compute in float32 (float64 for float64).
struct BFloat16 {
  uint16_t bits;
};
struct Float16 {
  uint16_t bits;
};

static constexpr int64_t size_of(DType dtype) {
  return dtype == DType::kFloat64 ? 8 : dtype == DType::kFloat32 ? 4 : 2;
}

// Calls fn(begin, end, context) over disjoint ranges that cover [begin, end), possibly at once from several
// threads. The ranges depend on the number of threads, so kernels never let them decide the order of a sum.
using RangeFn = void (*)(int64_t begin, int64_t end, void* context);
using ParallelFor = void (*)(int64_t begin, int64_t end, int64_t grain, RangeFn fn, void* context);

// A tensor argument whose dtype is known only at run time (parameters and their gradients). data may be null.
struct ConstArray {
  const void* data = nullptr;
  DType dtype = DType::kFloat32;
};
struct MutableArray {
  void* data = nullptr;
  DType dtype = DType::kFloat32;
};

// n items in `count` contiguous chunks of nearly equal length: a function of the shape alone, so that a sum
// over chunks has the same order, hence the same bits, for every number of threads.
struct Chunks {
  int64_t n;
  int64_t count;
  __attribute__((always_inline)) constexpr int64_t begin(int64_t chunk) const { return n * chunk / count; }
};

static constexpr int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }
static constexpr int64_t round_up(int64_t a, int64_t b) { return ceil_div(a, b) * b; }

// 192 = 2^6 * 3 divides evenly among 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64 and 96 threads.
static constexpr int64_t kMaxChunks = 192;

// About so many items a chunk, and none without an item. Where there are more chunks than four, two or four threads share them evenly.
static constexpr Chunks chunks_of(int64_t n, int64_t per_chunk) {
  const int64_t wanted = ceil_div(n, per_chunk), even = wanted > 4 && per_chunk > 1 ? round_up(wanted, 4) : wanted;
  return {n, even < 1 ? 1 : even < kMaxChunks ? even : kMaxChunks};
}

// Below this many elements a parallel region costs more than it saves.
static constexpr int64_t kParallelElements = 32768;

// The grain for parallel_for over items of `elements_each` elements.
static constexpr int64_t grain_for(int64_t elements_each) {
  const int64_t grain = kParallelElements / (elements_each > 0 ? elements_each : 1);
  return grain > 1 ? grain : 1;
}

}  // namespace normkit
