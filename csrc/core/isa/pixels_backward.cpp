#include "channels.h"

namespace normkit::NK_ISA {

#include "../pixels.h"
#include "../pixels_backward.h"

void pixels_backward(const ChannelBackward& a, Sums* sums) {
  by_dtype(a.shape.dtype, [&](auto zero) { pixels_backward_of<decltype(zero)>(a, EveryRow(a.shape), sums); });
}

}  // namespace normkit::NK_ISA
