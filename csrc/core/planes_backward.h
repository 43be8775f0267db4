// BatchNorm, GroupNorm and InstanceNorm backward over planes. Included by isa/*.cpp.
//
// Scalar math, with means over the slab:
//   x_hat = ((x - m0) - dm) * rstd;  db = sum(dy), dw = sum(dy * x_hat)
//   dx = (w * dy - mean(w * dy) - x_hat * mean(w * dy * x_hat)) * rstd
// Where statistics were given, they do not depend on x: dx = dy * (w * rstd), in the sweep of the sums where it can be (one_sweep).
// With an activation, dy * a'(z) takes the place of dy, with z = ((x - m0) - dm) * (rstd * w) + b as in the forward.

template <class T, class Positions>
struct PlanesBackward {
  using A = Compute<T>;
  const ChannelBackward& args;
  const Positions& positions;
  Planes planes;
  const T* dy;
  const T* x;
  T* dx;
  Param<A> w;
  Param<A> b;
  Activated<A> activated;
  ShortPlanes<A> short_planes;
  double per_n;
  int64_t next_slabs;  // how far they lie; 0 where what a curve gave is read in place of dy
  bool one_channel;
  bool wants_sums;
  bool planes_are_few;  // of few terms each
  bool past;            // whether dx is written past the caches: not where what a curve gave waits in it
  bool one_sweep;       // whether the sums' sweep writes dx, which waits for no sum
  Sums* sums;           // s1 = db, s2 = dw of each channel of each slab
  A* whole = nullptr;  // where dy goes through a curve, if in memory as large as x

  PlanesBackward(const ChannelBackward& a, const Positions& which_count, Sums* channel_sums)
      : args(a),
        positions(which_count),
        planes(a.shape, positions.runs_join()),
        dy(static_cast<const T*>(a.dy)),
        x(static_cast<const T*>(a.x)),
        dx(static_cast<T*>(a.dx)),
        w(a.w, a.shape.n_channels, 1),
        b(a.b, a.shape.n_channels, A(-0.0)),
        activated(a.activation),
        short_planes(planes, w, b),
        per_n(1.0 / double(positions.slab_size())),
        next_slabs(activated.is_curve() ? 0 : planes.next_batch(sizeof(T), 2)),
        one_channel(a.shape.over_batch()),
        wants_sums(channel_sums != nullptr),
        planes_are_few(!one_channel && are_few(1, a.shape.n_positions)),
        past(past_caches<T>(a.shape.size_in_all()) && !activated.is_curve()),
        one_sweep(Positions::kAll && one_channel && a.constant_stats && wants_sums && dx != nullptr && !past && !activated.is_curve()),
        sums(channel_sums) {}

  NK_MEMBER A weight(int64_t c) const { return w.values()[c * w.step()]; }

  NK_MEMBER ChannelOfPlanes<A> channel(const SlabStats<A>& stats, int64_t c) const {
    return {stats, weight(c), b.values()[c * b.step()]};
  }

  // dy as it reaches the norm: of T or, once it has gone through a curve, of A; data[0] belongs to x[from].
  template <class G>
  struct Gradient {
    const G* data;
    int64_t from;
    const G* end;
    NK_MEMBER const G* at(int64_t i) const { return data + (i - from); }
  };

  // kDx: it writes dx, too.
  template <bool kRelu, bool kDx, class G>
  struct Term {
    const PlanesBackward& of;
    Gradient<G> dy;
    ChannelOfPlanes<A> k;
    Vec<A> rstd;
    NK_MEMBER void fetch(int64_t at) const {
      prefetch(of.x + at);
      prefetch(dy.at(at));
    }
    template <class To>
    NK_MEMBER Vec<A> terms(Vec<A> g, Vec<A> v, const To& to) const {
      const Vec<A> d = (v - k.m0) - k.dm;
      if constexpr (kRelu) g = where_above_zero(fma(d, k.scale, k.bias), g);
      to(g, d * rstd);
      return g;
    }
    template <class To>
    NK_MEMBER void operator()(int64_t at, const To& to) const {
      const Vec<A> g = terms(load(dy.at(at)), load(of.x + at), to);
      if constexpr (kDx) store(of.dx + at, g * k.scale);
    }
    template <class To>
    NK_MEMBER void operator()(int64_t at, int n, const To& to) const {
      const Vec<A> g = terms(load_rest(dy.at(at), n, dy.end), load_rest(of.x + at, n, of.x + of.args.shape.size()), to);
      if constexpr (kDx) store_first(of.dx + at, g * k.scale, n);
    }
  };

