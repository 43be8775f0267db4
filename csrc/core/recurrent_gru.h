// The GRU, forward and backward. Included by isa/*.cpp. Scalar math in recurrent.h.

// to = sigmoid(a_r) q_n of a row.
static void gru_reset(const float* a_rz, const float* q_n, float* to, int64_t n) {
  each_vector(n, [=](int64_t j, auto load_at, auto store_at) NK_LAMBDA {
    store_at(to + j, sigmoid(load_at(a_rz + j)) * load_at(q_n + j));
  });
}

static void gru_hidden(const float* a_rz, const float* a_n, const float* h, float* y, int64_t n) {
  each_vector(n, [=](int64_t j, auto load_at, auto store_at) NK_LAMBDA {
    const Vec<float> z = sigmoid(load_at(a_rz + n + j)), new_h = tanh(load_at(a_n + j));
    store_at(y + j, fma(z, load_at(h + j), (splat(1.0f) - z) * new_h));
  });
}

struct GruPanels {
  Panels rz;
  Panels n;
};

// What the forward and the backward know of a block of sequences.
struct GruBlock {
  GruBlock(const Recurrent& r, int64_t first, int64_t last)
      : steps(r, first, last),
        n_hidden(r.n_hidden),
        norm_n_w(values_from(r.norm_w, 2 * n_hidden)),
        norm_n_b(values_from(r.norm_b, 2 * n_hidden)),
        b_hh_n(r.b_hh != nullptr ? r.b_hh + 2 * n_hidden : nullptr),
        input_rz(r, steps.capacity(), {0, 2 * n_hidden, {r.b_ih, r.b_hh}}),
        input_n(r, steps.capacity(), {2 * n_hidden, n_hidden, {r.b_ih != nullptr ? r.b_ih + 2 * n_hidden : nullptr, nullptr}}) {}

  void add_b_hh_n(float* q_n, int64_t n) const {
    for (int64_t i = 0; b_hh_n != nullptr && i < n; ++i) add_values(q_n + i * n_hidden, q_n + i * n_hidden, b_hh_n, n_hidden);
  }
  void reset(const float* a_rz, const float* q_n, float* to, int64_t n) const {
    for (int64_t i = 0; i < n; ++i) gru_reset(a_rz + i * 2 * n_hidden, q_n + i * n_hidden, to + i * n_hidden, n_hidden);
  }

  BlockSteps steps;
  int64_t n_hidden;
  ConstArray norm_n_w, norm_n_b;
  const float* b_hh_n;
  InputOfSteps input_rz, input_n;
};

class GruForwardBlock {
 public:
  GruForwardBlock(const GruForward& r, const GruPanels& w_hh, int64_t first, int64_t last)
      : r_(r), w_hh_(w_hh), first_(first), n_hidden_(r.n_hidden), block_(r, first, last),
        memory_(block_.steps.capacity() * 8 * n_hidden_) {
    const int64_t unit = block_.steps.capacity() * n_hidden_;
    z_rz_ = memory_.data();
    a_rz_ = z_rz_ + 2 * unit;
    z_n_ = a_rz_ + 2 * unit;
    q_n_ = z_n_ + unit;
    a_n_ = q_n_ + unit;
  }

  void run() {
    const float* h = r_.h0 + first_ * n_hidden_;
    BlockSteps& steps = block_.steps;
    int64_t before = steps.capacity();
    steps.begin();
    for (int64_t t = 0; t < r_.n_steps; ++t) {
      const int64_t n = steps.rows(t), at = steps.at();
      end_of(n, before, h);
      before = n;
      if (n == 0) return;
      float* const y = r_.y + at * n_hidden_;
      step(h, n, at, y);
      h = y;
      steps.forward(t);
    }
    end_of(0, before, h);
  }

 private:
  void end_of(int64_t from, int64_t to, const float* h) {
    for (int64_t i = from; i < to; ++i) copy_values(r_.h_last + (first_ + i) * n_hidden_, h + i * n_hidden_, n_hidden_);
  }

