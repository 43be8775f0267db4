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

// y = N(x) of n rows of n_cols, with their statistics if these are wanted.
static void norm_rows(const Recurrent& a, const float* x, int64_t n, int64_t n_cols, ConstArray w, ConstArray b, float* y,
                      float* stats) {
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
  norm.stats = stats;
  norm.parallel_for = one_after_the_other;
  NK_ISA::row_norm_forward(norm);
}

// dx of those rows.
static void norm_rows_backward(const Recurrent& a, const float* dy, const float* x, const float* stats, int64_t n,
                               int64_t n_cols, ConstArray w, float* dx) {
  RowNormBackward norm{};
  norm.norm = a.norm;
  norm.dtype = DType::kFloat32;
  norm.n_rows = n;
  norm.n_cols = n_cols;
  norm.eps = a.eps;
  norm.dy = dy;
  norm.x = x;
  norm.stats = stats;
  norm.w = w;
  norm.dx = dx;
  norm.parallel_for = one_after_the_other;
  NK_ISA::row_norm_backward(norm);
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

// The pre-activation a of n rows from z, in place where there is no norm. `a` is memory for them.
static const float* pre_activation(const Recurrent& r, const float* p, const float* z, int64_t n, float* a, float* stats) {
  if (r.place == RecurrentPlace::kNone) return z;
  norm_rows(r, z, n, r.gates(), r.norm_w, r.norm_b, a, stats);
  if (r.place == RecurrentPlace::kProduct) add_values(a, a, p, n * r.gates());
  return a;
}

// The recurrent weight and that of the projection, which without one has no columns.
struct RecurrentPanels {
  Panels hh;
  Panels hr;
};

// How many columns a projection gives to, in the forward.
static int64_t projected(const Recurrent& a) { return a.w_hr != nullptr ? a.n_out : 0; }

template <class Body>
static void each_block(const Recurrent& a, const Body& body) {
  const Chunks blocks = sequence_blocks(a.n_sequences);
  for_range(a.parallel_for, 0, blocks.count, 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) body(blocks.begin(i), blocks.begin(i + 1));
  });
}
