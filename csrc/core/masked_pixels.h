// BatchNorm over pixels of which only some count. Included by isa/*.cpp.
//
// The numbers of the pixels that count, ascending, are the rows of the matrix: the others are never read, and 0 in what is
// written. The mathematics is that of pixels_forward.h and pixels_backward.h, with the number of rows for n.

class KeptRows {
 public:
  // Of the positions of the batch as one sample.
  KeptRows(const ChannelShape& shape, const KeptPositions& kept)
      : channels(shape.n_channels),
        n_pixels(shape.n_samples * shape.n_positions),
        chunks(chunks_of(kept.count(), Pixels::chunk_rows(shape.n_channels))),
        memory_(kept.count() + kAhead) {
    int64_t* to = memory_.data();
    kept.each([&](int64_t, int64_t position) { *to++ = position; });
    for (int i = 0; i < kAhead; ++i) to[i] = 0;
  }

  int64_t row(int64_t i) const { return memory_.data()[i]; }
  // Where row i begins.
  int64_t at(int64_t i) const { return row(i) * channels; }
  // Where a later one does: what to ask memory for meanwhile.
  int64_t ahead(int64_t i) const { return at(i + kAhead); }
  int64_t whole() const { return channels / kLanes * kLanes; }

  // Calls work(starts, later, count, column, n) for n <= 16 columns of the `count` rows that start there, for all of some
  // rows; `later` is where rows to come start.
  template <class Work>
  NK_MEMBER void each_vector(int64_t first, int64_t last, const Work& work) const {
    const int few = int(channels - whole());
    int64_t i = first;
    for (; i + 4 <= last; i += 4) {
      const int64_t starts[4] = {at(i), at(i + 1), at(i + 2), at(i + 3)};
      const int64_t later[4] = {ahead(i), ahead(i + 1), ahead(i + 2), ahead(i + 3)};
      for (int64_t j = 0; j < whole(); j += kLanes) work(starts, later, 4, j, kLanes);
      if (few > 0) work(starts, later, 4, whole(), few);
    }
    for (; i < last; ++i) {
      const int64_t start = at(i), later = ahead(i);
      for (int64_t j = 0; j < whole(); j += kLanes) work(&start, &later, 1, j, kLanes);
      if (few > 0) work(&start, &later, 1, whole(), few);
    }
  }

  // Writes 0 to all pixels of a chunk that do not count.
  template <class T>
  NK_MEMBER void clear_chunk(T* to, int64_t chunk) const {
    for (int64_t i = chunks.begin(chunk); i < chunks.begin(chunk + 1); ++i) clear_before(to, i);
    if (chunk + 1 == chunks.count) clear_before(to, chunks.n);
  }

  // Writes 0 to the pixels that do not count before row i, after the one before it; and at the end, to those after the last.
  template <class T>
  NK_MEMBER void clear_before(T* to, int64_t i) const {
    const int64_t begin = i == 0 ? 0 : row(i - 1) + 1, end = i == chunks.n ? n_pixels : row(i);
    clear(to + begin * channels, (end - begin) * channels);
  }

  int64_t channels;
  int64_t n_pixels;
  Chunks chunks;  // of the rows

 private:
  static constexpr int kAhead = 8;
  Memory<int64_t> memory_;
};

