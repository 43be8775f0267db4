// The statistics of a slab from its sums, and the slow way for the few that those cannot serve. Included by
// isa/*.cpp.
//
// Scalar math, the corrected two-pass in one sweep, with K near the mean:
//   d = x - K;  s1 = sum(d), s2 = sum(d^2);  mean = K + s1 / n = m0 + dm;  var = s2 / n - (s1 / n)^2
// K is the mean of up to 64 values from all over the slab. Where it turns out to be further from the mean than 1.4
// standard deviations, the sweep is done again about the mean that it found.

template <class A>
struct SlabStats {
  A m0;
  A dm;
  A rstd;
  A var;
};

// Two sums over a slab, or over a part of one.
struct Sums {
  double s1 = 0.0;
  double s2 = 0.0;
  NK_MEMBER void add(Sums other) {
    s1 += other.s1;
    s2 += other.s2;
  }
};

template <class A>
struct SlabLimits;
template <>
struct SlabLimits<float> {
  static constexpr double kSmall = 0x1p-60;   // var + eps below this: squares may have underflowed
  static constexpr double kLarge = 0x1p116;  // mean square above this: squares may have overflowed
};
template <>
struct SlabLimits<double> {
  static constexpr double kSmall = 0x1p-900;
  static constexpr double kLarge = 0x1p1000;
};

// The values of K and of the two sums about it; false where they cannot be trusted.
template <class A>
NK_INLINE bool finish_stats(double per_n, A shift, Sums sums, double eps, SlabStats<A>& stats) {
  const double offset = sums.s1 * per_n, mean_square = sums.s2 * per_n;
  const double var = mean_square - offset * offset;
  stats.m0 = A(double(shift) + offset);
  stats.dm = A((double(shift) - double(stats.m0)) + offset);
  stats.rstd = A(1.0 / square_root(var + eps));
  stats.var = A(var);
  // All three asked, with no jump in between.
  return (mean_square <= SlabLimits<A>::kLarge) & (mean_square + eps >= SlabLimits<A>::kSmall) & (offset * offset <= 2.0 * var);
}

// How many slabs are taken at once, at most.
constexpr int64_t kBatch = 16;

// K of some slabs and the two sums about it.
template <class A>
struct SlabSums {
  A shift[kBatch] = {};
  double s1[kBatch] = {}, s2[kBatch] = {};
  NK_MEMBER void put(int64_t i, double of_d, double of_squares) {
    s1[i] = of_d;
    s2[i] = of_squares;
  }
};

// finish_stats() of some slabs, whose roots and divisions go through vectors so.
template <class A>
class FinishedStats {
 public:
  NK_MEMBER FinishedStats(double per_n, const SlabSums<A>& sums, double eps) {
    for (int64_t i = 0; i < kBatch; ++i) {
      SlabStats<A> stats;
      serve_[i] = finish_stats(per_n, sums.shift[i], {sums.s1[i], sums.s2[i]}, eps, stats);
      m0_[i] = stats.m0;
      dm_[i] = stats.dm;
      rstd_[i] = stats.rstd;
      var_[i] = stats.var;
    }
  }
  NK_MEMBER SlabStats<A> at(int64_t i) const { return {m0_[i], dm_[i], rstd_[i], var_[i]}; }
  NK_MEMBER bool serve(int64_t i) const { return serve_[i] != 0; }

 private:
  A m0_[kBatch], dm_[kBatch], rstd_[kBatch], var_[kBatch];
  int64_t serve_[kBatch];
};

template <class T>
NK_INLINE void put_item(T* p, double value) {
  store_first(p, splat(Compute<T>(value)), 1);
}

template <class T>
NK_INLINE void clear(T* to, int64_t n) {
  if (n > 0) __builtin_memset(static_cast<void*>(to), 0, size_t(n) * sizeof(T));
}

// Statistics in double, and the variance that goes with them. Slow and rare.
struct ExactStats {
  CarefulStats x_hat;
  double var;

  template <class A>
  SlabStats<A> rounded() const {
    const double m0 = x_hat.m0 / x_hat.scale;
    return {A(m0), A((m0 - double(A(m0))) + x_hat.dm / x_hat.scale), A(x_hat.rstd * x_hat.scale), A(var)};
  }
};

// As careful_stats(), of a slab that is not one row: each(visit) calls visit(offset) for each of its values.
template <class T, class Each>
static __attribute__((noinline)) ExactStats exact_stats(const T* x, int64_t n, double eps, const Each& each) {
  double first = 0.0, largest = square_root(eps);
  bool constant = true, begun = false;
  each([&](int64_t at) {
    const double value = value_at(x + at), magnitude = __builtin_fabs(value);
    if (!begun) first = value;
    begun = true;
    largest = magnitude > largest ? magnitude : largest;
    constant &= value == first;
  });
  if (constant) return {{1.0, first, 0.0, 1.0 / square_root(eps)}, 0.0};
  const double scale = careful_scale(largest);
  double s1 = 0.0, s2 = 0.0;
  each([&](int64_t at) { s1 += value_at(x + at) * scale - first * scale; });
  const double m0 = first * scale + s1 / double(n);
  s1 = 0.0;
  each([&](int64_t at) {
    const double d = value_at(x + at) * scale - m0;
    s1 += d;
    s2 += d * d;
  });
  const double dm = s1 / double(n);
  double var = s2 / double(n) - dm * dm;
  if (var < 0.0) var = 0.0;
  return {{scale, m0, dm, 1.0 / square_root(var + eps * scale * scale)}, var / scale / scale};
}

