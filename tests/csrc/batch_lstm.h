// The kernels of the LSTM with recurrent BatchNorm, as driver.cpp runs them.
#pragma once

#include "recurrent.h"

namespace batch_lstm {

using recurrent::at;
using recurrent::Floats;
using recurrent::floats;
using recurrent::zeros;

struct Case {
  bool ih, hh, sum, c, by_batch, hard;
  int64_t n_hidden, n_out, n_sequences, n_steps;
};

// A norm's arguments, of no values where the place has none. Variances are positive.
struct Norm {
  Floats w, b, mean, var, stats, dw, db;
  Norm(bool is_there, int64_t n_cols, int64_t n_places, int64_t n_steps, uint32_t seed) {
    const int64_t n = is_there ? n_cols : 0;
    w = floats(n, seed, false), b = floats(n, seed + 1, false), mean = floats(n * n_places, seed + 2, false);
    var = floats(n * n_places, seed + 3, false);
    for (float& v : var) v = v * v + 0.25f;
    stats = zeros(n * n_steps * kColumnStats), dw = zeros(n), db = zeros(n);
  }
  ColumnNorm arguments() { return {at(w), at(b), at(mean), at(var), at(stats)}; }
};

inline std::vector<Bytes> run(const Kernels& kernels, const Case& c, ParallelFor parallel_for) {
  const recurrent::Case shape{RecurrentCell::kLstm, RecurrentPlace::kNone, RowNorm::kLayerNorm, false, false, false, c.hard,
                              c.n_hidden, c.n_out, c.n_sequences, c.n_steps};
  recurrent::Inputs in(shape);
  constexpr int64_t kPlaces = 2;
  const int64_t h = c.n_hidden, rows = in.n_rows, gates = 4 * h, states = c.n_sequences * h;
  const int64_t outs = rows * c.n_out, out_states = c.n_sequences * c.n_out;
  Norm ih(c.ih, gates, kPlaces, c.n_steps, 21), hh(c.hh, gates, kPlaces, c.n_steps, 31);
  Norm sum(c.sum, gates, kPlaces, c.n_steps, 41), of_c(c.c, h, kPlaces, c.n_steps, 51);
  const auto put = [&](BatchLstm& r) {
    r.n_hidden = h, r.n_out = c.n_out, r.n_steps = c.n_steps, r.n_sequences = c.n_sequences, r.sizes = in.sizes.data();
    r.n_places = kPlaces, r.by_batch = c.by_batch, r.eps = 1e-5, r.w_hh = at(in.w_hh), r.w_hr = at(in.w_hr);
    r.ih = ih.arguments(), r.hh = hh.arguments(), r.sum = sum.arguments(), r.c = of_c.arguments();
    r.u = at(in.p), r.h0 = at(in.h0), r.c0 = at(in.c0), r.parallel_for = parallel_for;
  };
  Floats y = zeros(outs), again = y, z = zeros(rows * gates), cells = zeros(rows * h);
  Floats h_last = zeros(out_states), c_last = zeros(states);
  bool out_of_range = false;
  BatchLstmForward f{};
  put(f);
  f.y = at(again), f.h_last = at(h_last), f.c_last = at(c_last), f.out_of_range = &out_of_range;
  kernels.batch_lstm.forward(f);
  f.y = at(y), f.z = at(z), f.cells = at(cells);
  kernels.batch_lstm.forward(f);

  BatchLstmBackward g{};
  put(g);
  const bool projected = !in.w_hr.empty(), apart = c.ih || c.hh;
  Floats du = zeros(rows * gates), dz = zeros(apart ? rows * gates : 0), dh = zeros(projected ? outs : 0);
  Floats m = zeros(projected ? rows * h : 0), dh0 = zeros(out_states), dc0 = zeros(states);
  g.z = f.z, g.cells = f.cells, g.dy = at(in.dy), g.dh_last = at(in.dh_last), g.dc_last = at(in.dc_last);
  g.du = at(du), g.dz = apart ? at(dz) : g.du, g.dh = at(dh), g.m = at(m), g.dh0 = at(dh0), g.dc0 = at(dc0);
  g.dw_ih = at(ih.dw), g.db_ih = at(ih.db), g.dw_hh = at(hh.dw), g.db_hh = at(hh.db);
  g.dw_sum = at(sum.dw), g.db_sum = at(sum.db), g.dw_c = at(of_c.dw), g.db_c = at(of_c.db);
  kernels.batch_lstm.backward(g);
  std::vector<Bytes> bits = recurrent::bits_of(std::vector<const Floats*>{
      &again, &y, &z, &cells, &h_last, &c_last, &du, &dz, &dh, &m, &dh0, &dc0, &ih.stats, &ih.dw, &ih.db, &hh.stats,
      &hh.dw, &hh.db, &sum.stats, &sum.dw, &sum.db, &of_c.stats, &of_c.dw, &of_c.db});
  bits.push_back(Bytes(1));
  std::memcpy(bits.back().data(), &out_of_range, 1);
  return bits;
}

// How many cases every instruction set computed to the same bits; -1 if one differs.
inline int check(const std::vector<const Kernels*>& all) {
  struct Sizes {
    int64_t n_hidden, n_out, n_sequences, n_steps;
  };
  int cases = 0;
  for (int places = 1; places < 16; ++places) {
    const bool ih = places & 1, hh = places & 2, sum = places & 4, of_c = places & 8;
    if (hh && sum) continue;
    for (const Sizes s : {Sizes{1, 1, 1, 1}, Sizes{5, 3, 3, 7}, Sizes{16, 16, 70, 3}, Sizes{33, 33, 8, 4},
                          Sizes{65, 37, 70, 2}}) {
      for (int variant = 0; variant < 3; ++variant) {
        const Case c{ih, hh, sum, of_c, variant != 2, variant == 1, s.n_hidden, s.n_out, s.n_sequences, s.n_steps};
        const std::vector<Bytes> expected = run(*all[0], c, serial);
        for (const Kernels* kernels : all) {
          if (run(*kernels, c, three_threads) == expected) continue;
          std::printf("%s differs: BatchNorm at places %d, %lld units, variant %d\n", kernels->isa, places,
                      (long long)s.n_hidden, variant);
          return -1;
        }
        ++cases;
      }
    }
  }
  return cases;
}

}  // namespace batch_lstm
