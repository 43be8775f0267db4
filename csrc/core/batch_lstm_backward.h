// The LSTM with recurrent BatchNorm, backward, step after step from the last; gates are computed again from z. Included
// by isa/*.cpp. Scalar math as in recurrent_backward.h, with norms over columns.

class BatchLstmBackwardLoop {
 public:
  explicit BatchLstmBackwardLoop(const BatchLstmBackward& r)
      : r_(r), n_hidden_(r.n_hidden), n_out_(r.n_out), gates_(4 * r.n_hidden),
        w_hh_(r.w_hh, gates_, n_out_, n_out_, 1),
        w_hr_(r.w_hr, n_out_, r.w_hr != nullptr ? n_hidden_ : 0, n_hidden_, 1),
        memory_(r.n_sequences * (gates_ + n_out_ + 3 * n_hidden_)), doubles_(8 * gates_) {
    da_ = memory_.data();
    dh_ = da_ + r.n_sequences * gates_;
    dc_ = dh_ + r.n_sequences * n_out_;
    dnormed_ = dc_ + r.n_sequences * n_hidden_;
    dm_ = dnormed_ + r.n_sequences * n_hidden_;
    double* next = doubles_.data();
    ColumnTotals* const all[] = {&ih_, &hh_, &sum_, &c_};
    for (ColumnTotals* totals : all) {
      *totals = {next, next + gates_};
      next += 2 * gates_;
    }
    for (double* p = doubles_.data(); p < next; ++p) *p = 0.0;
  }

  void run() {
    int64_t at = 0, alive = 0;
    for (int64_t t = 0; t < r_.n_steps; ++t) at += r_.sizes[t];
    for (int64_t t = r_.n_steps - 1; t >= 0; --t) {
      const int64_t n = r_.sizes[t];
      at -= n;
      // sequences whose last step this is
      copy_values(dh_ + alive * n_out_, r_.dh_last + alive * n_out_, (n - alive) * n_out_);
      copy_values(dc_ + alive * n_hidden_, r_.dc_last + alive * n_hidden_, (n - alive) * n_hidden_);
      alive = n;
      add_values(dh_, dh_, r_.dy + at * n_out_, n * n_out_);
      step(t, n, at);
    }
    copy_values(r_.dh0, dh_, r_.n_sequences * n_out_);
    copy_values(r_.dc0, dc_, r_.n_sequences * n_hidden_);
    write(ih_, r_.dw_ih, r_.db_ih, gates_);
    write(hh_, r_.dw_hh, r_.db_hh, gates_);
    write(sum_, r_.dw_sum, r_.db_sum, gates_);
    write(c_, r_.dw_c, r_.db_c, n_hidden_);
  }

 private:
  static void write(ColumnTotals totals, float* dw, float* db, int64_t n) {
    if (dw == nullptr) return;
    for (int64_t j = 0; j < n; ++j) {
      dw[j] = float(totals.w[j]);
      db[j] = float(totals.b[j]);
    }
  }

  void step(int64_t t, int64_t n, int64_t at) {
    const float* dm = dh_;
    if (r_.w_hr != nullptr) {
      copy_values(r_.dh + at * n_out_, dh_, n * n_out_);
      each_product(r_.parallel_for, n_hidden_, n * n_out_,
                   [&](int64_t j) { w_hr_.multiply_panels(j, dh_, n_out_, n, dm_, n_hidden_); });
      dm = dm_;
    }
    const float* const c = t > 0 ? r_.cells + (at - r_.sizes[t - 1]) * n_hidden_ : r_.c0;
    each_units(r_.parallel_for, n_hidden_, n * 1024,
               [&](int64_t j, auto columns) { units(j, columns, t, n, at, c, dm); });
    const float* const dz = r_.dz + at * gates_;
    each_product(r_.parallel_for, n_out_, n * gates_,
                 [&](int64_t j) { w_hh_.multiply_panels(j, dz, gates_, n, dh_, n_out_); });
  }

