// Recurrent layers forward. Included by isa/*.cpp. Scalar math in recurrent.h.

// c' of a row.
static void lstm_cell(const float* a, const float* c, float* c_next, int64_t n) {
  each_vector(n, [=](int64_t j, auto load_at, auto store_at) NK_LAMBDA {
    const Vec<float> i = sigmoid(load_at(a + j)), f = sigmoid(load_at(a + n + j)), g = tanh(load_at(a + 2 * n + j));
    store_at(c_next + j, fma(f, load_at(c + j), i * g));
  });
}

// h' of a row, from o's pre-activation and N_c(c').
static void lstm_hidden(const float* a_o, const float* normed_c, float* h, int64_t n) {
  each_vector(n, [=](int64_t j, auto load_at, auto store_at) NK_LAMBDA {
    store_at(h + j, sigmoid(load_at(a_o + j)) * tanh(load_at(normed_c + j)));
  });
}

static void rnn_hidden(RecurrentCell cell, const float* a, float* h, int64_t n) {
  const bool relu = cell == RecurrentCell::kRelu;
  each_vector(n, [=](int64_t j, auto load_at, auto store_at) NK_LAMBDA {
    const Vec<float> v = load_at(a + j);
    // NaN is not below zero, so it stays.
    store_at(h + j, relu ? larger(zeros<float>(), v) : tanh(v));
  });
}

// One block of sequences over all steps.
static void recurrent_block(const RecurrentForward& r, const RecurrentPanels& w, int64_t first, int64_t last) {
  const int64_t n_hidden = r.n_hidden, n_out = r.n_out, gates = r.gates();
  const bool lstm = r.cell == RecurrentCell::kLstm;
  BlockSteps steps(r, first, last);
  const InputOfSteps input(r, steps.capacity(), {0, gates, {r.b_ih, r.b_hh}});
  const Memory<float> memory(steps.capacity() * (2 * gates + 3 * n_hidden));
  float* const own_z = memory.data();
  float* const own_a = own_z + steps.capacity() * gates;
  float* const own_c = own_a + steps.capacity() * gates;
  float* const own_normed = own_c + steps.capacity() * n_hidden;
  float* const own_m = own_normed + steps.capacity() * n_hidden;
  const float* h = r.h0 + first * n_out;
  const float* c = lstm ? r.c0 + first * n_hidden : nullptr;
  int64_t before = steps.capacity();
  steps.begin();
  for (int64_t t = 0; t < r.n_steps; ++t) {
    const int64_t n = steps.rows(t), at = steps.at();
    for (int64_t i = n; i < before; ++i) {  // sequences that ended
      copy_values(r.h_last + (first + i) * n_out, h + i * n_out, n_out);
      if (lstm) copy_values(r.c_last + (first + i) * n_hidden, c + i * n_hidden, n_hidden);
    }
    before = n;
    if (n == 0) return;
    float* const z = r.z != nullptr ? r.z + at * gates : own_z;
    float* const p_stats = stats_at(r, r.p_stats, at);
    float* const z_stats = stats_at(r, r.z_stats, at);
    w.hh.multiply(h, n_out, n, z, gates);
    float* const a = r.place == RecurrentPlace::kNone ? z : own_a;
    if (r.place != RecurrentPlace::kProduct) input.add(at, n, z, p_stats);
    if (r.place != RecurrentPlace::kNone) norm_rows(r, z, n, gates, r.norm_w, r.norm_b, a, z_stats);
    if (r.place == RecurrentPlace::kProduct) input.add(at, n, a, p_stats);
    float* const y = r.y + at * n_out;
    if (lstm) {
      float* const c_next = r.c != nullptr ? r.c + at * n_hidden : own_c;
      for (int64_t i = 0; i < n; ++i) lstm_cell(a + i * gates, c + i * n_hidden, c_next + i * n_hidden, n_hidden);
      const float* normed = c_next;
      if (r.has_norm_c) {
        float* const c_stats = stats_at(r, r.c_stats, at);
        norm_rows(r, c_next, n, n_hidden, r.norm_c_w, r.norm_c_b, own_normed, c_stats);
        normed = own_normed;
      }
      float* const m = r.w_hr != nullptr ? own_m : y;
      for (int64_t i = 0; i < n; ++i) {
        lstm_hidden(a + i * gates + 3 * n_hidden, normed + i * n_hidden, m + i * n_hidden, n_hidden);
      }
      if (r.w_hr != nullptr) w.hr.multiply(m, n_hidden, n, y, n_out);
      c = c_next;
    } else {
      rnn_hidden(r.cell, a, y, n * n_hidden);
    }
    h = y;
    steps.forward(t);
  }
  for (int64_t i = 0; i < before; ++i) {
    copy_values(r.h_last + (first + i) * n_out, h + i * n_out, n_out);
    if (lstm) copy_values(r.c_last + (first + i) * n_hidden, c + i * n_hidden, n_hidden);
  }
}

static void recurrent_forward(const RecurrentForward& r) {
  const RecurrentPanels w = {Panels(r.w_hh, r.n_out, r.gates(), 1, r.n_out),
                             Panels(r.w_hr, r.n_hidden, projected(r), 1, r.n_hidden)};
  each_block(r, [&](int64_t first, int64_t last, int64_t) { recurrent_block(r, w, first, last); });
}
