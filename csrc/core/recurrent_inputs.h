// What reaches a step of a recurrent layer from its input: in = N_p(p) + b, of all gates or of a stretch of them. Included by
// isa/*.cpp.

// Of the gates from `first` on; `b`: whose sum is added.
struct Stretch {
  int64_t first;
  int64_t n_cols;
  const float* b[2];
};

class InputOfSteps {
 public:
  // `most`: the rows of a step.
  InputOfSteps(const Recurrent& r, int64_t most, const Stretch& stretch)
      : r_(r), gates_(r.gates()), first_(stretch.first), n_cols_(stretch.n_cols),
        w_(values_from(r.norm_p_w, first_)), memory_(n_cols_ * (1 + most * (n_cols_ != gates_ ? 2 : 1))), shift_(memory_.data()), normed_(shift_ + n_cols_),
        rows_(normed_ + most * n_cols_), shift_is_bias_(r.norm == RowNorm::kLayerNorm && r.has_norm_p) {
    for (int64_t j = 0; j < n_cols_; ++j) shift_[j] = -0.0f;  // which leaves what it is added to as it is
    const float* const bias = r.has_norm_p ? static_cast<const float*>(values_from(r.norm_p_b, first_).data) : nullptr;
    const float* const parts[] = {stretch.b[0], stretch.b[1], bias};
    for (const float* part : parts) {
      if (part != nullptr) add_values(shift_, shift_, part, n_cols_);
    }
  }

  // p of the n rows from `row` on, one behind the other.
  const float* product(int64_t row, int64_t n) const {
    const float* const p = r_.p + row * gates_ + first_;
    if (n_cols_ == gates_) return p;
    for (int64_t i = 0; i < n; ++i) copy_values(rows_ + i * n_cols_, p + i * gates_, n_cols_);
    return rows_;
  }

  // to += in of those rows; keeps the statistics of N_p, if these are wanted.
  void add(int64_t row, int64_t n, float* to, float* p_stats) const {
    const float* const p = product(row, n);
    if (r_.has_norm_p) norm_rows(r_, p, n, n_cols_, w_, bias(), normed_, p_stats);
    add_shifted(r_.has_norm_p ? normed_ : p, n, to);
  }
  // The same once more, from those statistics.
  void add_again(int64_t row, int64_t n, float* to, const float* p_stats) const {
    const float* const p = product(row, n);
    if (r_.has_norm_p) norm_rows_again(r_, p, p_stats, n, n_cols_, w_, bias(), normed_);
    add_shifted(r_.has_norm_p ? normed_ : p, n, to);
  }

  // dp from the gradient of in, [n, n_cols]; and what that adds to the gradients of the parameters of N_p.
  void backward(const float* din, int64_t row, int64_t n, const float* p_stats, float* dp, const ParamSums<float>& sums) const {
    dp += row * gates_ + first_;
    if (r_.has_norm_p) {
      float* const to = n_cols_ == gates_ ? dp : normed_;
      norm_rows_backward(r_, din, product(row, n), p_stats, n, n_cols_, w_, to, sums);
      din = to;
    }
    for (int64_t i = 0; din != dp && i < n; ++i) copy_values(dp + i * gates_, din + i * n_cols_, n_cols_);
  }

 private:
  // LayerNorm adds b with its own bias; RMSNorm has none.
  ConstArray bias() const { return {shift_is_bias_ ? shift_ : nullptr}; }
  void add_shifted(const float* x, int64_t n, float* to) const {
    if (shift_is_bias_) return add_values(to, to, x, n * n_cols_);
    const float* const shift = shift_;
    for (int64_t i = 0; i < n; ++i, x += n_cols_, to += n_cols_) {
      each_vector(n_cols_, [=](int64_t j, auto load_at, auto store_at) NK_LAMBDA {
        store_at(to + j, load_at(to + j) + (load_at(x + j) + load_at(shift + j)));
      });
    }
  }

  const Recurrent& r_;
  int64_t gates_, first_, n_cols_;
  ConstArray w_;
  Memory<float> memory_;
  float *shift_, *normed_, *rows_;  // rows_: of a stretch alone
  bool shift_is_bias_;
};
