#include "channels.h"

namespace normkit::NK_ISA {

#include "../pixels.h"
#include "../pixels_forward.h"
#include "../pixels_backward.h"
#include "../masked_pixels.h"

void masked_pixels_forward(const ChannelForward& a, const KeptPositions& kept) {
  by_dtype(a.shape.dtype, [&](auto zero) { pixels_forward_of<decltype(zero)>(a, KeptRows(kept, a.shape.n_positions)); });
}

void masked_pixels_backward(const ChannelBackward& a, const KeptPositions& kept, Sums* sums) {
  by_dtype(a.shape.dtype, [&](auto zero) { pixels_backward_of<decltype(zero)>(a, KeptRows(kept, a.shape.n_positions), sums); });
}

}  // namespace normkit::NK_ISA
