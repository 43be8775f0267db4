// LayerNorm and RMSNorm forward. Included by kernels_impl.h.
// Scalar math: y = ((x - m0) - dm) * (rstd * w) + b; RMSNorm without m0 and dm.

template <RowNorm kNorm, class T>
struct RowForward {
  using A = Compute<T>;
  RowShape<A> row;
  double eps;
  Param<A> w;
  Param<A> b;
  Vec<A> w_tail;
  Vec<A> b_tail;

  explicit RowForward(const RowNormForward& a) : row(a.n_cols), eps(a.eps), w(a.w, a.n_cols, 1), b(a.b, a.n_cols, A(-0.0)) {
    w_tail = w.tail(row.vectors * kLanes, row.tail);
    b_tail = b.tail(row.vectors * kLanes, row.tail);
  }

  NK_MEMBER Vec<A> normalized(Vec<A> x, Vec<A> m0, Vec<A> dm, Vec<A> rstd, Vec<A> wj, Vec<A> bj) const {
    if constexpr (kNorm == RowNorm::kRmsNorm) return x * (rstd * wj);
    return fma((x - m0) - dm, rstd * wj, bj);
  }

  NK_MEMBER void apply(const T* x, Vec<A> tail, T* y, const RowStats<A>& stats) const {
    const Vec<A> m0 = splat(stats.m0), dm = splat(stats.dm), rstd = splat(stats.rstd);
    const A *wj = w.values(), *bj = b.values();
    const int64_t w_step = w.step() * kLanes, b_step = b.step() * kLanes;
    for (int64_t j = 0; j < row.vectors * kLanes; j += kLanes, wj += w_step, bj += b_step) {
      store(y + j, normalized(load(x + j), m0, dm, rstd, load(wj), load(bj)));
    }
    if (row.tail != 0) {
      store_first(y + row.vectors * kLanes, normalized(tail, m0, dm, rstd, w_tail, b_tail), row.tail);
    }
  }

  __attribute__((noinline)) void apply_careful(const T* x, T* y, CarefulStats exact) const {
    for (int64_t j = 0; j < row.n; ++j) {
      const double v = careful_x_hat(value_at(x + j), exact) * double(w.values()[j * w.step()]) +
                       double(b.values()[j * b.step()]);
      store_first(y + j, splat(A(v)), 1);
    }
  }

  NK_MEMBER RowStats<A> one_row(const T* x, T* y) const {
    const Vec<A> tail = load_tail(x, row);
    RowStats<A> stats;
    if (!quick_stats<kNorm>(x, row, tail, eps, stats)) {
      const CarefulStats exact = careful_stats<kNorm>(x, row.n, eps);
      stats = rounded<A>(exact);
      if (!within_range(stats)) {
        apply_careful(x, y, exact);
        return stats;
      }
    }
    apply(x, tail, y, stats);
    return stats;
  }
};

template <RowNorm kNorm, class T>
static void row_forward(const RowNormForward& a) {
  using A = Compute<T>;
  for_range(a.parallel_for, 0, a.n_rows, grain_for(a.n_cols), [&](int64_t first, int64_t last) {
    const RowForward<kNorm, T> forward(a);
    const DropoutFactors<A> factors(a.dropout, a.n_cols);
    for (int64_t i = first; i < last; ++i) {
      const int64_t at = i * a.n_cols;
      const T* x = static_cast<const T*>(a.x) + at;
      if (a.residual != nullptr) {
        T* z = static_cast<T*>(a.z) + at;
        add_row(x, static_cast<const T*>(a.residual) + at, factors.of(at, a.n_cols), z, a.n_cols);
        x = z;
      }
      const RowStats<A> stats = forward.one_row(x, static_cast<T*>(a.y) + at);
      if (a.stats != nullptr) save_stats<kNorm>(static_cast<A*>(a.stats) + i * stats_per_row(kNorm), stats);
    }
  });
}

template <RowNorm kNorm>
static void row_forward_by_dtype(const RowNormForward& a) {
  switch (a.dtype) {
    case DType::kFloat32: return row_forward<kNorm, float>(a);
    case DType::kBFloat16: return row_forward<kNorm, BFloat16>(a);
    case DType::kFloat16: return row_forward<kNorm, Float16>(a);
    case DType::kFloat64: return row_forward<kNorm, double>(a);
  }
}

static void row_norm_forward(const RowNormForward& a) {
  if (a.norm == RowNorm::kLayerNorm) return row_forward_by_dtype<RowNorm::kLayerNorm>(a);
  return row_forward_by_dtype<RowNorm::kRmsNorm>(a);
}
