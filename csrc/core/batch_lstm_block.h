// The LSTM with recurrent BatchNorm, backward: one step of up to 16 units. Gates are computed again from z. Included by
// isa/*.cpp. Scalar math as in recurrent_backward.h, with norms over columns.

struct BatchLstmStep {
  int64_t t;
  int64_t n;      // its rows
  int64_t after;  // those of the step after it
  int64_t row;    // the first, of all steps'
};

// Sums over all steps of the gradients of the norms' parameters.
struct BatchLstmTotals {
  ColumnTotals ih, hh, sum, c;
};

// Up to 16 units from j on at one step: from the gradient of what is projected to those of u, q and the cell before. What is known
// of the n rows before gradients can be written lies in memory of the block's own, of each kind a vector a row, one behind the
// other: of arrays whose rows lie a power of two apart a cache holds few at once.
template <bool kWhole>
class BatchLstmBlock {
 public:
  BatchLstmBlock(const BatchLstmBackward& r, const BatchLstmStep& step, int64_t j, Columns<kWhole> columns)
      : r_(r), step_(step), columns_(columns), j_(j), n_(step.n), n_hidden_(r.n_hidden), gates_(4 * r.n_hidden),
        apart_(r.hh.w != nullptr), by_batch_(r.by_batch && step.n > 1), memory_(kKinds * step.n * kLanes) {
    for (int k = 0; k < 4; ++k) {
      of_u_[k] = kept_norm_of_columns(r.ih, columns, gates_, column(k), step.t);
      of_z_[k] = kept_norm_of_columns(apart_ ? r.hh : r.sum, columns, gates_, column(k), step.t);
      sums_[k] = {};
    }
    of_c_ = kept_norm_of_columns(r.c, columns, n_hidden_, j, step.t);
  }

  // dm [n, H] and dc [n, H], into which goes that of the cell before.
  void backward(const float* dm, float* dc, const BatchLstmTotals& totals) {
    const ColumnsGradient of_cell = through_output(dm + j_, totals.c);
    through_gates(of_cell, dc + j_);
    for (int k = 0; k < 4; ++k) {
      if (of_z_[k].is_there) (apart_ ? totals.hh : totals.sum).add(column(k), sums_[k].z, sums_[k].b, columns_.few);
      const ColumnsGradient dz_of(of_z_[k], by_batch_, n_, sums_[k].z, sums_[k].b);
      apart_ ? write_both(k, dz_of, totals.ih) : write_one_after_the_other(k, dz_of, totals.ih);
    }
  }

 private:
  // Sums over rows: of da, and of da times what both norms gave.
  struct Sums {
    Vec<float> b = zeros<float>(), z = zeros<float>(), u = zeros<float>();
    NK_MEMBER void add(const Sums& part) { b = b + part.b, z = z + part.z, u = u + part.u; }
  };
  struct Gate {
    Vec<float> a, z_hat, u_hat;
  };

  static constexpr int kKinds = 14;
  NK_MEMBER float* at(int kind, int64_t i) const { return memory_.data() + (kind * n_ + i) * kLanes; }
  NK_MEMBER float* da(int k, int64_t i) const { return at(k, i); }
  NK_MEMBER float* z_hat(int k, int64_t i) const { return at(4 + k, i); }
  NK_MEMBER float* u_hat(int k, int64_t i) const { return at(8 + k, i); }
  NK_MEMBER float* c_hat(int64_t i) const { return at(12, i); }
  NK_MEMBER float* dnormed(int64_t i) const { return at(13, i); }  // of what c is normed to

  NK_MEMBER int64_t column(int k) const { return k * n_hidden_ + j_; }
  // Where gate k of row i lies in arrays of all steps.
  NK_MEMBER int64_t of_gate(int k, int64_t i) const { return (step_.row + i) * gates_ + column(k); }

  // Gate k before its activation, again.
  NK_MEMBER Gate gate(int k, int64_t i) const {
    Gate g;
    g.z_hat = of_z_[k].x_hat(columns_.at(r_.z + of_gate(k, i)));
    g.a = of_z_[k].of_x_hat(g.z_hat);
    g.u_hat = zeros<float>();
    if (apart_) {
      g.u_hat = of_u_[k].x_hat(columns_.at(r_.u + of_gate(k, i)));
      g.a = g.a + of_u_[k].of_x_hat(g.u_hat);
      store(u_hat(k, i), g.u_hat);
    }
    store(z_hat(k, i), g.z_hat);
    return g;
  }
  NK_MEMBER void keep_da(int k, int64_t i, const Gate& g, Vec<float> of_a, Sums& sums) const {
    store(da(k, i), of_a);
    sums.add({of_a, of_a * g.z_hat, of_a * g.u_hat});
  }

