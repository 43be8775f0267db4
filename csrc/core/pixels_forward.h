// BatchNorm, GroupNorm and InstanceNorm forward over pixels. Included by isa/*.cpp.
// Scalar math: y = a(((x - m0) - dm) * (rstd * w) + b + residual), with a the activation; without it and the residual
// if there is none.

template <class T, class Rows>
struct PixelsForward {
  using A = Compute<T>;
  const ChannelForward& args;
  const Rows& rows;
  Pixels pixels;
  Param<A> w;
  Param<A> b;
  Activated<A> activated;
  int64_t slab_size;  // values that count
  double per_n;
  bool past;  // whether y is written past the caches

  PixelsForward(const ChannelForward& a, const Rows& which_count)
      : args(a),
        rows(which_count),
        pixels(a.shape, which_count),
        w(a.w, a.shape.n_channels, 1),
        b(a.b, a.shape.n_channels, A(-0.0)),
        activated(a.activation),
        slab_size(rows.count() * pixels.group),
        per_n(1.0 / double(slab_size)),
        past(past_caches<T>(a.shape.size_in_all())) {}

  // The mean of up to 16 values of each channel, then of up to 16 channels of the slab; powers of 2, so that equal
  // values have that value as their mean exactly.
  void sample_means(const T* x, A* of_slab) const {
    const int64_t channels = args.shape.n_channels, group = pixels.group;
    int64_t n = kLanes, m = kLanes;
    while (n > rows.count()) n /= 2;
    while (m > group) m /= 2;
    const Memory<A> memory(round_up(channels, kLanes));
    A* const of_channel = memory.data();
    int64_t from[kLanes];
    for (int64_t i = 0; i < n; ++i) from[i] = rows.near(rows.walked() * (2 * i + 1) / (2 * n)) * channels;
    for (int64_t j = 0; j < channels; j += kLanes) {
      const int few = channels - j < kLanes ? int(channels - j) : kLanes;
      Vec<A> v[kLanes];
      for (int64_t i = 0; i < n; ++i) v[i] = load_some(x + from[i] + j, few);
      for (int64_t half = n / 2; half > 0; half /= 2) {
        for (int64_t i = 0; i < half; ++i) v[i] = v[i] + v[i + half];
      }
      store(of_channel + j, v[0] * splat(A(1) / A(n)));
    }
    for (int64_t s = 0; s < pixels.slabs; ++s) {
      of_slab[s] = group == 1 ? of_channel[s] : sum(load_some(of_channel + s * group, int(m))) * (A(1) / A(m));
    }
  }

  struct Term {
    const T* x;
    const A* shift;  // of each column
    NK_MEMBER Vec<A> at(int64_t j) const { return load(shift + j); }
    static constexpr int64_t kLine = line_of<T>;
    NK_MEMBER void fetch(int64_t i) const { prefetch(x + i); }
    NK_MEMBER Pair<A> operator()(Vec<A> k, int64_t i) const {
      const Vec<A> d = load(x + i) - k;
      return {d, d};
    }
    NK_MEMBER Pair<A> operator()(Vec<A> k, int64_t i, int n) const {
      const Vec<A> d = keep(load_some(x + i, n) - k, first_lanes<A>(n));
      return {d, d};
    }
  };

  // Finishes the slabs of an image from sums about `shift`. False if some need the sums again, about their new shift.
  bool finish(int64_t image, const Sums* of_channel, A* shift, bool last_time) const {
    const int64_t group = pixels.group;
    bool all_good = true;
    for (int64_t first = 0; first < pixels.slabs; first += kBatch) {
      const int64_t n = pixels.slabs - first < kBatch ? pixels.slabs - first : kBatch;
      SlabSums<A> batch;
      for (int64_t i = 0; i < n; ++i) {
        Sums sums;
        for (int64_t c = (first + i) * group; c < (first + i + 1) * group; ++c) sums.add(of_channel[c]);
        batch.shift[i] = shift[first + i];
        batch.put(i, sums.s1, sums.s2);
      }
      const FinishedStats<A> finished(per_n, batch, args.eps);
      for (int64_t i = 0; i < n; ++i) {
        const int64_t s = first + i;
        SlabStats<A> stats = finished.at(i);
        const bool good = finished.serve(i);
        if (!good && last_time) stats = exact(image, s).template rounded<A>();
        if (!good && !last_time) shift[s] = stats.m0;
        put_slab_stats(args.stats, pixels.slab_of(image, s), stats);
        all_good = all_good && good;
      }
    }
    return all_good;
  }

