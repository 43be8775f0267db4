// In place of the kernels of an instruction set that are not compiled: tables of nothing, which nobody calls.
#include "../../csrc/core/kernels.h"

namespace normkit::NK_ISA {

extern const RowKernels row_kernels{};
extern const ChannelKernels channel_kernels{};
extern const RecurrentKernels recurrent_kernels{};
extern const LayerNorm2dKernels layer_norm2d_kernels{};
extern const BatchLstmKernels batch_lstm_kernels{};
extern const ProductKernels product_kernels{};

}  // namespace normkit::NK_ISA
