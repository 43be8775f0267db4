// The LSTM with recurrent BatchNorm, backward, step after step from the last; gates are computed again from z. Included
// by isa/*.cpp. Scalar math as in recurrent_backward.h, with norms over columns.

// What a block of units knows of a step's n rows before its gradients can be written: of each kind a vector a row, one behind the
// other. (Of the arrays whose rows lie a power of two apart a cache holds few at once.)
class BatchLstmBlock {
 public:
  explicit BatchLstmBlock(int64_t n) : n_(n), memory_(kKinds * n * kLanes) {}
  float* da(int gate, int64_t i) const { return at(gate, i); }
  float* z_hat(int gate, int64_t i) const { return at(4 + gate, i); }
  float* u_hat(int gate, int64_t i) const { return at(8 + gate, i); }
  float* c_hat(int64_t i) const { return at(12, i); }
  float* dnormed(int64_t i) const { return at(13, i); }  // of what c is normed to

 private:
  static constexpr int kKinds = 14;
  float* at(int kind, int64_t i) const { return memory_.data() + (kind * n_ + i) * kLanes; }
  int64_t n_;
  Memory<float> memory_;
};

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
    ColumnTotals* const all[] = {&ih_, &hh_, &sum_, &c_};
    for (ColumnTotals* totals : all) {
      *totals = {next, next + gates_};
      next += 2 * gates_;
    }
    for (double* p = doubles_.data(); p < next; ++p) *p = 0.0;
  }

  void run() {
    Step step = {r_.n_steps, 0, 0, 0};
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
    write(ih_, r_.dw_ih, r_.db_ih, gates_);
    write(hh_, r_.dw_hh, r_.db_hh, gates_);
    write(sum_, r_.dw_sum, r_.db_sum, gates_);
    write(c_, r_.dw_c, r_.db_c, n_hidden_);
  }

 private:
  struct Step {
    int64_t t;
    int64_t n;      // its rows
    int64_t after;  // those of the step after it
    int64_t row;    // the first, of all steps'
  };

  static void write(ColumnTotals totals, float* dw, float* db, int64_t n) {
    if (dw == nullptr) return;
    for (int64_t j = 0; j < n; ++j) {
      dw[j] = float(totals.w[j]);
      db[j] = float(totals.b[j]);
    }
  }

  // A thread computes for its units what reaches the output, or what is projected, and everything that follows from it: one wait
  // for the other threads in a step, and one more with a projection.
  void backward(const Step& step) {
    float* const dh = r_.dh + step.row * n_out_;
    if (r_.w_hr != nullptr) {
      each_product(r_.parallel_for, n_out_, step.after * gates_, [&](int64_t j) { gradient_of_output(step, j, dh); });
    }
    each_product(r_.parallel_for, n_hidden_, step.n * (gates_ + 1024), [&](int64_t first) {
      r_.w_hr != nullptr ? w_hr_.multiply_panels(first, dh, n_out_, step.n, dm_, n_hidden_) : gradient_of_output(step, first, dm_);
      for (int64_t j = first; j < first + kAtOnce && j < n_hidden_; j += kLanes) {
        j + kLanes <= n_hidden_ ? units(step, j, Columns<true>{kLanes}) : units(step, j, Columns<false>{int(n_hidden_ - j)});
      }
    });
  }

  // Of the columns from `first` on that a product takes at once; to [n, P].
  void gradient_of_output(const Step& step, int64_t first, float* to) const {
    if (step.after > 0) {
      w_hh_.multiply_panels(first, r_.dz + (step.row + step.n) * gates_, gates_, step.after, to, n_out_);
    }
    const int64_t width = n_out_ - first < kAtOnce ? n_out_ - first : kAtOnce;
    for (int64_t i = 0; i < step.n; ++i) {  // some sequences end here
      const float* const sum = i < step.after ? to + i * n_out_ + first : r_.dh_last + i * n_out_ + first;
      add_values(to + i * n_out_ + first, sum, r_.dy + (step.row + i) * n_out_ + first, width);
    }
  }

  // From the gradient of what is projected to those of u, q and the cell before, for the units from j on.
  template <bool kWhole>
  void units(const Step& step, int64_t j, Columns<kWhole> columns) {
    const int64_t n = step.n;
    const bool by_batch = r_.by_batch && n > 1, apart = r_.hh.w != nullptr;
    const float* const u = r_.u + step.row * gates_ + j;
    const float* const z = r_.z + step.row * gates_ + j;
    const float* const c = r_.cells + step.row * n_hidden_ + j;
    const float* const c_before = step.t > 0 ? r_.cells + (step.row - r_.sizes[step.t - 1]) * n_hidden_ + j : r_.c0 + j;
    const Vec<float> one = splat(1.0f), none = zeros<float>();
    const ColumnNorm& z_norm = apart ? r_.hh : r_.sum;
    ColumnsNormed of_u[4], of_z[4];
    for (int k = 0; k < 4; ++k) {
      of_u[k] = kept_norm_of_columns(r_.ih, columns, gates_, k * n_hidden_ + j, step.t);
      of_z[k] = kept_norm_of_columns(z_norm, columns, gates_, k * n_hidden_ + j, step.t);
    }
    const ColumnsNormed of_c = kept_norm_of_columns(r_.c, columns, n_hidden_, j, step.t);
    const BatchLstmBlock block(n);

    struct Sums {
      Vec<float> b, z, u;
      NK_MEMBER void add(const Sums& part) { b = b + part.b, z = z + part.z, u = u + part.u; }
    };
    struct Gate {
      Vec<float> a, z_hat, u_hat;
    };
    const auto gate = [&](int k, int64_t i) NK_LAMBDA {
      const int64_t at = i * gates_ + k * n_hidden_;
      Gate g;
      g.z_hat = of_z[k].x_hat(columns.at(z + at));
      g.a = of_z[k].of_x_hat(g.z_hat);
      g.u_hat = none;
      if (apart) {
        g.u_hat = of_u[k].x_hat(columns.at(u + at));
        g.a = g.a + of_u[k].of_x_hat(g.u_hat);
        store(block.u_hat(k, i), g.u_hat);
      }
      store(block.z_hat(k, i), g.z_hat);
      return g;
    };
    const auto put_da = [&](int k, int64_t i, const Gate& g, Vec<float> da, Sums& sums) NK_LAMBDA {
      store(block.da(k, i), da);
      sums.add({da, da * g.z_hat, da * g.u_hat});
    };

    Sums sums[4] = {{none, none, none}, {none, none, none}, {none, none, none}, {none, none, none}};
    Vec<float> dw_c = none, db_c = none;
    each_stretch(n, [&](int64_t first, int64_t last) NK_LAMBDA {
      Sums part = {none, none, none};
      Vec<float> part_w = none, part_b = none;
      for (int64_t i = first; i < last; ++i) {
        const Gate g = gate(3, i);
        const Vec<float> c_hat = of_c.x_hat(columns.at(c + i * n_hidden_)), d = columns.at(dm_ + i * n_hidden_ + j);
        const Vec<float> o = sigmoid(g.a), s = tanh(of_c.of_x_hat(c_hat)), dnormed = d * o * (one - s * s);
        put_da(3, i, g, d * s * o * (one - o), part);
        store(block.c_hat(i), c_hat);
        store(block.dnormed(i), dnormed);
        part_w = part_w + dnormed * c_hat;
        part_b = part_b + dnormed;
        if (r_.w_hr != nullptr) columns.put(r_.m + (step.row + i) * n_hidden_ + j, o * s);
      }
      sums[3].add(part);
      dw_c = dw_c + part_w;
      db_c = db_c + part_b;
    });
    if (of_c.is_there) c_.add(j, dw_c, db_c, columns.few);
    const ColumnsGradient dc_of(of_c, by_batch, n, dw_c, db_c);
    each_stretch(n, [&](int64_t first, int64_t last) NK_LAMBDA {
      Sums part[3] = {{none, none, none}, {none, none, none}, {none, none, none}};
      for (int64_t i = first; i < last; ++i) {
        const Gate gi = gate(0, i), gf = gate(1, i), gg = gate(2, i);
        const Vec<float> in = sigmoid(gi.a), f = sigmoid(gf.a), g = tanh(gg.a);
        const float* const dc = (i < step.after ? dc_ : r_.dc_last) + i * n_hidden_ + j;
        const Vec<float> d = columns.at(dc) + dc_of(load(block.dnormed(i)), load(block.c_hat(i)));
        put_da(0, i, gi, d * g * in * (one - in), part[0]);
        put_da(1, i, gf, d * columns.at(c_before + i * n_hidden_) * f * (one - f), part[1]);
        put_da(2, i, gg, d * in * (one - g * g), part[2]);
        columns.put(dc_ + i * n_hidden_ + j, d * f);
      }
      for (int k = 0; k < 3; ++k) sums[k].add(part[k]);
    });

    for (int k = 0; k < 4; ++k) {
      const int64_t at = k * n_hidden_ + j;
      float* const dz = r_.dz + step.row * gates_ + at;
      float* const du = r_.du + step.row * gates_ + at;
      if (of_z[k].is_there) (apart ? hh_ : sum_).add(at, sums[k].z, sums[k].b, columns.few);
      const ColumnsGradient dz_of(of_z[k], by_batch, n, sums[k].z, sums[k].b);
      if (apart) {
        if (of_u[k].is_there) ih_.add(at, sums[k].u, sums[k].b, columns.few);
        const ColumnsGradient du_of(of_u[k], by_batch, n, sums[k].u, sums[k].b);
        for (int64_t i = 0; i < n; ++i) {
          const Vec<float> da = load(block.da(k, i));
          columns.put(dz + i * gates_, dz_of(da, load(block.z_hat(k, i))));
          columns.put(du + i * gates_, du_of(da, load(block.u_hat(k, i))));
        }
        continue;
      }
      Vec<float> dw = none, db = none;
      each_stretch(n, [&](int64_t first, int64_t last) NK_LAMBDA {
        Vec<float> part_w = none, part_b = none;
        for (int64_t i = first; i < last; ++i) {
          const Vec<float> d = dz_of(load(block.da(k, i)), load(block.z_hat(k, i)));
          columns.put(dz + i * gates_, d);
          if (!of_u[k].is_there) continue;
          const Vec<float> u_hat = of_u[k].x_hat(columns.at(u + i * gates_ + k * n_hidden_));
          store(block.da(k, i), d);
          store(block.u_hat(k, i), u_hat);
          part_w = part_w + d * u_hat;
          part_b = part_b + d;
        }
        dw = dw + part_w;
        db = db + part_b;
      });
      if (!of_u[k].is_there) continue;  // du is dz
      ih_.add(at, dw, db, columns.few);
      const ColumnsGradient du_of(of_u[k], by_batch, n, dw, db);
      for (int64_t i = 0; i < n; ++i) columns.put(du + i * gates_, du_of(load(block.da(k, i)), load(block.u_hat(k, i))));
    }
  }

  const BatchLstmBackward& r_;
  int64_t n_hidden_, n_out_, gates_;
  Panels w_hh_;
  Panels w_hr_;
  Memory<float> memory_;
  Memory<double> doubles_;
  float *dm_, *dc_;  // [N, H]: of what is projected; of the cells
  ColumnTotals ih_, hh_, sum_, c_;
};

static void batch_lstm_backward(const BatchLstmBackward& r) { BatchLstmBackwardLoop(r).run(); }
