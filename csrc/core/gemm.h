// The product of a few rows with a matrix that stays for a whole time loop: laid out anew once, then read by panels of
// 16 columns. Included by isa/*.cpp.
// Scalar math: out[i][j] = sum over k of a[i][k] * b[k][j].
// A lane adds up 128 products; those sums are added in order. A row's bits do not depend on the rows beside it.

constexpr int64_t kDepth = 128;

// A tile is so many rows by so many panels: enough accumulators to hide the latency of a fused multiply-add, few enough
// to leave a register for each panel and one for a. A block of 16 sequences is whole tiles under AVX-512.
constexpr int kProductRows = NK_REGISTER_BYTES == 64 ? 8 : NK_REGISTER_BYTES == 32 ? 6 : 3;
constexpr int kProductPanels = NK_REGISTER_BYTES == 64 ? 2 : 1;

// to[k * 16 + j] = from[j * step + k] for j, k < 4.
NK_INLINE void transpose_four(const float* from, int64_t step, float* to) {
  typedef float Four __attribute__((vector_size(16)));
  Four rows[4];
  for (int j = 0; j < 4; ++j) __builtin_memcpy(&rows[j], from + j * step, sizeof rows[j]);
  for (int k = 0; k < 4; ++k) {
    const Four column = {rows[0][k], rows[1][k], rows[2][k], rows[3][k]};
    __builtin_memcpy(to + k * kLanes, &column, sizeof column);
  }
}

// b [n_deep, n_cols], read at from[k * k_step + j * j_step], as panels [n_cols / 16][n_deep][16], zeros past the end.
class Panels {
 public:
  Panels(const float* from, int64_t n_deep, int64_t n_cols, int64_t k_step, int64_t j_step)
      : n_deep_(n_deep), n_cols_(n_cols), memory_(ceil_div(n_cols, kLanes) * n_deep * kLanes) {
    for (int64_t first = 0; first < n_cols; first += kLanes) {
      float* to = memory_.data() + first * n_deep;
      const float* const panel = from + first * j_step;
      const int64_t n = n_cols - first < kLanes ? n_cols - first : kLanes;
      int64_t k = 0;
      if (n == kLanes && j_step == 1) {
        for (; k < n_deep; ++k) store(to + k * kLanes, load(panel + k * k_step));
      } else if (n == kLanes && k_step == 1) {
        for (; k + 4 <= n_deep; k += 4) {
          for (int64_t j = 0; j < kLanes; j += 4) transpose_four(panel + k + j * j_step, j_step, to + k * kLanes + j);
        }
      }
      for (; k < n_deep; ++k) {
        for (int64_t j = 0; j < kLanes; ++j) to[k * kLanes + j] = j < n ? panel[k * k_step + j * j_step] : 0.0f;
      }
    }
  }

  // out[n_rows, n_cols], `out_step` apart, from rows of a that are `a_step` apart; or added to out.
  void multiply(const float* a, int64_t a_step, int64_t n_rows, float* out, int64_t out_step, bool add = false) const {
    const Rows rows = {a, a_step, out, out_step, add};
    const int64_t whole = n_rows - n_rows % kProductRows;
    columns<kProductRows, kProductPanels>(rows, whole);
    rest<kProductRows - 1>(rows.from(whole), int(n_rows - whole));
  }

  // The columns of one panel alone, those from `first` on.
  void multiply_panel(int64_t first, const float* a, int64_t a_step, int64_t n_rows, float* out, int64_t out_step) const {
    const Rows rows = {a, a_step, out, out_step, false};
    const int64_t whole = n_rows - n_rows % kProductRows;
    depths<kProductRows, 1>(rows, whole, first);
    rest_of_panel<kProductRows - 1>(rows.from(whole), first, int(n_rows - whole));
  }

 private:
  struct Rows {
    const float* a;
    int64_t a_step;
    float* out;
    int64_t out_step;
    bool add;
    Rows from(int64_t i) const { return {a + i * a_step, a_step, out + i * out_step, out_step, add}; }
  };

  // All columns of `count` rows, fewer than a tile's: more panels at once in the registers that these leave.
  template <int kRows>
  void rest(const Rows& rows, int count) const {
    if constexpr (kRows > 0) {
      if (count != kRows) return rest<kRows - 1>(rows, count);
      constexpr int kPanels = kProductRows * kProductPanels / kRows < 4 ? kProductRows * kProductPanels / kRows : 4;
      columns<kRows, kPanels>(rows, kRows);
    }
  }

  template <int kRows>
  void rest_of_panel(const Rows& rows, int64_t first, int count) const {
    if constexpr (kRows > 0) {
      if (count != kRows) return rest_of_panel<kRows - 1>(rows, first, count);
      depths<kRows, 1>(rows, kRows, first);
    }
  }

  // All columns of n_rows rows, a multiple of kRows. A stretch of the panels stays in the first cache for all of them.
  template <int kRows, int kPanels>
  void columns(const Rows& rows, int64_t n_rows) const {
    if (n_rows == 0) return;
    int64_t first = 0;
    for (; first + kPanels * kLanes <= n_cols_; first += kPanels * kLanes) depths<kRows, kPanels>(rows, n_rows, first);
    for (; first < n_cols_; first += kLanes) depths<kRows, 1>(rows, n_rows, first);
  }

  template <int kRows, int kPanels>
  void depths(const Rows& rows, int64_t n_rows, int64_t first) const {
    for (int64_t k = 0; k < n_deep_; k += kDepth) {
      for (int64_t i = 0; i < n_rows; i += kRows) tile<kRows, kPanels>(rows.from(i), first, k);
    }
  }

  // kRows rows of the kPanels panels from column `first` on, the products from k on; only a single panel may lack columns.
  template <int kRows, int kPanels>
  __attribute__((noinline)) void tile(const Rows& rows, int64_t first, int64_t k) const {
    const int64_t depth = n_deep_ - k < kDepth ? n_deep_ - k : kDepth;
    Vec<float> sums[kPanels][kRows];
#pragma GCC unroll 4
    for (int p = 0; p < kPanels; ++p) {
#pragma GCC unroll 8
      for (int r = 0; r < kRows; ++r) sums[p][r] = zeros<float>();
    }
    const float* b = memory_.data() + first * n_deep_ + k * kLanes;
    for (int64_t d = k; d < k + depth; ++d, b += kLanes) {
      Vec<float> bd[kPanels];
#pragma GCC unroll 4
      for (int p = 0; p < kPanels; ++p) bd[p] = load(b + p * n_deep_ * kLanes);
#pragma GCC unroll 8
      for (int r = 0; r < kRows; ++r) {
        const Vec<float> ar = splat(rows.a[r * rows.a_step + d]);
#pragma GCC unroll 4
        for (int p = 0; p < kPanels; ++p) sums[p][r] = fma(ar, bd[p], sums[p][r]);
      }
    }
    const int n = int(n_cols_ - first < kLanes ? n_cols_ - first : kLanes);
    const bool add = rows.add || k > 0;
#pragma GCC unroll 4
    for (int p = 0; p < kPanels; ++p) {
#pragma GCC unroll 8
      for (int r = 0; r < kRows; ++r) {
        float* const to = rows.out + r * rows.out_step + first + p * kLanes;
        if (n == kLanes) {
          store(to, add ? load(to) + sums[p][r] : sums[p][r]);
        } else {
          store_first(to, add ? load_first(to, n) + sums[p][r] : sums[p][r], n);
        }
      }
    }
  }

  int64_t n_deep_;
  int64_t n_cols_;
  Memory<float> memory_;
};