// As sum_columns(), down the rows of a chunk.
template <class A, class Term>
NK_INLINE void sum_kept_rows(const KeptRows& kept, int64_t chunk, const Term& term, double* total1, double* total2) {
  constexpr int64_t kRows = 64, kBlock = 512;
  const int64_t end = kept.chunks.begin(chunk + 1), padded = round_up(kept.channels, kLanes);
  for (int64_t j = 0; j < padded; ++j) total1[j] = total2[j] = 0.0;
  A sums1[kBlock], sums2[kBlock];
  for (int64_t first = kept.chunks.begin(chunk); first < end; first += kRows) {
    const int64_t last = first + kRows < end ? first + kRows : end;
    for (int64_t from = 0; from < kept.channels; from += kBlock) {
      const int64_t to = from + kBlock < kept.channels ? from + kBlock : kept.channels;
      const int64_t whole = from + (to - from) / kLanes * kLanes;
      for (int64_t j = 0; j < kBlock && j < padded - from; ++j) sums1[j] = sums2[j] = A(0);
      const auto add = [&](Pair<A> a, int64_t j) NK_LAMBDA {
        A *to1 = sums1 + (j - from), *to2 = sums2 + (j - from);
        store(to1, load(to1) + a.p);
        store(to2, fma(a.p, a.q, load(to2)));
      };
      int64_t i = first;
      for (; i + 4 <= last; i += 4) {
        const int64_t r0 = kept.at(i), r1 = kept.at(i + 1), r2 = kept.at(i + 2), r3 = kept.at(i + 3);
        for (int64_t j = from; j < whole; j += kLanes) {
          const auto k = term.at(j);
          const Pair<A> a = term(k, r0 + j), b = term(k, r1 + j), c = term(k, r2 + j), d = term(k, r3 + j);
          A *to1 = sums1 + (j - from), *to2 = sums2 + (j - from);
          store(to1, load(to1) + ((a.p + b.p) + (c.p + d.p)));
          store(to2, load(to2) + (fma(b.p, b.q, a.p * a.q) + fma(d.p, d.q, c.p * c.q)));
        }
      }
      for (; i < last; ++i) {
        for (int64_t j = from; j < whole; j += kLanes) add(term(term.at(j), kept.at(i) + j), j);
      }
      for (i = first; whole < to && i < last; ++i) add(term(term.at(whole), kept.at(i) + whole, int(to - whole)), whole);
      for (int64_t j = from; j < round_up(to, kLanes); j += kLanes) {
        store(total1 + j, load(total1 + j) + widen(load(sums1 + (j - from))));
        store(total2 + j, load(total2 + j) + widen(load(sums2 + (j - from))));
      }
    }
  }
}

// The sums of each channel.
template <class A, class Term>
NK_INLINE void sum_kept_channels(const KeptRows& kept, const Term& term, ParallelFor parallel_for, Sums* of_channel) {
  const int64_t padded = round_up(kept.channels, kLanes), count = kept.chunks.count;
  const Memory<double> memory(count * 2 * padded);
  for_range(parallel_for, 0, count, 1, [&](int64_t first, int64_t last) {
    for (int64_t i = first; i < last; ++i) {
      double* totals = memory.data() + i * 2 * padded;
      sum_kept_rows<A>(kept, i, term, totals, totals + padded);
    }
  });
  for (int64_t c = 0; c < kept.channels; ++c) of_channel[c] = Sums();
  for (int64_t i = 0; i < count; ++i) {
    const double* totals = memory.data() + i * 2 * padded;
    for (int64_t c = 0; c < kept.channels; ++c) of_channel[c].add({totals[c], totals[padded + c]});
  }
}

template <class A, class T>
static ExactStats exact_rows(const T* x, const KeptRows& kept, int64_t c, double eps) {
  return exact_stats(x, kept.chunks.n, eps, [&](const auto& visit) {
    for (int64_t i = 0; i < kept.chunks.n; ++i) visit(kept.at(i) + c);
  });
}

template <class T>
struct MaskedPixelsForward {
  using A = Compute<T>;
  using Plain = PixelsForward<T>;
  const ChannelForward& args;
  Plain plain;
  KeptRows kept;
  const T* x;
  T* y;

  MaskedPixelsForward(const ChannelForward& a, const KeptPositions& positions)
      : args(a), plain(a), kept(a.shape, positions), x(static_cast<const T*>(a.x)), y(static_cast<T*>(a.y)) {}

