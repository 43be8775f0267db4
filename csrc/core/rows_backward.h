// LayerNorm and RMSNorm backward. Included by isa/*.cpp.
// Scalar math, in centred variables only:
//   x_hat = ((x - m0) - dm) * rstd;  g = dy * w;  c1 = mean(x_hat * g);  c2 = mean(g)
//   dx = (g - c2 - x_hat * c1) * rstd;  dw = sum over rows of dy * x_hat;  db = sum over rows of dy
// RMSNorm without m0, dm, c2 and db.

// Rows are taken this many at a time, so that dw and db are read and written once for all of them. Two: four rows
// of 4096 bytes, each with dy and dx, already fall on one another in an 8-way cache.
constexpr int kTileRows = 2;
// A float32 sum over rows runs over one tile and then over 16 tiles before it goes on in double.
constexpr int64_t kFlushRows = 16 * kTileRows;

template <class T, int kRows>
struct RowTile {
  using A = Compute<T>;
  const T* x[kRows];
  const T* dy[kRows];
  const T* dz[kRows];
  T* dx[kRows];
  RowStats<A> stats[kRows];
  A minus_c1[kRows];
  A c2[kRows];
};

// The running sums over rows for dw and db: float32 within a flush, double across.
template <class A>
struct ParamSums {
  A* dw;  // padded to whole vectors
  A* db;
  double* total_dw;
  double* total_db;
};

template <RowNorm kNorm, class T>
struct RowBackward {
  using A = Compute<T>;
  static constexpr bool kCentred = kNorm == RowNorm::kLayerNorm;
  RowShape<A> row;
  double eps;
  Param<A> w;
  Vec<A> w_tail;
  bool past;  // whether dx is written past the caches: not where it is read again, nor by half lines of two rows in turn

  explicit RowBackward(const RowNormBackward& a)
      : row(a.n_cols),
        eps(a.eps),
        w(a.w, a.n_cols, 1),
        past(kLanes * sizeof(T) >= 64 && a.dropped == nullptr && past_caches<T>(a.n_rows * a.n_cols) &&
             whole_lines(static_cast<const T*>(a.dx), a.n_cols)) {
    w_tail = w.tail(row.vectors * kLanes, row.tail);
  }

  NK_MEMBER static Vec<A> x_hat(Vec<A> x, Vec<A> m0, Vec<A> dm, Vec<A> rstd) {
    return kCentred ? ((x - m0) - dm) * rstd : x * rstd;
  }

  // Sums of x_hat * g and g over `vectors` vectors from column `first`, after those of the tail.
  NK_MEMBER CentredSums<A> block_sums(const T* x, const T* dy, const RowStats<A>& stats, int64_t first, int64_t vectors,
                                      Vec<A> s1, Vec<A> s2) const {
    const Vec<A> m0 = splat(stats.m0), dm = splat(stats.dm), rstd = splat(stats.rstd);
    const int64_t w_step = w.step() * kLanes;
    const A* wj = w.values() + first * w.step();
    Vec<A> t1 = zeros<A>(), t2 = t1;
    const T *xj = x + first, *dyj = dy + first;
    const T* const end = xj + vectors * kLanes;
    const T* const even_end = end - vectors % 2 * kLanes;
    for (; xj != even_end; xj += 2 * kLanes, dyj += 2 * kLanes, wj += 2 * w_step) {
      const Vec<A> g = load(dyj) * load(wj);
      const Vec<A> h = load(dyj + kLanes) * load(wj + w_step);
      s1 = fma(x_hat(load(xj), m0, dm, rstd), g, s1);
      t1 = fma(x_hat(load(xj + kLanes), m0, dm, rstd), h, t1);
      if (kCentred) s2 = s2 + g, t2 = t2 + h;
    }
    if (xj != end) {
      const Vec<A> g = load(dyj) * load(wj);
      s1 = fma(x_hat(load(xj), m0, dm, rstd), g, s1);
      if (kCentred) s2 = s2 + g;
    }
    return {sum(s1 + t1), kCentred ? sum(s2 + t2) : A(0)};
  }

