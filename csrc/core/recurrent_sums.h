// The gradients of a recurrent layer's biases and norms: sums over all rows of all steps. Included by isa/*.cpp.
// A block of sequences adds up at most kFlushRows rows in float32, then in double; the blocks' sums are added in order.

// Two sums of n_cols each, or what of them is wanted.
struct TwoSums {
  int64_t n_cols;
  float* first;
  float* second;
  int64_t padded() const { return first != nullptr || second != nullptr ? round_up(n_cols, kLanes) : 0; }
};

struct SumsOfLayer {
  static constexpr int kMost = 6;
  TwoSums of[kMost];
  // How many numbers a block has for them.
  int64_t size() const {
    int64_t n = 0;
    for (const TwoSums& sums : of) n += 2 * sums.padded();
    return n;
  }
};

// Two of them for a block of sequences, whose totals lie one after the other: `next` moves on.
class SumsOfBlock {
 public:
  SumsOfBlock(const TwoSums& sums, double*& next)
      : padded_(sums.padded()), memory_(2 * padded_), totals_(next) {
    for (int64_t j = 0; j < 2 * padded_; ++j) memory_.data()[j] = 0.0f, totals_[j] = 0.0;
    next += 2 * padded_;
  }

  // Where the next n rows may be added; null where not wanted.
  ParamSums<float> of(int64_t n) {
    if (padded_ == 0) return {};
    if (rows_ + n > kFlushRows) flush();
    rows_ += n;
    return {memory_.data(), memory_.data() + padded_, nullptr, nullptr};
  }
  void flush() {
    float* const sums = memory_.data();
    for (int64_t j = 0; j < 2 * padded_; ++j) totals_[j] += double(sums[j]), sums[j] = 0.0f;
    rows_ = 0;
  }

 private:
  int64_t padded_;
  Memory<float> memory_;
  double* totals_;
  int64_t rows_ = 0;
};

// Adds n rows to `to`, which may be null.
static void add_rows(float* to, const float* x, int64_t n, int64_t n_cols) {
  for (int64_t i = 0; to != nullptr && i < n; ++i) add_values(to, to, x + i * n_cols, n_cols);
}

// From the totals of all blocks.
static void add_blocks(ParallelFor parallel_for, const SumsOfLayer& layer, const double* totals, int64_t n_blocks) {
  const int64_t size = layer.size();
  for (const TwoSums& sums : layer.of) {
    const int64_t padded = sums.padded();
    each_sum_block(parallel_for, padded > 0 ? sums.n_cols : 0, n_blocks, [&](int64_t block) {
      add_parts(totals, size, n_blocks, block, sums.n_cols, {sums.first});
      add_parts(totals + padded, size, n_blocks, block, sums.n_cols, {sums.second});
    });
    totals += 2 * padded;
  }
}

// body(first sequence, last, sums, totals) of each block, and the sums of all.
template <class Body>
static void each_block_with_sums(const Recurrent& a, const SumsOfLayer& sums, const Body& body) {
  const int64_t size = sums.size(), n_blocks = sequence_blocks(a.n_sequences).count;
  const Memory<double> totals(n_blocks * size);
  each_block(a, [&](int64_t first, int64_t last, int64_t block) { body(first, last, sums, totals.data() + block * size); });
  add_blocks(a.parallel_for, sums, totals.data(), n_blocks);
}
