// BatchNorm over planes of which only some positions count. Included by kernels_impl.h.
//
// A word for every position of the batch, [samples, positions], has all bits set where it counts and none where not, and
// is combined with what is computed there: so NaN ends at the padding. The mathematics is that of planes_forward.h and
// planes_backward.h, with the number of positions that count for n.

// The words, for vectors of a run of values that begins at `begin`, of which `first` is the first position.
template <class A>
struct KeptRun {
  const A* words;
  NK_MEMBER Lanes<A> at(int64_t j) const {
    Lanes<A> lanes;
    __builtin_memcpy(&lanes, words + j, sizeof lanes);
    return lanes;
  }
  NK_MEMBER Lanes<A> at(int64_t j, int n) const {
    A few[kLanes] = {};
    copy_few(few, words + j, n);
    Lanes<A> lanes;
    __builtin_memcpy(&lanes, few, sizeof lanes);
    return lanes;
  }
  NK_MEMBER bool one(int64_t j) const {
    unsigned char first;  // of a word whose bytes are all equal
    __builtin_memcpy(&first, words + j, 1);
    return first != 0;
  }
};

template <class A>
class KeptPositions {
 public:
  static constexpr int kSamples = 16;

  KeptPositions(const ChannelShape& shape, const Kept& kept)
      : words_(static_cast<const A*>(kept.words)), plane_(shape.n_positions), sample_(shape.n_positions * shape.n_channels) {
    const int64_t n = shape.n_samples * plane_;
    const KeptRun<A> all{words_};
    for (int i = 0; i < kSamples; ++i) {
      int64_t at = n * i / kSamples;
      while (!all.one(at)) at = at + 1 < n ? at + 1 : 0;
      samples_[i] = at / plane_ * sample_ + at % plane_;
    }
  }

  // Of the run that begins there.
  NK_MEMBER KeptRun<A> run(int64_t begin) const { return {words_ + begin / sample_ * plane_ + begin % plane_}; }

  // The mean of 16 values that count in a channel, from all over the batch.
  template <class T>
  NK_MEMBER A sample_mean(const T* channel) const {
    T values[kSamples];
    for (int i = 0; i < kSamples; ++i) values[i] = channel[samples_[i]];
    return sum(load(values)) * (A(1) / A(kSamples));
  }

 private:
  const A* words_;
  int64_t plane_;
  int64_t sample_;  // from one sample of x to the next
  int64_t samples_[kSamples];
};

// As sum_over_runs(), of the pairs that term(offset, lanes) and term(offset, lanes, n) give for what counts. A lane adds up
// 16 terms in A before it goes on in double.
template <class A, class Term>
NK_INLINE Sums sum_over_kept(const Runs& runs, const KeptPositions<A>& kept, const Term& term) {
  constexpr int64_t kChain = 32 * kLanes;  // two chains of 16
  Vec<double> total1 = zeros<double>(), total2 = total1;
  for (int64_t r = 0; r < runs.count; ++r) {
    const int64_t begin = runs.begin + r * runs.stride;
    const KeptRun<A> words = kept.run(begin);
    for (int64_t j = 0; j < runs.length;) {
      const int64_t stop = runs.length - j < kChain ? runs.length : j + kChain;
      Vec<A> a1 = zeros<A>(), a2 = a1, b1 = a1, b2 = a1;
      for (; j + 2 * kLanes <= stop; j += 2 * kLanes) {
        const Pair<A> a = term(begin + j, words.at(j)), b = term(begin + j + kLanes, words.at(j + kLanes));
        a1 = a1 + a.p;
        a2 = fma(a.p, a.q, a2);
        b1 = b1 + b.p;
        b2 = fma(b.p, b.q, b2);
      }
      if (j + kLanes <= stop) {
        const Pair<A> a = term(begin + j, words.at(j));
        a1 = a1 + a.p;
        a2 = fma(a.p, a.q, a2);
        j += kLanes;
      }
      if (j < stop) {
        const int n = int(stop - j);
        const Pair<A> b = term(begin + j, words.at(j, n), n);
        b1 = b1 + b.p;
        b2 = fma(b.p, b.q, b2);
        j = stop;
      }
      total1 = total1 + widen(a1 + b1);
      total2 = total2 + widen(a2 + b2);
    }
  }
  return {sum(total1), sum(total2)};
}