// Of statistics that were given.
template <class A>
NK_INLINE ExactStats exactly(const SlabStats<A>& stats, double eps) {
  const double var = double(stats.var);
  return {{1.0, double(stats.m0), double(stats.dm), 1.0 / square_root(var + eps)}, var};
}

// Whether the kernels may use these: else rstd has left the range of A, and the slab goes through double. NaN may:
// it makes the slab NaN either way.
template <class A>
NK_INLINE bool within_range(const SlabStats<A>& stats) {
  return !(double(stats.rstd) < SlabLimits<A>::kSmall || double(stats.rstd) > 1.0 / SlabLimits<A>::kSmall);
}

// The same for the backward, which takes the square of rstd.
template <class A>
NK_INLINE bool within_range_backward(const SlabStats<A>& stats) {
  constexpr double kSmall = sizeof(A) == 4 ? 0x1p-40 : 0x1p-400;
  return !(double(stats.rstd) < kSmall || double(stats.rstd) > 1.0 / kSmall);
}

// dx = dy * of_dy + (x - mean) * of_d + rest
template <class A>
struct GradientTerms {
  A of_dy;
  A of_d;
  A rest;
};

// mean: s1 = mean(w * dy), s2 = mean(w * dy * x_hat) over the slab, or without w where the slab is one channel.
template <class A>
NK_INLINE GradientTerms<A> gradient_terms(const SlabStats<A>& stats, double w, bool one_channel, Sums mean) {
  const double rstd = double(stats.rstd), outer = one_channel ? w * rstd : rstd;
  return {A(w * rstd), A(-mean.s2 * rstd * outer), A(-mean.s1 * outer)};
}

template <class A>
NK_INLINE SlabStats<A> slab_stats(const void* stats, int64_t slab) {
  const A* from = static_cast<const A*>(stats) + slab * kStatsPerSlab;
  return {from[0], from[1], from[2], from[3]};
}

template <class A>
NK_INLINE void put_slab_stats(void* stats, int64_t slab, const SlabStats<A>& values) {
  A* to = static_cast<A*>(stats) + slab * kStatsPerSlab;
  to[0] = values.m0;
  to[1] = values.dm;
  to[2] = values.rstd;
  to[3] = values.var;
}

// The statistics that normalize in evaluation.
template <class A>
static void put_given_stats(const ChannelForward& a) {
  const Param<double> mean(a.mean, a.shape.n_channels, 0.0), var(a.var, a.shape.n_channels, 1.0);
  for (int64_t c = 0; c < a.shape.n_channels; ++c) {
    const ExactStats given{{1.0, mean.values()[c], 0.0, 1.0 / square_root(var.values()[c] + a.eps)}, var.values()[c]};
    put_slab_stats(a.stats, c, given.rounded<A>());
  }
}

// running = (1 - momentum) * running + momentum * batch
static void update_one(MutableArray running, double momentum, const double* batch, int64_t n) {
  const Param<double> old({running.data, running.dtype}, n, 0.0);
  const Memory<double> memory(n);
  double* const updated = memory.data();
  for (int64_t c = 0; c < n; ++c) updated[c] = (1.0 - momentum) * old.values()[c] + momentum * batch[c];
  store_sums(updated, running, 0, n);
}

// By the statistics of slabs, of counts[sample] values each (BatchNorm: counts[0]). Samples of none have no say.
template <class A>
static void update_running(const ChannelForward& a, const int64_t* counts) {
  if (a.running.mean.data == nullptr) return;
  const ChannelShape& s = a.shape;
  const int64_t samples = s.over_batch() ? 1 : s.n_samples, channels = s.n_channels;
  const Memory<double> memory(2 * channels);
  double *const mean = memory.data(), *const var = mean + channels;
  for (int64_t c = 0; c < channels; ++c) mean[c] = var[c] = 0.0;
  int64_t have_a_say = 0;
  for (int64_t i = 0; i < samples; ++i) {
    const int64_t n = counts[i];
    if (n == 0) continue;
    ++have_a_say;
    const double bessel = n > 1 ? double(n) / double(n - 1) : 1.0;
    for (int64_t c = 0; c < channels; ++c) {
      const SlabStats<A> stats = slab_stats<A>(a.stats, i * channels + c);
      mean[c] += double(stats.m0) + double(stats.dm);
      var[c] += double(stats.var) * bessel;
    }
  }
  if (have_a_say == 0) return;
  for (int64_t c = 0; c < channels; ++c) {
    mean[c] /= double(have_a_say);
    var[c] /= double(have_a_say);
  }
  update_one(a.running.mean, a.running.momentum, mean, channels);
  update_one(a.running.var, a.running.momentum, var, channels);
}

// Whether it pays to ask for the values behind the statistics that come next while those of these are normalized: their sums would
// wait for memory, which has little to do meanwhile. It does where the second caches hold both, and not all there is.
NK_INLINE bool pays_to_ask_for_next(int64_t bytes, int64_t bytes_in_all) {
  return bytes <= (int64_t(256) << 10) && bytes_in_all > (int64_t(1) << 20);
}
