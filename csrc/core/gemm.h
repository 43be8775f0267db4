// The product of rows with a matrix that is laid out anew once, then read by panels of 16 columns: a few rows of each step with one that
// stays for a whole time loop, or all rows of a call (isa/product.cpp). Included by isa/*.cpp.
// Scalar math: out[i][j] = sum over k of a[i][k] * b[k][j].
// A lane adds up 128 products; those sums are added in order. A row's bits do not depend on the rows beside it.

constexpr int64_t kDepth = 128;

// A tile is so many rows by so many panels: enough accumulators to hide the latency of a fused multiply-add, few enough
// to leave a register for each panel and one for a. A block of 16 sequences is whole tiles under AVX-512.
constexpr int kProductRows = NK_REGISTER_BYTES == 64 ? 8 : NK_REGISTER_BYTES == 32 ? 6 : 3;
constexpr int kProductPanels = NK_REGISTER_BYTES == 64 ? 2 : 1;
// The same where the panels are those of an LSTM's four gates.
constexpr int kGateRows = NK_REGISTER_BYTES == 64 ? 4 : kProductRows;
constexpr int kGatePanels = NK_REGISTER_BYTES == 64 ? 4 : 1;

// to[k * 16 + j] = from[j * step + k] for j < 16, k < 4.
#if defined(__AVX512F__)
NK_INLINE void transpose_four(const float* from, int64_t step, float* to) {
  __m512 rows[4];  // rows[i] has of the rows i, i + 4, i + 8 and i + 12 four values each
  for (int i = 0; i < 4; ++i) {
    const float* const p = from + i * step;
    rows[i] = _mm512_castps128_ps512(_mm_loadu_ps(p));
    rows[i] = _mm512_insertf32x4(rows[i], _mm_loadu_ps(p + 4 * step), 1);
    rows[i] = _mm512_insertf32x4(rows[i], _mm_loadu_ps(p + 8 * step), 2);
    rows[i] = _mm512_insertf32x4(rows[i], _mm_loadu_ps(p + 12 * step), 3);
  }
  const __m512 low01 = _mm512_unpacklo_ps(rows[0], rows[1]), high01 = _mm512_unpackhi_ps(rows[0], rows[1]);
  const __m512 low23 = _mm512_unpacklo_ps(rows[2], rows[3]), high23 = _mm512_unpackhi_ps(rows[2], rows[3]);
  _mm512_storeu_ps(to, _mm512_shuffle_ps(low01, low23, 0x44));
  _mm512_storeu_ps(to + kLanes, _mm512_shuffle_ps(low01, low23, 0xee));
  _mm512_storeu_ps(to + 2 * kLanes, _mm512_shuffle_ps(high01, high23, 0x44));
  _mm512_storeu_ps(to + 3 * kLanes, _mm512_shuffle_ps(high01, high23, 0xee));
}
#else
NK_INLINE void transpose_four(const float* from, int64_t step, float* to) {
  typedef float Four __attribute__((vector_size(16)));
  for (int first = 0; first < kLanes; first += 4, from += 4 * step) {
    Four rows[4];
    for (int j = 0; j < 4; ++j) __builtin_memcpy(&rows[j], from + j * step, sizeof rows[j]);
    for (int k = 0; k < 4; ++k) {
      const Four column = {rows[0][k], rows[1][k], rows[2][k], rows[3][k]};
      __builtin_memcpy(to + k * kLanes + first, &column, sizeof column);
    }
  }
}
#endif

// b [n_deep, n_cols], read at from[k * k_step + j * j_step], as panels [n_cols / 16][n_deep][16], zeros past the end; or `gates` of
// them, which lie n_cols * j_step apart, one after the other.
class Panels {
 public:
  Panels(const float* from, int64_t n_deep, int64_t n_cols, int64_t k_step, int64_t j_step, int64_t gates = 1,
         ParallelFor parallel_for = one_after_the_other)
      : n_deep_(n_deep), n_cols_(n_cols), gate_size_(round_up(n_cols, kLanes) * n_deep), memory_(gates * gate_size_) {
    for (int64_t g = 0; g < gates; ++g) {
      for_range(parallel_for, 0, ceil_div(n_cols, kLanes), grain_for(kLanes * n_deep), [&](int64_t begin, int64_t end) {
        const int64_t last = end * kLanes < n_cols ? end * kLanes : n_cols;
        lay_out(from + g * n_cols * j_step, k_step, j_step, begin * kLanes, last, memory_.data() + g * gate_size_);
      });
    }
  }

  // out[n_rows, n_cols], `out_step` apart, from rows of a that are `a_step` apart; or added to out.
  void multiply(const float* a, int64_t a_step, int64_t n_rows, float* out, int64_t out_step, bool add = false) const {
    multiply({a, a_step, 1, out, out_step, add}, n_rows);
  }

  // The columns from `first` on of kProductPanels panels alone, or of those that there are.
  void multiply_panels(int64_t first, const float* a, int64_t a_step, int64_t n_rows, float* out, int64_t out_step) const {
    const Rows rows = {a, a_step, 1, out, out_step, false};
    if (first + kProductPanels * kLanes <= n_cols_) return panels_of<kProductRows, kProductPanels>(rows, n_rows, first, beside());
    for (; first < n_cols_; first += kLanes) panels_of<kProductRows, 1>(rows, n_rows, first, beside());
  }

