// BatchNorm, GroupNorm and InstanceNorm backward over pixels; the mathematics as in planes_backward.h. Included by
// isa/*.cpp.

template <class T, class Rows>
struct PixelsBackward {
  using A = Compute<T>;
  const ChannelBackward& args;
  const Rows& rows;
  Pixels pixels;
  Param<A> w;
  Param<A> b;
  Activated<A> activated;
  int64_t slab_size;  // values that count
  double per_n;
  bool one_channel;
  bool past;   // whether dx is written past the caches: not where what a curve gave waits in it
  Sums* sums;  // s1 = db, s2 = dw of each channel of each image; null if nobody wants them

  PixelsBackward(const ChannelBackward& a, const Rows& which_count, Sums* channel_sums)
      : args(a),
        rows(which_count),
        pixels(a.shape, which_count),
        w(a.w, a.shape.n_channels, 1),
        b(a.b, a.shape.n_channels, A(-0.0)),
        activated(a.activation),
        slab_size(rows.count() * pixels.group),
        per_n(1.0 / double(slab_size)),
        one_channel(a.shape.over_batch()),
        past(past_caches<T>(a.shape.size_in_all()) && !activated.is_curve()),
        sums(channel_sums) {}

  NK_MEMBER double bias(int64_t c) const { return double(b.values()[c * b.step()]); }
  NK_MEMBER double weight(int64_t c) const { return double(w.values()[c * w.step()]); }

  template <class U>
  U* image_of(U* data, int64_t image) const {
    return data + image * pixels.n_pixels * args.shape.n_channels;
  }

  // Columns of what the kernels multiply with.
  struct Columns {
    A *m0, *dm, *rstd, *scale, *bias, *of_dy, *of_d, *rest;
    static constexpr int64_t kCount = 8;
    Columns(A* memory, int64_t padded)
        : m0(memory),
          dm(m0 + padded),
          rstd(dm + padded),
          scale(rstd + padded),
          bias(scale + padded),
          of_dy(bias + padded),
          of_d(of_dy + padded),
          rest(of_d + padded) {}
  };

  // dy, or where relu is flat 0; d = (x - m0) - dm.
  template <bool kRelu>
  NK_MEMBER static Vec<A> through(Vec<A> g, Vec<A> d, const Columns& k, int64_t j) {
    if constexpr (kRelu) return where_above_zero(fma(d, load(k.scale + j), load(k.bias + j)), g);
    return g;
  }

  // dy is of T or, once it has gone through a curve, of A.
  template <bool kRelu, class G>
  struct Term {
    const G* dy;
    const T* x;
    Columns k;
    struct Stats {
      Vec<A> m0, dm, rstd;
      int64_t column;
    };
    NK_MEMBER Stats at(int64_t j) const { return {load(k.m0 + j), load(k.dm + j), load(k.rstd + j), j}; }
    static constexpr int64_t kLine = line_of<G>;
    NK_MEMBER void fetch(int64_t i) const {
      prefetch(dy + i);
      prefetch(x + i);
    }
    NK_MEMBER Pair<A> operator()(const Stats& stats, int64_t i) const {
      const Vec<A> d = (load(x + i) - stats.m0) - stats.dm;
      return {through<kRelu>(load(dy + i), d, k, stats.column), d * stats.rstd};
    }
    NK_MEMBER Pair<A> operator()(const Stats& stats, int64_t i, int n) const {
      const Vec<A> d = (load_some(x + i, n) - stats.m0) - stats.dm;
      const Vec<A> g = through<kRelu>(load_some(dy + i, n), d, k, stats.column);
      return {keep(g, first_lanes<A>(n)), keep(d * stats.rstd, first_lanes<A>(n))};
    }
  };

  // to = dy * a'(z) of an image, for an activation that is a curve.
  void image_through_curve(const T* dy, const T* x, const Columns& k, A* to, ParallelFor parallel_for) const {
    for_range(parallel_for, 0, pixels.parts(), 1, [&](int64_t first, int64_t last) {
      const Memory<A> memory(pixels.padded());
      A* const z = memory.data();
      for (int64_t i = first; i < last; ++i) {
        const Pixels::Part part = pixels.part(i);
        const auto slopes = [&](int64_t at, int64_t n) {
          if (activated.is_silu_at_once()) {
            each_vector(n, [&](int64_t i, auto load_at, auto store_at) NK_LAMBDA {
              const int64_t j = part.first_col + i;
              const Vec<A> d = (load_at(x + at + i) - load(k.m0 + j)) - load(k.dm + j);
              store_at(to + at + i, load_at(dy + at + i) * silu_slope_of(fma(d, load(k.scale + j), load(k.bias + j))));
            });
            return;
          }
          each_vector(n, [&](int64_t i, auto load_at, auto store_at) NK_LAMBDA {
            const int64_t j = part.first_col + i;
            const Vec<A> d = (load_at(x + at + i) - load(k.m0 + j)) - load(k.dm + j);
            store_at(z + i, fma(d, load(k.scale + j), load(k.bias + j)));
          });
          activated.slopes(z, n);
          each_vector(n, [&](int64_t i, auto load_at, auto store_at) NK_LAMBDA {
            store_at(to + at + i, load_at(dy + at + i) * load_at(z + i));
          });
        };
        each_row_of_part(pixels, rows, part, slopes, [&](int64_t at, int64_t n) { clear(to + at, n); });
      }
    });
  }