  void step(const float* h, int64_t n, int64_t at, float* y) {
    const int64_t two = 2 * n_hidden_;
    const bool keep = r_.z_rz != nullptr, sum = r_.place == RecurrentPlace::kSum, product = r_.place == RecurrentPlace::kProduct;
    float* const z_rz = keep ? r_.z_rz + at * two : z_rz_;
    float* const z_n = keep ? r_.z_n + at * n_hidden_ : z_n_;

    w_hh_.rz.multiply(h, n_hidden_, n, z_rz, two);
    float* const a_rz = sum || product ? a_rz_ : z_rz;
    if (!product) block_.input_rz.add(at, n, z_rz, stats_at(r_, r_.p_stats_rz, at));
    if (sum || product) norm_rows(r_, z_rz, n, two, r_.norm_w, r_.norm_b, a_rz, stats_at(r_, r_.stats_rz, at));
    if (product) block_.input_rz.add(at, n, a_rz, stats_at(r_, r_.p_stats_rz, at));

    // At kSum q_n is kept beside what its norm takes in.
    float* const product_n = !sum ? z_n : r_.q_n != nullptr ? r_.q_n + at * n_hidden_ : q_n_;
    w_hh_.n.multiply(h, n_hidden_, n, product_n, n_hidden_);
    float* const q_n = product ? q_n_ : product_n;
    if (product) norm_rows(r_, product_n, n, n_hidden_, block_.norm_n_w, block_.norm_n_b, q_n, stats_at(r_, r_.stats_n, at));
    block_.add_b_hh_n(q_n, n);
    float* const sum_n = sum ? z_n : a_n_;
    block_.reset(a_rz, q_n, sum_n, n);
    block_.input_n.add(at, n, sum_n, stats_at(r_, r_.p_stats_n, at));
    if (sum) norm_rows(r_, z_n, n, n_hidden_, block_.norm_n_w, block_.norm_n_b, a_n_, stats_at(r_, r_.stats_n, at));
    for (int64_t i = 0; i < n; ++i) {
      gru_hidden(a_rz + i * two, a_n_ + i * n_hidden_, h + i * n_hidden_, y + i * n_hidden_, n_hidden_);
    }
  }

  const GruForward& r_;
  const GruPanels& w_hh_;
  int64_t first_, n_hidden_;
  GruBlock block_;
  Memory<float> memory_;
  float *z_rz_, *a_rz_, *z_n_, *q_n_, *a_n_;
};

static void gru_forward(const GruForward& r) {
  const int64_t n = r.n_hidden;
  const GruPanels w_hh = {Panels(r.w_hh, n, 2 * n, 1, n), Panels(r.w_hh + 2 * n * n, n, n, 1, n)};
  each_block(r, [&](int64_t first, int64_t last, int64_t) { GruForwardBlock(r, w_hh, first, last).run(); });
}

// Scalar math, with r, z after their activations, v = tanh(a_n):
//   dh += dy;  da_z = dh (h - v) z (1-z);  da_n = dh (1-z) (1-v^2);  dh := dh z
//   din_n = M'(da_n) at kSum, else da_n;   da_r = din_n q_n r (1-r);   dout_n = din_n r
//   din_rz = N'(da_rz) at kSum, else da_rz;   dp = (N_p'(din_rz), M_p'(din_n))
//   dq = (N'(da_rz), M'(dout_n)) at kProduct, else (din_rz, dout_n);   dh += dq W_hh
//   db = sum of (din_rz, din_n), and of dout_n that of b_hh
static void gru_hidden_backward(const float* a_rz, const float* a_n, const float* h, float* dh, float* da_z, float* da_n,
                                int64_t n) {
  each_vector(n, [=](int64_t j, auto load_at, auto store_at) NK_LAMBDA {
    const Vec<float> one = splat(1.0f), d = load_at(dh + j);
    const Vec<float> z = sigmoid(load_at(a_rz + n + j)), v = tanh(load_at(a_n + j));
    store_at(da_z + j, d * (load_at(h + j) - v) * z * (one - z));
    store_at(da_n + j, d * (one - z) * (one - v * v));
    store_at(dh + j, d * z);
  });
}

static void gru_reset_backward(const float* a_rz, const float* q_n, const float* din_n, float* da_r, float* dout_n, int64_t n) {
  each_vector(n, [=](int64_t j, auto load_at, auto store_at) NK_LAMBDA {
    const Vec<float> r = sigmoid(load_at(a_rz + j)), d = load_at(din_n + j);
    store_at(da_r + j, d * load_at(q_n + j) * r * (splat(1.0f) - r));
    store_at(dout_n + j, d * r);
  });
}

