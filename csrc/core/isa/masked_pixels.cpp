#include "channels.h"

namespace normkit::NK_ISA {

#include "../pixels.h"
#include "../pixels_forward.h"
#include "../pixels_backward.h"

void masked_pixels_forward(const ChannelForward& a, const KeptRows& rows) {
  by_dtype(a.shape.dtype, [&](auto zero) { pixels_forward_of<decltype(zero)>(a, rows); });
}

void masked_pixels_backward(const ChannelBackward& a, const KeptRows& rows, Sums* sums) {
  by_dtype(a.shape.dtype, [&](auto zero) { pixels_backward_of<decltype(zero)>(a, rows, sums); });
}

}  // namespace normkit::NK_ISA
