// BatchNorm, GroupNorm and InstanceNorm backward over planes. Included by kernels_impl.h.
//
// Scalar math, with means over the slab:
//   x_hat = ((x - m0) - dm) * rstd;  db = sum(dy), dw = sum(dy * x_hat)
//   dx = (w * dy - mean(w * dy) - x_hat * mean(w * dy * x_hat)) * rstd
// Where statistics were given, they do not depend on x: dx = dy * (w * rstd).
// With an activation, dy * a'(z) takes the place of dy, with z = ((x - m0) - dm) * (rstd * w) + b as in the forward.

template <class T>
struct PlanesBackward {
  using A = Compute<T>;
  const ChannelBackward& args;
  Planes planes;
  const T* dy;
  const T* x;
  T* dx;
  Param<A> w;
  Param<A> b;
  Activated<A> activated;
  double per_n;
  bool one_channel;
  bool wants_sums;
  Sums* sums;  // s1 = db, s2 = dw of each channel of each slab

  PlanesBackward(const ChannelBackward& a, Sums* channel_sums)
      : args(a),
        planes(a.shape),
        dy(static_cast<const T*>(a.dy)),
        x(static_cast<const T*>(a.x)),
        dx(static_cast<T*>(a.dx)),
        w(a.w, a.shape.n_channels, 1),
        b(a.b, a.shape.n_channels, A(-0.0)),
        activated(a.activation),
        per_n(1.0 / double(a.shape.slab_size())),
        one_channel(a.shape.over_batch()),
        wants_sums(channel_sums != nullptr),
        sums(channel_sums) {}

  NK_MEMBER A weight(int64_t c) const { return w.values()[c * w.step()]; }

  // What z is found by, in one channel.
  struct Channel {
    Vec<A> m0, dm, scale, bias;
    NK_MEMBER Vec<A> z(Vec<A> x) const { return fma((x - m0) - dm, scale, bias); }
  };
  NK_MEMBER Channel channel(const SlabStats<A>& stats, int64_t c) const {
    return {splat(stats.m0), splat(stats.dm), splat(A(stats.rstd * weight(c))), splat(b.values()[c * b.step()])};
  }

  // The sums over runs of channel c.
  Sums sums_of(const SlabStats<A>& stats, const Runs& runs, int64_t c) const {
    return args.activation == Activation::kNone ? sums_of_plain(stats, runs) : sums_of_activated(stats, runs, c);
  }

  Sums sums_of_activated(const SlabStats<A>& stats, const Runs& runs, int64_t c) const {
    struct Term {
      const T* dy;
      const T* x;
      const T* x_end;
      const T* dy_end;
      const Channel& k;
      const Activated<A>& activated;
      Vec<A> rstd;
      Lanes<A> tail;
      NK_MEMBER Pair<A> of(Vec<A> g, Vec<A> v) const {
        return {g * activated.slope(k.z(v)), ((v - k.m0) - k.dm) * rstd};
      }
      NK_MEMBER Pair<A> operator()(int64_t at) const { return of(load(dy + at), load(x + at)); }
      NK_MEMBER Pair<A> operator()(int64_t at, int n) const {
        const Pair<A> all = of(load_rest(dy + at, n, dy_end), load_rest(x + at, n, x_end));
        return {keep(all.p, tail), keep(all.q, tail)};
      }
    };
    const Channel k = channel(stats, c);
    const int tail = int(runs.length % kLanes);
    return sum_over_runs<A>(runs, Term{dy, x, x + args.shape.size(), dy + args.shape.size(), k, activated,
                                       splat(stats.rstd), first_lanes<A>(tail)});
  }