  // The mean of 16 values of each channel, from all over the rows.
  void sample_means(A* of_channel) const {
    for (int64_t j = 0; j < kept.channels; j += kLanes) {
      const int few = kept.channels - j < kLanes ? int(kept.channels - j) : kLanes;
      Vec<A> v[kLanes];
      for (int i = 0; i < kLanes; ++i) v[i] = load_some(x + kept.at(kept.chunks.n * (2 * i + 1) / (2 * kLanes)) + j, few);
      for (int half = kLanes / 2; half > 0; half /= 2) {
        for (int i = 0; i < half; ++i) v[i] = v[i] + v[i + half];
      }
      store(of_channel + j, v[0] * splat(A(1) / A(kLanes)));
    }
  }

  void find_stats() const {
    const int64_t padded = round_up(kept.channels, kLanes);
    const double per_n = 1.0 / double(kept.chunks.n);
    const Memory<A> memory(padded);
    A* const shift = memory.data();
    const Memory<Sums> sums(kept.channels);
    sample_means(shift);
    for (int time = 0; time < 2; ++time) {
      sum_kept_channels<A>(kept, typename Plain::Term{x, shift}, args.parallel_for, sums.data());
      bool all_good = true;
      for (int64_t c = 0; c < kept.channels; ++c) {
        SlabStats<A> stats;
        const bool good = finish_stats(per_n, shift[c], sums.data()[c], args.eps, stats);
        if (!good && time == 1) stats = exact_rows<A>(x, kept, c, args.eps).template rounded<A>();
        if (!good && time == 0) shift[c] = stats.m0;
        put_slab_stats(args.stats, c, stats);
        all_good = all_good && good;
      }
      if (all_good) return;
    }
  }

  template <class Finished>
  NK_MEMBER void normalize_rows(const typename Plain::Columns& k, const Finished& finished) const {
    for_range(args.parallel_for, 0, kept.chunks.count, 1, [&](int64_t first, int64_t last) {
      for (int64_t chunk = last - 1; chunk >= first; --chunk) {
        kept.clear_chunk(y, chunk);
        const auto work = [&](const int64_t* starts, const int64_t* later, int count, int64_t j, int n) NK_LAMBDA {
          const Vec<A> m0 = load(k.m0 + j), dm = load(k.dm + j), scale = load(k.scale + j), bias = load(k.bias + j);
          for (int r = 0; r < count; ++r) {
            const int64_t at = starts[r] + j;
            prefetch(x + later[r] + j);
            store_some(y + at, finished(fma((load_some(x + at, n) - m0) - dm, scale, bias), at, n), n);
          }
        };
        kept.each_vector(kept.chunks.begin(chunk), kept.chunks.begin(chunk + 1), work);
      }
    });
  }

  void normalize() const {
    const int64_t padded = plain.pixels.padded();
    const Memory<A> memory(4 * padded);
    A *const m0 = memory.data(), *const dm = m0 + padded, *const scale = dm + padded, *const bias = scale + padded;
    const auto stats = [&](int64_t c) { return slab_stats<A>(args.stats, c); };
    const auto weight = [&](int64_t c) { return plain.w.values()[c * plain.w.step()]; };
    fill_columns(plain.pixels, m0, [&](int64_t c, int64_t) { return stats(c).m0; });
    fill_columns(plain.pixels, dm, [&](int64_t c, int64_t) { return stats(c).dm; });
    fill_columns(plain.pixels, scale, [&](int64_t c, int64_t) { return A(stats(c).rstd * weight(c)); });
    fill_columns(plain.pixels, bias, [&](int64_t c, int64_t) { return plain.b.values()[c * plain.b.step()]; });
    const typename Plain::Columns k{m0, dm, scale, bias};
    if (args.residual != nullptr) {
      const T* const residual = static_cast<const T*>(args.residual);
      const Vec<A> least = splat(least_of<A>(args.activation));
      normalize_rows(k, [&](Vec<A> z, int64_t at, int n) NK_LAMBDA {
        return add_above(z, load_some(residual + at, n), least);
      });
    } else if (args.activation == Activation::kNone) {
      normalize_rows(k, [&](Vec<A> z, int64_t, int) NK_LAMBDA { return z; });
    } else {
      normalize_rows(k, [&](Vec<A> z, int64_t, int) NK_LAMBDA { return value_of(plain.activated, z); });
    }
    for (int64_t c = 0; c < kept.channels; ++c) {
      if (!within_range(stats(c))) normalize_exactly(c);
    }
  }

