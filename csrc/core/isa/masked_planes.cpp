#include "channels.h"

namespace normkit::NK_ISA {

#include "../planes.h"
#include "../planes_sums.h"
#include "../planes_forward.h"
#include "../planes_backward.h"
#include "../masked_planes.h"

void masked_planes_forward(const ChannelForward& a, const KeptPositions& kept) {
  with_kept_planes(kept, a.shape, [&](const auto& positions) {
    by_dtype(a.shape.dtype, [&](auto zero) { planes_forward_of<decltype(zero)>(a, positions); });
  });
}

void masked_planes_backward(const ChannelBackward& a, const KeptPositions& kept, Sums* sums) {
  with_kept_planes(kept, a.shape, [&](const auto& positions) {
    by_dtype(a.shape.dtype, [&](auto zero) { planes_backward_of<decltype(zero)>(a, positions, sums); });
  });
}

}  // namespace normkit::NK_ISA
