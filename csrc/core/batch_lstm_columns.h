// BatchNorm of sixteen columns over the rows of one step. Included by isa/*.cpp.
//
// Statistics by the corrected two-pass: m0 = sum(x) / n;  d = x - m0;  dm = sum(d) / n;  var = sum(d^2) / n - dm^2.
// A lane adds up 64 rows; those sums are added in order.

constexpr int64_t kRowsAtOnce = 64;

// Loads and stores of fewer than 16 lanes, out of line: there are many of them and they are seldom run.
static __attribute__((noinline)) void lanes_from(float* lanes, const float* p, int n) { store(lanes, load_first(p, n)); }
static __attribute__((noinline)) void lanes_to(float* p, const float* lanes, int n) { copy_few(p, lanes, n); }

// Up to 16 columns side by side. Values in lanes past the last are of no column: nothing of them is stored.
template <bool kWhole>
struct Columns {
  int few;
  NK_MEMBER Vec<float> at(const float* p) const {
    if constexpr (kWhole) return load(p);
    float lanes[kLanes];
    lanes_from(lanes, p, few);
    return load(lanes);
  }
  NK_MEMBER void put(float* p, Vec<float> v) const {
    if constexpr (kWhole) return store(p, v);
    float lanes[kLanes];
    store(lanes, v);
    lanes_to(p, lanes, few);
  }
};

struct ColumnStats {
  Vec<float> m0, dm, rstd, var;
};

// The sum of value(i) over n rows.
template <class Value>
NK_INLINE Vec<float> sum_of_rows(int64_t n, const Value& value) {
  Vec<float> total = zeros<float>();
  for (int64_t first = 0; first < n; first += kRowsAtOnce) {
    const int64_t last = first + kRowsAtOnce < n ? first + kRowsAtOnce : n;
    Vec<float> part = zeros<float>();
    for (int64_t i = first; i < last; ++i) part = part + value(i);
    total = total + part;
  }
  return total;
}

// 1 / sqrt(var + eps), and whether every lane of the first `few` is where squares have neither over- nor underflowed.
NK_INLINE bool rstd_of_columns(Vec<float> var, double eps, int few, Vec<float>& rstd) {
  float lanes[kLanes];
  store(lanes, var);
  bool in_range = true;
  for (int i = 0; i < kLanes; ++i) {
    const double shifted = double(lanes[i]) + eps;
    if (i < few) in_range &= shifted >= SlabLimits<float>::kSmall && shifted <= SlabLimits<float>::kLarge;
    lanes[i] = float(1.0 / square_root(shifted));
  }
  rstd = load(lanes);
  return in_range;
}

// Of the columns x[i * step] of n rows.
template <bool kWhole>
NK_INLINE ColumnStats stats_of_columns(const Columns<kWhole>& columns, const float* x, int64_t step, int64_t n) {
  const Vec<float> per_row = splat(1.0f / float(n));
  ColumnStats stats;
  stats.m0 = sum_of_rows(n, [&](int64_t i) NK_LAMBDA { return columns.at(x + i * step); }) * per_row;
  Vec<float> s1 = zeros<float>(), s2 = zeros<float>();
  for (int64_t first = 0; first < n; first += kRowsAtOnce) {
    const int64_t last = first + kRowsAtOnce < n ? first + kRowsAtOnce : n;
    Vec<float> part1 = zeros<float>(), part2 = zeros<float>();
    for (int64_t i = first; i < last; ++i) {
      const Vec<float> d = columns.at(x + i * step) - stats.m0;
      part1 = part1 + d;
      part2 = fma(d, d, part2);
    }
    s1 = s1 + part1;
    s2 = s2 + part2;
  }
  stats.dm = s1 * per_row;
  const Vec<float> var = s2 * per_row - stats.dm * stats.dm;
  stats.var = where_greater(zeros<float>(), var, zeros<float>(), var);
  stats.rstd = zeros<float>();
  return stats;
}

NK_INLINE Vec<float> x_hat_of(const ColumnStats& stats, Vec<float> x) { return (x - stats.m0 - stats.dm) * stats.rstd; }

// Where the columns from `at` on are kept of a step.
static float* kept_columns(const ColumnNorm& norm, int64_t step, int64_t n_cols, int64_t at) {
  return norm.stats + step * kColumnStats * n_cols + at;
}

// A norm of up to 16 columns at one step, ready to be applied; does nothing where the place has none.
struct ColumnsNormed {
  bool is_there = false;
  ColumnStats stats;
  Vec<float> w, b;
  NK_MEMBER Vec<float> operator()(Vec<float> x) const { return is_there ? fma(x_hat_of(stats, x), w, b) : x; }
};

template <bool kWhole>
NK_INLINE ColumnsNormed with_parameters(const Columns<kWhole>& columns, const ColumnNorm& norm, int64_t at) {
  ColumnsNormed normed;
  normed.is_there = true;
  normed.w = columns.at(norm.w + at);
  normed.b = norm.b != nullptr ? columns.at(norm.b + at) : zeros<float>();
  return normed;
}

