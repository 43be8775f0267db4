// BatchNorm, GroupNorm and InstanceNorm forward over planes. Included by isa/*.cpp.
// Scalar math: y = a(((x - m0) - dm) * (rstd * w) + b + residual), with a the activation; without it and the residual
// if there is none.

template <class T, class Positions>
struct PlanesForward {
  using A = Compute<T>;
  const ChannelForward& args;
  const Positions& positions;
  Planes planes;
  const T* x;
  const T* x_end;
  const T* residual;
  T* y;
  Param<A> w;
  Param<A> b;
  Activated<A> activated;
  ShortPlanes<A> short_planes;
  typename Positions::Samples samples;
  double per_n;
  bool own_stats;
  int64_t next_slabs;  // how far they lie; 0 where y has no sums before it
  bool slabs_are_few;  // of few terms each, in one run
  bool past;  // whether y is written past the caches
  bool in_pieces;  // whether what a curve is taken of waits in memory: of silu over long runs nothing need

  PlanesForward(const ChannelForward& a, const Positions& which_count)
      : args(a),
        positions(which_count),
        planes(a.shape, positions.runs_join()),
        x(static_cast<const T*>(a.x)),
        x_end(x + a.shape.size()),
        residual(static_cast<const T*>(a.residual)),
        y(static_cast<T*>(a.y)),
        w(a.w, a.shape.n_channels, 1),
        b(a.b, a.shape.n_channels, A(-0.0)),
        activated(a.activation),
        short_planes(planes, w, b),
        samples(positions.samples(planes.joined.all(0))),
        per_n(1.0 / double(positions.slab_size())),
        own_stats(a.mean.data == nullptr),
        next_slabs(own_stats ? planes.next_batch(sizeof(T), 1) : 0),
        slabs_are_few(planes.joined.is_one_run() && are_few(1, planes.slab_size)),
        past(past_caches<T>(a.shape.size_in_all())),
        in_pieces(activated.is_curve() && !(activated.is_silu_at_once() && planes.at_once())) {}

  struct Term {
    const T* x;
    const T* end;
    Vec<A> shift;
    NK_MEMBER void fetch(int64_t at) const { prefetch(x + at); }
    template <class To>
    NK_MEMBER void operator()(int64_t at, const To& to) const {
      const Vec<A> d = load(x + at) - shift;
      to(d, d);
    }
    template <class To>
    NK_MEMBER void operator()(int64_t at, int n, const To& to) const {
      const Vec<A> d = load_rest(x + at, n, end) - shift;
      to(d, d);
    }
  };

  // s1, s2 about K of a block of a slab.
  NK_MEMBER Sums sums_about(A shift, const Runs& runs) const {
    return sum_over_runs<A>(runs, positions, [&]() NK_LAMBDA { return Term{x, x_end, splat(shift)}; });
  }

  NK_MEMBER Sums sums_about(A shift, int64_t slab, ParallelFor parallel_for) const {
    return sum_of_blocks(planes.joined, planes.begin(slab), parallel_for,
                         [&](const Runs& block) { return sums_about(shift, block); });
  }

  ExactStats exact(int64_t slab) const {
    if (!own_stats) return exactly(slab_stats<A>(args.stats, slab), args.eps);
    return exact_planes(x, planes.joined.all(planes.begin(slab)), positions, args.eps);
  }

  // Statistics of a slab for which the first K would not do.
  __attribute__((noinline)) SlabStats<A> stats_again(int64_t slab, A shift, ParallelFor parallel_for) const {
    SlabStats<A> stats;
    if (finish_stats(per_n, shift, sums_about(shift, slab, parallel_for), args.eps, stats)) return stats;
    return exact(slab).template rounded<A>();
  }

  NK_MEMBER ChannelOfPlanes<A> channel(const SlabStats<A>& stats, int64_t c) const {
    return {stats, w.values()[c * w.step()], b.values()[c * b.step()]};
  }