static SumsOfLayer sums_of(const GruBackward& r) {
  const int64_t n = r.n_hidden, two = 2 * n;
  const auto from = [](float* p, int64_t i) { return p != nullptr ? p + i : nullptr; };
  return {{{two, r.db, nullptr},
           {n, from(r.db, two), from(r.db, 3 * n)},
           {two, r.dnorm_p_w, r.dnorm_p_b},
           {n, from(r.dnorm_p_w, two), from(r.dnorm_p_b, two)},
           {two, r.dnorm_w, r.dnorm_b},
           {n, from(r.dnorm_w, two), from(r.dnorm_b, two)}}};
}

class GruBackwardBlock {
 public:
  GruBackwardBlock(const GruBackward& r, const GruPanels& w_hh, int64_t first, int64_t last, const SumsOfLayer& sums,
                   double* totals)
      : r_(r), w_hh_(w_hh), first_(first), n_hidden_(r.n_hidden), block_(r, first, last), of_b_rz_(sums.of[0], totals),
        of_b_n_(sums.of[1], totals), of_p_rz_(sums.of[2], totals), of_p_n_(sums.of[3], totals), of_z_rz_(sums.of[4], totals),
        of_z_n_(sums.of[5], totals), memory_(block_.steps.capacity() * 13 * n_hidden_) {
    const int64_t unit = block_.steps.capacity() * n_hidden_;
    a_rz_ = memory_.data();
    a_n_ = a_rz_ + 2 * unit;
    q_n_ = a_n_ + unit;
    dh_ = q_n_ + unit;
    da_rz_ = dh_ + unit;
    da_n_ = da_rz_ + 2 * unit;
    dout_n_ = da_n_ + unit;
    normed_rz_ = dout_n_ + unit;
    normed_n_ = normed_rz_ + 2 * unit;
    dq_n_ = normed_n_ + unit;
  }

  void run() {
    BlockSteps& steps = block_.steps;
    steps.begin();
    for (int64_t t = 0; t < r_.n_steps; ++t) steps.forward(t);
    int64_t alive = 0;
    for (int64_t t = r_.n_steps - 1; t >= 0; --t) {
      steps.backward(t);
      const int64_t n = steps.rows(t), at = steps.at();
      for (int64_t i = alive; i < n; ++i) {  // sequences whose last step this is
        copy_values(dh_ + i * n_hidden_, r_.dh_last + (first_ + i) * n_hidden_, n_hidden_);
      }
      alive = n;
      if (n == 0) continue;
      add_values(dh_, dh_, r_.dy + at * n_hidden_, n * n_hidden_);
      step(n, at, t > 0 ? r_.y + (at - r_.sizes[t - 1]) * n_hidden_ : r_.h0 + first_ * n_hidden_);
    }
    copy_values(r_.dh0 + first_ * n_hidden_, dh_, steps.capacity() * n_hidden_);
    SumsOfBlock* const all[] = {&of_b_rz_, &of_b_n_, &of_p_rz_, &of_p_n_, &of_z_rz_, &of_z_n_};
    for (SumsOfBlock* sums : all) sums->flush();
  }

