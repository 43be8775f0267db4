// Recurrent layers backward, step after step from the last; gates are computed again from z. Included by
// isa/*.cpp.
// Scalar math (LSTM), with i, f, g, o after their activations, u = N_c(c'), s = tanh(u) and the gradients that the
// next step hands back in dh and dc:
//   dh += dy;  du = dh o (1 - s^2);  dc += N_c'(du);  da = (dc g i(1-i), dc c f(1-f), dc i (1-g^2), dh s o(1-o))
//   dz = N'(da);  din = dz, or da at kProduct;  dp = N_p'(din);  db = sum of din
//   dc := dc f;  dh := dz W_hh;  with a projection dh W_hr takes the place of dh in du and da
// RNN: da = dh (1 - h'^2), or dh where h' > 0.

// du and the o part of da of a row.
static void lstm_hidden_backward(const float* a_o, const float* normed_c, const float* dh, float* du, float* da_o,
                                 int64_t n) {
  each_vector(n, [=](int64_t j, auto load_at, auto store_at) NK_LAMBDA {
    const Vec<float> one = splat(1.0f), o = sigmoid(load_at(a_o + j)), s = tanh(load_at(normed_c + j)), d = load_at(dh + j);
    store_at(du + j, d * o * (one - s * s));
    store_at(da_o + j, d * s * o * (one - o));
  });
}

// The i, f and g parts of da of a row; dc goes on to the step before.
static void lstm_cell_backward(const float* a, const float* c, float* dc, float* da, int64_t n) {
  each_vector(n, [=](int64_t j, auto load_at, auto store_at) NK_LAMBDA {
    const Vec<float> one = splat(1.0f), d = load_at(dc + j);
    const Vec<float> i = sigmoid(load_at(a + j)), f = sigmoid(load_at(a + n + j)), g = tanh(load_at(a + 2 * n + j));
    store_at(da + j, d * g * i * (one - i));
    store_at(da + n + j, d * load_at(c + j) * f * (one - f));
    store_at(da + 2 * n + j, d * i * (one - g * g));
    store_at(dc + j, d * f);
  });
}

static void rnn_hidden_backward(RecurrentCell cell, const float* h, const float* dh, float* da, int64_t n) {
  const bool relu = cell == RecurrentCell::kRelu;
  each_vector(n, [=](int64_t j, auto load_at, auto store_at) NK_LAMBDA {
    const Vec<float> d = load_at(dh + j), v = load_at(h + j);
    store_at(da + j, relu ? where_above_zero(v, d) : d * (splat(1.0f) - v * v));
  });
}

static SumsOfLayer sums_of(const RecurrentBackward& r) {
  return {{{r.gates(), r.db, nullptr},
           {r.gates(), r.dnorm_p_w, r.dnorm_p_b},
           {r.gates(), r.dnorm_w, r.dnorm_b},
           {r.n_hidden, r.dnorm_c_w, r.dnorm_c_b}}};
}

class BackwardBlock {
 public:
  BackwardBlock(const RecurrentBackward& r, const RecurrentPanels& w, int64_t first, int64_t last,
                const SumsOfLayer& sums, double* totals)
      : r_(r), w_(w), first_(first), n_hidden_(r.n_hidden), n_out_(r.n_out), gates_(r.gates()), steps_(r, first, last),
        input_(r, steps_.capacity(), {0, gates_, {r.b_ih, r.b_hh}}), of_b_(sums.of[0], totals), of_p_(sums.of[1], totals), of_z_(sums.of[2], totals),
        of_c_(sums.of[3], totals), memory_(steps_.capacity() * (2 * gates_ + 6 * n_hidden_)) {
    a_ = memory_.data();
    da_ = a_ + steps_.capacity() * gates_;
    dh_ = da_ + steps_.capacity() * gates_;
    dc_ = dh_ + steps_.capacity() * n_hidden_;
    normed_ = dc_ + steps_.capacity() * n_hidden_;
    du_ = normed_ + steps_.capacity() * n_hidden_;
    dm_ = du_ + steps_.capacity() * n_hidden_;
    through_c_ = dm_ + steps_.capacity() * n_hidden_;
  }