  const T* image_of(const void* data, int64_t image) const {
    return static_cast<const T*>(data) + image * pixels.n_pixels * args.shape.n_channels;
  }

  ExactStats exact(int64_t image, int64_t s) const {
    const int64_t slab = pixels.slab_of(image, s);
    if (args.mean.data != nullptr) return exactly(slab_stats<A>(args.stats, slab), args.eps);
    return exact_stats(image_of(args.x, image), slab_size, args.eps,
                       [&](const auto& visit) { each_item(pixels, rows, s, [&](int64_t i, int64_t) { visit(i); }); });
  }

  void find_stats(int64_t image, ParallelFor parallel_for) const {
    const T* x = image_of(args.x, image);
    const int64_t channels = args.shape.n_channels;
    const Memory<A> memory(channels + pixels.padded());
    A *const of_slab = memory.data(), *const of_column = of_slab + channels;
    const Memory<Sums> sums(channels);
    sample_means(x, of_slab);
    for (int time = 0; time < 2; ++time) {
      each_slab(pixels, [&](int64_t c, int64_t n, int64_t s) NK_LAMBDA { fill(of_column + c, n, of_slab[s]); });
      complete_columns(pixels, of_column);
      sum_channels<A>(pixels, rows, Term{x, of_column}, parallel_for, sums.data(), [](const Pixels::Part&) {});
      if (finish(image, sums.data(), of_slab, time == 1)) return;
    }
  }

  // Columns of what the kernels multiply with.
  struct Columns {
    const A *m0, *dm, *scale, *bias;
  };

  // finished(z, at, n) of n values from `at`.
  template <class Finished>
  struct Normalized {
    const T* x;
    Columns k;
    Finished finished;
    struct Column {
      Vec<A> m0, dm, scale, bias;
    };
    NK_MEMBER Column at(int64_t j) const { return {load(k.m0 + j), load(k.dm + j), load(k.scale + j), load(k.bias + j)}; }
    static constexpr int64_t kLine = line_of<T>;
    NK_MEMBER void fetch(int64_t i) const { prefetch(x + i); }
    NK_MEMBER Vec<A> operator()(const Column& c, int64_t at, int64_t, int n) const {
      return finished(fma((load_some(x + at, n) - c.m0) - c.dm, c.scale, c.bias), at, n);
    }
  };
  template <class Finished>
  NK_MEMBER void normalize_part(const T* x, T* y, const Columns& k, int64_t i, const Finished& finished) const {
    map_part(pixels, rows, pixels.part(i), y, past, pixels.ahead(sizeof(T)), Normalized<Finished>{x, k, finished});
  }

  // By a curve, row by row.
  void curve_part(const T* x, T* y, const Columns& k, const Pixels::Part& part) const {
    const Memory<A> memory(pixels.padded());
    A* const z = memory.data();
    const auto normalized = [&](int64_t at, int64_t n) {
      each_vector(n, [&](int64_t i, auto load_at, auto store_at) NK_LAMBDA {
        const int64_t j = part.first_col + i;
        const Vec<A> v = (load_at(x + at + i) - load(k.m0 + j)) - load(k.dm + j);
        store_at(z + i, fma(v, load(k.scale + j), load(k.bias + j)));
      });
      activated.values(z, n);
      if (past && whole_lines(y + at, n)) {
        for (int64_t i = 0; i < n; i += kLanes) put(y + at + i, load(z + i), Past<true>());
        return;
      }
      each_vector(n, [&](int64_t i, auto load_at, auto store_at) NK_LAMBDA { store_at(y + at + i, load_at(z + i)); });
    };
    each_row_of_part(pixels, rows, part, normalized, [&](int64_t at, int64_t n) { clear(y + at, n); });
  }