  // {mean(x_hat * g), mean(g)}
  __attribute__((noinline)) CentredSums<A> row_means(const T* x, const T* dy, const RowStats<A>& stats) const {
    const Vec<A> g = load_tail(dy, row) * w_tail;
    const Vec<A> s1 = x_hat(load_tail(x, row), splat(stats.m0), splat(stats.dm), splat(stats.rstd)) * g;
    if (row.vectors <= kBlockVectors) {
      const CentredSums<A> sums = block_sums(x, dy, stats, 0, row.vectors, s1, g);
      return {sums.s1 * row.per_n, sums.s2 * row.per_n};
    }
    return long_row_means(x, dy, stats, sum(s1), sum(g));
  }

  __attribute__((noinline)) CentredSums<A> long_row_means(const T* x, const T* dy, const RowStats<A>& stats, A tail1,
                                                          A tail2) const {
    double s1 = double(tail1), s2 = double(tail2);
    for (int64_t j = 0; j < row.vectors; j += kBlockVectors) {
      const int64_t count = row.vectors - j < kBlockVectors ? row.vectors - j : kBlockVectors;
      const CentredSums<A> sums = block_sums(x, dy, stats, j * kLanes, count, zeros<A>(), zeros<A>());
      s1 += double(sums.s1);
      s2 += double(sums.s2);
    }
    return {A(s1 / double(row.n)), A(s2 / double(row.n))};
  }

  // One vector of columns of every row of the tile. At<T> reads and writes whole vectors or the tail.
  template <int kRows, bool kParams, class Load, class Store>
  NK_MEMBER void tile_vector(const RowTile<T, kRows>& t, int64_t j, Vec<A> wj, const ParamSums<A>& sums,
                             const Load& load_at, const Store& store_at) const {
    Vec<A> dw = zeros<A>(), db = dw;
#pragma GCC unroll 2
    for (int r = 0; r < kRows; ++r) {
      const RowStats<A>& stats = t.stats[r];
      const Vec<A> xh = x_hat(load_at(t.x[r] + j), splat(stats.m0), splat(stats.dm), splat(stats.rstd));
      const Vec<A> dy = load_at(t.dy[r] + j);
      if (kParams) {
        dw = fma(dy, xh, dw);
        if (kCentred) db = db + dy;
      }
      if (t.dx[r] != nullptr) {
        const Vec<A> g = kCentred ? dy * wj - splat(t.c2[r]) : dy * wj;
        Vec<A> dx = fma(xh, splat(t.minus_c1[r]), g) * splat(stats.rstd);
        if (t.dz[r] != nullptr) dx = dx + load_at(t.dz[r] + j);
        store_at(t.dx[r] + j, dx);
      }
    }
    if (kParams) {
      store(sums.dw + j, load(sums.dw + j) + dw);
      if (kCentred) store(sums.db + j, load(sums.db + j) + db);
    }
  }

  template <int kRows, bool kParams>
  __attribute__((noinline)) void tile(RowTile<T, kRows>& given, const ParamSums<A>& given_sums) const {
    for (int r = 0; r < kRows; ++r) {
      if (given.dx[r] == nullptr) continue;
      const CentredSums<A> means = row_means(given.x[r], given.dy[r], given.stats[r]);
      given.minus_c1[r] = -means.s1;
      given.c2[r] = means.s2;
    }
    // Copies that no store can reach: else everything is read again for each vector.
    const RowTile<T, kRows> t = given;
    const ParamSums<A> sums = given_sums;
    const int64_t end = row.vectors * kLanes, w_step = w.step() * kLanes;
    by_past(past, [&](auto where) NK_LAMBDA {
      const A* wj = w.values();
      for (int64_t j = 0; j < end; j += kLanes, wj += w_step) {
        tile_vector<kRows, kParams>(
            t, j, load(wj), sums, [](const T* p) NK_LAMBDA { return load(p); },
            [where](T* p, Vec<A> v) NK_LAMBDA { put(p, v, where); });
      }
    });
    if (row.tail == 0) return;
    const int n = row.tail;
    tile_vector<kRows, kParams>(
        t, end, w_tail, sums, [n](const T* p) NK_LAMBDA { return load_first(p, n); },
        [n](T* p, Vec<A> v) NK_LAMBDA { store_first(p, v, n); });
  }

