#include "channels.h"

namespace normkit::NK_ISA {

#include "../channel_samples.h"
#include "../channel_forward.h"
#include "../channel_backward.h"

extern const ChannelKernels channel_kernels = {channel_forward, channel_backward};

}  // namespace normkit::NK_ISA
