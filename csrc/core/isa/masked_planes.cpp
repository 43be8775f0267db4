#include "channels.h"

namespace normkit::NK_ISA {

#include "../planes.h"
#include "../planes_sums.h"
#include "../planes_forward.h"
#include "../planes_backward.h"
#include "../masked_planes.h"

void masked_planes_forward(const ChannelForward& a, const KeptPositions& kept) {
  by_dtype(a.shape.dtype, [&](auto zero) {
    using T = decltype(zero);
    with_kept_planes(kept, a.shape, [&](const auto& positions) { planes_forward_of<T>(a, positions); });
  });
}

void masked_planes_backward(const ChannelBackward& a, const KeptPositions& kept, Sums* sums) {
  by_dtype(a.shape.dtype, [&](auto zero) {
    using T = decltype(zero);
    with_kept_planes(kept, a.shape, [&](const auto& positions) { planes_backward_of<T>(a, positions, sums); });
  });
}

}  // namespace normkit::NK_ISA