  // The sums over runs of channel c.
  template <class G>
  NK_MEMBER Sums sums_of(const Gradient<G>& g, const SlabStats<A>& stats, const Runs& runs, int64_t c) const {
    if constexpr (Positions::kAll) {
      if (one_sweep) return activated.is_relu() ? sums_by<true, true>(g, stats, runs, c) : sums_by<false, true>(g, stats, runs, c);
    }
    return activated.is_relu() ? sums_by<true, false>(g, stats, runs, c) : sums_by<false, false>(g, stats, runs, c);
  }
  template <bool kRelu, bool kDx, class G>
  NK_MEMBER Sums sums_by(const Gradient<G>& g, const SlabStats<A>& stats, const Runs& runs, int64_t c) const {
    return sum_over_runs<A>(runs, positions, [&]() NK_LAMBDA {
      return Term<kRelu, kDx, G>{*this, g, channel(stats, c), splat(stats.rstd)};
    });
  }

  // to[i - from] = dy[i] * a'(z[i]) of runs that follow one another in memory, which begin with channel c.
  void through_curve(int64_t begin, int64_t length, int64_t run_length, const SlabStats<A>& stats, int64_t c, int64_t step,
                     A* to, int64_t from) const {
    if (activated.is_silu_at_once() && planes.at_once()) {
      for (int64_t i = 0, run = 0; i < length; i += run_length, ++run) {
        const ChannelOfPlanes<A> k = channel(stats, c + run * step);
        map_run<A>(
            to + (begin + i - from), {kFetchAhead, 0}, run_length, EveryPosition::Run{run_length}, false,
            [&](Vec<A> g, Vec<A> v) NK_LAMBDA { return g * silu_slope_of(k.z(v)); }, dy + begin + i, x + begin + i);
      }
      return;
    }
    const auto channel_of = [&](int64_t run) NK_LAMBDA {
      return [k = channel(stats, c + run * step)](Vec<A> v) NK_LAMBDA { return k.z(v); };
    };
    map_by_pieces<A>(
        x + begin, x + args.shape.size(), length, run_length, channel_of, [&](A* z, int64_t n) { activated.slopes(z, n); },
        [&](int64_t at, Vec<A> slope, auto load_at, auto store_at) NK_LAMBDA {
          store_at(to + (begin + at - from), load_at(dy + begin + at) * slope);
        });
  }

  void slab_through_curve(int64_t slab, A* to, int64_t from, ParallelFor parallel_for) const {
    const SlabStats<A> stats = slab_stats<A>(args.stats, slab);
    const Blocks& blocks = planes.by_channel;
    const int64_t c = planes.first_channel(slab), step = planes.channel_step();
    for_range(parallel_for, 0, blocks.count(), 1, [&](int64_t first, int64_t last) {
      for (int64_t i = first; i < last; ++i) {
        const Runs runs = blocks.at(planes.begin(slab), i);
        const bool together = Positions::kAll && runs.stride == runs.length;
        for (int64_t r = 0; r < (together ? 1 : runs.count); ++r) {
          through_curve(runs.begin + r * runs.stride, together ? runs.size() : runs.length, runs.length, stats,
                        c + (runs.first + r) * step, step, to, from);
        }
      }
    });
  }

