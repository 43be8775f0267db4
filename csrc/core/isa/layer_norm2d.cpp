#include "channels.h"

namespace normkit::NK_ISA {

#include "../dropout.h"
#include "../rows_backward.h"
#include "../layer_norm2d_tile.h"
#include "../layer_norm2d_forward.h"
#include "../layer_norm2d_backward.h"

extern const LayerNorm2dKernels layer_norm2d_kernels = {layer_norm2d_forward, layer_norm2d_backward};

}  // namespace normkit::NK_ISA