  Sums sums_of_plain(const SlabStats<A>& stats, const Runs& runs) const {
    struct Term {
      const T* dy;
      const T* x;
      const T* x_end;
      const T* dy_end;
      Vec<A> m0;
      Vec<A> dm;
      Vec<A> rstd;
      Lanes<A> tail;
      NK_MEMBER Pair<A> operator()(int64_t at) const {
        return {load(dy + at), ((load(x + at) - m0) - dm) * rstd};
      }
      NK_MEMBER Pair<A> operator()(int64_t at, int n) const {
        const Vec<A> g = load_rest(dy + at, n, dy_end), v = load_rest(x + at, n, x_end);
        return {keep(g, tail), keep(((v - m0) - dm) * rstd, tail)};
      }
    };
    const int tail = int(runs.length % kLanes);
    return sum_over_runs<A>(runs, Term{dy, x, x + args.shape.size(), dy + args.shape.size(), splat(stats.m0),
                                       splat(stats.dm), splat(stats.rstd), first_lanes<A>(tail)});
  }

  // The sums of every channel of a slab.
  void sum_channels(int64_t slab, ParallelFor parallel_for) const {
    const SlabStats<A> stats = slab_stats<A>(args.stats, slab);
    const int64_t channels = args.shape.channels_per_slab(), plane = args.shape.n_positions;
    const int64_t begin = planes.begin(slab), blocks = planes.of_one_channel.count();
    Sums* const of_channel = sums + slab * channels;
    if (blocks == 1) {
      for_range(parallel_for, 0, channels, grain_for(plane), [&](int64_t first, int64_t last) {
        for (int64_t c = first; c < last; ++c) {
          of_channel[c] = sums_of(stats, planes.of_one_channel.all(begin + c * plane), planes.first_channel(slab) + c);
        }
      });
      return;
    }
    const Memory<Sums> memory(channels * blocks);
    Sums* const parts = memory.data();
    for_range(parallel_for, 0, channels * blocks, 1, [&](int64_t first, int64_t last) {
      for (int64_t i = first; i < last; ++i) {
        const Runs block = planes.of_one_channel.at(begin + i / blocks * plane, i % blocks);
        parts[i] = sums_of(stats, block, planes.first_channel(slab) + i / blocks);
      }
    });
    for (int64_t c = 0; c < channels; ++c) {
      of_channel[c] = Sums();
      for (int64_t i = 0; i < blocks; ++i) of_channel[c].add(parts[c * blocks + i]);
    }
  }

  // s1 = mean(w * dy), s2 = mean(w * dy * x_hat) over the slab; without w where it is one channel.
  Sums means(int64_t slab) const {
    const int64_t channels = args.shape.channels_per_slab();
    Sums total;
    if (args.constant_stats) return total;
    for (int64_t c = 0; c < channels; ++c) {
      const Sums of_channel = sums[slab * channels + c];
      const double wc = one_channel ? 1.0 : double(weight(planes.first_channel(slab) + c));
      total.add({wc * of_channel.s1, wc * of_channel.s2});
    }
    return {total.s1 * per_n, total.s2 * per_n};
  }

  void dx_of_runs(const Runs& runs, const SlabStats<A>& stats, Sums mean, int64_t first_channel) const {
    for (int64_t k = 0; k < runs.count; ++k) {
      const int64_t r = planes.turn(k, runs.count, 2 * sizeof(T));
      dx_of_run(runs.begin + r * runs.stride, runs.length, stats, mean,
                first_channel + (runs.first + r) * planes.channel_step());
    }
  }