  template <class Kept>
  NK_MEMBER void normalize_run(int64_t begin, Ahead ahead, int64_t length, const Kept& kept,
                               const ChannelOfPlanes<A>& k) const {
    if (residual != nullptr) {
      const Vec<A> least = splat(least_of<A>(args.activation));
      map_run<T>(
          y + begin, ahead, length, kept, past,
          [&](Vec<A> v, Vec<A> r) NK_LAMBDA { return add_above(k.z(v), r, least); }, x + begin, residual + begin);
    } else if (args.activation == Activation::kNone) {
      map_run<T>(y + begin, ahead, length, kept, past, [&](Vec<A> v) NK_LAMBDA { return k.z(v); }, x + begin);
    } else if (activated.is_relu()) {
      map_run<T>(y + begin, ahead, length, kept, past, [&](Vec<A> v) NK_LAMBDA { return above_zero(k.z(v)); }, x + begin);
    } else if constexpr (Activated<A>::kSiluAtOnce) {
      map_run<T>(y + begin, ahead, length, kept, past, [&](Vec<A> v) NK_LAMBDA { return silu_of(k.z(v)); }, x + begin);
    }
  }

  // Of runs that follow one another in memory, by a curve. kept: what counts of them, taken as one.
  template <class Kept>
  void curve_runs(int64_t begin, int64_t length, int64_t run_length, const Kept& kept, const SlabStats<A>& stats, int64_t c,
                  int64_t step) const {
    const auto channel_of = [&](int64_t run) NK_LAMBDA {
      return [k = channel(stats, c + run * step)](Vec<A> v) NK_LAMBDA { return k.z(v); };
    };
    const bool in_lines = past && whole_lines(y + begin, length);
    map_by_pieces<A>(
        x + begin, x_end, length, run_length, channel_of, [&](A* z, int64_t n) { activated.values(z, n); },
        [&](int64_t at, Vec<A> v, auto, auto store_at) NK_LAMBDA {
          in_lines ? put(y + begin + at, kept.keep(v, at), Past<true>()) : store_at(y + begin + at, kept.keep(v, at));
        });
  }

  NK_MEMBER void normalize_runs(const Runs& runs, const SlabStats<A>& stats, int64_t c, int64_t step) const {
    const auto kept = positions.of(runs);
    if (in_pieces) {
      if (Positions::kAll && runs.stride == runs.length) {
        return curve_runs(runs.begin, runs.size(), runs.length, kept.run(0), stats, c, step);
      }
      for (int64_t r = 0; r < runs.count; ++r) {
        curve_runs(runs.begin + r * runs.stride, runs.length, runs.length, kept.run(r), stats, c + r * step, step);
      }
      return;
    }
    const ChannelOfPlanes<A> first = channel(stats, c);
    const auto each_run = [&](const auto& channel_of) NK_LAMBDA {
      for (int64_t i = 0; i < runs.count; ++i) {
        const int64_t r = planes.turn(i, runs.count, sizeof(T));
        const Ahead ahead = {planes.ahead(i, runs, sizeof(T)), next_slabs};
        normalize_run(runs.begin + r * runs.stride, ahead, runs.length, kept.run(r), channel_of(r));
      }
    };
    step == 0 ? each_run([&](int64_t) NK_LAMBDA { return first; })
              : each_run([&](int64_t r) NK_LAMBDA { return channel(stats, c + r * step); });
  }

  // A slab of planes shorter than a vector, as one run.
  void normalize_short(int64_t begin, int64_t c, const SlabStats<A>& stats) const {
    const Vec<A> m0 = splat(stats.m0), dm = splat(stats.dm), rstd = splat(stats.rstd);
    const Vec<A> least = splat(least_of<A>(args.activation));
    map_run<T>(
        y + begin, {kFetchAhead, 0}, planes.slab_size, positions.of(planes.joined.all(begin)).run(0), past,
        [&](Vec<A> v, Vec<A> wv, Vec<A> bv) NK_LAMBDA {
          const Vec<A> z = fma((v - m0) - dm, rstd * wv, bv);
          return larger(least, z);
        },
        x + begin, short_planes.w(c), short_planes.b(c));
  }

  __attribute__((noinline)) void normalize_exactly(int64_t slab) const {
    const ExactStats stats = exact(slab);
    const Runs runs = planes.by_channel.all(planes.begin(slab));
    for (int64_t r = 0; r < runs.count; ++r) {
      const int64_t c = planes.first_channel(slab) + r * planes.channel_step();
      const double wc = double(w.values()[c * w.step()]), bc = double(b.values()[c * b.step()]);
      each_offset(
          runs.one(r), positions,
          [&](int64_t i) {
            const double z = careful_x_hat(value_at(x + i), stats.x_hat) * wc + bc +
                             (residual == nullptr ? -0.0 : value_at(residual + i));
            put_item(y + i, activated.value(z));
          },
          [&](int64_t i) { put_item(y + i, 0.0); });
    }
  }

