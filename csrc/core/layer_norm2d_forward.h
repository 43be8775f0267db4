// LayerNorm2d forward. Included by isa/*.cpp.
//
// Scalar math, the corrected two-pass at each position, over its channels:
//   m0 = mean(x);  d = x - m0;  dm = mean(d);  var = mean(d^2) - dm^2;  rstd = 1 / sqrt(var + eps)
//   y = ((x - m0) - dm) * (rstd * w) + b

template <class T>
struct LayerNorm2dForwardTiles {
  using A = Compute<T>;
  const LayerNorm2dForward& args;
  Tiles tiles;
  Param<A> w;
  Param<A> b;
  double per_n;
  Memory<A> memory;
  Memory<double> totals;
  A* packed;  // [channels, width]
  A* m0;      // [width] each
  A* dm;
  A* rstd;
  ColumnSums<A> sums;
  bool past;  // whether y is written past the caches

  LayerNorm2dForwardTiles(const LayerNorm2dForward& a, const Tiles& t)
      : args(a),
        tiles(t),
        w(a.w, a.shape.n_channels, 1),
        b(a.b, a.shape.n_channels, A(-0.0)),
        per_n(1.0 / double(a.shape.n_channels)),
        memory(t.items() + 5 * t.width),
        totals(2 * t.width),
        packed(memory.data()),
        m0(packed + t.items()),
        dm(m0 + t.width),
        rstd(dm + t.width),
        sums{rstd + t.width, rstd + 2 * t.width, totals.data(), totals.data() + t.width},
        past(past_caches<T>(size_of(a.shape))) {}

  struct Nothing {};

  struct Pack {
    const T* x;
    A* packed;
    Tile tile;
    NK_MEMBER Nothing at(int64_t) const { return {}; }
    template <class To>
    NK_MEMBER void operator()(Nothing, int64_t c, int64_t j, const To& to) const {
      const T* const from = x + c * tile.plane + tile.column(j);
      prefetch(from + kRowsAhead * tile.plane);
      const Vec<A> v = load(from);
      store(packed + c * tile.width + j, v);
      to(v, v);
    }
  };

  struct Centre {
    const A* packed;
    const A* m0;
    int64_t width;
    NK_MEMBER Vec<A> at(int64_t j) const { return load(m0 + j); }
    template <class To>
    NK_MEMBER void operator()(Vec<A> mean, int64_t c, int64_t j, const To& to) const {
      const Vec<A> d = load(packed + c * width + j) - mean;
      to(d, d);
    }
  };

  ExactStats exact(int64_t slot) const {
    return exact_stats(packed + slot, tiles.shape.n_channels, args.eps, [&](const auto& visit) {
      for (int64_t c = 0; c < tiles.shape.n_channels; ++c) visit(c * tiles.width);
    });
  }

  void find_stats(const Tile& tile, const T* x) const {
    sum_down<A, false>(tile, sums, Pack{x, packed, tile});
    for (int64_t j = 0; j < tile.slots; ++j) m0[j] = A(sums.total1[j] * per_n);
    sum_down<A, true>(tile, sums, Centre{packed, m0, tiles.width});
    bool all_good = true;
    for (int64_t j = 0; j < tile.slots; j += kLanes) all_good &= finish_stats(j);
    if (all_good) return;
    for (int64_t j = 0; j < tile.slots; ++j) {
      if (good(sums.total1[j] * per_n, sums.total2[j] * per_n)) continue;
      const SlabStats<A> stats = exact(j).template rounded<A>();
      m0[j] = stats.m0;
      dm[j] = stats.dm;
      rstd[j] = stats.rstd;
    }
  }

  // Of 16 positions, and whether all are good; in arrays of their own, so that roots and divisions go through vectors.
  NK_MEMBER bool finish_stats(int64_t first) const {
    double offset[kLanes], mean_square[kLanes];
    A root[kLanes];
    int64_t all_good = 1;
    for (int i = 0; i < kLanes; ++i) {
      offset[i] = sums.total1[first + i] * per_n;
      mean_square[i] = sums.total2[first + i] * per_n;
    }
    for (int i = 0; i < kLanes; ++i) {
      dm[first + i] = A(offset[i]);
      root[i] = A(1.0 / square_root(mean_square[i] - offset[i] * offset[i] + args.eps));
      all_good &= int64_t(good(offset[i], mean_square[i]));
    }
    store(rstd + first, load(root));
    return all_good != 0;
  }

