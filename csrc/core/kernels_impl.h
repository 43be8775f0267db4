// The kernels of one instruction set. Each isa_*.cpp defines NK_ISA (its namespace) and NK_TABLE (the table it
// fills) and includes this file; the compiler flags of that file choose the instructions (setup.py: ISA_FLAGS).
// Everything that generates code stands inside the namespace NK_ISA, and nothing here calls a function of the
// standard library: an inline one, compiled here for AVX-512, could be the copy that the linker keeps for
// code that runs on every processor.
#include <math.h>
#include <stdint.h>
#include <stdlib.h>

#if defined(__AVX2__)
#include <immintrin.h>
#elif defined(__ARM_NEON)
#include <arm_neon.h>
#endif

#include "kernels.h"
#include "types.h"

namespace normkit {
namespace NK_ISA {

#include "simd.h"
// in this order
#include "parallel.h"
#include "params.h"
#include "dropout.h"
#include "rows_stats.h"
// one family of kernels after the other
#include "rows_forward.h"
#include "rows_backward.h"

#include "exp.h"
#include "activation.h"
#include "channel_stats.h"
#include "planes.h"
#include "planes_forward.h"
#include "planes_backward.h"
#include "masked_planes.h"
#include "pixels.h"
#include "pixels_forward.h"
#include "pixels_backward.h"
#include "masked_pixels.h"
#include "channel_forward.h"
#include "channel_backward.h"

#include "layer_norm2d_tile.h"
#include "layer_norm2d_forward.h"
#include "layer_norm2d_backward.h"

#include "gates.h"
#include "gemm.h"
#include "recurrent_steps.h"
#include "recurrent_forward.h"
#include "recurrent_backward.h"
#include "recurrent_gru.h"
#include "batch_lstm_columns.h"
#include "batch_lstm_forward.h"
#include "batch_lstm_backward.h"

}  // namespace NK_ISA

extern const Kernels NK_TABLE = {
    NK_ISA_NAME,
    {NK_ISA::row_norm_forward, NK_ISA::row_norm_backward},
    {NK_ISA::channel_forward, NK_ISA::channel_backward},
    {NK_ISA::recurrent_forward, NK_ISA::recurrent_backward, NK_ISA::gru_forward, NK_ISA::gru_backward},
    {NK_ISA::layer_norm2d_forward, NK_ISA::layer_norm2d_backward},
    {NK_ISA::batch_lstm_forward, NK_ISA::batch_lstm_backward},
};

}  // namespace normkit