  // A row whose rstd has left the range of A: everything again in double.
  __attribute__((noinline)) void careful_row(const RowTile<T, 1>& t, const ParamSums<A>& sums) const {
    const T *x = t.x[0], *dy = t.dy[0], *dz = t.dz[0];
    const CarefulStats exact = careful_stats<kNorm>(x, row.n, eps);
    double c1 = 0.0, c2 = 0.0;
    for (int64_t j = 0; j < row.n; ++j) {
      const double g = value_at(dy + j) * double(w.values()[j * w.step()]);
      c1 += careful_x_hat(value_at(x + j), exact) * g;
      c2 += g;
    }
    c1 /= double(row.n);
    c2 = kCentred ? c2 / double(row.n) : 0.0;
    for (int64_t j = 0; j < row.n; ++j) {
      const double xh = careful_x_hat(value_at(x + j), exact);
      const double g = value_at(dy + j) * double(w.values()[j * w.step()]);
      if (t.dx[0] != nullptr) {
        const double dx = (g - c2 - xh * c1) * exact.rstd * exact.scale + (dz != nullptr ? value_at(dz + j) : 0.0);
        store_first(t.dx[0] + j, splat(A(dx)), 1);
      }
      if (sums.dw == nullptr) continue;
      sums.dw[j] += A(value_at(dy + j) * xh);
      if (kCentred) sums.db[j] += A(value_at(dy + j));
    }
  }

  template <int kRows>
  NK_MEMBER RowTile<T, kRows> tile_at(const RowNormBackward& a, int64_t i) const {
    RowTile<T, kRows> t;
    for (int r = 0; r < kRows; ++r) {
      const int64_t at = (i + r) * a.n_cols;
      t.x[r] = static_cast<const T*>(a.x) + at;
      t.dy[r] = static_cast<const T*>(a.dy) + at;
      t.dz[r] = a.dz != nullptr ? static_cast<const T*>(a.dz) + at : nullptr;
      t.dx[r] = a.dx != nullptr ? static_cast<T*>(a.dx) + at : nullptr;
      t.stats[r] = saved_stats<kNorm>(static_cast<const A*>(a.stats) + (i + r) * stats_per_row(kNorm));
    }
    return t;
  }

  template <bool kParams>
  void rows(const RowNormBackward& a, int64_t first, int64_t last, const ParamSums<A>& sums,
            const DropoutFactors<A>& factors) const {
    rows_before_dropout<kParams>(a, first, last, sums);
    if (a.dropped == nullptr) return;
    for (int64_t i = first; i < last; ++i) {
      const int64_t at = i * row.n;
      drop_row(static_cast<const T*>(a.dx) + at, factors.of(at, row.n), static_cast<T*>(a.dropped) + at, row.n);
    }
  }

  template <bool kParams>
  void rows_before_dropout(const RowNormBackward& a, int64_t first, int64_t last, const ParamSums<A>& sums) const {
    int64_t i = first;
    while (i < last) {
      if (kParams && i + kTileRows <= last) {
        RowTile<T, kTileRows> t = tile_at<kTileRows>(a, i);
        bool all_within_range = true;
        for (int r = 0; r < kTileRows; ++r) all_within_range &= within_range(t.stats[r]);
        if (all_within_range) {
          tile<kTileRows, true>(t, sums);
          i += kTileRows;
          continue;
        }
      }
      RowTile<T, 1> t = tile_at<1>(a, i);
      if (within_range(t.stats[0])) {
        tile<1, kParams>(t, sums);
      } else {
        careful_row(t, sums);
      }
      i += 1;
    }
  }
};

