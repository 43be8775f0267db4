// What reaches a step of an LSTM or RNN from its input: in = N_p(p) + b. Included by isa/*.cpp.
class InputOfSteps {
 public:
  // `most`: the rows of a step.
  InputOfSteps(const PlainRecurrent& r, int64_t most)
      : r_(r), gates_(r.gates()), memory_(gates_ * (1 + (r.has_norm_p ? most : 0))), shift_(memory_.data()),
        normed_(shift_ + gates_), bias_of_norm_(r.norm == RowNorm::kLayerNorm && r.has_norm_p) {
    for (int64_t j = 0; j < gates_; ++j) shift_[j] = -0.0f;  // which leaves what it is added to as it is
    const float* const parts[] = {r.b_ih, r.b_hh, r.has_norm_p ? static_cast<const float*>(r.norm_p_b.data) : nullptr};
    for (const float* part : parts) {
      if (part != nullptr) add_values(shift_, shift_, part, gates_);
    }
  }

  // to += in of the n rows from `row` on; keeps the statistics of N_p, if these are wanted.
  void add(int64_t row, int64_t n, float* to, float* p_stats) const {
    const float* const p = r_.p + row * gates_;
    if (r_.has_norm_p) norm_rows(r_, p, n, gates_, r_.norm_p_w, bias(), normed_, p_stats);
    add_shifted(r_.has_norm_p ? normed_ : p, n, to);
  }
  // The same once more, from those statistics.
  void add_again(int64_t row, int64_t n, float* to, const float* p_stats) const {
    const float* const p = r_.p + row * gates_;
    if (r_.has_norm_p) norm_rows_again(r_, p, p_stats, n, gates_, r_.norm_p_w, bias(), normed_);
    add_shifted(r_.has_norm_p ? normed_ : p, n, to);
  }

 private:
  // LayerNorm adds b with its own bias; RMSNorm has none.
  ConstArray bias() const { return {bias_of_norm_ ? shift_ : nullptr}; }
  void add_shifted(const float* x, int64_t n, float* to) const {
    if (bias_of_norm_) return add_values(to, to, x, n * gates_);
    const float* const shift = shift_;
    for (int64_t i = 0; i < n; ++i, x += gates_, to += gates_) {
      each_vector(gates_, [=](int64_t j, auto load_at, auto store_at) NK_LAMBDA {
        store_at(to + j, load_at(to + j) + (load_at(x + j) + load_at(shift + j)));
      });
    }
  }

  const PlainRecurrent& r_;
  int64_t gates_;
  Memory<float> memory_;
  float* shift_;
  float* normed_;
  bool bias_of_norm_;
};