  // The sums of channels of one value each.
  template <class G>
  void sums_of_values(const Gradient<G>& g, const SlabStats<A>& stats, int64_t begin, int64_t c, Sums* of_channel) const {
    const Vec<A> m0 = splat(stats.m0), dm = splat(stats.dm), rstd = splat(stats.rstd);
    const A *const wc = short_planes.w(c), *const bc = short_planes.b(c);
    const bool relu = activated.is_relu();
    each_vector(planes.slab_size, [&](int64_t j, auto load_at, auto) NK_LAMBDA {
      const Vec<A> d = (load_at(x + begin + j) - m0) - dm;
      Vec<A> dy = load_at(g.at(begin) + j);
      if (relu) dy = where_above_zero(fma(d, rstd * load_at(wc + j), load_at(bc + j)), dy);
      A of_b[kLanes], of_w[kLanes];
      store(of_b, dy);
      store(of_w, dy * (d * rstd));
      const int64_t n = planes.slab_size - j < kLanes ? planes.slab_size - j : kLanes;
      for (int64_t i = 0; i < n; ++i) of_channel[j + i] = {double(of_b[i]), double(of_w[i])};
    });
  }

  // The sums of `count` planes of few terms each, which begin with channel c of a slab. The next plane is of the same slab
  // (slab_step 0), or of the next one (1).
  template <class G>
  void sum_planes(const Gradient<G>& g, int64_t begin, int64_t count, int64_t slab, int64_t slab_step, int64_t c,
                  Sums* of_plane) const {
    activated.is_relu() ? sum_planes_by<true>(g, begin, count, slab, slab_step, c, of_plane)
                        : sum_planes_by<false>(g, begin, count, slab, slab_step, c, of_plane);
  }
  template <bool kRelu, class G>
  void sum_planes_by(const Gradient<G>& g, int64_t begin, int64_t count, int64_t slab, int64_t slab_step, int64_t c,
                     Sums* of_plane) const {
    const auto next_term = [&](int64_t i) NK_LAMBDA {
      const SlabStats<A> stats = slab_stats<A>(args.stats, slab + i * slab_step);
      const ChannelOfPlanes<A> k = channel(stats, c);
      c = c + 1 < args.shape.n_channels ? c + 1 : 0;
      return Term<kRelu, false, G>{*this, g, k, splat(stats.rstd)};
    };
    sum_each_of_few<A>(begin, count, args.shape.n_positions, positions.of(planes.of_one_channel.all(begin)).run(0), next_term,
                       [&](int64_t i, A s1, A s2) NK_LAMBDA { of_plane[i] = {double(s1), double(s2)}; });
  }

  // The sums of every channel of a slab.
  template <class G>
  void sum_channels(const Gradient<G>& g, int64_t slab, ParallelFor parallel_for) const {
    const SlabStats<A> stats = slab_stats<A>(args.stats, slab);
    const int64_t channels = planes.channels_per_slab, plane = args.shape.n_positions;
    const int64_t begin = planes.begin(slab), blocks = planes.of_one_channel.count();
    Sums* const of_channel = sums + slab * channels;
    if (short_planes.are_there() && plane == 1) return sums_of_values(g, stats, begin, planes.first_channel(slab), of_channel);
    if (blocks == 1) {
      for_range(parallel_for, 0, channels, grain_for(plane), [&](int64_t first, int64_t last) {
        const int64_t c = planes.first_channel(slab);
        if (planes_are_few) return sum_planes(g, begin + first * plane, last - first, slab, 0, c + first, of_channel + first);
        for (int64_t i = first; i < last; ++i) {
          of_channel[i] = sums_of(g, stats, planes.of_one_channel.all(begin + i * plane), c + i);
        }
      });
      return;
    }
    const Memory<Sums> memory(channels * blocks);
    Sums* const parts = memory.data();
    for_range(parallel_for, 0, channels * blocks, 1, [&](int64_t first, int64_t last) {
      for (int64_t i = first; i < last; ++i) {
        const Runs block = planes.of_one_channel.at(begin + i / blocks * plane, i % blocks);
        parts[i] = sums_of(g, stats, block, planes.first_channel(slab) + i / blocks);
      }
    });
    for (int64_t c = 0; c < channels; ++c) {
      of_channel[c] = Sums();
      for (int64_t i = 0; i < blocks; ++i) of_channel[c].add(parts[c * blocks + i]);
    }
  }