  void run() {
    const bool lstm = r_.cell == RecurrentCell::kLstm;
    steps_.begin();
    for (int64_t t = 0; t < r_.n_steps; ++t) steps_.forward(t);
    int64_t alive = 0;
    for (int64_t t = r_.n_steps - 1; t >= 0; --t) {
      steps_.backward(t);
      const int64_t n = steps_.rows(t), at = steps_.at();
      for (int64_t i = alive; i < n; ++i) {  // sequences whose last step this is
        copy_values(dh_ + i * n_out_, r_.dh_last + (first_ + i) * n_out_, n_out_);
        if (lstm) copy_values(dc_ + i * n_hidden_, r_.dc_last + (first_ + i) * n_hidden_, n_hidden_);
      }
      alive = n;
      if (n == 0) continue;
      add_values(dh_, dh_, r_.dy + at * n_out_, n * n_out_);
      float* const dz = r_.dz + at * gates_;
      float* const dp = r_.dp + at * gates_;
      const bool product = r_.place == RecurrentPlace::kProduct;
      float* const da = r_.place == RecurrentPlace::kNone ? dz : product && !r_.has_norm_p ? dp : da_;
      if (lstm) {
        const int64_t back = t > 0 ? at - r_.sizes[t - 1] : 0;
        lstm_step(at, n, t > 0 ? r_.c + back * n_hidden_ : r_.c0 + first_ * n_hidden_, da);
      } else {
        rnn_hidden_backward(r_.cell, r_.y + at * n_hidden_, dh_, da, n * n_hidden_);
      }
      if (r_.place != RecurrentPlace::kNone) {
        norm_rows_backward(r_, da, r_.z + at * gates_, stats_at(r_, r_.z_stats, at), n, gates_, r_.norm_w, dz, of_z_.of(n));
      }
      const float* const din = product ? da : dz;
      input_.backward(din, at, n, stats_at(r_, r_.p_stats, at), r_.dp, of_p_.of(n));
      add_rows(of_b_.of(n).dw, din, n, gates_);
      w_.hh.multiply(dz, gates_, n, dh_, n_out_);
    }
    copy_values(r_.dh0 + first_ * n_out_, dh_, steps_.capacity() * n_out_);
    if (lstm) copy_values(r_.dc0 + first_ * n_hidden_, dc_, steps_.capacity() * n_hidden_);
    SumsOfBlock* const all[] = {&of_b_, &of_p_, &of_z_, &of_c_};
    for (SumsOfBlock* sums : all) sums->flush();
  }

 private:
  void lstm_step(int64_t at, int64_t n, const float* c_before, float* da) {
    const float* const c = r_.c + at * n_hidden_;
    const float* const c_stats = stats_at(r_, r_.c_stats, at);
    const float* const a = pre_activation(at, n);
    const float* normed = c;
    if (r_.has_norm_c) {
      norm_rows_again(r_, c, c_stats, n, n_hidden_, r_.norm_c_w, r_.norm_c_b, normed_);
      normed = normed_;
    }
    const float* const dm = project(at, n, a, normed);
    for (int64_t i = 0; i < n; ++i) {
      const int64_t unit = i * n_hidden_, gate = i * gates_ + 3 * n_hidden_;
      lstm_hidden_backward(a + gate, normed + unit, dm + unit, du_ + unit, da + gate, n_hidden_);
    }
    if (r_.has_norm_c) norm_rows_backward(r_, du_, c, c_stats, n, n_hidden_, r_.norm_c_w, through_c_, of_c_.of(n));
    add_values(dc_, dc_, r_.has_norm_c ? through_c_ : du_, n * n_hidden_);
    for (int64_t i = 0; i < n; ++i) {
      const int64_t unit = i * n_hidden_;
      lstm_cell_backward(a + i * gates_, c_before + unit, dc_ + unit, da + i * gates_, n_hidden_);
    }
  }

  // The pre-activations of n rows, from what was kept.
  const float* pre_activation(int64_t at, int64_t n) {
    const float* const z = r_.z + at * gates_;
    if (r_.place == RecurrentPlace::kNone) return z;
    norm_rows_again(r_, z, stats_at(r_, r_.z_stats, at), n, gates_, r_.norm_w, r_.norm_b, a_);
    if (r_.place == RecurrentPlace::kProduct) input_.add_again(at, n, a_, stats_at(r_, r_.p_stats, at));
    return a_;
  }

  // The gradient of what is projected; dh and the projected itself are kept for the weight's. Without one, dh.
  const float* project(int64_t at, int64_t n, const float* a, const float* normed) {
    if (r_.w_hr == nullptr) return dh_;
    copy_values(r_.dh + at * n_out_, dh_, n * n_out_);
    for (int64_t i = 0; i < n; ++i) {
      lstm_hidden(a + i * gates_ + 3 * n_hidden_, normed + i * n_hidden_, r_.m + (at + i) * n_hidden_, n_hidden_);
    }
    w_.hr.multiply(dh_, n_out_, n, dm_, n_hidden_);
    return dm_;
  }

  const RecurrentBackward& r_;
  const RecurrentPanels& w_;
  int64_t first_, n_hidden_, n_out_, gates_;
  BlockSteps steps_;
  InputOfSteps input_;
  SumsOfBlock of_b_, of_p_, of_z_, of_c_;
  Memory<float> memory_;
  float *a_, *da_, *dh_, *dc_, *normed_, *du_, *dm_, *through_c_;
};

static void recurrent_backward(const RecurrentBackward& r) {
  const RecurrentPanels w = {Panels(r.w_hh, r.gates(), r.n_out, r.n_out, 1),
                             Panels(r.w_hr, r.n_out, r.w_hr != nullptr ? r.n_hidden : 0, r.n_hidden, 1)};
  each_block_with_sums(r, sums_of(r), [&](int64_t first, int64_t last, const SumsOfLayer& sums, double* totals) {
    BackwardBlock(r, w, first, last, sums, totals).run();
  });
}
