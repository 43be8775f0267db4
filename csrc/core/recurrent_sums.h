// The gradients of a recurrent layer's biases and norms: sums over all rows of all steps. Included by isa/*.cpp.
// A block of sequences adds up at most kFlushRows rows in float32, then in double; the blocks' sums are added in order.

// Two sums of n_cols each, or what of them is wanted.
struct TwoSums {
  int64_t n_cols;
  float* first;
  float* second;
  bool wanted() const { return first != nullptr || second != nullptr; }
  int64_t padded() const { return wanted() ? round_up(n_cols, kLanes) : 0; }
};

constexpr int kSumsOfRecurrent = 4;

struct SumsOfRecurrent {
  explicit SumsOfRecurrent(const RecurrentBackward& r)
      : of{{r.gates(), r.db, nullptr},
           {r.gates(), r.dnorm_p_w, r.dnorm_p_b},
           {r.gates(), r.dnorm_w, r.dnorm_b},
           {r.n_hidden, r.dnorm_c_w, r.dnorm_c_b}} {}
  // Of a block, in double.
  int64_t size() const {
    int64_t n = 0;
    for (const TwoSums& sums : of) n += 2 * sums.padded();
    return n;
  }
  TwoSums of[kSumsOfRecurrent];  // of b, N_p, N and N_c
};

// One of them for a block of sequences, whose totals lie one after the other: `next` moves on.
class SumsOfBlock {
 public:
  SumsOfBlock(const TwoSums& sums, double*& next)
      : padded_(sums.padded()), memory_(2 * padded_), totals_(next) {
    for (int64_t j = 0; j < 2 * padded_; ++j) memory_.data()[j] = 0.0f, totals_[j] = 0.0;
    next += 2 * padded_;
  }

  // Where the next n rows may be added.
  ParamSums<float> of(int64_t n) {
    if (padded_ == 0) return {};
    if (rows_ + n > kFlushRows) flush();
    rows_ += n;
    return {memory_.data(), memory_.data() + padded_, nullptr, nullptr};
  }
  // Adds n rows to the first.
  void add(const float* x, int64_t n, int64_t n_cols) {
    float* const to = of(n).dw;
    for (int64_t i = 0; to != nullptr && i < n; ++i) add_values(to, to, x + i * n_cols, n_cols);
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

// From the totals of all blocks.
static void add_blocks(const RecurrentBackward& r, const SumsOfRecurrent& all, const double* totals, int64_t n_blocks) {
  const int64_t size = all.size();
  for (const TwoSums& sums : all.of) {
    for_range(r.parallel_for, 0, sums.padded(), grain_for(2 * n_blocks), [&](int64_t begin, int64_t end) {
      for (int64_t j = begin; j < end && j < sums.n_cols; ++j) {
        double first = 0.0, second = 0.0;
        for (int64_t i = 0; i < n_blocks; ++i) {
          first += totals[i * size + j];
          second += totals[i * size + sums.padded() + j];
        }
        if (sums.first != nullptr) sums.first[j] = float(first);
        if (sums.second != nullptr) sums.second[j] = float(second);
      }
    });
    totals += 2 * sums.padded();
  }
}
