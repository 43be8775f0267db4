// What every file of this folder begins with. Each is compiled once for each instruction set: the build (setup.py: ISAS)
// names the set, NK_ISA, and passes the compiler flags that choose its instructions. Everything that generates code
// stands inside the namespace NK_ISA, and nothing in it calls a function of the standard library: an inline one, compiled
// here for AVX-512, could be the copy that the linker keeps for code that runs on every processor.
#pragma once

#include <math.h>
#include <stdint.h>
#include <stdlib.h>

#if defined(__AVX2__)
#include <immintrin.h>
#elif defined(__ARM_NEON)
#include <arm_neon.h>
#endif

#include "../kernels.h"
#include "../types.h"

namespace normkit::NK_ISA {

#include "../simd.h"
// in this order
#include "../memory.h"
#include "../parallel.h"
#include "../params.h"

// work(T()) with the type T of the data. (NK_BFLOAT16_ALONE: the set serves for no other; see kernels.cpp.)
template <class Work>
NK_INLINE void by_dtype([[maybe_unused]] DType dtype, const Work& work) {
#if defined(NK_BFLOAT16_ALONE)
  return work(BFloat16());
#else
  switch (dtype) {
    case DType::kFloat32: return work(float());
    case DType::kBFloat16: return work(BFloat16());
    case DType::kFloat16: return work(Float16());
    case DType::kFloat64: return work(double());
  }
#endif
}

// What one file of this folder calls in another.
void row_norm_forward(const RowNormForward& a);
void row_norm_backward(const RowNormBackward& a);

}  // namespace normkit::NK_ISA
