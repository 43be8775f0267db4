// The product of a few rows with a matrix that stays for a whole time loop: laid out anew once, then read by panels of
// 16 columns. Included by kernels_impl.h.
// Scalar math: out[i][j] = sum over k of a[i][k] * b[k][j].
// A lane adds up 128 products; those sums are added in order. A row's bits do not depend on the rows beside it.

constexpr int64_t kDepth = 128;

// Rows that are computed at once: as many accumulators as hide the latency of a fused multiply-add and leave a
// register for the panel and one for a.
constexpr int kProductRows = NK_REGISTER_BYTES == 64 ? 12 : NK_REGISTER_BYTES == 32 ? 6 : 3;

// b [n_deep, n_cols], read at from[k * k_step + j * j_step], as panels [n_cols / 16][n_deep][16], zeros past the end.
class Panels {
 public:
  Panels(const float* from, int64_t n_deep, int64_t n_cols, int64_t k_step, int64_t j_step)
      : n_deep_(n_deep), n_cols_(n_cols), memory_(ceil_div(n_cols, kLanes) * n_deep * kLanes) {
    for (int64_t first = 0; first < n_cols; first += kLanes) {
      float* to = memory_.data() + first * n_deep;
      const int64_t n = n_cols - first < kLanes ? n_cols - first : kLanes;
      for (int64_t k = 0; k < n_deep; ++k) {
        for (int64_t j = 0; j < kLanes; ++j) to[k * kLanes + j] = j < n ? from[k * k_step + (first + j) * j_step] : 0.0f;
      }
    }
  }

  // out[n_rows, n_cols], `out_step` apart, from rows of a that are `a_step` apart; or added to out.
  void multiply(const float* a, int64_t a_step, int64_t n_rows, float* out, int64_t out_step, bool add = false) const {
    const Rows rows = {a, a_step, out, out_step, add};
    if (n_rows < kProductRows) return few<kProductRows - 1>(rows, int(n_rows));
    for (int64_t first = 0; first < n_cols_; first += kLanes) panel(rows, n_rows, first);
  }

  // The columns of one panel alone, those from `first` on.
  void multiply_panel(int64_t first, const float* a, int64_t a_step, int64_t n_rows, float* out, int64_t out_step) const {
    panel({a, a_step, out, out_step, false}, n_rows, first);
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

  void panel(const Rows& rows, int64_t n_rows, int64_t first) const {
    int64_t i = 0;
    for (; i + kProductRows <= n_rows; i += kProductRows) tile<kProductRows, 1>(rows.from(i), first);
    rest<kProductRows - 1>(rows.from(i), first, int(n_rows - i));
  }

  // All columns of `count` rows, fewer than kProductRows: several panels at once in the registers that these leave.
  template <int kRows>
  void few(const Rows& rows, int count) const {
    if constexpr (kRows > 0) {
      if (count != kRows) return few<kRows - 1>(rows, count);
      constexpr int kPanels = kProductRows / kRows < 4 ? kProductRows / kRows : 4;
      int64_t first = 0;
      for (; first + kPanels * kLanes <= n_cols_; first += kPanels * kLanes) tile<kRows, kPanels>(rows, first);
      for (; first < n_cols_; first += kLanes) tile<kRows, 1>(rows, first);
    }
  }

  template <int kRows>
  void rest(const Rows& rows, int64_t first, int count) const {
    if constexpr (kRows > 0) {
      if (count != kRows) return rest<kRows - 1>(rows, first, count);
      tile<kRows, 1>(rows, first);
    }
  }

  // kRows rows of the kPanels panels from column `first` on; only a single panel may lack columns.
  template <int kRows, int kPanels>
  __attribute__((noinline)) void tile(const Rows& rows, int64_t first) const {
    const float* const panel = memory_.data() + first * n_deep_;
    const int n = int(n_cols_ - first < kLanes ? n_cols_ - first : kLanes);
    for (int64_t k = 0; k < n_deep_; k += kDepth) {
      const int64_t depth = n_deep_ - k < kDepth ? n_deep_ - k : kDepth;
      Vec<float> sums[kPanels][kRows];
#pragma GCC unroll 4
      for (int p = 0; p < kPanels; ++p) {
#pragma GCC unroll 12
        for (int r = 0; r < kRows; ++r) sums[p][r] = zeros<float>();
      }
      const float* b = panel + k * kLanes;
      for (int64_t d = 0; d < depth; ++d, b += kLanes) {
#pragma GCC unroll 4
        for (int p = 0; p < kPanels; ++p) {
          const Vec<float> bd = load(b + p * n_deep_ * kLanes);
#pragma GCC unroll 12
          for (int r = 0; r < kRows; ++r) sums[p][r] = fma(splat(rows.a[r * rows.a_step + k + d]), bd, sums[p][r]);
        }
      }
      const bool add = rows.add || k > 0;
#pragma GCC unroll 4
      for (int p = 0; p < kPanels; ++p) {
#pragma GCC unroll 12
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
  }

  int64_t n_deep_;
  int64_t n_cols_;
  Memory<float> memory_;
};
