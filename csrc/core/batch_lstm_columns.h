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

NK_INLINE Vec<float> x_hat_of(const ColumnStats& stats, Vec<float> x) { return (x - stats.m0 - stats.dm) * stats.rstd; }

// A norm of up to 16 columns at one step, ready to be applied; does nothing where the place has none.
struct ColumnsNormed {
  bool is_there = false;
  ColumnStats stats;
  Vec<float> w, b;
  NK_MEMBER Vec<float> x_hat(Vec<float> x) const { return is_there ? x_hat_of(stats, x) : x; }
  NK_MEMBER Vec<float> of_x_hat(Vec<float> x_hat) const { return is_there ? fma(x_hat, w, b) : x_hat; }
  NK_MEMBER Vec<float> operator()(Vec<float> x) const { return of_x_hat(x_hat(x)); }
};

// work(first, last) for each stretch of the n rows whose sum a lane adds up.
template <class Work>
NK_INLINE void each_stretch(int64_t n, const Work& work) {
  for (int64_t first = 0; first < n; first += kRowsAtOnce) work(first, first + kRowsAtOnce < n ? first + kRowsAtOnce : n);
}

// 1 / sqrt(var + eps), and whether every lane of the first `few` is where squares have neither over- nor underflowed.
NK_INLINE bool rstd_of_columns(Vec<float> var, double eps, int few, Vec<float>& rstd) {
  // Two loops, that the compiler makes vectors of them.
  double shifted[kLanes];
  float lanes[kLanes];
  store(shifted, widen(var) + splat(eps));
  for (int i = 0; i < kLanes; ++i) lanes[i] = float(1.0 / square_root(shifted[i]));
  rstd = load(lanes);
  int outside = 0;
  for (int i = 0; i < kLanes; ++i) {
    outside |= (i < few) & !((shifted[i] >= SlabLimits<float>::kSmall) & (shifted[i] <= SlabLimits<float>::kLarge));
  }
  return outside == 0;
}

// Of the columns x[i * step] of n rows, and of those kCount - 1 times `apart` from them: side by side, since each is one long
// chain of additions.
template <int kCount, bool kWhole>
NK_INLINE void stats_of_columns(const Columns<kWhole>& columns, const float* x, int64_t apart, int64_t step, int64_t n,
                                ColumnsNormed* to) {
  const Vec<float> per_row = splat(1.0f / float(n));
  Vec<float> m0[kCount], s1[kCount], s2[kCount];
  for (int k = 0; k < kCount; ++k) m0[k] = s1[k] = s2[k] = zeros<float>();
  each_stretch(n, [&](int64_t first, int64_t last) NK_LAMBDA {
    Vec<float> part[kCount];
    for (int k = 0; k < kCount; ++k) part[k] = zeros<float>();
    for (int64_t i = first; i < last; ++i) {
      for (int k = 0; k < kCount; ++k) part[k] = part[k] + columns.at(x + i * step + k * apart);
    }
    for (int k = 0; k < kCount; ++k) m0[k] = m0[k] + part[k];
  });
  for (int k = 0; k < kCount; ++k) m0[k] = m0[k] * per_row;
  each_stretch(n, [&](int64_t first, int64_t last) NK_LAMBDA {
    Vec<float> part1[kCount], part2[kCount];
    for (int k = 0; k < kCount; ++k) part1[k] = part2[k] = zeros<float>();
    for (int64_t i = first; i < last; ++i) {
      for (int k = 0; k < kCount; ++k) {
        const Vec<float> d = columns.at(x + i * step + k * apart) - m0[k];
        part1[k] = part1[k] + d;
        part2[k] = fma(d, d, part2[k]);
      }
    }
    for (int k = 0; k < kCount; ++k) s1[k] = s1[k] + part1[k], s2[k] = s2[k] + part2[k];
  });
  for (int k = 0; k < kCount; ++k) {
    const Vec<float> dm = s1[k] * per_row, var = s2[k] * per_row - dm * dm;
    to[k].stats = {m0[k], dm, zeros<float>(), larger(zeros<float>(), var)};
  }
}

// Where the columns from `at` on are kept of a step.
static float* kept_columns(const ColumnNorm& norm, int64_t step, int64_t n_cols, int64_t at) {
  return norm.stats + step * kColumnStats * n_cols + at;
}

template <bool kWhole>
NK_INLINE ColumnsNormed with_parameters(const Columns<kWhole>& columns, const ColumnNorm& norm, int64_t at) {
  ColumnsNormed normed;
  normed.is_there = true;
  normed.w = columns.at(norm.w + at);
  normed.b = norm.b != nullptr ? columns.at(norm.b + at) : zeros<float>();
  return normed;
}

