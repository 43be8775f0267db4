// LayerNorm2d backward. Included by isa/*.cpp.
//
// Scalar math, with means over the channels of a position:
//   x_hat = ((x - m0) - dm) * rstd;  g = dy * w;  dx = (g - mean(g) - x_hat * mean(g * x_hat)) * rstd
//   dw = sum over all positions of dy * x_hat;  db = sum over all positions of dy

template <class T>
struct LayerNorm2dBackwardTiles {
  using A = Compute<T>;
  const LayerNorm2dBackward& args;
  Tiles tiles;
  Param<A> w;
  double per_n;
  Memory<A> memory;
  Memory<double> totals;
  A* x_hat;  // [channels, width]
  A* dy;     // [channels, width]
  A* m0;     // [width] each
  A* dm;
  A* rstd;
  A* minus_c1;  // c1 = mean(g * x_hat)
  A* c2;        // mean(g)
  ColumnSums<A> sums;
  bool past;  // whether dx is written past the caches

  LayerNorm2dBackwardTiles(const LayerNorm2dBackward& a, const Tiles& t)
      : args(a),
        tiles(t),
        w(a.w, a.shape.n_channels, 1),
        per_n(1.0 / double(a.shape.n_channels)),
        memory(2 * t.items() + 7 * t.width),
        totals(2 * t.width),
        x_hat(memory.data()),
        dy(x_hat + t.items()),
        m0(dy + t.items()),
        dm(m0 + t.width),
        rstd(dm + t.width),
        minus_c1(rstd + t.width),
        c2(minus_c1 + t.width),
        sums{c2 + t.width, c2 + 2 * t.width, totals.data(), totals.data() + t.width},
        past(past_caches<T>(size_of(a.shape))) {}

  // Of a tile: its first.
  struct Items {
    const T* x;
    const T* dy;
    T* dx;  // may be null
  };

  struct Pack {
    const T* from_x;
    const T* from_dy;
    const LayerNorm2dBackwardTiles& to;
    Tile tile;
    struct Stats {
      Vec<A> m0, dm, rstd;
    };
    NK_MEMBER Stats at(int64_t j) const { return {load(to.m0 + j), load(to.dm + j), load(to.rstd + j)}; }
    template <class To>
    NK_MEMBER void operator()(const Stats& stats, int64_t c, int64_t j, const To& sum) const {
      const int64_t from = c * tile.plane + tile.column(j), at = c * tile.width + j;
      prefetch(from_x + from + kRowsAhead * tile.plane);
      prefetch(from_dy + from + kRowsAhead * tile.plane);
      const Vec<A> h = ((load(from_x + from) - stats.m0) - stats.dm) * stats.rstd;
      const Vec<A> g = load(from_dy + from);
      store(to.x_hat + at, h);
      store(to.dy + at, g);
      sum(g * splat(to.w.values()[c * to.w.step()]), h);
    }
  };

  void load_stats(const Tile& tile, const A* from) const {
    for (int64_t j = 0; j < tile.slots; j += kLanes) {
      store(m0 + j, load(from + tile.column(j)));
      store(dm + j, load(from + tile.plane + tile.column(j)));
      store(rstd + j, load(from + 2 * tile.plane + tile.column(j)));
    }
  }

  // dx of one channel, and its part of dw and db: at most 16 terms in a lane before they go on in double.
  NK_MEMBER void one_channel(const Tile& tile, int64_t c, T* dx, double& dw, double& db) const {
    const A *const h_row = x_hat + c * tile.width, *const g_row = dy + c * tile.width;
    const Vec<A> wc = splat(w.values()[c * w.step()]);
    const auto put_dx = [&](int64_t j, Vec<A> h, Vec<A> g, auto where) NK_LAMBDA {
      const Vec<A> inner = fma(h, load(minus_c1 + j), g * wc - load(c2 + j));
      put(dx + tile.column(j), inner * load(rstd + j), where);
    };
    const bool in_lines = past && tile.whole_lines(dx);
    const int64_t last = tile.slots - kLanes;
    for (int64_t first = 0; first < last; first += 16 * kLanes) {
      const int64_t stop = first + 16 * kLanes < last ? first + 16 * kLanes : last;
      Vec<A> s1 = zeros<A>(), s2 = s1;
      by_past(in_lines, [&](auto where) NK_LAMBDA {
        for (int64_t j = first; j < stop; j += kLanes) {
          const Vec<A> h = load(h_row + j), g = load(g_row + j);
          s1 = s1 + g;
          s2 = fma(g, h, s2);
          if (dx != nullptr) put_dx(j, h, g, where);
        }
      });
      db += double(sum(s1));
      dw += double(sum(s2));
    }
    const Lanes<A> fresh = tile.fresh_lanes<A>();
    const Vec<A> h = load(h_row + last), g = load(g_row + last);
    db += double(sum(keep(g, fresh)));
    dw += double(sum(keep(g * h, fresh)));
    if (dx != nullptr) put_dx(last, h, g, Past<false>());
  }