  // Of four gates the columns of one panel of each, those from `first` on; out has a gate's columns behind those of the one before.
  void multiply_gates(int64_t first, const float* a, int64_t a_step, int64_t n_rows, float* out, int64_t out_step) const {
    for (int64_t g = 0; g < 4; g += kGatePanels) {
      const Rows rows = {a, a_step, 1, out + g * n_cols_, out_step, false};
      panels_of<kGateRows, kGatePanels>(rows, n_rows, first, {g * gate_size_, gate_size_, n_cols_});
    }
  }

  // Where rows of a and of out lie: how far the values of a row of a lie apart, too.
  struct Rows {
    const float* a;
    int64_t a_step;
    int64_t a_deep;
    float* out;
    int64_t out_step;
    bool add;
    Rows from(int64_t i) const { return {a + i * a_step, a_step, a_deep, out + i * out_step, out_step, add}; }
  };
  void multiply(const Rows& rows, int64_t n_rows) const {
    const int64_t whole = n_rows - n_rows % kProductRows;
    columns<kProductRows, kProductPanels>(rows, whole);
    rest<kProductRows - 1>(rows.from(whole), int(n_rows - whole));
  }

 private:
  // The columns from `first` to `last`.
  void lay_out(const float* from, int64_t k_step, int64_t j_step, int64_t first, int64_t last, float* panels) const {
    for (; first < last; first += kLanes) {
      float* to = panels + first * n_deep_;
      const float* const panel = from + first * j_step;
      const int64_t n = n_cols_ - first < kLanes ? n_cols_ - first : kLanes;
      int64_t k = 0;
      if (n == kLanes && j_step == 1) {
        for (; k < n_deep_; ++k) store(to + k * kLanes, load(panel + k * k_step));
      } else if (n == kLanes && k_step == 1) {
        for (; k + 4 <= n_deep_; k += 4) transpose_four(panel + k, j_step, to + k * kLanes);
      }
      for (; k < n_deep_; ++k) {
        for (int64_t j = 0; j < kLanes; ++j) to[k * kLanes + j] = j < n ? panel[k * k_step + j * j_step] : 0.0f;
      }
    }
  }

  // Where the panels lie that are taken at once, and what comes of them: the first so far from its own place in the first matrix,
  // each other one so far from the one before.
  struct Beside {
    int64_t from, panel, out;
  };
  Beside beside() const { return {0, n_deep_ * kLanes, kLanes}; }

  // All columns of `count` rows, fewer than a tile's: more panels at once in the registers that these leave.
  template <int kRows>
  void rest(const Rows& rows, int count) const {
    if constexpr (kRows > 0) {
      if (count != kRows) return rest<kRows - 1>(rows, count);
      constexpr int kPanels = kProductRows * kProductPanels / kRows < 4 ? kProductRows * kProductPanels / kRows : 4;
      columns<kRows, kPanels>(rows, kRows);
    }
  }

  // Some panels beside one another, of any number of rows.
  template <int kRows, int kPanels>
  void panels_of(const Rows& rows, int64_t n_rows, int64_t first, const Beside& at) const {
    const int64_t whole = n_rows - n_rows % kRows;
    depths<kRows, kPanels>(rows, whole, first, at);
    if constexpr (kRows > 1) {
      if (whole < n_rows) panels_of<kRows / 2, kPanels>(rows.from(whole), n_rows - whole, first, at);
    }
  }

  // All columns of n_rows rows, a multiple of kRows. A stretch of the panels stays in the first cache for all of them.
  template <int kRows, int kPanels>
  void columns(const Rows& rows, int64_t n_rows) const {
    if (n_rows == 0) return;
    int64_t first = 0;
    for (; first + kPanels * kLanes <= n_cols_; first += kPanels * kLanes) {
      depths<kRows, kPanels>(rows, n_rows, first, beside());
    }
    for (; first < n_cols_; first += kLanes) depths<kRows, 1>(rows, n_rows, first, beside());
  }

  template <int kRows, int kPanels>
  void depths(const Rows& rows, int64_t n_rows, int64_t first, const Beside& at) const {
    for (int64_t k = 0; k < n_deep_; k += kDepth) {
      for (int64_t i = 0; i < n_rows; i += kRows) tile<kRows, kPanels>(rows.from(i), first, k, at);
    }
  }

  // kRows rows of the kPanels panels from column `first` on, the products from k on. Of a matrix that has more than one of
  // these, none lacks columns.
  template <int kRows, int kPanels>
  __attribute__((noinline)) void tile(const Rows& rows, int64_t first, int64_t k, const Beside& at) const {
    const int64_t depth = n_deep_ - k < kDepth ? n_deep_ - k : kDepth;
    Vec<float> sums[kPanels][kRows];
#pragma GCC unroll 4
    for (int p = 0; p < kPanels; ++p) {
#pragma GCC unroll 8
      for (int r = 0; r < kRows; ++r) sums[p][r] = zeros<float>();
    }
    const float* b = memory_.data() + at.from + first * n_deep_ + k * kLanes;
    for (int64_t d = k; d < k + depth; ++d, b += kLanes) {
      Vec<float> bd[kPanels];
#pragma GCC unroll 4
      for (int p = 0; p < kPanels; ++p) bd[p] = load(b + p * at.panel);
#pragma GCC unroll 8
      for (int r = 0; r < kRows; ++r) {
        const Vec<float> ar = splat(rows.a[r * rows.a_step + d * rows.a_deep]);
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
        float* const to = rows.out + r * rows.out_step + first + p * at.out;
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
  int64_t gate_size_;
  Memory<float> memory_;
};