  // From the gradient of what is projected to those of u, q and the cell before, for the units from j on.
  template <bool kWhole>
  void units(int64_t j, Columns<kWhole> columns, int64_t t, int64_t n, int64_t row, const float* c_before,
             const float* dm) {
    const bool by_batch = r_.by_batch && n > 1;
    const float* const u = r_.u + row * gates_;
    const float* const z = r_.z + row * gates_;
    const float* const c = r_.cells + row * n_hidden_;
    const Vec<float> one = splat(1.0f);
    const ColumnNorm& z_norm = r_.hh.w != nullptr ? r_.hh : r_.sum;
    ColumnsNormed of_u[4], of_z[4];
    for (int k = 0; k < 4; ++k) {
      of_u[k] = kept_norm_of_columns(r_.ih, columns, gates_, k * n_hidden_ + j, t);
      of_z[k] = kept_norm_of_columns(z_norm, columns, gates_, k * n_hidden_ + j, t);
    }
    const ColumnsNormed of_c = kept_norm_of_columns(r_.c, columns, n_hidden_, j, t);
    const auto pre_activation = [&](int k, int64_t i) NK_LAMBDA {
      const int64_t at = i * gates_ + k * n_hidden_ + j;
      const Vec<float> a = of_z[k](columns.at(z + at));
      return r_.hh.w != nullptr ? a + of_u[k](columns.at(u + at)) : a;
    };
    for (int64_t i = 0; i < n; ++i) {
      const int64_t unit = i * n_hidden_ + j;
      const Vec<float> o = sigmoid(pre_activation(3, i)), s = tanh(of_c(columns.at(c + unit))), d = columns.at(dm + unit);
      columns.put(dnormed_ + unit, d * o * (one - s * s));
      columns.put(da_ + i * gates_ + 3 * n_hidden_ + j, d * s * o * (one - o));
      if (r_.w_hr != nullptr) columns.put(r_.m + row * n_hidden_ + unit, o * s);
    }
    if (of_c.is_there) {
      columns_backward(of_c, by_batch, columns, j, c, n_hidden_, dnormed_, n_hidden_, dnormed_, n_hidden_, n, c_);
    }
    for (int64_t i = 0; i < n; ++i) {
      const int64_t unit = i * n_hidden_ + j;
      float* const da = da_ + i * gates_ + j;
      const Vec<float> gate_i = sigmoid(pre_activation(0, i)), f = sigmoid(pre_activation(1, i));
      const Vec<float> g = tanh(pre_activation(2, i)), d = columns.at(dc_ + unit) + columns.at(dnormed_ + unit);
      columns.put(da, d * g * gate_i * (one - gate_i));
      columns.put(da + n_hidden_, d * columns.at(c_before + unit) * f * (one - f));
      columns.put(da + 2 * n_hidden_, d * gate_i * (one - g * g));
      columns.put(dc_ + unit, d * f);
    }
    for (int k = 0; k < 4; ++k) of_gate(k, j, columns, by_batch, n, u, z, of_u[k], of_z[k], row);
  }

  // Through the norms of one gate.
  template <bool kWhole>
  void of_gate(int k, int64_t j, Columns<kWhole> columns, bool by_batch, int64_t n, const float* u, const float* z,
               const ColumnsNormed& of_u, const ColumnsNormed& of_z, int64_t row) {
    const int64_t at = k * n_hidden_ + j;
    float* const dz = r_.dz + row * gates_;
    float* const du = r_.du + row * gates_;
    if (of_z.is_there) {
      columns_backward(of_z, by_batch, columns, at, z, gates_, da_, gates_, dz, gates_, n, r_.hh.w != nullptr ? hh_ : sum_);
    } else {
      for (int64_t i = 0; i < n; ++i) columns.put(dz + i * gates_ + at, columns.at(da_ + i * gates_ + at));
    }
    const float* const dp = r_.hh.w != nullptr ? da_ : dz;
    if (of_u.is_there) {
      columns_backward(of_u, by_batch, columns, at, u, gates_, dp, gates_, du, gates_, n, ih_);
    } else if (du != dp) {
      for (int64_t i = 0; i < n; ++i) columns.put(du + i * gates_ + at, columns.at(dp + i * gates_ + at));
    }
  }

  const BatchLstmBackward& r_;
  int64_t n_hidden_, n_out_, gates_;
  Panels w_hh_;
  Panels w_hr_;
  Memory<float> memory_;
  Memory<double> doubles_;
  float *da_, *dh_, *dc_, *dnormed_, *dm_;
  ColumnTotals ih_, hh_, sum_, c_;
};

static void batch_lstm_backward(const BatchLstmBackward& r) { BatchLstmBackwardLoop(r).run(); }
