#include "row_norm.h"

#include "kernels.h"

namespace normkit {

void row_norm_forward(const RowNormForward& args) {
  const int64_t bytes = args.n_rows * args.n_cols * size_of(args.dtype);
  if (bytes == 0) return;
  advise_huge_pages(args.y, bytes);
  if (args.z != nullptr) advise_huge_pages(args.z, bytes);
  kernels().rows.forward(args);
}

void row_norm_backward(const RowNormBackward& args) {
  if (args.n_cols == 0) return;
  const int64_t bytes = args.n_rows * args.n_cols * size_of(args.dtype);
  if (args.dx != nullptr) advise_huge_pages(args.dx, bytes);
  if (args.dropped != nullptr) advise_huge_pages(args.dropped, bytes);
  kernels().rows.backward(args);
}

}  // namespace normkit