// The norm for the columns from `at` on of x, n rows that are `x_step` apart: finds and keeps its statistics. `ok` is
// cleared where they are out of range.
template <bool kWhole>
NK_INLINE ColumnsNormed norm_of_columns(const BatchLstm& a, const ColumnNorm& norm, const Columns<kWhole>& columns,
                                        int64_t n_cols, int64_t at, int64_t step, const float* x, int64_t x_step,
                                        int64_t n, bool& ok) {
  if (norm.w == nullptr) return {};
  ColumnsNormed normed = with_parameters(columns, norm, at);
  if (a.by_batch && n > 1) {
    normed.stats = stats_of_columns(columns, x + at, x_step, n);
  } else {
    const int64_t place = step < a.n_places ? step : a.n_places - 1;
    normed.stats.m0 = columns.at(norm.running_mean + place * n_cols + at);
    normed.stats.dm = zeros<float>();
    normed.stats.var = columns.at(norm.running_var + place * n_cols + at);
  }
  ok &= rstd_of_columns(normed.stats.var, a.eps, columns.few, normed.stats.rstd);
  float* const kept = kept_columns(norm, step, n_cols, at);
  columns.put(kept, normed.stats.m0);
  columns.put(kept + n_cols, normed.stats.dm);
  columns.put(kept + 2 * n_cols, normed.stats.rstd);
  columns.put(kept + 3 * n_cols, normed.stats.var);
  return normed;
}

// The same from what was kept.
template <bool kWhole>
NK_INLINE ColumnsNormed kept_norm_of_columns(const ColumnNorm& norm, const Columns<kWhole>& columns, int64_t n_cols,
                                             int64_t at, int64_t step) {
  if (norm.w == nullptr) return {};
  ColumnsNormed normed = with_parameters(columns, norm, at);
  const float* const kept = kept_columns(norm, step, n_cols, at);
  normed.stats.m0 = columns.at(kept);
  normed.stats.dm = columns.at(kept + n_cols);
  normed.stats.rstd = columns.at(kept + 2 * n_cols);
  normed.stats.var = zeros<float>();
  return normed;
}

// Sums over all steps of the gradients of a norm's parameters, in double. [2, C]
struct ColumnTotals {
  double* w;
  double* b;
};

// dx of those columns, n rows, from dy of the same steps; may be in place. By batch:
//   dx = w rstd (dy - sum(dy) / n - x_hat sum(dy x_hat) / n),   else dx = w rstd dy
template <bool kWhole>
NK_INLINE void columns_backward(const ColumnsNormed& normed, bool by_batch, const Columns<kWhole>& columns, int64_t at,
                                const float* x, int64_t x_step, const float* dy, int64_t dy_step, float* dx,
                                int64_t dx_step, int64_t n, ColumnTotals totals) {
  const Vec<float> db = sum_of_rows(n, [&](int64_t i) NK_LAMBDA { return columns.at(dy + i * dy_step + at); });
  const Vec<float> dw = sum_of_rows(n, [&](int64_t i) NK_LAMBDA {
    return columns.at(dy + i * dy_step + at) * x_hat_of(normed.stats, columns.at(x + i * x_step + at));
  });
  float lanes[2][kLanes];
  store(lanes[0], dw);
  store(lanes[1], db);
  for (int i = 0; i < columns.few; ++i) {
    totals.w[at + i] += double(lanes[0][i]);
    totals.b[at + i] += double(lanes[1][i]);
  }
  const Vec<float> scale = normed.w * normed.stats.rstd, per_row = splat(1.0f / float(n));
  const Vec<float> c1 = by_batch ? dw * per_row : zeros<float>(), c2 = by_batch ? db * per_row : zeros<float>();
  for (int64_t i = 0; i < n; ++i) {
    const Vec<float> d = columns.at(dy + i * dy_step + at);
    if (!by_batch) {
      columns.put(dx + i * dx_step + at, d * scale);
      continue;
    }
    const Vec<float> x_hat = x_hat_of(normed.stats, columns.at(x + i * x_step + at));
    columns.put(dx + i * dx_step + at, (d - c2 - x_hat * c1) * scale);
  }
}

// body(j, columns) for all units [0, n), 16 at a time: a thread computes everything of a step for its units, all
// sequences, so that only the product with the recurrent weight waits for other threads.
template <class Body>
static void each_units(ParallelFor parallel_for, int64_t n, int64_t work_each, const Body& body) {
  constexpr int64_t kWorthAThread = int64_t(1) << 18;  // multiply-adds, some 10 us
  const int64_t grain = work_each >= kWorthAThread ? 1 : ceil_div(kWorthAThread, work_each > 0 ? work_each : 1);
  for_range(parallel_for, 0, ceil_div(n, kLanes), grain, [&](int64_t begin, int64_t end) {
    for (int64_t block = begin; block < end; ++block) {
      const int64_t j = block * kLanes;
      if (j + kLanes <= n) {
        body(j, Columns<true>{kLanes});
      } else {
        body(j, Columns<false>{int(n - j)});
      }
    }
  });
}

// The recurrent weight by gates, so that each gate's columns begin with a panel.
struct GatePanels {
  Panels i, f, g, o;
  const Panels& operator[](int gate) const { return gate == 0 ? i : gate == 1 ? f : gate == 2 ? g : o; }
};