  // s1 = mean(w * dy), s2 = mean(w * dy * x_hat) over the slab, which begins with that channel; without w where it is one
  // channel.
  Sums means(int64_t slab, int64_t first_channel) const {
    const int64_t channels = planes.channels_per_slab;
    Sums total;
    if (args.constant_stats) return total;
    for (int64_t c = 0; c < channels; ++c) {
      const Sums of_channel = sums[slab * channels + c];
      const double wc = one_channel ? 1.0 : double(weight(first_channel + c));
      total.add({wc * of_channel.s1, wc * of_channel.s2});
    }
    return {total.s1 * per_n, total.s2 * per_n};
  }

  template <class G>
  void dx_of_runs(const Gradient<G>& g, const Runs& runs, const SlabStats<A>& stats, Sums mean, int64_t first_channel) const {
    const auto kept = positions.of(runs);
    const int64_t c = first_channel + runs.first * planes.channel_step(), step = planes.channel_step();
    ChannelOfDx k = channel_of_dx(stats, mean, c);
    for (int64_t i = 0; i < runs.count; ++i) {
      const int64_t r = planes.turn(i, runs.count, 2 * sizeof(T));
      const Ahead ahead = {planes.ahead(i, runs, 2 * sizeof(T)), next_slabs};
      if (step != 0) change_channel(k, stats, c + r * step);
      dx_of_run(g, runs.begin + r * runs.stride, ahead, runs.length, kept.run(r), k);
    }
  }

  // Of a slab of planes shorter than a vector, as one run.
  template <class G>
  void dx_of_short(const Gradient<G>& g, int64_t begin, const SlabStats<A>& stats, Sums mean, int64_t c) const {
    const GradientTerms<A> terms = gradient_terms(stats, 1.0, one_channel, mean);
    const Vec<A> of_d = splat(terms.of_d), rest = splat(terms.rest);
    const Vec<A> m0 = splat(stats.m0), dm = splat(stats.dm), rstd = splat(stats.rstd);
    const auto all = positions.of(planes.joined.all(begin)).run(0);
    const auto dx_at = [&](Vec<A> dy, Vec<A> d, Vec<A> scale) NK_LAMBDA { return fma(d, of_d, fma(dy, scale, rest)); };
    if (!activated.is_relu()) {
      map_run<T>(
          dx + begin, {kFetchAhead, 0}, planes.slab_size, all, past,
          [&](Vec<A> dy, Vec<A> v, Vec<A> wv) NK_LAMBDA { return dx_at(dy, (v - m0) - dm, rstd * wv); }, g.at(begin), x + begin,
          short_planes.w(c));
    } else {
      map_run<T>(
          dx + begin, {kFetchAhead, 0}, planes.slab_size, all, past,
          [&](Vec<A> dy, Vec<A> v, Vec<A> wv, Vec<A> bv) NK_LAMBDA {
            const Vec<A> d = (v - m0) - dm, scale = rstd * wv;
            return dx_at(where_above_zero(fma(d, scale, bv), dy), d, scale);
          },
          g.at(begin), x + begin, short_planes.w(c), short_planes.b(c));
    }
  }