 private:
  void step(int64_t n, int64_t at, const float* h) {
    const int64_t two = 2 * n_hidden_;
    const bool sum = r_.place == RecurrentPlace::kSum, product = r_.place == RecurrentPlace::kProduct;
    const float* const z_rz = r_.z_rz + at * two;
    const float* const z_n = r_.z_n + at * n_hidden_;
    const float* const stats_rz = stats_at(r_, r_.stats_rz, at);
    const float* const stats_n = stats_at(r_, r_.stats_n, at);
    const float* const a_rz = gates(n, at, z_rz, stats_rz);
    const float* const q_n = new_values(n, at, a_rz, z_n, stats_n);

    for (int64_t i = 0; i < n; ++i) {
      const int64_t unit = i * n_hidden_;
      gru_hidden_backward(a_rz + i * two, a_n_ + unit, h + unit, dh_ + unit, da_rz_ + i * two + n_hidden_, da_n_ + unit, n_hidden_);
    }
    const float* din_n = da_n_;
    if (sum) {
      norm_rows_backward(r_, da_n_, z_n, stats_n, n, n_hidden_, block_.norm_n_w, normed_n_, of_z_n_.of(n));
      din_n = normed_n_;
    }
    for (int64_t i = 0; i < n; ++i) {
      const int64_t unit = i * n_hidden_;
      gru_reset_backward(a_rz + i * two, q_n + unit, din_n + unit, da_rz_ + i * two, dout_n_ + unit, n_hidden_);
    }
    const float *din_rz = da_rz_, *dq_rz = da_rz_, *dq_n = dout_n_;
    if (sum || product) {
      norm_rows_backward(r_, da_rz_, z_rz, stats_rz, n, two, r_.norm_w, normed_rz_, of_z_rz_.of(n));
      dq_rz = normed_rz_;
      if (sum) din_rz = normed_rz_;
    }
    if (product) {
      norm_rows_backward(r_, dout_n_, z_n, stats_n, n, n_hidden_, block_.norm_n_w, dq_n_, of_z_n_.of(n));
      dq_n = dq_n_;
    }
    const ParamSums<float> b_rz = of_b_rz_.of(n), b_n = of_b_n_.of(n);
    add_rows(b_rz.dw, din_rz, n, two);
    add_rows(b_n.dw, din_n, n, n_hidden_);
    add_rows(b_n.db, dout_n_, n, n_hidden_);
    block_.input_rz.backward(din_rz, at, n, stats_at(r_, r_.p_stats_rz, at), r_.dp, of_p_rz_.of(n));
    block_.input_n.backward(din_n, at, n, stats_at(r_, r_.p_stats_n, at), r_.dp, of_p_n_.of(n));
    float* const dq = r_.dq + at * 3 * n_hidden_;
    for (int64_t i = 0; i < n; ++i) {
      copy_values(dq + i * 3 * n_hidden_, dq_rz + i * two, two);
      copy_values(dq + i * 3 * n_hidden_ + two, dq_n + i * n_hidden_, n_hidden_);
    }
    w_hh_.rz.multiply(dq_rz, two, n, dh_, n_hidden_, true);
    w_hh_.n.multiply(dq_n, n_hidden_, n, dh_, n_hidden_, true);
  }

  const float* gates(int64_t n, int64_t at, const float* z_rz, const float* stats_rz) {
    if (r_.place == RecurrentPlace::kNone) return z_rz;
    norm_rows_again(r_, z_rz, stats_rz, n, 2 * n_hidden_, r_.norm_w, r_.norm_b, a_rz_);
    if (r_.place == RecurrentPlace::kProduct) block_.input_rz.add_again(at, n, a_rz_, stats_at(r_, r_.p_stats_rz, at));
    return a_rz_;
  }

  // q_n with its bias; and a_n into a_n_.
  const float* new_values(int64_t n, int64_t at, const float* a_rz, const float* z_n, const float* stats_n) {
    if (r_.place == RecurrentPlace::kSum) {
      norm_rows_again(r_, z_n, stats_n, n, n_hidden_, block_.norm_n_w, block_.norm_n_b, a_n_);
      return r_.q_n + at * n_hidden_;
    }
    const float* q_n = z_n;
    if (r_.place == RecurrentPlace::kProduct) {
      norm_rows_again(r_, z_n, stats_n, n, n_hidden_, block_.norm_n_w, block_.norm_n_b, q_n_);
      block_.add_b_hh_n(q_n_, n);
      q_n = q_n_;
    }
    block_.reset(a_rz, q_n, a_n_, n);
    block_.input_n.add_again(at, n, a_n_, stats_at(r_, r_.p_stats_n, at));
    return q_n;
  }

  const GruBackward& r_;
  const GruPanels& w_hh_;
  int64_t first_, n_hidden_;
  GruBlock block_;
  SumsOfBlock of_b_rz_, of_b_n_, of_p_rz_, of_p_n_, of_z_rz_, of_z_n_;
  Memory<float> memory_;
  float *a_rz_, *a_n_, *q_n_, *dh_, *da_rz_, *da_n_, *dout_n_, *normed_rz_, *normed_n_, *dq_n_;
};

static void gru_backward(const GruBackward& r) {
  const int64_t n = r.n_hidden;
  const GruPanels w_hh = {Panels(r.w_hh, 2 * n, n, n, 1), Panels(r.w_hh + 2 * n * n, n, n, n, 1)};
  each_block_with_sums(r, sums_of(r), [&](int64_t first, int64_t last, const SumsOfLayer& sums, double* totals) {
    GruBackwardBlock(r, w_hh, first, last, sums, totals).run();
  });
}
