#include "layer_norm2d.h"

#include <cstring>
#include <initializer_list>

#include "kernels.h"

namespace normkit {

void layer_norm2d_forward(const LayerNorm2dForward& args) {
  if (size_of(args.shape) == 0) return;
  advise_huge_pages(args.y, size_of(args.shape) * size_of(args.shape.dtype));
  kernels().layer_norm2d.forward(args);
}

void layer_norm2d_backward(const LayerNorm2dBackward& args) {
  if (size_of(args.shape) == 0) {  // sums over nothing
    for (const MutableArray& sums : {args.dw, args.db}) {
      if (sums.data != nullptr) std::memset(sums.data, 0, size_t(args.shape.n_channels * size_of(sums.dtype)));
    }
    return;
  }
  if (args.dx != nullptr) advise_huge_pages(args.dx, size_of(args.shape) * size_of(args.shape.dtype));
  kernels().layer_norm2d.backward(args);
}

}  // namespace normkit