// One chunk of rows: dx of each, and the sums over them into `total` (dw, then db; n_padded each).
template <RowNorm kNorm, class T, class A = Compute<T>>
static void backward_chunk(const RowBackward<kNorm, T>& backward, const RowNormBackward& a, int64_t first, int64_t last,
                           A* sums, double* total, int64_t n_padded, const DropoutFactors<A>& factors) {
  const ParamSums<A> at = {sums, sums + n_padded, total, total + n_padded};
  for (int64_t j = 0; j < 2 * n_padded; ++j) total[j] = 0.0;
  for (int64_t i = first; i < last; i += kFlushRows) {
    for (int64_t j = 0; j < 2 * n_padded; ++j) sums[j] = A(0);
    backward.template rows<true>(a, i, i + kFlushRows < last ? i + kFlushRows : last, at, factors);
    for (int64_t j = 0; j < 2 * n_padded; ++j) total[j] += double(sums[j]);
  }
}

// Some columns of sums that lie in parts, `stride` apart: block number `block` of 64, the parts added in order. `to` may be null.
constexpr int64_t kSumColumns = 64;
static void add_parts(const double* parts, int64_t stride, int64_t n_parts, int64_t block, int64_t n_cols, MutableArray to) {
  if (to.data == nullptr) return;
  const int64_t first = block * kSumColumns, n = n_cols - first < kSumColumns ? n_cols - first : kSumColumns;
  double sums[kSumColumns] = {};
  for (int64_t p = 0; p < n_parts; ++p) {
    const double* const from = parts + p * stride + first;
    for (int64_t j = 0; j < n; ++j) sums[j] += from[j];
  }
  store_sums(sums, to, first, n);
}

// work(block) for the blocks of n_cols columns, of so many pairs of parts.
template <class Work>
static void each_sum_block(ParallelFor parallel_for, int64_t n_cols, int64_t n_parts, const Work& work) {
  for_range(parallel_for, 0, ceil_div(n_cols, kSumColumns), grain_for(2 * n_parts * kSumColumns), [&](int64_t begin, int64_t end) {
    for (int64_t block = begin; block < end; ++block) work(block);
  });
}

template <RowNorm kNorm, class T>
static void row_backward(const RowNormBackward& a) {
  using A = Compute<T>;
  if (a.dw.data == nullptr && a.db.data == nullptr) {
    for_range(a.parallel_for, 0, a.n_rows, grain_for(a.n_cols), [&](int64_t first, int64_t last) {
      const RowBackward<kNorm, T> backward(a);
      const DropoutFactors<A> factors(a.dropout, a.n_cols);
      backward.template rows<false>(a, first, last, ParamSums<A>{}, factors);
    });
    return;
  }
  const Chunks chunks = row_chunks(a.n_rows, a.n_cols);
  const int64_t n_padded = round_up(a.n_cols, kLanes);
  const Memory<double> totals(chunks.count * 2 * n_padded);
  for_range(a.parallel_for, 0, chunks.count, grain_for(ceil_div(a.n_rows, chunks.count) * a.n_cols),
            [&](int64_t begin, int64_t end) {
              const RowBackward<kNorm, T> backward(a);
              const DropoutFactors<A> factors(a.dropout, a.n_cols);
              const Memory<A> sums(2 * n_padded);
              for (int64_t p = begin; p < end; ++p) {
                backward_chunk(backward, a, chunks.begin(p), chunks.begin(p + 1), sums.data(),
                               totals.data() + 2 * p * n_padded, n_padded, factors);
              }
            });
  each_sum_block(a.parallel_for, a.n_cols, chunks.count, [&](int64_t block) {
    add_parts(totals.data(), 2 * n_padded, chunks.count, block, a.n_cols, a.dw);
    add_parts(totals.data() + n_padded, 2 * n_padded, chunks.count, block, a.n_cols, a.db);
  });
}
