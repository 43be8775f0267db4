#include "channels.h"

namespace normkit::NK_ISA {

#include "../planes.h"
#include "../masked_planes.h"

void masked_planes_forward(const ChannelForward& a, const KeptPositions& kept) {
  by_dtype(a.shape.dtype, [&](auto zero) { masked_planes_forward_of<decltype(zero)>(a, kept); });
}

void masked_planes_backward(const ChannelBackward& a, const KeptPositions& kept, Sums* sums) {
  by_dtype(a.shape.dtype, [&](auto zero) { masked_planes_backward_of<decltype(zero)>(a, kept, sums); });
}

}  // namespace normkit::NK_ISA