  __attribute__((noinline)) void normalize_exactly(int64_t c) const {
    const ExactStats stats = exact_rows<A>(x, kept, c, args.eps);
    const double wc = double(plain.w.values()[c * plain.w.step()]), bc = double(plain.b.values()[c * plain.b.step()]);
    const T* const residual = static_cast<const T*>(args.residual);
    for (int64_t i = 0; i < kept.chunks.n; ++i) {
      const int64_t at = kept.at(i) + c;
      const double z = careful_x_hat(value_at(x + at), stats.x_hat) * wc + bc +
                       (residual == nullptr ? -0.0 : value_at(residual + at));
      put_item(y + at, plain.activated.value(z));
    }
  }
};

template <class T>
struct MaskedPixelsBackward {
  using A = Compute<T>;
  using Plain = PixelsBackward<T>;
  using Columns = typename Plain::Columns;
  const ChannelBackward& args;
  Plain plain;
  KeptRows kept;
  const T* dy;
  const T* x;
  T* dx;

  MaskedPixelsBackward(const ChannelBackward& a, const KeptPositions& positions, Sums* channel_sums)
      : args(a),
        plain(a, channel_sums),
        kept(a.shape, positions),
        dy(static_cast<const T*>(a.dy)),
        x(static_cast<const T*>(a.x)),
        dx(static_cast<T*>(a.dx)) {
    plain.per_n = 1.0 / double(positions.count());
  }

  // dy, or with an activation dy * a'(z); d = (x - m0) - dm.
  template <bool kActivated>
  NK_MEMBER Vec<A> through(Vec<A> g, Vec<A> d, const Columns& k, int64_t j) const {
    if constexpr (kActivated) return through_slope_of(plain.activated, fma(d, load(k.scale + j), load(k.bias + j)), g);
    return g;
  }

  template <bool kActivated>
  struct Term {
    const MaskedPixelsBackward& of;
    const Columns& k;
    struct Stats {
      Vec<A> m0, dm, rstd;
      int64_t column;
    };
    NK_MEMBER Stats at(int64_t j) const { return {load(k.m0 + j), load(k.dm + j), load(k.rstd + j), j}; }
    NK_MEMBER void fetch(int64_t i) const {
      prefetch(of.dy + i);
      prefetch(of.x + i);
    }
    NK_MEMBER Pair<A> operator()(const Stats& stats, int64_t i) const {
      const Vec<A> d = (load(of.x + i) - stats.m0) - stats.dm;
      return {of.template through<kActivated>(load(of.dy + i), d, k, stats.column), d * stats.rstd};
    }
    NK_MEMBER Pair<A> operator()(const Stats& stats, int64_t i, int n) const {
      const Vec<A> d = (load_some(of.x + i, n) - stats.m0) - stats.dm;
      const Vec<A> g = of.template through<kActivated>(load_some(of.dy + i, n), d, k, stats.column);
      return {keep(g, first_lanes<A>(n)), keep(d * stats.rstd, first_lanes<A>(n))};
    }
  };

