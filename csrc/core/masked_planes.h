// BatchNorm over planes of which only some positions count. Included by isa/*.cpp.
//
// What is computed at a position that does not count is taken away bit by bit, so NaN ends there; and what lies before the
// first position of a sample that counts, or after its last, is never read. The mathematics is that of planes_forward.h and
// planes_backward.h, with the number of positions that count for n.

struct KeptPlanes {
  static constexpr int kSamples = 16;
  const KeptPositions& positions;
  int64_t plane;
  int64_t samples[kSamples];  // offsets in a channel

  KeptPlanes(const ChannelShape& shape, const KeptPositions& kept)
      : positions(kept), plane(shape.n_positions) {
    for (int i = 0; i < kSamples; ++i) {  // four together at each of four places
      const int64_t rank = (kept.count() * (2 * (i / 4) + 1) / 8 + i % 4) % (kept.count() > 0 ? kept.count() : 1);
      const KeptPositions::Place place = kept.at_rank(rank);
      samples[i] = place.sample * shape.n_channels * plane + place.position;
    }
  }

  // Where in their planes the runs of a channel begin: all at the same position.
  int64_t offset(const Runs& runs) const { return runs.begin % plane; }
  // Run number r of those, each of one sample.
  NK_MEMBER KeptRun run(const Runs& runs, int64_t r, int64_t offset) const {
    return positions.run(runs.first + r, offset, runs.length);
  }

  // The mean of 16 values that count in a channel; of equal ones it is that value exactly.
  template <class T>
  NK_MEMBER Compute<T> sample_mean(const T* channel) const {
    T values[kSamples];
    for (int i = 0; i < kSamples; ++i) values[i] = channel[samples[i]];
    return sum(load(values)) * (Compute<T>(1) / Compute<T>(kSamples));
  }
};

// As sum_over_runs(), of the pairs that term(offset, lanes) and term(offset, lanes, n) give for what counts.
template <class A, class Term>
NK_INLINE Sums sum_over_kept(const Runs& runs, const KeptPlanes& kept, const Term& term) {
  Vec<double> total1 = zeros<double>(), total2 = total1;
  Vec<A> a1 = zeros<A>(), a2 = a1, b1 = a1, b2 = a1;
  const auto add = [](Pair<A> t, Vec<A>& s1, Vec<A>& s2) NK_LAMBDA {
    s1 = s1 + t.p;
    s2 = fma(t.p, t.q, s2);
  };
  const auto flush = [&]() NK_LAMBDA {
    total1 = total1 + widen(a1 + b1);
    total2 = total2 + widen(a2 + b2);
    a1 = a2 = b1 = b2 = zeros<A>();
  };
  int64_t room = 16;  // how many terms either chain still takes
  const int64_t offset = kept.offset(runs);
  for (int64_t r = 0; r < runs.count; ++r) {
    const int64_t begin = runs.begin + r * runs.stride, next = begin + (r + 1 < runs.count ? runs.stride : 512);
    const KeptRun run = kept.run(runs, r, offset);
    const auto pair = [&](int64_t j) NK_LAMBDA {
      term.fetch(next + j);  // the next run, as in sum_over_runs()
      term.fetch(next + j + kLanes);
      add(term(begin + j, run.at<A>(j)), a1, a2);
      add(term(begin + j + kLanes, run.at<A>(j + kLanes)), b1, b2);
    };
    const int64_t last = run.last / kLanes * kLanes + (run.last % kLanes != 0 && run.last + kLanes <= runs.length) * kLanes;
    int64_t j = run.first;
    // Where a whole run fits, it goes on in the chains as they are: the processor foresees loops of equal length.
    const int64_t chain = (run.last - j + 2 * kLanes - 1) / (2 * kLanes);
    if (room < chain) {
      flush();
      room = 16;
    }
    room -= chain;
    while (last - j > 32 * kLanes) {
      for (const int64_t stop = j + 32 * kLanes; j < stop; j += 2 * kLanes) pair(j);
      flush();
    }
    for (; j + 2 * kLanes <= last; j += 2 * kLanes) pair(j);
    if (j < last) {
      add(term(begin + j, run.at<A>(j)), a1, a2);
      j += kLanes;
    }
    if (j < run.last) add(term(begin + j, run.at<A>(j), int(runs.length - j < kLanes ? runs.length - j : kLanes)), b1, b2);
  }
  flush();
  return {sum(total1), sum(total2)};
}

