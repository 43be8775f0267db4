// The GRU, forward and backward. Included by isa/*.cpp. Scalar math in recurrent.h.

static ConstArray values_from(ConstArray array, int64_t first) {
  if (array.data != nullptr) array.data = static_cast<const float*>(array.data) + first;
  return array;
}

// to[j] += b[j] for n rows of n_cols; b may be null.
static void add_to_rows(float* to, const float* b, int64_t n, int64_t n_cols) {
  if (b == nullptr) return;
  for (int64_t i = 0; i < n; ++i) add_values(to + i * n_cols, to + i * n_cols, b, n_cols);
}

// What the GRU's gates need of a step, by rows of a block: computed in the forward and again in the backward.
struct GruStep {
  const float* a_rz;  // [n, 2H]
  float* q_n;         // [n, H], with its bias
};

// to = p_n + sigmoid(a_r) q_n of a row.
static void gru_sum_n(const float* p_n, const float* a_rz, const float* q_n, float* to, int64_t n) {
  each_vector(n, [=](int64_t j, auto load_at, auto store_at) NK_LAMBDA {
    store_at(to + j, fma(sigmoid(load_at(a_rz + j)), load_at(q_n + j), load_at(p_n + j)));
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

class GruForwardBlock {
 public:
  GruForwardBlock(const GruForward& r, const GruPanels& w_hh, int64_t first, int64_t last)
      : r_(r), w_hh_(w_hh), first_(first), n_hidden_(r.n_hidden), steps_(r, first, last),
        memory_(steps_.capacity() * 7 * n_hidden_) {
    const int64_t unit = steps_.capacity() * n_hidden_;
    in_rz_ = memory_.data();
    out_rz_ = in_rz_ + 2 * unit;
    in_n_ = out_rz_ + 2 * unit;
    q_n_ = in_n_ + unit;
    a_n_ = q_n_ + unit;
  }

  void run() {
    const float* h = r_.h0 + first_ * n_hidden_;
    int64_t before = steps_.capacity();
    steps_.begin();
    for (int64_t t = 0; t < r_.n_steps; ++t) {
      const int64_t n = steps_.rows(t), at = steps_.at();
      end_of(n, before, h);
      before = n;
      if (n == 0) return;
      float* const y = r_.y + at * n_hidden_;
      step(h, n, at, y);
      h = y;
      steps_.forward(t);
    }
    end_of(0, before, h);
  }

 private:
  void end_of(int64_t from, int64_t to, const float* h) {
    for (int64_t i = from; i < to; ++i) copy_values(r_.h_last + (first_ + i) * n_hidden_, h + i * n_hidden_, n_hidden_);
  }

  void step(const float* h, int64_t n, int64_t at, float* y) {
    const int64_t two = 2 * n_hidden_, three = 3 * n_hidden_, per_row = stats_per_row(r_.norm);
    const bool keep = r_.in_rz != nullptr;
    float* const in_rz = keep ? r_.in_rz + at * two : in_rz_;
    float* const in_n = keep ? r_.in_n + at * n_hidden_ : in_n_;
    float* const stats_rz = r_.stats_rz != nullptr ? r_.stats_rz + at * per_row : nullptr;
    float* const stats_n = r_.stats_n != nullptr ? r_.stats_n + at * per_row : nullptr;
    const ConstArray w_n = values_from(r_.norm_w, two), b_n = values_from(r_.norm_b, two);
    const float* const b_hh_n = r_.b_hh != nullptr ? r_.b_hh + two : nullptr;
    const float* const p = r_.p + at * three;
    const bool sum = r_.place == RecurrentPlace::kSum, product = r_.place == RecurrentPlace::kProduct;

    w_hh_.rz.multiply(h, n_hidden_, n, in_rz, two);
    // At kSum q_n is kept beside what its norm takes in.
    float* const product_n = !sum ? in_n : r_.q_n != nullptr ? r_.q_n + at * n_hidden_ : q_n_;
    w_hh_.n.multiply(h, n_hidden_, n, product_n, n_hidden_);
    float* a_rz = in_rz;
    float* q_n = product_n;
    if (product) {
      norm_rows(r_, in_rz, n, two, r_.norm_w, r_.norm_b, out_rz_, stats_rz);
      norm_rows(r_, in_n, n, n_hidden_, w_n, b_n, q_n_, stats_n);
      a_rz = out_rz_;
      q_n = q_n_;
    }
    add_to_rows(q_n, b_hh_n, n, n_hidden_);
    add_to_rows(a_rz, r_.b_hh, n, two);
    for (int64_t i = 0; i < n; ++i) add_values(a_rz + i * two, a_rz + i * two, p + i * three, two);
    if (sum) {
      norm_rows(r_, in_rz, n, two, r_.norm_w, r_.norm_b, out_rz_, stats_rz);
      a_rz = out_rz_;
    }
    float* const sum_n = sum ? in_n : a_n_;
    for (int64_t i = 0; i < n; ++i) {
      gru_sum_n(p + i * three + two, a_rz + i * two, q_n + i * n_hidden_, sum_n + i * n_hidden_, n_hidden_);
    }
    if (sum) norm_rows(r_, in_n, n, n_hidden_, w_n, b_n, a_n_, stats_n);
    for (int64_t i = 0; i < n; ++i) {
      gru_hidden(a_rz + i * two, a_n_ + i * n_hidden_, h + i * n_hidden_, y + i * n_hidden_, n_hidden_);
    }
  }

  const GruForward& r_;
  const GruPanels& w_hh_;
  int64_t first_, n_hidden_;
  BlockSteps steps_;
  Memory<float> memory_;
  float *in_rz_, *out_rz_, *in_n_, *q_n_, *a_n_;
};

static void gru_forward(const GruForward& r) {
  const int64_t n = r.n_hidden;
  const GruPanels w_hh = {Panels(r.w_hh, n, 2 * n, 1, n), Panels(r.w_hh + 2 * n * n, n, n, 1, n)};
  each_block(r, [&](int64_t first, int64_t last, int64_t) { GruForwardBlock(r, w_hh, first, last).run(); });
}

// Scalar math, with r, z after their activations, v = tanh(a_n):
//   dh += dy;  da_z = dh (h - v) z (1-z);  da_n = dh (1-z) (1-v^2);  dh := dh z
//   kSum: dout_n = da_n, ds_n = M'(da_n), else ds_n = da_n;   da_r = ds_n q_n r (1-r);   dq_n = ds_n r
//   kSum: dout_rz = da_rz, ds_rz = N'(da_rz), else ds_rz = da_rz;   dp = (ds_rz, ds_n)
//   kProduct: dout = (da_rz, ds_n r), dq = (N'(da_rz), M'(ds_n r));   dh += dq W_hh
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

static void gru_reset_backward(const float* a_rz, const float* q_n, const float* ds_n, float* da_r, float* dq_n,
                               int64_t n) {
  each_vector(n, [=](int64_t j, auto load_at, auto store_at) NK_LAMBDA {
    const Vec<float> r = sigmoid(load_at(a_rz + j)), d = load_at(ds_n + j);
    store_at(da_r + j, d * load_at(q_n + j) * r * (splat(1.0f) - r));
    store_at(dq_n + j, d * r);
  });
}

class GruBackwardBlock {
 public:
  GruBackwardBlock(const GruBackward& r, const GruPanels& w_hh, int64_t first, int64_t last)
      : r_(r), w_hh_(w_hh), first_(first), n_hidden_(r.n_hidden), steps_(r, first, last),
        memory_(steps_.capacity() * 6 * n_hidden_) {
    const int64_t unit = steps_.capacity() * n_hidden_;
    a_rz_ = memory_.data();
    a_n_ = a_rz_ + 2 * unit;
    q_n_ = a_n_ + unit;
    dh_ = q_n_ + unit;
    ds_n_ = dh_ + unit;
  }

  void run() {
    steps_.begin();
    for (int64_t t = 0; t < r_.n_steps; ++t) steps_.forward(t);
    int64_t alive = 0;
    for (int64_t t = r_.n_steps - 1; t >= 0; --t) {
      steps_.backward(t);
      const int64_t n = steps_.rows(t), at = steps_.at();
      for (int64_t i = alive; i < n; ++i) {  // sequences whose last step this is
        copy_values(dh_ + i * n_hidden_, r_.dh_last + (first_ + i) * n_hidden_, n_hidden_);
      }
      alive = n;
      if (n == 0) continue;
      add_values(dh_, dh_, r_.dy + at * n_hidden_, n * n_hidden_);
      step(n, at, t > 0 ? r_.y + (at - r_.sizes[t - 1]) * n_hidden_ : r_.h0 + first_ * n_hidden_);
    }
    copy_values(r_.dh0 + first_ * n_hidden_, dh_, steps_.capacity() * n_hidden_);
  }

 private:
  void step(int64_t n, int64_t at, const float* h) {
    const int64_t two = 2 * n_hidden_, three = 3 * n_hidden_, per_row = stats_per_row(r_.norm);
    const bool sum = r_.place == RecurrentPlace::kSum, product = r_.place == RecurrentPlace::kProduct;
    const float* const in_rz = r_.in_rz + at * two;
    const float* const in_n = r_.in_n + at * n_hidden_;
    const ConstArray w_n = values_from(r_.norm_w, two), b_n = values_from(r_.norm_b, two);
    float* const dout_rz = r_.dout_rz + at * two;
    float* const dout_n = r_.dout_n + at * n_hidden_;
    float* const dq_rz = r_.dq_rz + at * two;
    float* const dq_n = r_.dq_n + at * n_hidden_;
    float* const dp = r_.dp + at * three;
    const GruStep again = gates(n, at, in_rz, in_n, w_n, b_n);

    for (int64_t i = 0; i < n; ++i) {
      const int64_t unit = i * n_hidden_;
      gru_hidden_backward(again.a_rz + i * two, a_n_ + unit, h + unit, dh_ + unit, dout_rz + i * two + n_hidden_,
                          ds_n_ + unit, n_hidden_);
    }
    if (sum) {
      copy_values(dout_n, ds_n_, n * n_hidden_);
      norm_rows_backward(r_, dout_n, in_n, r_.stats_n + at * per_row, n, n_hidden_, w_n, ds_n_);
    }
    float* const after_reset = sum ? dq_n : dout_n;
    for (int64_t i = 0; i < n; ++i) {
      const int64_t unit = i * n_hidden_;
      copy_values(dp + i * three + two, ds_n_ + unit, n_hidden_);
      gru_reset_backward(again.a_rz + i * two, again.q_n + unit, ds_n_ + unit, dout_rz + i * two, after_reset + unit, n_hidden_);
    }
    if (sum || product) norm_rows_backward(r_, dout_rz, in_rz, r_.stats_rz + at * per_row, n, two, r_.norm_w, dq_rz);
    if (product) norm_rows_backward(r_, dout_n, in_n, r_.stats_n + at * per_row, n, n_hidden_, w_n, dq_n);
    const float* const ds_rz = sum ? dq_rz : dout_rz;
    for (int64_t i = 0; i < n; ++i) copy_values(dp + i * three, ds_rz + i * two, two);
    w_hh_.rz.multiply(dq_rz, two, n, dh_, n_hidden_, true);
    w_hh_.n.multiply(dq_n, n_hidden_, n, dh_, n_hidden_, true);
  }

  // a_rz, q_n and, into a_n_, a_n.
  GruStep gates(int64_t n, int64_t at, const float* in_rz, const float* in_n, ConstArray w_n, ConstArray b_n) {
    const int64_t two = 2 * n_hidden_, three = 3 * n_hidden_;
    const float* const p = r_.p + at * three;
    GruStep step = {in_rz, q_n_};
    if (r_.place == RecurrentPlace::kSum) {
      norm_rows(r_, in_rz, n, two, r_.norm_w, r_.norm_b, a_rz_, nullptr);
      norm_rows(r_, in_n, n, n_hidden_, w_n, b_n, a_n_, nullptr);
      copy_values(q_n_, r_.q_n + at * n_hidden_, n * n_hidden_);
      return {a_rz_, q_n_};
    }
    if (r_.place == RecurrentPlace::kProduct) {
      norm_rows(r_, in_rz, n, two, r_.norm_w, r_.norm_b, a_rz_, nullptr);
      norm_rows(r_, in_n, n, n_hidden_, w_n, b_n, q_n_, nullptr);
      add_to_rows(q_n_, r_.b_hh != nullptr ? r_.b_hh + two : nullptr, n, n_hidden_);
      add_to_rows(a_rz_, r_.b_hh, n, two);
      for (int64_t i = 0; i < n; ++i) add_values(a_rz_ + i * two, a_rz_ + i * two, p + i * three, two);
      step.a_rz = a_rz_;
    } else {
      copy_values(q_n_, in_n, n * n_hidden_);
    }
    for (int64_t i = 0; i < n; ++i) {
      gru_sum_n(p + i * three + two, step.a_rz + i * two, q_n_ + i * n_hidden_, a_n_ + i * n_hidden_, n_hidden_);
    }
    return step;
  }

  const GruBackward& r_;
  const GruPanels& w_hh_;
  int64_t first_, n_hidden_;
  BlockSteps steps_;
  Memory<float> memory_;
  float *a_rz_, *a_n_, *q_n_, *dh_, *ds_n_;
};

static void gru_backward(const GruBackward& r) {
  const int64_t n = r.n_hidden;
  const GruPanels w_hh = {Panels(r.w_hh, 2 * n, n, n, 1), Panels(r.w_hh + 2 * n * n, n, n, n, 1)};
  each_block(r, [&](int64_t first, int64_t last, int64_t) { GruBackwardBlock(r, w_hh, first, last).run(); });
}