  // Whether sums about m0 can be trusted: the values are not nearly constant, and no square left the range of A.
  NK_MEMBER bool good(double offset, double mean_square) const {
    const bool centred = (offset == 0.0) | ((offset * offset <= 0.25 * mean_square) & (mean_square >= SlabLimits<A>::kSmall));
    return centred & (mean_square <= SlabLimits<A>::kLarge) & (mean_square + args.eps >= SlabLimits<A>::kSmall);
  }

  void normalize(const Tile& tile, T* y) const {
    const bool in_lines = past && tile.whole_lines(y);
    for (int64_t c = 0; c < tile.channels; ++c) {
      const Vec<A> wc = splat(w.values()[c * w.step()]), bc = splat(b.values()[c * b.step()]);
      const A* const from = packed + c * tile.width;
      T* const to = y + c * tile.plane;
      by_past(in_lines, [&](auto where) NK_LAMBDA {
        for (int64_t j = 0; j < tile.slots; j += kLanes) {
          const Vec<A> d = (load(from + j) - load(m0 + j)) - load(dm + j);
          put(to + tile.column(j), fma(d, load(rstd + j) * wc, bc), where);
        }
      });
    }
    for (int64_t j = 0; j < tile.slots; ++j) {
      if (!within_range(SlabStats<A>{m0[j], dm[j], rstd[j], A(0)})) normalize_exactly(tile, j, y);
    }
  }

  // A position whose rstd has left the range of A, in double.
  __attribute__((noinline)) void normalize_exactly(const Tile& tile, int64_t slot, T* y) const {
    const int64_t group = slot / kLanes * kLanes, column = tile.column(group) + slot - group;
    const ExactStats stats = exact(slot);
    for (int64_t c = 0; c < tile.channels; ++c) {
      const double x_hat = careful_x_hat(value_at(packed + c * tile.width + slot), stats.x_hat);
      put_item(y + c * tile.plane + column, x_hat * double(w.values()[c * w.step()]) + double(b.values()[c * b.step()]));
    }
  }

  void keep_stats(const Tile& tile, A* to) const {
    for (int64_t j = 0; j < tile.slots; j += kLanes) {
      store(to + tile.column(j), load(m0 + j));
      store(to + tile.plane + tile.column(j), load(dm + j));
      store(to + 2 * tile.plane + tile.column(j), load(rstd + j));
    }
  }

  void one_tile(int64_t i) const {
    const Tile tile(tiles, i);
    const T* const x = static_cast<const T*>(args.x) + tile.begin;
    T* const y = static_cast<T*>(args.y) + tile.begin;
    A* const stats = args.stats == nullptr ? nullptr : static_cast<A*>(args.stats) + tile.stats_begin;
    if (!tile.narrow()) return on(tile, x, y, stats);
    const Staged<T> items(tile, tile.channels);
    const Staged<A> kept(tile, kStatsPerPosition);
    items.read(x, A(0));
    on(tile.staged(), items.data(), items.data(), kept.data());
    items.write(y);
    if (stats != nullptr) kept.write(stats);
  }

  void on(const Tile& tile, const T* x, T* y, A* stats) const {
    find_stats(tile, x);
    normalize(tile, y);
    if (stats != nullptr) keep_stats(tile, stats);
  }
};

template <class T>
static void layer_norm2d_forward_of(const LayerNorm2dForward& a) {
  const Tiles tiles(a.shape, 1);
  for_range(a.parallel_for, 0, tiles.count(), grain_for(tiles.items()), [&](int64_t first, int64_t last) {
    const LayerNorm2dForwardTiles<T> forward(a, tiles);
    for (int64_t i = first; i < last; ++i) forward.one_tile(i);
  });
}

static void layer_norm2d_forward(const LayerNorm2dForward& a) {
  by_dtype(a.shape.dtype, [&](auto zero) { layer_norm2d_forward_of<decltype(zero)>(a); });
}
