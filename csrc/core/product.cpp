#include "product.h"

#include "kernels.h"

namespace normkit {

void multiply(const Product& args) {
  advise_huge_pages(args.out, args.n_rows * args.n_cols * int64_t(sizeof(float)));
  kernels().product.multiply(args);
}

}  // namespace normkit
