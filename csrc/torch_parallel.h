// torch's thread pool as the core's parallel_for: the one that torch.set_num_threads rules.
#pragma once

#include <torch/csrc/stable/c/shim.h>

#include <new>

#include "core/types.h"

namespace normkit {

inline void torch_parallel(int64_t begin, int64_t end, int64_t grain, RangeFn fn, void* context) {
  // Kernels throw nothing but std::bad_alloc, which torch hands back as an error code.
  if (torch_parallel_for(begin, end, grain, fn, context) != AOTI_TORCH_SUCCESS) throw std::bad_alloc();
}

}  // namespace normkit