  void normalize(int64_t slab, ParallelFor parallel_for) const {
    const SlabStats<A> stats = slab_stats<A>(args.stats, slab);
    if (!within_range(stats)) return normalize_exactly(slab);
    const Blocks& blocks = planes.by_channel;
    const int64_t begin = planes.begin(slab), c = planes.first_channel(slab), step = planes.channel_step();
    if (short_planes.are_there() && residual == nullptr && !activated.is_curve()) return normalize_short(begin, c, stats);
    for_range(parallel_for, 0, blocks.count(), 1, [&](int64_t first, int64_t last) {
      for (int64_t i = last - 1; i >= first; --i) {
        const Runs runs = blocks.at(begin, i);
        normalize_runs(runs, stats, c + runs.first * step, step);
      }
    });
  }

  // Planes as they lie, each with statistics of its own or with those that its channel was given.
  void normalize_planes(int64_t first, int64_t last) const {
    const int64_t channels = args.shape.n_channels, plane = args.shape.n_positions;
    for (int64_t i = first, c = first % channels; i < last; ++i, c = c + 1 < channels ? c + 1 : 0) {
      const SlabStats<A> stats = slab_stats<A>(args.stats, own_stats ? i : c);
      const auto kept = positions.of({i * plane, 1, plane, 0, i / channels}).run(0);
      if (!within_range(stats)) {
        if (own_stats) normalize_exactly(i);
      } else if (in_pieces) {
        curve_runs(i * plane, plane, plane, kept, stats, c, 0);
      } else {
        normalize_run(i * plane, {kFetchAhead, next_slabs}, plane, kept, channel(stats, c));
      }
    }
  }

  // With statistics that were given nothing keeps the planes of a channel together.
  void normalize_in_order() const {
    const int64_t channels = args.shape.n_channels;
    for_range(args.parallel_for, 0, args.shape.n_samples * channels, grain_for(args.shape.n_positions),
              [&](int64_t first, int64_t last) { normalize_planes(first, last); });
    for (int64_t c = 0; c < channels; ++c) {
      if (!within_range(slab_stats<A>(args.stats, c))) normalize_exactly(c);
    }
  }

  // Of up to kBatch slabs, step by step: so one slab's long chain of additions and divisions need not wait for another's.
  void find_stats(int64_t first, int64_t count, ParallelFor parallel_for) const {
    SlabSums<A> sums;
    for (int64_t i = 0; i < count; ++i) sums.shift[i] = samples.mean(x + planes.begin(first + i));
    if (slabs_are_few) {
      sum_each_of_few<A>(
          planes.begin(first), count, planes.slab_size, positions.of(planes.joined.all(planes.begin(first))).run(0), [&](int64_t i) NK_LAMBDA { return Term{x, x_end, splat(sums.shift[i])}; },
          [&](int64_t i, A s1, A s2) NK_LAMBDA { sums.put(i, s1, s2); });
    } else {
      for (int64_t i = 0; i < count; ++i) {
        const Sums of_slab = sums_about(sums.shift[i], first + i, parallel_for);
        sums.put(i, of_slab.s1, of_slab.s2);
      }
    }
    const FinishedStats<A> finished(per_n, sums, args.eps);
    for (int64_t i = 0; i < count; ++i) {
      const SlabStats<A> stats = finished.at(i);
      put_slab_stats(args.stats, first + i, finished.serve(i) ? stats : stats_again(first + i, stats.m0, parallel_for));
    }
  }

  void some_slabs(int64_t first, int64_t count, ParallelFor parallel_for) const {
    find_stats(first, count, parallel_for);
    if (planes.are_slabs()) return normalize_planes(first, first + count);
    for (int64_t i = 0; i < count; ++i) normalize(first + i, parallel_for);
  }
};

template <class T, class Positions>
static void planes_forward_of(const ChannelForward& a, const Positions& positions) {
  const PlanesForward<T, Positions> forward(a, positions);
  if (!forward.own_stats) return forward.normalize_in_order();
  for_each_slab<T>(forward, forward.planes, a.parallel_for);
}
