#include "channels.h"

namespace normkit::NK_ISA {

#include "../planes.h"
#include "../planes_sums.h"
#include "../planes_forward.h"
#include "../planes_backward.h"

void planes_forward(const ChannelForward& a) {
  by_dtype(a.shape.dtype, [&](auto zero) { planes_forward_of<decltype(zero)>(a, EveryPosition(a.shape)); });
}

void planes_backward(const ChannelBackward& a, Sums* sums) {
  by_dtype(a.shape.dtype, [&](auto zero) { planes_backward_of<decltype(zero)>(a, EveryPosition(a.shape), sums); });
}

}  // namespace normkit::NK_ISA