  // s1 = mean(w * dy), s2 = mean(w * dy * x_hat) over slab s of an image; without w where it is one channel.
  Sums means(const Sums* of_channel, int64_t s) const {
    const int64_t group = pixels.group;
    Sums total;
    if (args.constant_stats) return total;
    for (int64_t c = s * group; c < (s + 1) * group; ++c) {
      const double wc = one_channel ? 1.0 : weight(c);
      total.add({wc * of_channel[c].s1, wc * of_channel[c].s2});
    }
    return {total.s1 * per_n, total.s2 * per_n};
  }

  void fill_terms(int64_t image, const Sums* of_channel, const Columns& k) const {
    each_slab(pixels, [&](int64_t first, int64_t n, int64_t s) NK_LAMBDA {
      const SlabStats<A> stats = slab_stats<A>(args.stats, pixels.slab_of(image, s));
      const Sums mean = means(of_channel, s);
      for (int64_t c = first; c < first + n; ++c) {
        const GradientTerms<A> terms = gradient_terms(stats, weight(c), one_channel, mean);
        k.of_dy[c] = terms.of_dy;
        k.of_d[c] = terms.of_d;
        k.rest[c] = terms.rest;
      }
    });
    complete_columns(pixels, k.of_dy, k.of_d, k.rest);
  }

  template <bool kRelu, class G>
  struct Gradient {
    const G* dy;
    const T* x;
    Columns k;
    struct Column {
      Vec<A> m0, dm, of_dy, of_d, rest;
    };
    NK_MEMBER Column at(int64_t j) const {
      return {load(k.m0 + j), load(k.dm + j), load(k.of_dy + j), load(k.of_d + j), load(k.rest + j)};
    }
    static constexpr int64_t kLine = line_of<G>;
    NK_MEMBER void fetch(int64_t i) const {
      prefetch(dy + i);
      prefetch(x + i);
    }
    NK_MEMBER Vec<A> operator()(const Column& c, int64_t at, int64_t j, int n) const {
      const Vec<A> d = (load_some(x + at, n) - c.m0) - c.dm;
      return fma(d, c.of_d, fma(through<kRelu>(load_some(dy + at, n), d, k, j), c.of_dy, c.rest));
    }
  };

  // Where statistics were given: dx = dy * (w * rstd), and nothing times x, which may be infinite.
  template <bool kRelu, class G>
  struct Scaled {
    const G* dy;
    const T* x;
    Columns k;
    NK_MEMBER Vec<A> at(int64_t j) const { return load(k.of_dy + j); }
    static constexpr int64_t kLine = line_of<G>;
    NK_MEMBER void fetch(int64_t i) const {
      prefetch(dy + i);
      if (kRelu) prefetch(x + i);
    }
    NK_MEMBER Vec<A> operator()(Vec<A> of_dy, int64_t at, int64_t j, int n) const {
      const Vec<A> g = load_some(dy + at, n);
      if constexpr (!kRelu) return g * of_dy;
      return through<kRelu>(g, (load_some(x + at, n) - load(k.m0 + j)) - load(k.dm + j), k, j) * of_dy;
    }
  };

  // Calls work(part) for all of an image: the last first, as the sums left it in the cache.
  template <class Work>
  void each_part(ParallelFor parallel_for, const Work& work) const {
    for_range(parallel_for, 0, pixels.parts(), 1, [&](int64_t first, int64_t last) {
      for (int64_t i = last - 1; i >= first; --i) work(pixels.part(i));
    });
  }