// to[i] = fn(from[i]...) where the position counts, else 0. `to` lies elsewhere than `from`; what is `ahead` in it comes next.
template <class T, class Fn, class... From>
NK_INLINE void map_kept(T* to, int64_t ahead, int64_t length, const KeptRun& run, const Fn& fn, const From*... from) {
  using A = Compute<T>;
  if (length < kLanes) {
    store_first(to, keep(fn(load_first(from, int(length))...), run.at<A>(0)), int(length));
    return;
  }
  const int64_t whole = length / kLanes * kLanes, last = round_up(run.last, kLanes);
  clear(to, run.first < whole ? run.first : whole);
  int64_t j = run.first;
  for (; j < last && j < whole; j += kLanes) {
    prefetch(to + j + ahead);
    store(to + j, keep(fn(load(from + j)...), run.at<A>(j)));
  }
  if (last > whole) {  // the last 16 overlap what precedes them
    store(to + length - kLanes, keep(fn(load(from + length - kLanes)...), run.at<A>(length - kLanes)));
  } else {
    clear(to + j, length - j);
  }
}

// Calls visit(offset) for each value of the slab that counts, and otherwise(offset) for the others.
template <class Visit, class Otherwise>
NK_INLINE void each_kept(const Runs& runs, const KeptPlanes& kept, const Visit& visit, const Otherwise& otherwise) {
  const int64_t offset = kept.offset(runs);
  for (int64_t r = 0; r < runs.count; ++r) {
    const int64_t begin = runs.begin + r * runs.stride;
    const KeptRun run = kept.run(runs, r, offset);
    for (int64_t j = 0; j < runs.length; ++j) run.one(j) ? visit(begin + j) : otherwise(begin + j);
  }
}

template <class T>
static ExactStats exact_kept(const T* x, double eps, const Runs& runs, const KeptPlanes& kept) {
  return exact_stats(x, kept.positions.count(), eps, [&](const auto& visit) { each_kept(runs, kept, visit, [](int64_t) {}); });
}

template <class T>
struct MaskedPlanesForward {
  using A = Compute<T>;
  const ChannelForward& args;
  Planes planes;
  KeptPlanes kept;
  const T* x;
  const T* x_end;
  const T* residual;
  T* y;
  Param<A> w;
  Param<A> b;
  Activated<A> activated;
  double per_n;

  MaskedPlanesForward(const ChannelForward& a, const KeptPositions& positions)
      : args(a),
        planes(a.shape),
        kept(a.shape, positions),
        x(static_cast<const T*>(a.x)),
        x_end(x + a.shape.size()),
        residual(static_cast<const T*>(a.residual)),
        y(static_cast<T*>(a.y)),
        w(a.w, a.shape.n_channels, 1),
        b(a.b, a.shape.n_channels, A(-0.0)),
        activated(a.activation),
        per_n(1.0 / double(positions.count())) {}

  Sums sums_about(A shift, int64_t slab, ParallelFor parallel_for) const {
    struct Term {
      const T* x;
      const T* end;
      Vec<A> shift;
      NK_MEMBER void fetch(int64_t at) const { prefetch(x + at); }
      NK_MEMBER Pair<A> operator()(int64_t at, Lanes<A> lanes) const {
        const Vec<A> d = keep(load(x + at) - shift, lanes);
        return {d, d};
      }
      NK_MEMBER Pair<A> operator()(int64_t at, Lanes<A> lanes, int n) const {
        const Vec<A> d = keep(load_rest(x + at, n, end) - shift, lanes);
        return {d, d};
      }
    };
    return sum_of_blocks(planes.by_channel, planes.begin(slab), parallel_for,
                         [&](const Runs& block) { return sum_over_kept<A>(block, kept, Term{x, x_end, splat(shift)}); });
  }

  ExactStats exact(int64_t slab) const {
    return exact_kept(x, args.eps, planes.by_channel.all(planes.begin(slab)), kept);
  }

  SlabStats<A> stats_of(int64_t slab, ParallelFor parallel_for) const {
    SlabStats<A> stats;
    A shift = kept.sample_mean(x + planes.begin(slab));
    for (int time = 0; time < 2; ++time) {
      if (finish_stats(per_n, shift, sums_about(shift, slab, parallel_for), args.eps, stats)) return stats;
      shift = stats.m0;
    }
    return exact(slab).template rounded<A>();
  }

  NK_MEMBER void normalize_run(int64_t begin, int64_t ahead, int64_t length, const KeptRun& run, const SlabStats<A>& stats,
                               int64_t c) const {
    const Vec<A> m0 = splat(stats.m0), dm = splat(stats.dm);
    const Vec<A> scale = splat(A(stats.rstd * w.values()[c * w.step()])), bias = splat(b.values()[c * b.step()]);
    if (residual != nullptr) {
      const Vec<A> least = splat(least_of<A>(args.activation));
      map_kept<T>(
          y + begin, ahead, length, run,
          [&](Vec<A> v, Vec<A> r) NK_LAMBDA { return add_above(fma((v - m0) - dm, scale, bias), r, least); }, x + begin,
          residual + begin);
    } else if (args.activation == Activation::kNone) {
      map_kept<T>(
          y + begin, ahead, length, run, [&](Vec<A> v) NK_LAMBDA { return fma((v - m0) - dm, scale, bias); }, x + begin);
    } else {
      map_kept<T>(
          y + begin, ahead, length, run,
          [&](Vec<A> v) NK_LAMBDA { return value_of(activated, fma((v - m0) - dm, scale, bias)); }, x + begin);
    }
  }