// The norm for the columns from j on of x [n, n_cols], and kCount - 1 times n_cols / kCount beyond: finds and keeps its
// statistics. `ok` is cleared where they are out of range.
template <int kCount, bool kWhole>
NK_INLINE void norm_of_columns(const BatchLstm& a, const ColumnNorm& norm, const Columns<kWhole>& columns, int64_t n_cols,
                               int64_t j, int64_t step, const float* x, int64_t n, bool& ok, ColumnsNormed* to) {
  if (norm.w == nullptr) return;
  const int64_t apart = n_cols / kCount;
  for (int k = 0; k < kCount; ++k) to[k] = with_parameters(columns, norm, j + k * apart);
  if (a.by_batch && n > 1) {
    stats_of_columns<kCount>(columns, x + j, apart, n_cols, n, to);
  } else {
    const int64_t place = step < a.n_places ? step : a.n_places - 1;
    for (int k = 0; k < kCount; ++k) {
      const int64_t at = place * n_cols + j + k * apart;
      to[k].stats = {columns.at(norm.running_mean + at), zeros<float>(), zeros<float>(), columns.at(norm.running_var + at)};
    }
  }
  for (int k = 0; k < kCount; ++k) {
    ColumnStats& stats = to[k].stats;
    ok &= rstd_of_columns(stats.var, a.eps, columns.few, stats.rstd);
    float* const kept = kept_columns(norm, step, n_cols, j + k * apart);
    columns.put(kept, stats.m0);
    columns.put(kept + n_cols, stats.dm);
    columns.put(kept + 2 * n_cols, stats.rstd);
    columns.put(kept + 3 * n_cols, stats.var);
  }
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
  // dw and db of one step, of `few` columns from `at` on.
  void add(int64_t at, Vec<float> dw, Vec<float> db, int few) const {
    float lanes[2][kLanes];
    store(lanes[0], dw);
    store(lanes[1], db);
    for (int i = 0; i < few; ++i) {
      w[at + i] += double(lanes[0][i]);
      b[at + i] += double(lanes[1][i]);
    }
  }
  // Those of all n columns, where they are wanted.
  void write(float* dw, float* db, int64_t n) const {
    if (dw == nullptr) return;
    for (int64_t j = 0; j < n; ++j) {
      dw[j] = float(w[j]);
      db[j] = float(b[j]);
    }
  }
};

// dx of those columns from dy and x_hat, with dw and db of all n rows. By batch:
//   dx = w rstd (dy - db / n - x_hat dw / n),   else dx = w rstd dy
// The gradient of a place that has no norm is dy.
struct ColumnsGradient {
  bool is_there, by_batch;
  Vec<float> of_dy, mean, of_x_hat;
  NK_MEMBER ColumnsGradient(const ColumnsNormed& normed, bool of_batch, int64_t n, Vec<float> dw, Vec<float> db)
      : is_there(normed.is_there), by_batch(of_batch), of_dy(normed.w * normed.stats.rstd) {
    const Vec<float> per_row = splat(1.0f / float(n));
    mean = db * per_row;
    of_x_hat = -(dw * per_row);
  }
  NK_MEMBER Vec<float> operator()(Vec<float> dy, Vec<float> x_hat) const {
    if (!is_there) return dy;
    return (by_batch ? fma(x_hat, of_x_hat, dy - mean) : dy) * of_dy;
  }
};

// How many blocks of units are worth a thread, of this much work each: multiply-adds, some 10 us.
static int64_t grain_of_units(int64_t work_each) {
  constexpr int64_t kWorthAThread = int64_t(1) << 18;
  return work_each >= kWorthAThread ? 1 : ceil_div(kWorthAThread, work_each > 0 ? work_each : 1);
}

// Columns that a product takes at once.
constexpr int64_t kAtOnce = kProductPanels * kLanes;

// body(j) for the first of each kAtOnce of n columns.
template <class Body>
static void each_product(ParallelFor parallel_for, int64_t n, int64_t work_each, const Body& body) {
  for_range(parallel_for, 0, ceil_div(n, kAtOnce), grain_of_units(kAtOnce * work_each), [&](int64_t begin, int64_t end) {
    for (int64_t block = begin; block < end; ++block) body(block * kAtOnce);
  });
}

// body(j, columns) for all units [0, n), 16 at a time: a thread computes everything of a step for its units, all
// sequences, so that only the product with the recurrent weight waits for other threads.
template <class Body>
static void each_units(ParallelFor parallel_for, int64_t n, int64_t work_each, const Body& body) {
  for_range(parallel_for, 0, ceil_div(n, kLanes), grain_of_units(kLanes * work_each), [&](int64_t begin, int64_t end) {
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