  template <bool kActivated>
  void find(const Columns& k) const {
    sum_kept_channels<A>(kept, Term<kActivated>{*this, k}, args.parallel_for, plain.sums);
    if (dx == nullptr) return;
    plain.fill_terms(0, plain.sums, k);
    for_range(args.parallel_for, 0, kept.chunks.count, 1, [&](int64_t first, int64_t last) {
      for (int64_t chunk = last - 1; chunk >= first; --chunk) {
        kept.clear_chunk(dx, chunk);
        const auto work = [&](const int64_t* starts, const int64_t* later, int count, int64_t j, int n) NK_LAMBDA {
          const Vec<A> m0 = load(k.m0 + j), dm = load(k.dm + j), of_dy = load(k.of_dy + j), of_d = load(k.of_d + j),
                       rest = load(k.rest + j);
          for (int r = 0; r < count; ++r) {
            const int64_t at = starts[r] + j;
            prefetch(x + later[r] + j);
            prefetch(dy + later[r] + j);
            const Vec<A> d = (load_some(x + at, n) - m0) - dm;
            const Vec<A> g = through<kActivated>(load_some(dy + at, n), d, k, j);
            store_some(dx + at, fma(d, of_d, fma(g, of_dy, rest)), n);
          }
        };
        kept.each_vector(kept.chunks.begin(chunk), kept.chunks.begin(chunk + 1), work);
      }
    });
  }

  // A channel whose rstd has left the range of A, in double.
  __attribute__((noinline)) void channel_exactly(int64_t c) const {
    const ExactStats stats = exact_rows<A>(x, kept, c, args.eps);
    const double wc = plain.weight(c), bc = plain.bias(c);
    const auto x_hat = [&](int64_t at) { return careful_x_hat(value_at(x + at), stats.x_hat); };
    const auto g_at = [&](int64_t at) {
      return plain.activated.through(value_at(dy + at), x_hat(at) * wc + bc);
    };
    Sums total;
    for (int64_t i = 0; i < kept.chunks.n; ++i) {
      const int64_t at = kept.at(i) + c;
      total.add({g_at(at), g_at(at) * x_hat(at)});
    }
    plain.sums[c] = total;
    for (int64_t i = 0; dx != nullptr && i < kept.chunks.n; ++i) {
      const int64_t at = kept.at(i) + c;
      const double inner = g_at(at) - total.s1 * plain.per_n - x_hat(at) * (total.s2 * plain.per_n);
      put_item(dx + at, inner * wc * stats.x_hat.rstd * stats.x_hat.scale);
    }
  }

  void run() const {
    const Memory<A> memory(Columns::kCount * plain.pixels.padded());
    const Columns k(memory.data(), plain.pixels.padded());
    const auto stats = [&](int64_t c) { return slab_stats<A>(args.stats, c); };
    fill_columns(plain.pixels, k.m0, [&](int64_t c, int64_t) { return stats(c).m0; });
    fill_columns(plain.pixels, k.dm, [&](int64_t c, int64_t) { return stats(c).dm; });
    fill_columns(plain.pixels, k.rstd, [&](int64_t c, int64_t) { return stats(c).rstd; });
    fill_columns(plain.pixels, k.scale, [&](int64_t c, int64_t) { return A(stats(c).rstd * plain.w.values()[c * plain.w.step()]); });
    fill_columns(plain.pixels, k.bias, [&](int64_t c, int64_t) { return plain.b.values()[c * plain.b.step()]; });
    args.activation == Activation::kNone ? find<false>(k) : find<true>(k);
    for (int64_t c = 0; c < kept.channels; ++c) {
      if (!within_range_backward(stats(c))) channel_exactly(c);
    }
  }
};

template <class T>
static void masked_pixels_forward_of(const ChannelForward& a, const KeptPositions& kept) {
  const MaskedPixelsForward<T> forward(a, kept);
  forward.find_stats();
  forward.normalize();
}

template <class T>
static void masked_pixels_backward_of(const ChannelBackward& a, const KeptPositions& kept, Sums* channel_sums) {
  MaskedPixelsBackward<T>(a, kept, channel_sums).run();
}