// to[i] = fn(from[i]...) where the position counts, else 0.
template <class T, class Fn, class... From>
NK_INLINE void map_kept(T* to, int64_t length, KeptRun<Compute<T>> words, const Fn& fn, const From*... from) {
  int64_t j = 0;
  for (; j + kLanes <= length; j += kLanes) store(to + j, keep(fn(load(from + j)...), words.at(j)));
  if (j < length) {
    const int n = int(length - j);
    store_first(to + j, keep(fn(load_first(from + j, n)...), words.at(j, n)), n);
  }
}

// Calls visit(offset) for each value of the slab that counts, and otherwise(offset) for the others.
template <class A, class Visit, class Otherwise>
NK_INLINE void each_kept(const Runs& runs, const KeptPositions<A>& kept, const Visit& visit, const Otherwise& otherwise) {
  for (int64_t r = 0; r < runs.count; ++r) {
    const int64_t begin = runs.begin + r * runs.stride;
    const KeptRun<A> words = kept.run(begin);
    for (int64_t j = 0; j < runs.length; ++j) words.one(j) ? visit(begin + j) : otherwise(begin + j);
  }
}

template <class A, class T>
static ExactStats exact_kept(const T* x, int64_t n, double eps, const Runs& runs, const KeptPositions<A>& kept) {
  return exact_stats(x, n, eps, [&](const auto& visit) { each_kept(runs, kept, visit, [](int64_t) {}); });
}

template <class T>
struct MaskedPlanesForward {
  using A = Compute<T>;
  const ChannelForward& args;
  Planes planes;
  KeptPositions<A> kept;
  const T* x;
  const T* residual;
  T* y;
  Param<A> w;
  Param<A> b;
  Activated<A> activated;
  double per_n;

  explicit MaskedPlanesForward(const ChannelForward& a)
      : args(a),
        planes(a.shape),
        kept(a.shape, a.kept),
        x(static_cast<const T*>(a.x)),
        residual(static_cast<const T*>(a.residual)),
        y(static_cast<T*>(a.y)),
        w(a.w, a.shape.n_channels, 1),
        b(a.b, a.shape.n_channels, A(-0.0)),
        activated(a.activation),
        per_n(1.0 / double(a.kept.count)) {}

  Sums sums_about(A shift, int64_t slab, ParallelFor parallel_for) const {
    struct Term {
      const T* x;
      Vec<A> shift;
      NK_MEMBER Pair<A> operator()(int64_t at, Lanes<A> lanes) const {
        const Vec<A> d = keep(load(x + at) - shift, lanes);
        return {d, d};
      }
      NK_MEMBER Pair<A> operator()(int64_t at, Lanes<A> lanes, int n) const {
        const Vec<A> d = keep(load_first(x + at, n) - shift, lanes);
        return {d, d};
      }
    };
    return sum_of_blocks(planes.by_channel, planes.begin(slab), parallel_for,
                         [&](const Runs& block) { return sum_over_kept<A>(block, kept, Term{x, splat(shift)}); });
  }