  void normalize(int64_t image, ParallelFor parallel_for) const {
    const T* x = image_of(args.x, image);
    T* y = const_cast<T*>(image_of(args.y, image));
    const int64_t padded = pixels.padded();
    const Memory<A> memory(4 * padded);
    A *const m0 = memory.data(), *const dm = m0 + padded, *const scale = dm + padded, *const bias = scale + padded;
    const auto stats = [&](int64_t s) { return slab_stats<A>(args.stats, pixels.slab_of(image, s)); };
    each_slab(pixels, [&](int64_t first, int64_t n, int64_t s) NK_LAMBDA {
      const SlabStats<A> of_slab = stats(s);
      fill(m0 + first, n, of_slab.m0);
      fill(dm + first, n, of_slab.dm);
      for (int64_t c = first; c < first + n; ++c) {
        scale[c] = of_slab.rstd * w.values()[c * w.step()];
        bias[c] = b.values()[c * b.step()];
      }
    });
    complete_columns(pixels, m0, dm, scale, bias);
    const Columns k{m0, dm, scale, bias};
    for_range(parallel_for, 0, pixels.parts(), 1, [&](int64_t first, int64_t last) {
      for (int64_t i = last - 1; i >= first; --i) {
        if (args.residual != nullptr) {
          const T* const residual = image_of(args.residual, image);
          const Vec<A> least = splat(least_of<A>(args.activation));
          normalize_part(x, y, k, i, [=](Vec<A> z, int64_t at, int n) NK_LAMBDA {
            return add_above(z, load_some(residual + at, n), least);
          });
        } else if (args.activation == Activation::kNone) {
          normalize_part(x, y, k, i, [](Vec<A> z, int64_t, int) NK_LAMBDA { return z; });
        } else if (activated.is_relu()) {
          normalize_part(x, y, k, i, [](Vec<A> z, int64_t, int) NK_LAMBDA { return above_zero(z); });
        } else if (sizeof(T) == sizeof(A) && activated.is_silu_at_once()) {  // of 16 bits in pieces: sooner done
          normalize_part(x, y, k, i, [](Vec<A> z, int64_t, int) NK_LAMBDA { return silu_of(z); });
        } else {
          curve_part(x, y, k, pixels.part(i));
        }
      }
    });
    for (int64_t s = 0; s < pixels.slabs; ++s) {
      if (!within_range(stats(s))) normalize_exactly(image, s);
    }
  }

  __attribute__((noinline)) void normalize_exactly(int64_t image, int64_t s) const {
    const ExactStats stats = exact(image, s);
    const T* x = image_of(args.x, image);
    T* y = const_cast<T*>(image_of(args.y, image));
    each_item(pixels, rows, s, [&](int64_t i, int64_t c) {
      const double x_hat = careful_x_hat(value_at(x + i), stats.x_hat);
      const double z = x_hat * double(w.values()[c * w.step()]) + double(b.values()[c * b.step()]) +
                       (args.residual == nullptr ? -0.0 : value_at(image_of(args.residual, image) + i));
      put_item(y + i, activated.value(z));
    });
  }

  void one_image(int64_t image, ParallelFor parallel_for) const {
    if (args.mean.data == nullptr) find_stats(image, parallel_for);
    normalize(image, parallel_for);
  }
};

template <class T, class Rows>
static void pixels_forward_of(const ChannelForward& a, const Rows& rows) {
  const PixelsForward<T, Rows> forward(a, rows);
  for_each_image(forward, forward.pixels, a.parallel_for);
}
