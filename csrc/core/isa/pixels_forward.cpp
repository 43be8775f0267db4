#include "channels.h"

namespace normkit::NK_ISA {

#include "../pixels.h"
#include "../pixels_forward.h"

void pixels_forward(const ChannelForward& a) {
  by_dtype(a.shape.dtype, [&](auto zero) { pixels_forward_of<decltype(zero)>(a, EveryRow(a.shape)); });
}

}  // namespace normkit::NK_ISA
