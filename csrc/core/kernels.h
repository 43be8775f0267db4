// What the core offers: one table of functions for each instruction set, and the one chosen for this processor.
#pragma once

#include "batch_lstm.h"
#include "channel_norm.h"
#include "recurrent.h"
#include "layer_norm2d.h"
#include "row_norm.h"
#include "types.h"

namespace normkit {

struct Kernels {
  const char* isa;
  RowKernels rows;
  ChannelKernels channels;
  RecurrentKernels recurrent;
  LayerNorm2dKernels layer_norm2d;
  BatchLstmKernels batch_lstm;
};

extern const Kernels kPortableKernels;
#if defined(NORMKIT_X86_KERNELS)
extern const Kernels kAvx2Kernels;
extern const Kernels kAvx512Kernels;
#endif

// The best table that this processor runs, chosen once. The environment variable NORMKIT_ISA (portable, avx2
// or avx512), read at the first call, forces one that the processor has; results are the same bits.
const Kernels& kernels();

// The same choice without its memory: what `wanted` (null: the best) gives on this processor. Null when the
// processor lacks it or the name is unknown.
const Kernels* find_kernels(const char* wanted);

// Asks for huge pages under [data, data + bytes) when it is 4 MiB or more: first touch of a fresh output is
// otherwise most of a kernel's time. A hint; does nothing where the system has none.
void advise_huge_pages(void* data, int64_t bytes);

// Memory for a kernel's own use; throws std::bad_alloc, which parallel_for hands to the caller.
void* allocate(int64_t bytes);
void release(void* memory);

}  // namespace normkit
