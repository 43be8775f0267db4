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

  // out[n_rows, n_cols], `out_step` apart, from rows of a that are `a_step` apart.
  void multiply(const float* a, int64_t a_step, int64_t n_rows, float* out, int64_t out_step) const {
    for (int64_t first = 0; first < n_cols_; first += kLanes) {
      const float* panel = memory_.data() + first * n_deep_;
      const int n = int(n_cols_ - first < kLanes ? n_cols_ - first : kLanes);
      int64_t i = 0;
      for (; i + kProductRows <= n_rows; i += kProductRows) {
        rows<kProductRows>(panel, a + i * a_step, a_step, out + i * out_step + first, out_step, n);
      }
      rest<kProductRows - 1>(panel, a + i * a_step, a_step, out + i * out_step + first, out_step, n, int(n_rows - i));
    }
  }

 private:
  template <int kRows>
  void rest(const float* panel, const float* a, int64_t a_step, float* out, int64_t out_step, int n, int count) const {
    if constexpr (kRows > 0) {
      if (count == kRows) return rows<kRows>(panel, a, a_step, out, out_step, n);
      rest<kRows - 1>(panel, a, a_step, out, out_step, n, count);
    }
  }

  template <int kRows>
  __attribute__((noinline)) void rows(const float* panel, const float* a, int64_t a_step, float* out, int64_t out_step,
                                      int n) const {
    for (int64_t k = 0; k < n_deep_; k += kDepth) {
      const int64_t depth = n_deep_ - k < kDepth ? n_deep_ - k : kDepth;
      Vec<float> sums[kRows];
#pragma GCC unroll 12
      for (int r = 0; r < kRows; ++r) sums[r] = zeros<float>();
      const float* b = panel + k * kLanes;
      for (int64_t d = 0; d < depth; ++d, b += kLanes) {
        const Vec<float> bd = load(b);
#pragma GCC unroll 12
        for (int r = 0; r < kRows; ++r) sums[r] = fma(splat(a[r * a_step + k + d]), bd, sums[r]);
      }
#pragma GCC unroll 12
      for (int r = 0; r < kRows; ++r) {
        float* to = out + r * out_step;
        if (n == kLanes) {
          store(to, k == 0 ? sums[r] : load(to) + sums[r]);
        } else {
          store_first(to, k == 0 ? sums[r] : load_first(to, n) + sums[r], n);
        }
      }
    }
  }

  int64_t n_deep_;
  int64_t n_cols_;
  Memory<float> memory_;
};
