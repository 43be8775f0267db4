// What the recurrent forward and backward share. Included by isa/*.cpp.
//
// Sequences do not touch each other, so a block of them runs through all its time steps by itself: no thread waits
// for another. Blocks are a function of the batch alone.

constexpr int64_t kBlockSequences = 16;

static Chunks sequence_blocks(int64_t n_sequences) {
  return {n_sequences, ceil_div(n_sequences > 0 ? n_sequences : 1, kBlockSequences)};
}

// The steps of the sequences [first, last).
class BlockSteps {
 public:
  BlockSteps(const Recurrent& a, int64_t first, int64_t last) : a_(a), first_(first), last_(last) {}

  // How many of them reach a step, and where its first row is.
  int64_t rows(int64_t step) const {
    const int64_t end = a_.sizes[step] < last_ ? a_.sizes[step] : last_;
    return end > first_ ? end - first_ : 0;
  }
  int64_t capacity() const { return last_ - first_; }

  // Moves from step to step; `at()` is the row of the first sequence there.
  void begin() { start_ = 0; }
  void forward(int64_t step) { start_ += a_.sizes[step]; }
  void backward(int64_t step) { start_ -= a_.sizes[step]; }
  int64_t at() const { return start_ + first_; }

 private:
  const Recurrent& a_;
  int64_t first_, last_;
  int64_t start_ = 0;
};

template <RowNorm kWhich>
struct NormIs {
  static constexpr RowNorm kNorm = kWhich;
};

// work(NormIs()) with the norm as a constant.
template <class Work>
NK_INLINE void by_norm(RowNorm norm, const Work& work) {
  norm == RowNorm::kLayerNorm ? work(NormIs<RowNorm::kLayerNorm>()) : work(NormIs<RowNorm::kRmsNorm>());
}

static RowNormForward norm_of_rows(const Recurrent& a, const float* x, int64_t n, int64_t n_cols, ConstArray w, ConstArray b,
                                   float* y) {
  RowNormForward norm{};
  norm.norm = a.norm;
  norm.dtype = DType::kFloat32;
  norm.n_rows = n;
  norm.n_cols = n_cols;
  norm.eps = a.eps;
  norm.x = x;
  norm.w = w;
  norm.b = b;
  norm.y = y;
  norm.parallel_for = one_after_the_other;
  return norm;
}

// y = N(x) of n rows of n_cols, with their statistics if these are wanted.
static void norm_rows(const Recurrent& a, const float* x, int64_t n, int64_t n_cols, ConstArray w, ConstArray b, float* y,
                      float* stats) {
  RowNormForward norm = norm_of_rows(a, x, n, n_cols, w, b, y);
  norm.stats = stats;
  NK_ISA::row_norm_forward(norm);
}

// The same y from the statistics that were kept.
static void norm_rows_again(const Recurrent& a, const float* x, const float* stats, int64_t n, int64_t n_cols, ConstArray w,
                            ConstArray b, float* y) {
  const RowNormForward norm = norm_of_rows(a, x, n, n_cols, w, b, y);
  by_norm(a.norm, [&](auto is) {
    const RowForward<is.kNorm, float> forward(norm);
    for (int64_t i = 0; i < n; ++i) {
      forward.again(x + i * n_cols, y + i * n_cols, saved_stats<is.kNorm>(stats + i * stats_per_row(is.kNorm)));
    }
  });
}

// dx of those rows; and what they add to the gradients of w and b, where these are wanted.
static void norm_rows_backward(const Recurrent& a, const float* dy, const float* x, const float* stats, int64_t n,
                               int64_t n_cols, ConstArray w, float* dx, const ParamSums<float>& sums = {}) {
  RowNormBackward norm{};
  norm.n_rows = n;
  norm.n_cols = n_cols;
  norm.eps = a.eps;
  norm.dy = dy;
  norm.x = x;
  norm.stats = stats;
  norm.w = w;
  norm.dx = dx;
  by_norm(a.norm, [&](auto is) {
    const RowBackward<is.kNorm, float> backward(norm);
    sums.dw != nullptr ? backward.template rows_before_dropout<true>(norm, 0, n, sums)
                       : backward.template rows_before_dropout<false>(norm, 0, n, sums);
  });
}

// Those of the rows from `row` on; null where there are none.
template <class Stats>
static Stats* stats_at(const Recurrent& a, Stats* stats, int64_t row) {
  return stats != nullptr ? stats + row * stats_per_row(a.norm) : nullptr;
}

// A parameter from its value number `first` on.
static ConstArray values_from(ConstArray array, int64_t first) {
  if (array.data != nullptr) array.data = static_cast<const float*>(array.data) + first;
  return array;
}

static void copy_values(float* to, const float* from, int64_t n) {
  int64_t j = 0;
  for (; j + kLanes <= n; j += kLanes) store(to + j, load(from + j));
  copy_few(to + j, from + j, int(n - j));
}

// to[j] = a[j] + b[j]
static void add_values(float* to, const float* a, const float* b, int64_t n) {
  each_vector(n, [=](int64_t j, auto load_at, auto store_at) NK_LAMBDA { store_at(to + j, load_at(a + j) + load_at(b + j)); });
}

// The recurrent weight and that of the projection, which without one has no columns.
struct RecurrentPanels {
  Panels hh;
  Panels hr;
};

// How many columns a projection gives to, in the forward.
static int64_t projected(const Recurrent& a) { return a.w_hr != nullptr ? a.n_out : 0; }

// body(first sequence, last, number) of each block.
template <class Body>
static void each_block(const Recurrent& a, const Body& body) {
  const Chunks blocks = sequence_blocks(a.n_sequences);
  for_range(a.parallel_for, 0, blocks.count, 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) body(blocks.begin(i), blocks.begin(i + 1), i);
  });
}