  __attribute__((noinline)) void normalize_exactly(int64_t slab) const {
    const ExactStats stats = exact(slab);
    const double wc = double(w.values()[slab * w.step()]), bc = double(b.values()[slab * b.step()]);
    each_kept(
        planes.by_channel.all(planes.begin(slab)), kept,
        [&](int64_t i) {
          const double z = careful_x_hat(value_at(x + i), stats.x_hat) * wc + bc +
                           (residual == nullptr ? -0.0 : value_at(residual + i));
          put_item(y + i, activated.value(z));
        },
        [&](int64_t i) { put_item(y + i, 0.0); });
  }

  void some_slabs(int64_t first, int64_t count, ParallelFor parallel_for) const {
    for (int64_t slab = first; slab < first + count; ++slab) {
      const SlabStats<A> stats = stats_of(slab, parallel_for);
      put_slab_stats(args.stats, slab, stats);
      if (!within_range(stats)) {
        normalize_exactly(slab);
        continue;
      }
      const Blocks& blocks = planes.by_channel;
      for_range(parallel_for, 0, blocks.count(), 1, [&](int64_t from, int64_t to) {
        for (int64_t i = to - 1; i >= from; --i) {
          const Runs runs = blocks.at(planes.begin(slab), i);
          const int64_t offset = kept.offset(runs);
          for (int64_t k = 0; k < runs.count; ++k) {
            const int64_t r = planes.turn(k, runs.count, sizeof(T));
            normalize_run(runs.begin + r * runs.stride, planes.ahead(k, runs, sizeof(T)), runs.length, kept.run(runs, r, offset),
                          stats, slab);
          }
        }
      });
    }
  }
};

template <class T>
struct MaskedPlanesBackward {
  using A = Compute<T>;
  const ChannelBackward& args;
  Planes planes;
  KeptPlanes kept;
  const T* dy;
  const T* x;
  T* dx;
  Param<A> w;
  Param<A> b;
  Activated<A> activated;
  double per_n;
  Sums* sums;  // s1 = db, s2 = dw of each channel

  MaskedPlanesBackward(const ChannelBackward& a, const KeptPositions& positions, Sums* channel_sums)
      : args(a),
        planes(a.shape),
        kept(a.shape, positions),
        dy(static_cast<const T*>(a.dy)),
        x(static_cast<const T*>(a.x)),
        dx(static_cast<T*>(a.dx)),
        w(a.w, a.shape.n_channels, 1),
        b(a.b, a.shape.n_channels, A(-0.0)),
        activated(a.activation),
        per_n(1.0 / double(positions.count())),
        sums(channel_sums) {}

  // What the gradient is found by, in one channel.
  struct Channel {
    Vec<A> m0, dm, rstd, scale, bias;
    NK_MEMBER Vec<A> centred(Vec<A> v) const { return (v - m0) - dm; }
  };
  NK_MEMBER Channel channel(const SlabStats<A>& stats, int64_t c) const {
    return {splat(stats.m0), splat(stats.dm), splat(stats.rstd), splat(A(stats.rstd * w.values()[c * w.step()])),
            splat(b.values()[c * b.step()])};
  }

  // dy, or with an activation dy * a'(z).
  template <bool kActivated>
  NK_MEMBER Vec<A> through(Vec<A> g, Vec<A> d, const Channel& k) const {
    if constexpr (kActivated) return through_slope_of(activated, fma(d, k.scale, k.bias), g);
    return g;
  }

  template <bool kActivated>
  struct Term {
    const MaskedPlanesBackward& of;
    const Channel& k;
    NK_MEMBER void fetch(int64_t at) const {
      prefetch(of.dy + at);
      prefetch(of.x + at);
    }
    NK_MEMBER Pair<A> pair(Vec<A> g, Vec<A> v, Lanes<A> lanes) const {
      const Vec<A> d = k.centred(v);
      return {keep(of.template through<kActivated>(g, d, k), lanes), keep(d * k.rstd, lanes)};
    }
    NK_MEMBER Pair<A> operator()(int64_t at, Lanes<A> lanes) const { return pair(load(of.dy + at), load(of.x + at), lanes); }
    NK_MEMBER Pair<A> operator()(int64_t at, Lanes<A> lanes, int n) const {
      return pair(load_rest(of.dy + at, n, of.dy + of.args.shape.size()), load_rest(of.x + at, n, of.x + of.args.shape.size()), lanes);
    }
  };