  // What dx is found by, in one channel.
  struct ChannelOfDx {
    ChannelOfPlanes<A> k;
    Vec<A> of_dy, of_d, rest;
    NK_MEMBER Vec<A> dx(Vec<A> dy, Vec<A> d) const { return fma(d, of_d, fma(dy, of_dy, rest)); }
  };
  NK_MEMBER ChannelOfDx channel_of_dx(const SlabStats<A>& stats, Sums mean, int64_t c) const {
    const GradientTerms<A> terms = gradient_terms(stats, double(weight(c)), one_channel, mean);
    const ChannelOfPlanes<A> k = channel(stats, c);
    return {k, args.constant_stats ? k.scale : splat(terms.of_dy), splat(terms.of_d), splat(terms.rest)};
  }
  // To another one of the same slab.
  NK_MEMBER void change_channel(ChannelOfDx& of, const SlabStats<A>& stats, int64_t c) const {
    of.k.change(stats, weight(c), b.values()[c * b.step()]);
    of.of_dy = args.constant_stats ? of.k.scale : splat(A(double(weight(c)) * double(stats.rstd)));
  }

  template <class G, class Kept>
  NK_MEMBER void dx_of_run(const Gradient<G>& g, int64_t begin, Ahead ahead, int64_t length, const Kept& kept,
                           const ChannelOfDx& of) const {
    const G* const from = g.at(begin);
    const ChannelOfPlanes<A>& k = of.k;
    if (args.constant_stats) {  // nothing times x: it may be infinite
      if (!activated.is_relu()) {
        map_run<T>(dx + begin, ahead, length, kept, past, [&](Vec<A> dy) NK_LAMBDA { return dy * of.of_dy; }, from);
      } else {
        map_run<T>(
            dx + begin, ahead, length, kept, past,
            [&](Vec<A> dy, Vec<A> v) NK_LAMBDA { return where_above_zero(k.z(v), dy) * of.of_dy; }, from, x + begin);
      }
    } else if (!activated.is_relu()) {
      const auto dx_at = [&](Vec<A> dy, Vec<A> v) NK_LAMBDA { return of.dx(dy, (v - k.m0) - k.dm); };
      map_run<T>(dx + begin, ahead, length, kept, past, dx_at, from, x + begin);
    } else {
      const auto dx_at = [&](Vec<A> dy, Vec<A> v) NK_LAMBDA {
        const Vec<A> d = (v - k.m0) - k.dm;
        return of.dx(where_above_zero(fma(d, k.scale, k.bias), dy), d);
      };
      map_run<T>(dx + begin, ahead, length, kept, past, dx_at, from, x + begin);
    }
  }

  // A slab whose rstd has left the range of A, in double.
  __attribute__((noinline)) void slab_exactly(int64_t slab) const {
    const ExactStats stats = args.constant_stats
                                 ? exactly(slab_stats<A>(args.stats, slab), args.eps)
                                 : exact_planes(x, planes.joined.all(planes.begin(slab)), positions, args.eps);
    const int64_t channels = planes.channels_per_slab;
    const auto runs_of = [&](int64_t c) {
      Runs runs = planes.of_one_channel.all(planes.begin(slab));
      runs.begin += c * args.shape.n_positions;
      return runs;
    };
    // dy, through the activation if there is one.
    const auto g_at = [&](int64_t i, int64_t c) {
      const int64_t at = planes.first_channel(slab) + c;
      const double z = careful_x_hat(value_at(x + i), stats.x_hat) * double(weight(at)) + double(b.values()[at * b.step()]);
      return activated.through(value_at(dy + i), z);
    };
    if (wants_sums) {
      for (int64_t c = 0; c < channels; ++c) {
        Sums total;
        each_offset(runs_of(c), positions, [&](int64_t i) {
          const double g = g_at(i, c);
          total.add({g, g * careful_x_hat(value_at(x + i), stats.x_hat)});
        });
        sums[slab * channels + c] = total;
      }
    }
    if (dx == nullptr) return;
    const Sums mean = means(slab, planes.first_channel(slab));
    for (int64_t c = 0; c < channels; ++c) {
      const double wc = double(weight(planes.first_channel(slab) + c));
      each_offset(
          runs_of(c), positions,
          [&](int64_t i) {
            const double x_hat = careful_x_hat(value_at(x + i), stats.x_hat);
            const double inner = g_at(i, c) * (one_channel ? 1.0 : wc) - mean.s1 - x_hat * mean.s2;
            put_item(dx + i, inner * (one_channel ? wc : 1.0) * stats.x_hat.rstd * stats.x_hat.scale);
          },
          [&](int64_t i) { put_item(dx + i, 0.0); });
    }
  }