  // Through h' = o tanh(N(c')): da of the gate o, and the gradient of N(c').
  ColumnsGradient through_output(const float* dm, ColumnTotals total) {
    const Vec<float> one = splat(1.0f);
    const float* const c = r_.cells + step_.row * n_hidden_ + j_;
    Vec<float> dw = zeros<float>(), db = dw;
    each_stretch(n_, [&](int64_t first, int64_t last) NK_LAMBDA {
      Sums part;
      Vec<float> part_w = zeros<float>(), part_b = part_w;
      for (int64_t i = first; i < last; ++i) {
        const Gate g = gate(3, i);
        const Vec<float> hat = of_c_.x_hat(columns_.at(c + i * n_hidden_)), d = columns_.at(dm + i * n_hidden_);
        const Vec<float> o = sigmoid(g.a), s = tanh(of_c_.of_x_hat(hat)), of_normed = d * o * (one - s * s);
        keep_da(3, i, g, d * s * o * (one - o), part);
        store(c_hat(i), hat);
        store(dnormed(i), of_normed);
        part_w = part_w + of_normed * hat;
        part_b = part_b + of_normed;
        if (r_.w_hr != nullptr) columns_.put(r_.m + (step_.row + i) * n_hidden_ + j_, o * s);
      }
      sums_[3].add(part);
      dw = dw + part_w;
      db = db + part_b;
    });
    if (of_c_.is_there) total.add(j_, dw, db, columns_.few);
    return {of_c_, by_batch_, n_, dw, db};
  }

  // Through c' = f c + i g: da of those gates, and the gradient of the cell before.
  void through_gates(const ColumnsGradient& of_cell, float* dc) {
    const Vec<float> one = splat(1.0f);
    const float* const c_before = step_.t > 0 ? r_.cells + (step_.row - r_.sizes[step_.t - 1]) * n_hidden_ + j_ : r_.c0 + j_;
    each_stretch(n_, [&](int64_t first, int64_t last) NK_LAMBDA {
      Sums part[3];
      for (int64_t i = first; i < last; ++i) {
        const Gate gi = gate(0, i), gf = gate(1, i), gg = gate(2, i);
        const Vec<float> in = sigmoid(gi.a), f = sigmoid(gf.a), g = tanh(gg.a);
        // Some sequences end here.
        const Vec<float> after = columns_.at(i < step_.after ? dc + i * n_hidden_ : r_.dc_last + i * n_hidden_ + j_);
        const Vec<float> d = after + of_cell(load(dnormed(i)), load(c_hat(i)));
        keep_da(0, i, gi, d * g * in * (one - in), part[0]);
        keep_da(1, i, gf, d * columns_.at(c_before + i * n_hidden_) * f * (one - f), part[1]);
        keep_da(2, i, gg, d * in * (one - g * g), part[2]);
        columns_.put(dc + i * n_hidden_, d * f);
      }
      for (int k = 0; k < 3; ++k) sums_[k].add(part[k]);
    });
  }

  // Where q has a norm of its own, the gradients of both products follow from da.
  void write_both(int k, const ColumnsGradient& dz_of, ColumnTotals total) const {
    if (of_u_[k].is_there) total.add(column(k), sums_[k].u, sums_[k].b, columns_.few);
    const ColumnsGradient du_of(of_u_[k], by_batch_, n_, sums_[k].u, sums_[k].b);
    for (int64_t i = 0; i < n_; ++i) {
      const Vec<float> d = load(da(k, i));
      columns_.put(r_.dz + of_gate(k, i), dz_of(d, load(z_hat(k, i))));
      columns_.put(r_.du + of_gate(k, i), du_of(d, load(u_hat(k, i))));
    }
  }

  // Else that of u follows from that of the sum, and is the same where u has no norm.
  void write_one_after_the_other(int k, const ColumnsGradient& dz_of, ColumnTotals total) const {
    Vec<float> dw = zeros<float>(), db = dw;
    each_stretch(n_, [&](int64_t first, int64_t last) NK_LAMBDA {
      Vec<float> part_w = zeros<float>(), part_b = part_w;
      for (int64_t i = first; i < last; ++i) {
        const Vec<float> d = dz_of(load(da(k, i)), load(z_hat(k, i)));
        columns_.put(r_.dz + of_gate(k, i), d);
        if (!of_u_[k].is_there) continue;
        const Vec<float> hat = of_u_[k].x_hat(columns_.at(r_.u + of_gate(k, i)));
        store(da(k, i), d);
        store(u_hat(k, i), hat);
        part_w = part_w + d * hat;
        part_b = part_b + d;
      }
      dw = dw + part_w;
      db = db + part_b;
    });
    if (!of_u_[k].is_there) return;
    total.add(column(k), dw, db, columns_.few);
    const ColumnsGradient du_of(of_u_[k], by_batch_, n_, dw, db);
    for (int64_t i = 0; i < n_; ++i) columns_.put(r_.du + of_gate(k, i), du_of(load(da(k, i)), load(u_hat(k, i))));
  }

  const BatchLstmBackward& r_;
  const BatchLstmStep& step_;
  Columns<kWhole> columns_;
  int64_t j_, n_, n_hidden_, gates_;
  bool apart_;  // whether q has a norm of its own
  bool by_batch_;
  ColumnsNormed of_u_[4], of_z_[4], of_c_;
  Sums sums_[4];  // of each gate
  Memory<float> memory_;
};
