// The product of two matrices, as driver.cpp runs it.
#pragma once

#include <array>

#include "recurrent.h"

namespace products {

using recurrent::at;
using recurrent::Floats;
using recurrent::floats;
using recurrent::zeros;

struct Case {
  int64_t n_rows, n_deep, n_cols;
  bool a_down, b_across;  // whether the values that are multiplied follow one another down the columns of a, or across the rows of b
};

inline std::vector<Bytes> run(const Kernels& kernels, const Case& c, ParallelFor parallel_for) {
  Floats a = floats(c.n_rows * c.n_deep, 1, false), b = floats(c.n_deep * c.n_cols, 2, false), out = zeros(c.n_rows * c.n_cols);
  const int64_t a_row = c.a_down ? 1 : c.n_deep, a_deep = c.a_down ? c.n_rows : 1;
  const int64_t b_deep = c.b_across ? 1 : c.n_cols, b_col = c.b_across ? c.n_deep : 1;
  kernels.product.multiply({c.n_rows, c.n_deep, c.n_cols, at(a), a_row, a_deep, at(b), b_deep, b_col, at(out), parallel_for});
  return {recurrent::bits_of(out)};
}

// How many cases every instruction set computed to the same bits; -1 if one differs.
inline int check(const std::vector<const Kernels*>& all) {
  int cases = 0;
  for (const auto& [rows, deep, cols] : {std::array<int64_t, 3>{1, 1, 1}, {3, 130, 17}, {9, 5, 48}, {70, 3, 33}, {259, 20, 100}, {8, 1100, 16}, {9, 1100, 520}}) {
    for (int variant = 0; variant < 4; ++variant) {
      const Case c{rows, deep, cols, variant % 2 == 1, variant / 2 == 1};
      const std::vector<Bytes> expected = run(*all[0], c, serial);
      for (const Kernels* kernels : all) {
        if (run(*kernels, c, three_threads) == expected) continue;
        std::printf("%s differs: a product of %lld x %lld x %lld, variant %d\n", kernels->isa, (long long)rows, (long long)deep,
                    (long long)cols, variant);
        return -1;
      }
      ++cases;
    }
  }
  return cases;
}

}  // namespace products
