// The LSTM with recurrent BatchNorm, backward, step after step from the last. Included by isa/*.cpp.

class BatchLstmBackwardLoop {
 public:
  explicit BatchLstmBackwardLoop(const BatchLstmBackward& r)
      : r_(r), n_hidden_(r.n_hidden), n_out_(r.n_out), gates_(4 * r.n_hidden),
        w_hh_(r.w_hh, gates_, n_out_, n_out_, 1),
        w_hr_(r.w_hr, n_out_, r.w_hr != nullptr ? n_hidden_ : 0, n_hidden_, 1),
        memory_(2 * r.n_sequences * n_hidden_), doubles_(8 * gates_) {
    dm_ = memory_.data();
    dc_ = dm_ + r.n_sequences * n_hidden_;
    double* next = doubles_.data();
    ColumnTotals* const all[] = {&totals_.ih, &totals_.hh, &totals_.sum, &totals_.c};
    for (ColumnTotals* totals : all) {
      *totals = {next, next + gates_};
      next += 2 * gates_;
    }
    for (double* p = doubles_.data(); p < next; ++p) *p = 0.0;
  }

  void run() {
    BatchLstmStep step = {r_.n_steps, 0, 0, 0};
    for (int64_t t = 0; t < r_.n_steps; ++t) step.row += r_.sizes[t];
    while (step.t > 0) {
      step.after = step.n;
      step.n = r_.sizes[--step.t];
      step.row -= step.n;
      backward(step);
    }
    each_product(r_.parallel_for, n_out_, step.n * gates_,
                 [&](int64_t j) { w_hh_.multiply_panels(j, r_.dz, gates_, step.n, r_.dh0, n_out_); });
    copy_values(r_.dc0, dc_, r_.n_sequences * n_hidden_);
    totals_.ih.write(r_.dw_ih, r_.db_ih, gates_);
    totals_.hh.write(r_.dw_hh, r_.db_hh, gates_);
    totals_.sum.write(r_.dw_sum, r_.db_sum, gates_);
    totals_.c.write(r_.dw_c, r_.db_c, n_hidden_);
  }

 private:
  // A thread computes for its units what reaches the output, or what is projected, and everything that follows from it: one wait
  // for the other threads in a step, and one more with a projection.
  void backward(const BatchLstmStep& step) {
    const bool projected = r_.w_hr != nullptr;
    float* const dh = projected ? r_.dh + step.row * n_out_ : dm_;
    if (projected) {
      each_product(r_.parallel_for, n_out_, step.after * gates_, [&](int64_t j) { gradient_of_output(step, j, dh); });
    }
    each_product(r_.parallel_for, n_hidden_, step.n * (gates_ + 1024), [&](int64_t first) {
      projected ? w_hr_.multiply_panels(first, dh, n_out_, step.n, dm_, n_hidden_) : gradient_of_output(step, first, dh);
      for (int64_t j = first; j < first + kAtOnce && j < n_hidden_; j += kLanes) {
        if (j + kLanes <= n_hidden_) {
          BatchLstmBlock<true>(r_, step, j, {kLanes}).backward(dm_, dc_, totals_);
        } else {
          BatchLstmBlock<false>(r_, step, j, {int(n_hidden_ - j)}).backward(dm_, dc_, totals_);
        }
      }
    });
  }

  // Of the columns from `first` on that a product takes at once; to [n, P].
  void gradient_of_output(const BatchLstmStep& step, int64_t first, float* to) const {
    if (step.after > 0) {
      w_hh_.multiply_panels(first, r_.dz + (step.row + step.n) * gates_, gates_, step.after, to, n_out_);
    }
    const int64_t width = n_out_ - first < kAtOnce ? n_out_ - first : kAtOnce;
    for (int64_t i = 0; i < step.n; ++i) {  // some sequences end here
      const float* const sum = i < step.after ? to + i * n_out_ + first : r_.dh_last + i * n_out_ + first;
      add_values(to + i * n_out_ + first, sum, r_.dy + (step.row + i) * n_out_ + first, width);
    }
  }

  const BatchLstmBackward& r_;
  int64_t n_hidden_, n_out_, gates_;
  Panels w_hh_;
  Panels w_hr_;
  Memory<float> memory_;
  Memory<double> doubles_;
  float *dm_, *dc_;  // [N, H]: of what is projected; of the cells
  BatchLstmTotals totals_;
};

static void batch_lstm_backward(const BatchLstmBackward& r) { BatchLstmBackwardLoop(r).run(); }