  NK_MEMBER void dx_of_run(int64_t begin, int64_t length, const SlabStats<A>& stats, Sums mean, int64_t c) const {
    if (args.constant_stats && args.activation == Activation::kNone) {
      const Vec<A> scale = splat(A(weight(c) * stats.rstd));
      map_run<T>(dx + begin, length, [&](Vec<A> g) NK_LAMBDA { return g * scale; }, dy + begin);
      return;
    }
    const GradientTerms<A> terms = gradient_terms(stats, double(weight(c)), one_channel, mean);
    const Vec<A> of_dy = splat(terms.of_dy), of_d = splat(terms.of_d), rest = splat(terms.rest);
    const Channel k = channel(stats, c);
    if (args.activation == Activation::kNone) {
      const auto dx_at = [&](Vec<A> g, Vec<A> v) NK_LAMBDA { return fma((v - k.m0) - k.dm, of_d, fma(g, of_dy, rest)); };
      map_run<T>(dx + begin, length, dx_at, dy + begin, x + begin);
    } else {
      const auto dx_at = [&](Vec<A> g, Vec<A> v) NK_LAMBDA {
        return fma((v - k.m0) - k.dm, of_d, fma(g * activated.slope(k.z(v)), of_dy, rest));
      };
      map_run<T>(dx + begin, length, dx_at, dy + begin, x + begin);
    }
  }

  // A slab whose rstd has left the range of A, in double.
  __attribute__((noinline)) void slab_exactly(int64_t slab) const {
    const Runs all = planes.joined.all(planes.begin(slab));
    const ExactStats stats =
        args.constant_stats
            ? exactly(slab_stats<A>(args.stats, slab), args.eps)
            : exact_stats(x, all.size(), args.eps, [&](const auto& visit) { each_offset(all, visit); });
    const int64_t channels = args.shape.channels_per_slab();
    const auto runs_of = [&](int64_t c) {
      Runs runs = planes.of_one_channel.all(planes.begin(slab));
      runs.begin += c * args.shape.n_positions;
      return runs;
    };
    // dy, through the activation if there is one.
    const auto g_at = [&](int64_t i, int64_t c) {
      const double g = value_at(dy + i), bc = double(b.values()[(planes.first_channel(slab) + c) * b.step()]);
      if (args.activation == Activation::kNone) return g;
      const double wc = double(weight(planes.first_channel(slab) + c));
      return g * activated.slope(careful_x_hat(value_at(x + i), stats.x_hat) * wc + bc);
    };
    if (wants_sums) {
      for (int64_t c = 0; c < channels; ++c) {
        Sums total;
        each_offset(runs_of(c), [&](int64_t i) {
          const double g = g_at(i, c);
          total.add({g, g * careful_x_hat(value_at(x + i), stats.x_hat)});
        });
        sums[slab * channels + c] = total;
      }
    }
    if (dx == nullptr) return;
    const Sums mean = means(slab);
    for (int64_t c = 0; c < channels; ++c) {
      const double wc = double(weight(planes.first_channel(slab) + c));
      each_offset(runs_of(c), [&](int64_t i) {
        const double x_hat = careful_x_hat(value_at(x + i), stats.x_hat);
        const double inner = g_at(i, c) * (one_channel ? 1.0 : wc) - mean.s1 - x_hat * mean.s2;
        put_item(dx + i, inner * (one_channel ? wc : 1.0) * stats.x_hat.rstd * stats.x_hat.scale);
      });
    }
  }

  void some_slabs(int64_t first, int64_t count, ParallelFor parallel_for) const {
    for (int64_t slab = first; wants_sums && slab < first + count; ++slab) sum_channels(slab, parallel_for);
    for (int64_t slab = first; slab < first + count; ++slab) {
      const SlabStats<A> stats = slab_stats<A>(args.stats, slab);
      if (!within_range_backward(stats)) {
        slab_exactly(slab);
        continue;
      }
      if (dx == nullptr) continue;
      const Sums mean = means(slab);
      const Blocks& blocks = planes.by_channel;
      for_range(parallel_for, 0, blocks.count(), 1, [&](int64_t from, int64_t to) {
        for (int64_t i = to - 1; i >= from; --i) {
          dx_of_runs(blocks.at(planes.begin(slab), i), stats, mean, planes.first_channel(slab));
        }
      });
    }
  }
};

template <class T>
static void planes_backward(const ChannelBackward& a, Sums* channel_sums) {
  const PlanesBackward<T> backward(a, channel_sums);
  for_each_slab<T>(backward, backward.planes, a.parallel_for);
}