  template <bool kActivated>
  Sums sums_of(int64_t slab, const Channel& k, ParallelFor parallel_for) const {
    return sum_of_blocks(planes.by_channel, planes.begin(slab), parallel_for,
                         [&](const Runs& block) { return sum_over_kept<A>(block, kept, Term<kActivated>{*this, k}); });
  }

  template <bool kActivated>
  void find_dx(int64_t slab, const SlabStats<A>& stats, const Channel& k, ParallelFor parallel_for) const {
    const double wc = double(w.values()[slab * w.step()]);
    const GradientTerms<A> terms = gradient_terms(stats, wc, true, {sums[slab].s1 * per_n, sums[slab].s2 * per_n});
    const Vec<A> of_dy = splat(terms.of_dy), of_d = splat(terms.of_d), rest = splat(terms.rest);
    const Blocks& blocks = planes.by_channel;
    for_range(parallel_for, 0, blocks.count(), 1, [&](int64_t from, int64_t to) {
      for (int64_t i = to - 1; i >= from; --i) {
        const Runs runs = blocks.at(planes.begin(slab), i);
        const int64_t offset = kept.offset(runs);
        for (int64_t n = 0; n < runs.count; ++n) {
          const int64_t r = planes.turn(n, runs.count, 2 * sizeof(T)), begin = runs.begin + r * runs.stride;
          map_kept<T>(
              dx + begin, planes.ahead(n, runs, 2 * sizeof(T)), runs.length, kept.run(runs, r, offset),
              [&](Vec<A> g, Vec<A> v) NK_LAMBDA {
                const Vec<A> d = k.centred(v);
                return fma(d, of_d, fma(through<kActivated>(g, d, k), of_dy, rest));
              },
              dy + begin, x + begin);
        }
      }
    });
  }

  // A slab whose rstd has left the range of A, in double.
  __attribute__((noinline)) void slab_exactly(int64_t slab) const {
    const Runs all = planes.by_channel.all(planes.begin(slab));
    const ExactStats stats = exact_kept(x, args.eps, all, kept);
    const double wc = double(w.values()[slab * w.step()]), bc = double(b.values()[slab * b.step()]);
    const auto x_hat = [&](int64_t i) { return careful_x_hat(value_at(x + i), stats.x_hat); };
    const auto g_at = [&](int64_t i) {
      return activated.through(value_at(dy + i), x_hat(i) * wc + bc);
    };
    Sums total;
    each_kept(all, kept, [&](int64_t i) { total.add({g_at(i), g_at(i) * x_hat(i)}); }, [](int64_t) {});
    sums[slab] = total;
    if (dx == nullptr) return;
    each_kept(
        all, kept,
        [&](int64_t i) {
          const double inner = g_at(i) - total.s1 * per_n - x_hat(i) * (total.s2 * per_n);
          put_item(dx + i, inner * wc * stats.x_hat.rstd * stats.x_hat.scale);
        },
        [&](int64_t i) { put_item(dx + i, 0.0); });
  }

  template <bool kActivated>
  void one_slab(int64_t slab, const SlabStats<A>& stats, ParallelFor parallel_for) const {
    const Channel k = channel(stats, slab);
    sums[slab] = sums_of<kActivated>(slab, k, parallel_for);
    if (dx != nullptr) find_dx<kActivated>(slab, stats, k, parallel_for);
  }

  void some_slabs(int64_t first, int64_t count, ParallelFor parallel_for) const {
    for (int64_t slab = first; slab < first + count; ++slab) {
      const SlabStats<A> stats = slab_stats<A>(args.stats, slab);
      if (!within_range_backward(stats)) {
        slab_exactly(slab);
      } else if (args.activation == Activation::kNone) {
        one_slab<false>(slab, stats, parallel_for);
      } else {
        one_slab<true>(slab, stats, parallel_for);
      }
    }
  }
};

template <class T>
static void masked_planes_forward_of(const ChannelForward& a, const KeptPositions& kept) {
  const MaskedPlanesForward<T> forward(a, kept);
  for_each_slab<T>(forward, forward.planes, a.parallel_for);
}

template <class T>
static void masked_planes_backward_of(const ChannelBackward& a, const KeptPositions& kept, Sums* channel_sums) {
  const MaskedPlanesBackward<T> backward(a, kept, channel_sums);
  for_each_slab<T>(backward, backward.planes, a.parallel_for);
}
