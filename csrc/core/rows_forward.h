// LayerNorm and RMSNorm forward. Included by isa/*.cpp.
// Scalar math: y = ((x - m0) - dm) * (rstd * w) + b; RMSNorm without m0 and dm.

// Rows that are normalized together: as many as stay in the first cache with their results.
constexpr int kTogether = 4;

template <class T>
NK_INLINE int64_t rows_together(int64_t n_cols) {
  const int64_t fit = 16384 / (2 * int64_t(sizeof(T)) * (n_cols > 0 ? n_cols : 1));
  return fit < 1 ? 1 : fit < kTogether ? fit : kTogether;
}

template <RowNorm kNorm, class T>
struct RowForward {
  using A = Compute<T>;
  RowShape<A> row;
  double eps;
  Param<A> w;
  Param<A> b;
  Vec<A> w_tail;
  Vec<A> b_tail;
  bool past;  // whether y is written past the caches

  explicit RowForward(const RowNormForward& a)
      : row(a.n_cols),
        eps(a.eps),
        w(a.w, a.n_cols, 1),
        b(a.b, a.n_cols, A(-0.0)),
        past(past_caches<T>(a.n_rows * a.n_cols) && whole_lines(static_cast<const T*>(a.y), a.n_cols)) {
    w_tail = w.tail(row.vectors * kLanes, row.tail);
    b_tail = b.tail(row.vectors * kLanes, row.tail);
  }

  NK_MEMBER Vec<A> normalized(Vec<A> x, Vec<A> m0, Vec<A> dm, Vec<A> rstd, Vec<A> wj, Vec<A> bj) const {
    if constexpr (kNorm == RowNorm::kRmsNorm) return x * (rstd * wj);
    return fma((x - m0) - dm, rstd * wj, bj);
  }

  // What lies `ahead` of x, where that is not 0, is asked for while y is written past the caches: the sums that come next would wait
  // for memory, which has little else to do meanwhile. Within the caches the processor's own foresight serves.
  NK_MEMBER void apply(const T* x, Vec<A> tail, T* y, const RowStats<A>& stats, int64_t ahead = 0) const {
    const Vec<A> m0 = splat(stats.m0), dm = splat(stats.dm), rstd = splat(stats.rstd);
    const int64_t w_step = w.step() * kLanes, b_step = b.step() * kLanes;
    const int64_t end = row.vectors * kLanes;
    by_past(past, [&](auto where) NK_LAMBDA {
      const A *wj = w.values(), *bj = b.values();
      for (int64_t j = 0; j < end; j += kLanes, wj += w_step, bj += b_step) {
        if (where.past && ahead != 0 && j % line_of<T> < kLanes) prefetch(x + ahead + j);
        put(y + j, normalized(load(x + j), m0, dm, rstd, load(wj), load(bj)), where);
      }
    });
    if (row.tail != 0) {
      store_first(y + end, normalized(tail, m0, dm, rstd, w_tail, b_tail), row.tail);
    }
  }

  __attribute__((noinline)) void apply_careful(const T* x, T* y, CarefulStats exact) const {
    for (int64_t j = 0; j < row.n; ++j) {
      const double v = careful_x_hat(value_at(x + j), exact) * double(w.values()[j * w.step()]) +
                       double(b.values()[j * b.step()]);
      store_first(y + j, splat(A(v)), 1);
    }
  }

  // A row once more, from the statistics of the first time.
  NK_MEMBER void again(const T* x, T* y, const RowStats<A>& stats) const {
    within_range(stats) ? apply(x, load_tail(x, row), y, stats) : apply_careful(x, y, careful_stats<kNorm>(x, row.n, eps));
  }

  // Normalizes up to kTogether rows, step by step: so one row's long chain of additions, square root and division
  // need not wait for another's.
  NK_MEMBER void some_rows(const T* x, T* y, int count, RowStats<A>* stats, int64_t ahead) const {
    Vec<A> tail[kTogether];
    QuickSums<A> sums[kTogether];
    for (int r = 0; r < count; ++r) {
      tail[r] = load_tail(x + r * row.n, row);
      sums[r].m0 = kNorm == RowNorm::kLayerNorm ? row_mean(x + r * row.n, row, tail[r]) : A(0);
    }
    for (int r = 0; r < count; ++r) {
      sums[r].centred = kNorm == RowNorm::kLayerNorm ? row_centred_means(x + r * row.n, row, tail[r], sums[r].m0)
                                                     : CentredSums<A>{A(0), row_mean_square(x + r * row.n, row, tail[r])};
    }
    for (int r = 0; r < count; ++r) stats[r] = one_row(x + r * row.n, y + r * row.n, tail[r], sums[r], ahead);
  }

  NK_MEMBER RowStats<A> one_row(const T* x, T* y, Vec<A> tail, const QuickSums<A>& sums, int64_t ahead) const {
    RowStats<A> stats;
    if (!quick_stats(sums, eps, stats)) {
      const CarefulStats exact = careful_stats<kNorm>(x, row.n, eps);
      stats = rounded<A>(exact);
      if (!within_range(stats)) {
        apply_careful(x, y, exact);
        return stats;
      }
    }
    apply(x, tail, y, stats, ahead);
    return stats;
  }
};

template <RowNorm kNorm, class T>
static void row_forward(const RowNormForward& a) {
  using A = Compute<T>;
  for_range(a.parallel_for, 0, a.n_rows, grain_for(a.n_cols), [&](int64_t first, int64_t last) {
    const RowForward<kNorm, T> forward(a);
    const DropoutFactors<A> factors(a.dropout, a.n_cols);
    const int64_t together = rows_together<T>(a.n_cols);
    const int64_t ahead = a.residual == nullptr ? together * a.n_cols : 0;  // a sum has been read already
    RowStats<A> stats[kTogether];
    for (int64_t i = first; i < last; i += together) {
      const int count = int(last - i < together ? last - i : together);
      const int64_t at = i * a.n_cols;
      const T* x = static_cast<const T*>(a.x) + at;
      if (a.residual != nullptr) {
        T* z = static_cast<T*>(a.z) + at;
        for (int64_t r = 0; r < count; ++r) {
          const int64_t from = r * a.n_cols;
          add_row(x + from, static_cast<const T*>(a.residual) + at + from, factors.of(at + from, a.n_cols), z + from, a.n_cols);
        }
        x = z;
      }
      forward.some_rows(x, static_cast<T*>(a.y) + at, count, stats, ahead);
      if (a.stats == nullptr) continue;
      for (int r = 0; r < count; ++r) save_stats<kNorm>(static_cast<A*>(a.stats) + (i + r) * stats_per_row(kNorm), stats[r]);
    }
  });
}
