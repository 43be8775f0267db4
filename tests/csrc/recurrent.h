// The recurrent kernels, as driver.cpp runs them.
#pragma once

#include "support.h"

namespace recurrent {

struct Case {
  RecurrentCell cell;
  RecurrentPlace place;
  RowNorm norm;
  bool has_norm_p, has_norm_c, affine, hard;
  int64_t n_hidden, n_out, n_sequences, n_steps;  // n_out < n_hidden: a projection
};

using Floats = std::vector<float>;

inline Floats floats(int64_t n, uint32_t seed, bool hard) {
  const Bytes bytes = numbers(n, DType::kFloat32, seed, hard);
  Floats values(static_cast<size_t>(n));
  if (n > 0) std::memcpy(values.data(), bytes.data(), bytes.size());
  return values;
}
inline Bytes bits_of(const Floats& values) {
  Bytes bytes(values.size() * sizeof(float));
  if (!values.empty()) std::memcpy(bytes.data(), values.data(), bytes.size());
  unify_nan(bytes, DType::kFloat32);
  return bytes;
}
// Null for what a case has not.
inline float* at(Floats& values) { return values.empty() ? nullptr : values.data(); }

// What goes into a case. Every second step one sequence fewer is left, but one to the end.
struct Inputs {
  std::vector<int64_t> sizes;
  int64_t n_rows = 0;
  Floats w_hh, w_hr, b_ih, b_hh, norm_p_w, norm_p_b, norm_w, norm_b, norm_c_w, norm_c_b, p, h0, c0, dy, dh_last, dc_last;

  explicit Inputs(const Case& c) {
    for (int64_t t = 0; t < c.n_steps; ++t) {
      sizes.push_back(c.n_sequences - t / 2 > 0 ? c.n_sequences - t / 2 : 1);
      n_rows += sizes.back();
    }
    const bool lstm = c.cell == RecurrentCell::kLstm, norm_c = lstm && c.has_norm_c && c.affine;
    const bool norm = c.place != RecurrentPlace::kNone && c.affine, gru = c.cell == RecurrentCell::kGru;
    const int64_t h = c.n_hidden, gates = (lstm ? 4 : gru ? 3 : 1) * h, states = c.n_sequences * h;
    const int64_t out = c.n_out, outs = c.n_sequences * out;
    w_hh = floats(gates * out, 1, false), w_hr = floats(out < h ? out * h : 0, 13, false);
    b_hh = floats(c.affine ? gates : 0, 2, false), b_ih = floats(c.affine ? gates : 0, 14, false);
    const bool norm_p = c.has_norm_p && c.affine;
    norm_p_w = floats(norm_p ? gates : 0, 15, false), norm_p_b = floats(norm_p ? gates : 0, 16, false);
    norm_w = floats(norm ? gates : 0, 3, false), norm_b = floats(norm ? gates : 0, 4, false);
    norm_c_w = floats(norm_c ? h : 0, 5, false), norm_c_b = floats(norm_c ? h : 0, 6, false);
    p = floats(n_rows * gates, 7, c.hard), h0 = floats(outs, 8, false), c0 = floats(lstm ? states : 0, 9, false);
    dy = floats(n_rows * out, 10, false), dh_last = floats(outs, 11, false), dc_last = floats(lstm ? states : 0, 12, false);
  }

