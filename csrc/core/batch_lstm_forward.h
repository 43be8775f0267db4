// The LSTM with recurrent BatchNorm, forward. Included by isa/*.cpp. Scalar math in batch_lstm.h.

class BatchLstmForwardLoop {
 public:
  explicit BatchLstmForwardLoop(const BatchLstmForward& r)
      : r_(r), n_hidden_(r.n_hidden), n_out_(r.n_out), gates_(4 * r.n_hidden),
        w_hh_(r.w_hh, r.n_out, r.n_hidden, 1, r.n_out, 4),
        w_hr_(r.w_hr, r.n_hidden, r.w_hr != nullptr ? r.n_out : 0, 1, r.n_hidden),
        memory_(r.n_sequences * (gates_ + 2 * n_hidden_)) {
    own_z_ = memory_.data();
    own_c_ = own_z_ + r.n_sequences * gates_;
    own_m_ = own_c_ + r.n_sequences * n_hidden_;
  }

  void run() {
    const float* h = r_.h0;
    const float* c = r_.c0;
    int64_t at = 0, before = r_.n_sequences;
    for (int64_t t = 0; t < r_.n_steps; ++t) {
      const int64_t n = r_.sizes[t];
      ended(n, before, h, c);
      before = n;
      float* const y = r_.y + at * n_out_;
      float* const m = r_.w_hr != nullptr ? own_m_ : y;
      float* const z = r_.z != nullptr ? r_.z + at * gates_ : own_z_;
      float* const c_next = r_.cells != nullptr ? r_.cells + at * n_hidden_ : own_c_;
      each_units(r_.parallel_for, n_hidden_, n * n_out_ * 4, [&](int64_t j, auto columns) {
        units(j, columns, t, n, r_.u + at * gates_, h, c, z, c_next, m);
      });
      if (r_.w_hr != nullptr) {
        each_product(r_.parallel_for, n_out_, n * n_hidden_,
                     [&](int64_t j) { w_hr_.multiply_panels(j, m, n_hidden_, n, y, n_out_); });
      }
      h = y;
      c = c_next;
      at += n;
    }
    ended(0, before, h, c);
    *r_.out_of_range = out_of_range_ != 0;
  }

 private:
  void ended(int64_t from, int64_t to, const float* h, const float* c) {
    copy_values(r_.h_last + from * n_out_, h + from * n_out_, (to - from) * n_out_);
    copy_values(r_.c_last + from * n_hidden_, c + from * n_hidden_, (to - from) * n_hidden_);
  }

  // Everything of a step for the units from j on.
  template <bool kWhole>
  void units(int64_t j, Columns<kWhole> columns, int64_t t, int64_t n, const float* u, const float* h, const float* c,
             float* z, float* c_next, float* m) {
    bool ok = true;
    ColumnsNormed of_u[4], of_z[4], of_c;
    norm_of_columns<4>(r_, r_.ih, columns, gates_, j, t, u, n, ok, of_u);
    w_hh_.multiply_gates(j, h, n_out_, n, z, gates_);
    for (int64_t i = 0; r_.hh.w == nullptr && i < n; ++i) {
      for (int k = 0; k < 4; ++k) {
        const int64_t at = i * gates_ + k * n_hidden_ + j;
        columns.put(z + at, columns.at(z + at) + of_u[k](columns.at(u + at)));
      }
    }
    norm_of_columns<4>(r_, r_.hh.w != nullptr ? r_.hh : r_.sum, columns, gates_, j, t, z, n, ok, of_z);
    for (int64_t i = 0; i < n; ++i) {
      Vec<float> a[4];
      for (int k = 0; k < 4; ++k) {
        const int64_t at = i * gates_ + k * n_hidden_ + j;
        a[k] = of_z[k](columns.at(z + at));
        if (r_.hh.w != nullptr) a[k] = a[k] + of_u[k](columns.at(u + at));
      }
      const int64_t unit = i * n_hidden_ + j;
      columns.put(c_next + unit, fma(sigmoid(a[1]), columns.at(c + unit), sigmoid(a[0]) * tanh(a[2])));
      columns.put(m + unit, sigmoid(a[3]));
    }
    norm_of_columns<1>(r_, r_.c, columns, n_hidden_, j, t, c_next, n, ok, &of_c);
    for (int64_t i = 0; i < n; ++i) {
      const int64_t unit = i * n_hidden_ + j;
      columns.put(m + unit, columns.at(m + unit) * tanh(of_c(columns.at(c_next + unit))));
    }
    if (!ok) __atomic_store_n(&out_of_range_, 1, __ATOMIC_RELAXED);
  }

  const BatchLstmForward& r_;
  int64_t n_hidden_, n_out_, gates_;
  Panels w_hh_;
  Panels w_hr_;
  Memory<float> memory_;
  float *own_z_, *own_c_, *own_m_;
  int out_of_range_ = 0;
};

static void batch_lstm_forward(const BatchLstmForward& r) { BatchLstmForwardLoop(r).run(); }