  // A slab whose rstd has left the range of A, in double.
  __attribute__((noinline)) void slab_exactly(int64_t image, int64_t s, const T* dy, const T* x, T* dx) const {
    const int64_t group = pixels.group;
    const ExactStats stats =
        args.constant_stats ? exactly(slab_stats<A>(args.stats, pixels.slab_of(image, s)), args.eps)
                            : exact_stats(x, slab_size, args.eps, [&](const auto& visit) {
                                each_item(pixels, rows, s, [&](int64_t i, int64_t) { visit(i); });
                              });
    Sums* const of_channel = sums == nullptr ? nullptr : sums + image * args.shape.n_channels;
    const auto x_hat = [&](int64_t i) { return careful_x_hat(value_at(x + i), stats.x_hat); };
    // dy, through the activation if there is one.
    const auto g_at = [&](int64_t i, int64_t c) {
      return activated.through(value_at(dy + i), x_hat(i) * weight(c) + bias(c));
    };
    if (of_channel != nullptr) {
      for (int64_t c = s * group; c < (s + 1) * group; ++c) of_channel[c] = Sums();
      each_item(pixels, rows, s, [&](int64_t i, int64_t c) { of_channel[c].add({g_at(i, c), g_at(i, c) * x_hat(i)}); });
    }
    if (dx == nullptr) return;
    const Sums mean = means(of_channel, s);
    each_item(pixels, rows, s, [&](int64_t i, int64_t c) {
      const double inner = g_at(i, c) * (one_channel ? 1.0 : weight(c)) - mean.s1 - x_hat(i) * mean.s2;
      put_item(dx + i, inner * (one_channel ? weight(c) : 1.0) * stats.x_hat.rstd * stats.x_hat.scale);
    });
  }

  template <bool kRelu, class G>
  void with_gradient(int64_t image, const G* dy, const T* x, T* dx, Sums* of_channel, const Columns& k,
                     ParallelFor parallel_for) const {
    const Term<kRelu, G> term{dy, x, k};
    if (args.constant_stats) {  // dx does not depend on the sums: both in one pass
      fill_terms(image, of_channel, k);
      const auto part_of_dx = [&](const Pixels::Part& part) {
        if (dx != nullptr) map_part(pixels, rows, part, dx, past, kAhead, Scaled<kRelu, G>{dy, x, k});
      };
      if (sums == nullptr) return each_part(parallel_for, part_of_dx);
      return sum_channels<A>(pixels, rows, term, parallel_for, of_channel, part_of_dx);
    }
    sum_channels<A>(pixels, rows, term, parallel_for, of_channel, [](const Pixels::Part&) {});
    if (dx == nullptr) return;
    fill_terms(image, of_channel, k);
    each_part(parallel_for, [&](const Pixels::Part& part) {
      map_part(pixels, rows, part, dx, past, kAhead, Gradient<kRelu, G>{dy, x, k});
    });
  }

  void one_image(int64_t image, ParallelFor parallel_for) const {
    const T* const dy = image_of(static_cast<const T*>(args.dy), image);
    const T* const x = image_of(static_cast<const T*>(args.x), image);
    T* const dx = args.dx == nullptr ? nullptr : image_of(static_cast<T*>(args.dx), image);
    Sums* const of_channel = sums == nullptr ? nullptr : sums + image * args.shape.n_channels;
    const Memory<A> memory(Columns::kCount * pixels.padded());
    const Columns k(memory.data(), pixels.padded());
    const auto stats = [&](int64_t s) { return slab_stats<A>(args.stats, pixels.slab_of(image, s)); };
    each_slab(pixels, [&](int64_t c, int64_t n, int64_t s) NK_LAMBDA {
      const SlabStats<A> of_slab = stats(s);
      fill(k.m0 + c, n, of_slab.m0);
      fill(k.dm + c, n, of_slab.dm);
      fill(k.rstd + c, n, of_slab.rstd);
    });
    complete_columns(pixels, k.m0, k.dm, k.rstd);
    if (args.activation != Activation::kNone) {
      for (int64_t c = 0; c < args.shape.n_channels; ++c) {
        k.scale[c] = k.rstd[c] * w.values()[c * w.step()];
        k.bias[c] = b.values()[c * b.step()];
      }
      complete_columns(pixels, k.scale, k.bias);
    }
    if (activated.is_curve()) {
      // The curve is taken once: what comes of it waits in dx, or in memory of its own.
      const bool in_dx = sizeof(T) == sizeof(A) && dx != nullptr;
      const Memory<A> own(in_dx ? 1 : pixels.n_pixels * args.shape.n_channels);
      A* const through = in_dx ? reinterpret_cast<A*>(dx) : own.data();
      image_through_curve(dy, x, k, through, parallel_for);
      with_gradient<false>(image, through, x, dx, of_channel, k, parallel_for);
    } else if (activated.is_relu()) {
      with_gradient<true>(image, dy, x, dx, of_channel, k, parallel_for);
    } else {
      with_gradient<false>(image, dy, x, dx, of_channel, k, parallel_for);
    }
    for (int64_t s = 0; s < pixels.slabs; ++s) {
      if (!within_range_backward(stats(s))) slab_exactly(image, s, dy, x, dx);
    }
  }
};

template <class T, class Rows>
static void pixels_backward_of(const ChannelBackward& a, const Rows& rows, Sums* channel_sums) {
  const PixelsBackward<T, Rows> backward(a, rows, channel_sums);
  for_each_image(backward, backward.pixels, a.parallel_for);
}
