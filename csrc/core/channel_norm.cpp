#include "channel_norm.h"

#include <cstring>
#include <initializer_list>

#include "kernels.h"

namespace normkit {

void channel_norm_forward(const ChannelForward& args) {
  if (args.shape.size() == 0) return;
  advise_huge_pages(args.y, args.shape.size() * size_of(args.shape.dtype));
  kernels().channels.forward(args);
}

void channel_norm_backward(const ChannelBackward& args) {
  if (args.shape.size() == 0) {  // sums over nothing
    for (const MutableArray& sums : {args.dw, args.db}) {
      if (sums.data != nullptr) std::memset(sums.data, 0, size_t(args.shape.n_channels * size_of(sums.dtype)));
    }
    return;
  }
  if (args.dx != nullptr) advise_huge_pages(args.dx, args.shape.size() * size_of(args.shape.dtype));
  kernels().channels.backward(args);
}

}  // namespace normkit
