// What the core offers: one table of functions for each instruction set, and the one chosen for this processor.
#pragma once

#include "batch_lstm.h"
#include "channel_norm.h"
#include "recurrent.h"
#include "layer_norm2d.h"
#include "product.h"
#include "row_norm.h"
#include "types.h"

namespace normkit {

// Each instruction set has its own copy of every family: isa/*.cpp.
struct Kernels {
  const char* isa;
  const RowKernels& rows;
  const ChannelKernels& channels;
  const RecurrentKernels& recurrent;
  const LayerNorm2dKernels& layer_norm2d;
  const BatchLstmKernels& batch_lstm;
  const ProductKernels& product;
};

#define NK_DECLARE_KERNELS(ISA)                        \
  namespace ISA {                                      \
  extern const RowKernels row_kernels;                 \
  extern const ChannelKernels channel_kernels;         \
  extern const RecurrentKernels recurrent_kernels;     \
  extern const LayerNorm2dKernels layer_norm2d_kernels; \
  extern const BatchLstmKernels batch_lstm_kernels;    \
  extern const ProductKernels product_kernels;         \
  }
NK_DECLARE_KERNELS(portable)
NK_DECLARE_KERNELS(avx2)
NK_DECLARE_KERNELS(avx512)
NK_DECLARE_KERNELS(avx512_bf16)
#undef NK_DECLARE_KERNELS

// The best table that this processor runs, chosen once. The environment variable NORMKIT_ISA (portable, avx2,
// avx512 or avx512_bf16), read at the first call, forces one that the processor has; results are the same bits.
const Kernels& kernels();

// The same choice without its memory: what `wanted` (null: the best) gives on this processor. Null when the
// processor lacks it or the name is unknown.
const Kernels* find_kernels(const char* wanted);

// Whether this is one of AMD's processors that have AVX-512. MKL does not use it there.
bool is_amd_with_avx512();

// Asks for huge pages under [data, data + bytes) when it is 4 MiB or more: first touch of a fresh output is
// otherwise most of a kernel's time. A hint; does nothing where the system has none.
void advise_huge_pages(void* data, int64_t bytes);

// From how many bytes on an output is written past the caches: where it is more than half of the last of them, little of it would be
// found there by what reads it, while every line would be read from memory before it is written. The environment variable
// NORMKIT_STREAM_BYTES, read at the first call, says another number (0: never). The values written are the same.
int64_t stream_bytes();

// Lets the C library keep up to 64 MiB of what is freed for what is allocated next, and 32 in the heap of each further thread, in the
// whole process: what glibc comes to by itself once a block of 32 MiB was freed. Before, it keeps as little as twice the largest block, and a layer that frees more
// between two calls finds fresh memory in each, page by page. Changes nothing where its limits were set by hand.
void keep_freed_memory();

// Memory for a kernel's own use; throws std::bad_alloc, which parallel_for hands to the caller.
void* allocate(int64_t bytes);
void release(void* memory);

}  // namespace normkit