  ExactStats exact(int64_t slab) const {
    return exact_kept<A>(x, args.kept.count, args.eps, planes.by_channel.all(planes.begin(slab)), kept);
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

  NK_MEMBER void normalize_run(int64_t begin, int64_t length, const SlabStats<A>& stats, int64_t c) const {
    const Vec<A> m0 = splat(stats.m0), dm = splat(stats.dm);
    const Vec<A> scale = splat(A(stats.rstd * w.values()[c * w.step()])), bias = splat(b.values()[c * b.step()]);
    const KeptRun<A> words = kept.run(begin);
    if (residual != nullptr) {
      const Vec<A> least = splat(least_of<A>(args.activation));
      map_kept<T>(
          y + begin, length, words,
          [&](Vec<A> v, Vec<A> r) NK_LAMBDA { return add_above(fma((v - m0) - dm, scale, bias), r, least); }, x + begin,
          residual + begin);
    } else if (args.activation == Activation::kNone) {
      map_kept<T>(
          y + begin, length, words, [&](Vec<A> v) NK_LAMBDA { return fma((v - m0) - dm, scale, bias); }, x + begin);
    } else {
      map_kept<T>(
          y + begin, length, words,
          [&](Vec<A> v) NK_LAMBDA { return activated.value(fma((v - m0) - dm, scale, bias)); }, x + begin);
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
          put_item(y + i, args.activation == Activation::kNone ? z : activated.value(z));
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
          for (int64_t k = 0; k < runs.count; ++k) {
            const int64_t r = planes.turn(k, runs.count, sizeof(T));
            normalize_run(runs.begin + r * runs.stride, runs.length, stats, slab);
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
  KeptPositions<A> kept;
  const T* dy;
  const T* x;
  T* dx;
  Param<A> w;
  Param<A> b;
  Activated<A> activated;
  double per_n;
  Sums* sums;  // s1 = db, s2 = dw of each channel

  MaskedPlanesBackward(const ChannelBackward& a, Sums* channel_sums)
      : args(a),
        planes(a.shape),
        kept(a.shape, a.kept),
        dy(static_cast<const T*>(a.dy)),
        x(static_cast<const T*>(a.x)),
        dx(static_cast<T*>(a.dx)),
        w(a.w, a.shape.n_channels, 1),
        b(a.b, a.shape.n_channels, A(-0.0)),
        activated(a.activation),
        per_n(1.0 / double(a.kept.count)),
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
    if constexpr (kActivated) return g * activated.slope(fma(d, k.scale, k.bias));
    return g;
  }

  template <bool kActivated>
  struct Term {
    const MaskedPlanesBackward& of;
    const Channel& k;
    NK_MEMBER Pair<A> pair(Vec<A> g, Vec<A> v, Lanes<A> lanes) const {
      const Vec<A> d = k.centred(v);
      return {keep(of.template through<kActivated>(g, d, k), lanes), keep(d * k.rstd, lanes)};
    }
    NK_MEMBER Pair<A> operator()(int64_t at, Lanes<A> lanes) const { return pair(load(of.dy + at), load(of.x + at), lanes); }
    NK_MEMBER Pair<A> operator()(int64_t at, Lanes<A> lanes, int n) const {
      return pair(load_first(of.dy + at, n), load_first(of.x + at, n), lanes);
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
        for (int64_t n = 0; n < runs.count; ++n) {
          const int64_t begin = runs.begin + planes.turn(n, runs.count, 2 * sizeof(T)) * runs.stride;
          map_kept<T>(
              dx + begin, runs.length, kept.run(begin),
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
    const ExactStats stats = exact_kept<A>(x, args.kept.count, args.eps, all, kept);
    const double wc = double(w.values()[slab * w.step()]), bc = double(b.values()[slab * b.step()]);
    const auto x_hat = [&](int64_t i) { return careful_x_hat(value_at(x + i), stats.x_hat); };
    const auto g_at = [&](int64_t i) {
      const double g = value_at(dy + i);
      return args.activation == Activation::kNone ? g : g * activated.slope(x_hat(i) * wc + bc);
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
static void masked_planes_forward(const ChannelForward& a) {
  const MaskedPlanesForward<T> forward(a);
  for_each_slab<T>(forward, forward.planes, a.parallel_for);
}

template <class T>
static void masked_planes_backward(const ChannelBackward& a, Sums* channel_sums) {
  const MaskedPlanesBackward<T> backward(a, channel_sums);
  for_each_slab<T>(backward, backward.planes, a.parallel_for);
}