  // Slabs of one plane each.
  template <class G>
  void planes_of(const Gradient<G>& g, int64_t first, int64_t count) const {
    const int64_t channels = args.shape.n_channels, plane = args.shape.n_positions;
    if (wants_sums) {
      if (planes_are_few) {
        sum_planes(g, first * plane, count, first, 1, first % channels, sums + first);
      } else {
        for (int64_t i = first; i < first + count; ++i) sum_channels(g, i, one_after_the_other);
      }
    }
    const auto kept = positions.of(planes.of_one_channel.all(first * plane)).run(0);
    for (int64_t i = first, c = first % channels; i < first + count; ++i, c = c + 1 < channels ? c + 1 : 0) {
      const SlabStats<A> stats = slab_stats<A>(args.stats, i);
      if (!within_range_backward(stats)) {
        slab_exactly(i);
      } else if (dx != nullptr) {
        dx_of_run(g, i * plane, {kFetchAhead, next_slabs}, plane, kept, channel_of_dx(stats, means(i, c), c));
      }
    }
  }

  template <class G>
  void slabs_of(const Gradient<G>& g, int64_t first, int64_t count, ParallelFor parallel_for) const {
    if (planes.are_slabs()) return planes_of(g, first, count);
    for (int64_t slab = first; wants_sums && slab < first + count; ++slab) sum_channels(g, slab, parallel_for);
    for (int64_t slab = first; slab < first + count; ++slab) {
      const SlabStats<A> stats = slab_stats<A>(args.stats, slab);
      if (!within_range_backward(stats)) {
        slab_exactly(slab);
        continue;
      }
      if (dx == nullptr || one_sweep) continue;
      const int64_t c = planes.first_channel(slab);
      const Sums mean = means(slab, c);
      if (short_planes.are_there()) {
        dx_of_short(g, planes.begin(slab), stats, mean, c);
        continue;
      }
      const Blocks& blocks = planes.by_channel;
      for_range(parallel_for, 0, blocks.count(), 1, [&](int64_t from, int64_t to) {
        for (int64_t i = to - 1; i >= from; --i) dx_of_runs(g, blocks.at(planes.begin(slab), i), stats, mean, c);
      });
    }
  }

  void some_slabs(int64_t first, int64_t count, ParallelFor parallel_for) const {
    const int64_t size = args.shape.size();
    if (!activated.is_curve()) return slabs_of(Gradient<T>{dy, 0, dy + size}, first, count, parallel_for);
    // A curve is taken once: what comes of it waits in dx, or in memory of a slab's own.
    const int64_t slab_size = planes.slab_size, from = whole == nullptr ? planes.begin(first) : 0;
    const Memory<A> memory(whole == nullptr ? count * slab_size : 1);
    A* const to = whole == nullptr ? memory.data() : whole;
    for (int64_t slab = first; slab < first + count; ++slab) slab_through_curve(slab, to, from, parallel_for);
    slabs_of(Gradient<A>{to, from, to + (whole == nullptr ? count * slab_size : size)}, first, count, parallel_for);
  }
};

template <class T, class Positions>
static void planes_backward_of(const ChannelBackward& a, const Positions& positions, Sums* channel_sums) {
  using A = Compute<T>;
  PlanesBackward<T, Positions> backward(a, positions, channel_sums);
  const bool in_dx = sizeof(T) == sizeof(A) && a.dx != nullptr;
  const bool curve_over_batch = backward.activated.is_curve() && a.shape.over_batch();
  const Memory<A> memory(curve_over_batch && !in_dx ? a.shape.size() : 1);
  if (in_dx) backward.whole = static_cast<A*>(a.dx);
  if (curve_over_batch && !in_dx) backward.whole = memory.data();
  for_each_slab<T>(backward, backward.planes, a.parallel_for);
}