  // A position whose rstd has left the range of A, in double.
  __attribute__((noinline)) void column_exactly(const Tile& tile, int64_t slot, const Items& items, double* dw, double* db) const {
    const int64_t group = slot / kLanes * kLanes, column = tile.column(group) + slot - group;
    const bool fresh = column >= group;
    const T *const x = items.x + column, *const g = items.dy + column;
    T* const dx = items.dx == nullptr ? nullptr : items.dx + column;
    const ExactStats stats = exact_stats(x, tile.channels, args.eps, [&](const auto& visit) {
      for (int64_t c = 0; c < tile.channels; ++c) visit(c * tile.plane);
    });
    const auto weight = [&](int64_t c) { return double(w.values()[c * w.step()]); };
    const auto h_at = [&](int64_t c) { return careful_x_hat(value_at(x + c * tile.plane), stats.x_hat); };
    double s1 = 0.0, s2 = 0.0;
    for (int64_t c = 0; c < tile.channels; ++c) {
      const double dyc = value_at(g + c * tile.plane);
      s1 += dyc * weight(c);
      s2 += dyc * weight(c) * h_at(c);
      if (fresh) dw[c] += dyc * h_at(c), db[c] += dyc;
    }
    for (int64_t c = 0; dx != nullptr && c < tile.channels; ++c) {
      const double inner = value_at(g + c * tile.plane) * weight(c) - s1 * per_n - h_at(c) * (s2 * per_n);
      put_item(dx + c * tile.plane, inner * stats.x_hat.rstd * stats.x_hat.scale);
    }
  }

  NK_MEMBER bool in_range(int64_t slot) const {
    return within_range_backward(SlabStats<A>{m0[slot], dm[slot], rstd[slot], A(0)});
  }

  void one_tile(int64_t i, double* dw, double* db) const {
    const Tile tile(tiles, i);
    const Items items{static_cast<const T*>(args.x) + tile.begin, static_cast<const T*>(args.dy) + tile.begin,
                      args.dx == nullptr ? nullptr : static_cast<T*>(args.dx) + tile.begin};
    const A* const stats = static_cast<const A*>(args.stats) + tile.stats_begin;
    if (!tile.narrow()) return on(tile, items, stats, dw, db);
    const Staged<T> from_x(tile, tile.channels), from_dy(tile, tile.channels), to_dx(tile, tile.channels);
    const Staged<A> kept(tile, kStatsPerPosition);
    from_x.read(items.x, A(0));
    from_dy.read(items.dy, A(0));
    kept.read(stats, A(1));
    on(tile.staged(), {from_x.data(), from_dy.data(), to_dx.data()}, kept.data(), dw, db);
    if (items.dx != nullptr) to_dx.write(items.dx);
  }

  void on(const Tile& tile, const Items& items, const A* stats, double* dw, double* db) const {
    load_stats(tile, stats);
    sum_down<A, true>(tile, sums, Pack{items.x, items.dy, *this, tile});
    bool all_in_range = true;
    for (int64_t j = 0; j < tile.slots; ++j) {
      c2[j] = A(sums.total1[j] * per_n);
      minus_c1[j] = A(-sums.total2[j] * per_n);
      all_in_range &= in_range(j);
    }
    for (int64_t j = 0; !all_in_range && j < tile.slots; ++j) {
      if (in_range(j)) continue;  // the others add nothing to the sums below
      for (int64_t c = 0; c < tile.channels; ++c) x_hat[c * tile.width + j] = dy[c * tile.width + j] = A(0);
    }
    for (int64_t c = 0; c < tile.channels; ++c) {
      one_channel(tile, c, items.dx == nullptr ? nullptr : items.dx + c * tile.plane, dw[c], db[c]);
    }
    for (int64_t j = 0; !all_in_range && j < tile.slots; ++j) {
      if (!in_range(j)) column_exactly(tile, j, items, dw, db);
    }
  }
};

template <class T>
static void layer_norm2d_backward_of(const LayerNorm2dBackward& a) {
  const Tiles tiles(a.shape, 2);
  const Chunks chunks = chunks_of(tiles.count(), 1);
  const int64_t channels = a.shape.n_channels;
  const Memory<double> totals(chunks.count * 2 * channels);
  for_range(a.parallel_for, 0, chunks.count, grain_for(tiles.items()), [&](int64_t begin, int64_t end) {
    const LayerNorm2dBackwardTiles<T> backward(a, tiles);
    for (int64_t chunk = begin; chunk < end; ++chunk) {
      double* const dw = totals.data() + chunk * 2 * channels;
      for (int64_t j = 0; j < 2 * channels; ++j) dw[j] = 0.0;
      for (int64_t i = chunks.begin(chunk); i < chunks.begin(chunk + 1); ++i) backward.one_tile(i, dw, dw + channels);
    }
  });
  double* const dw = totals.data();
  for (int64_t chunk = 1; chunk < chunks.count; ++chunk) {
    for (int64_t j = 0; j < 2 * channels; ++j) dw[j] += dw[chunk * 2 * channels + j];
  }
  if (a.dw.data != nullptr) store_sums(dw, a.dw, 0, channels);
  if (a.db.data != nullptr) store_sums(dw + channels, a.db, 0, channels);
}

static void layer_norm2d_backward(const LayerNorm2dBackward& a) {
  by_dtype(a.shape.dtype, [&](auto zero) { layer_norm2d_backward_of<decltype(zero)>(a); });
}