  void put(const Case& c, ParallelFor parallel_for, Recurrent& r) {
    r.cell = c.cell, r.place = c.place, r.norm = c.norm, r.has_norm_c = c.has_norm_c;
    r.n_hidden = c.n_hidden, r.n_out = c.n_out, r.n_steps = c.n_steps, r.n_sequences = c.n_sequences, r.sizes = sizes.data(), r.eps = 1e-5;
    r.w_hh = at(w_hh), r.w_hr = at(w_hr), r.norm_w.data = at(norm_w), r.norm_b.data = at(norm_b), r.norm_c_w.data = at(norm_c_w);
    r.norm_c_b.data = at(norm_c_b), r.p = at(p), r.h0 = at(h0), r.c0 = at(c0), r.parallel_for = parallel_for;
    r.has_norm_p = c.has_norm_p, r.norm_p_w.data = at(norm_p_w), r.norm_p_b.data = at(norm_p_b), r.b_ih = at(b_ih), r.b_hh = at(b_hh);
  }
};

inline std::vector<Bytes> bits_of(const std::vector<const Floats*>& all) {
  std::vector<Bytes> bits;
  for (const Floats* values : all) bits.push_back(bits_of(*values));
  return bits;
}

inline Floats zeros(int64_t n) { return Floats(static_cast<size_t>(n)); }

// With what a backward needs, and y once more without.
inline std::vector<Bytes> run_plain(const Kernels& kernels, const Case& c, ParallelFor parallel_for) {
  Inputs in(c);
  RecurrentForward f{};
  in.put(c, parallel_for, f);
  const bool lstm = c.cell == RecurrentCell::kLstm, norm = c.place != RecurrentPlace::kNone;
  const int64_t rows = in.n_rows, units = rows * c.n_hidden, states = c.n_sequences * c.n_hidden;
  const int64_t gates = rows * f.gates(), stats = rows * stats_per_row(c.norm);
  const int64_t outs = rows * c.n_out, out_states = c.n_sequences * c.n_out, projected = in.w_hr.empty() ? 0 : 1;
  Floats y = zeros(outs), again = y, z = zeros(gates), z_stats = zeros(norm ? stats : 0), cell = zeros(lstm ? units : 0);
  Floats p_stats = zeros(c.has_norm_p ? stats : 0), c_stats = zeros(c.has_norm_c ? stats : 0);
  Floats h_last = zeros(out_states), c_last = zeros(lstm ? states : 0);
  f.y = at(again), f.h_last = at(h_last), f.c_last = at(c_last);
  kernels.recurrent.forward(f);
  f.y = at(y), f.p_stats = at(p_stats), f.z = at(z), f.z_stats = at(z_stats), f.c = at(cell), f.c_stats = at(c_stats);
  kernels.recurrent.forward(f);

  RecurrentBackward g{};
  in.put(c, parallel_for, g);
  Floats dp = zeros(gates), dz = zeros(gates);
  Floats dh = zeros(projected * outs), m = zeros(projected * units), dh0 = zeros(out_states), dc0 = zeros(lstm ? states : 0);
  Floats db = zeros(f.gates()), dnorm_p_w = zeros(c.has_norm_p ? f.gates() : 0), dnorm_p_b = dnorm_p_w;
  Floats dnorm_w = zeros(norm ? f.gates() : 0), dnorm_b = dnorm_w, dnorm_c_w = zeros(c.has_norm_c ? c.n_hidden : 0);
  g.p_stats = f.p_stats, g.z = f.z, g.z_stats = f.z_stats, g.c = f.c, g.c_stats = f.c_stats, g.y = f.y;
  g.dy = at(in.dy), g.dh_last = at(in.dh_last), g.dc_last = at(in.dc_last);
  g.dp = at(dp), g.dz = c.has_norm_p || c.place == RecurrentPlace::kProduct ? at(dz) : g.dp, g.dh = at(dh), g.m = at(m), g.dh0 = at(dh0), g.dc0 = at(dc0);
  g.db = at(db), g.dnorm_p_w = at(dnorm_p_w), g.dnorm_p_b = at(dnorm_p_b), g.dnorm_w = at(dnorm_w), g.dnorm_b = at(dnorm_b);
  g.dnorm_c_w = at(dnorm_c_w);  // and not dnorm_c_b: one of two
  kernels.recurrent.backward(g);
  return bits_of({&again, &y, &p_stats, &z, &z_stats, &cell, &c_stats, &h_last, &c_last, &dp, &dz, &dh, &m, &dh0, &dc0, &db,
                  &dnorm_p_w, &dnorm_p_b, &dnorm_w, &dnorm_b, &dnorm_c_w});
}

inline std::vector<Bytes> run_gru(const Kernels& kernels, const Case& c, ParallelFor parallel_for) {
  Inputs in(c);
  GruForward f{};
  in.put(c, parallel_for, f);
  const bool norm = c.place != RecurrentPlace::kNone, sum = c.place == RecurrentPlace::kSum;
  const int64_t rows = in.n_rows, units = rows * c.n_hidden, states = c.n_sequences * c.n_hidden;
  const int64_t per_row = rows * stats_per_row(c.norm), stats = norm ? per_row : 0, p_stats = c.has_norm_p ? per_row : 0;
  Floats y = zeros(units), again = y, z_rz = zeros(2 * units), z_n = zeros(units), q_n = zeros(sum ? units : 0);
  Floats stats_rz = zeros(stats), stats_n = stats_rz, p_stats_rz = zeros(p_stats), p_stats_n = p_stats_rz, h_last = zeros(states);
  f.y = at(again), f.h_last = at(h_last);
  kernels.recurrent.gru_forward(f);
  f.y = at(y), f.z_rz = at(z_rz), f.z_n = at(z_n), f.q_n = at(q_n), f.stats_rz = at(stats_rz), f.stats_n = at(stats_n);
  f.p_stats_rz = at(p_stats_rz), f.p_stats_n = at(p_stats_n);
  kernels.recurrent.gru_forward(f);

  GruBackward g{};
  in.put(c, parallel_for, g);
  Floats dp = zeros(3 * units), dq = zeros(3 * units), dh0 = zeros(states), db = zeros(4 * c.n_hidden);
  Floats dnorm_w = zeros(norm ? 3 * c.n_hidden : 0), dnorm_b = dnorm_w;
  Floats dnorm_p_w = zeros(c.has_norm_p ? 3 * c.n_hidden : 0), dnorm_p_b = dnorm_p_w;
  g.p_stats_rz = f.p_stats_rz, g.p_stats_n = f.p_stats_n, g.z_rz = f.z_rz, g.z_n = f.z_n, g.q_n = f.q_n, g.stats_rz = f.stats_rz;
  g.stats_n = f.stats_n, g.y = f.y, g.dy = at(in.dy), g.dh_last = at(in.dh_last), g.dp = at(dp), g.dq = at(dq), g.dh0 = at(dh0);
  g.db = at(db), g.dnorm_w = at(dnorm_w), g.dnorm_b = at(dnorm_b), g.dnorm_p_w = at(dnorm_p_w), g.dnorm_p_b = at(dnorm_p_b);
  kernels.recurrent.gru_backward(g);
  return bits_of({&again, &y, &p_stats_rz, &p_stats_n, &z_rz, &z_n, &q_n, &stats_rz, &stats_n, &h_last, &dp, &dq, &dh0, &db,
                  &dnorm_w, &dnorm_b, &dnorm_p_w, &dnorm_p_b});
}

inline std::vector<Bytes> run(const Kernels& kernels, const Case& c, ParallelFor parallel_for) {
  return c.cell == RecurrentCell::kGru ? run_gru(kernels, c, parallel_for) : run_plain(kernels, c, parallel_for);
}

// How many cases every instruction set computed to the same bits; -1 if one differs.
inline int check(const std::vector<const Kernels*>& all) {
  struct Sizes {
    int64_t n_hidden, n_sequences, n_steps;
  };
  int cases = 0;
  for (RecurrentCell cell : {RecurrentCell::kLstm, RecurrentCell::kTanh, RecurrentCell::kRelu, RecurrentCell::kGru}) {
    for (RecurrentPlace place : {RecurrentPlace::kNone, RecurrentPlace::kProduct, RecurrentPlace::kSum}) {
      for (RowNorm norm : {RowNorm::kLayerNorm, RowNorm::kRmsNorm}) {
        for (const Sizes s : {Sizes{1, 1, 1}, Sizes{5, 3, 7}, Sizes{16, 17, 3}, Sizes{33, 2, 4}, Sizes{131, 14, 2}}) {
          for (int variant = 0; variant < 4; ++variant) {
            const bool lstm = cell == RecurrentCell::kLstm, norm_c = lstm && variant != 0;
            if (variant == 3 && (!lstm || s.n_hidden == 1)) continue;
            const int64_t n_out = variant == 3 ? s.n_hidden / 2 : s.n_hidden;
            const bool norm_p = variant != 3 && s.n_hidden > 1;
            const Case c{cell, place, norm, norm_p, norm_c, variant != 2, variant == 1, s.n_hidden, n_out, s.n_sequences, s.n_steps};
            const std::vector<Bytes> expected = run(*all[0], c, serial);
            for (const Kernels* kernels : all) {
              if (run(*kernels, c, s.n_sequences > 16 ? three_threads : serial) == expected) continue;
              std::printf("%s differs: cell %d place %d norm %d, %lld units, %lld sequences, %lld steps, variant %d\n",
                          kernels->isa, int(cell), int(place), int(norm), (long long)s.n_hidden,
                          (long long)s.n_sequences, (long long)s.n_steps, variant);
              return -1;
            }
            ++cases;
          }
        }
      }
    }
  }
  return cases;
}

}  // namespace recurrent
