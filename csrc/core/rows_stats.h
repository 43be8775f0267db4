// The statistics of one row. Included by isa/*.cpp.
//
// Scalar math (LayerNorm), the corrected two-pass:
//   m0 = sum(x) / n;  d = x - m0;  dm = sum(d) / n;  var = sum(d^2) / n - dm^2;  rstd = 1 / sqrt(var + eps)
// d is exact or nearly so wherever the offset is large, and m0 + dm is the mean to twice the precision.
// RMSNorm: rstd = 1 / sqrt(sum(x^2) / n + eps).

// A row as whole vectors and a tail of fewer than 16 columns.
template <class A>
struct RowShape {
  explicit RowShape(int64_t n_cols)
      : n(n_cols), vectors(n_cols / kLanes), tail(int(n_cols % kLanes)), per_n(A(1) / A(n_cols)), tail_lanes(first_lanes<A>(tail)) {}
  int64_t n;
  int64_t vectors;
  int tail;
  A per_n;
  Lanes<A> tail_lanes;
};

template <class A>
struct RowStats {
  A m0;
  A dm;
  A rstd;
};

// Sums run at most 128 terms in one lane before they go on in double.
constexpr int64_t kBlockVectors = 256;

template <class A>
struct RowLimits;
template <>
struct RowLimits<float> {
  static constexpr float kSmall = 0x1p-60f;  // var + eps below this: squares may have underflowed
  static constexpr float kLarge = 0x1p120f;  // sum of squares above this: it may have overflowed
};
template <>
struct RowLimits<double> {
  static constexpr double kSmall = 0x1p-900;
  static constexpr double kLarge = 0x1p1000;
};

template <class T>
NK_INLINE Vec<Compute<T>> load_tail(const T* x, const RowShape<Compute<T>>& row) {
  return row.tail != 0 ? load_first(x + row.vectors * kLanes, row.tail) : zeros<Compute<T>>();
}

template <class T, class A = Compute<T>>
NK_INLINE A block_sum(const T* x, int64_t vectors, Vec<A> first) {
  Vec<A> s0 = first, s1 = zeros<A>(), s2 = s1, s3 = s1;
  int64_t j = 0;
  for (; j + 4 <= vectors; j += 4) {
    s0 = s0 + load(x + j * kLanes);
    s1 = s1 + load(x + (j + 1) * kLanes);
    s2 = s2 + load(x + (j + 2) * kLanes);
    s3 = s3 + load(x + (j + 3) * kLanes);
  }
  for (; j < vectors; ++j) s0 = s0 + load(x + j * kLanes);
  return sum((s0 + s1) + (s2 + s3));
}

template <class T, class A = Compute<T>>
NK_INLINE A block_sum_of_squares(const T* x, int64_t vectors, Vec<A> first) {
  Vec<A> s0 = first * first, s1 = zeros<A>(), s2 = s1, s3 = s1;
  int64_t j = 0;
  for (; j + 4 <= vectors; j += 4) {
    const Vec<A> x0 = load(x + j * kLanes), x1 = load(x + (j + 1) * kLanes);
    const Vec<A> x2 = load(x + (j + 2) * kLanes), x3 = load(x + (j + 3) * kLanes);
    s0 = fma(x0, x0, s0);
    s1 = fma(x1, x1, s1);
    s2 = fma(x2, x2, s2);
    s3 = fma(x3, x3, s3);
  }
  for (; j < vectors; ++j) {
    const Vec<A> x0 = load(x + j * kLanes);
    s0 = fma(x0, x0, s0);
  }
  return sum((s0 + s1) + (s2 + s3));
}

template <class A>
struct CentredSums {
  A s1;  // sum of x - m0
  A s2;  // sum of (x - m0)^2
};

template <class T, class A = Compute<T>>
NK_INLINE CentredSums<A> block_centred_sums(const T* x, int64_t vectors, Vec<A> m0, Vec<A> first_d) {
  Vec<A> a1 = first_d, a2 = first_d * first_d, b1 = zeros<A>(), b2 = b1;
  int64_t j = 0;
  for (; j + 2 <= vectors; j += 2) {
    const Vec<A> da = load(x + j * kLanes) - m0;
    const Vec<A> db = load(x + (j + 1) * kLanes) - m0;
    a1 = a1 + da;
    a2 = fma(da, da, a2);
    b1 = b1 + db;
    b2 = fma(db, db, b2);
  }
  if (j < vectors) {
    const Vec<A> da = load(x + j * kLanes) - m0;
    a1 = a1 + da;
    a2 = fma(da, da, a2);
  }
  return {sum(a1 + b1), sum(a2 + b2)};
}

// The sum in double of block(first vector, vectors) over all blocks of a row.
template <class Block>
NK_INLINE double sum_over_blocks(int64_t vectors, const Block& block) {
  double total = 0.0;
  for (int64_t j = 0; j < vectors; j += kBlockVectors) {
    total += double(block(j, vectors - j < kBlockVectors ? vectors - j : kBlockVectors));
  }
  return total;
}

template <class T, class A = Compute<T>>
NK_INLINE A row_mean(const T* x, const RowShape<A>& row, Vec<A> tail) {
  if (row.vectors <= kBlockVectors) return block_sum(x, row.vectors, tail) * row.per_n;
  const double rest = sum_over_blocks(row.vectors, [&](int64_t j, int64_t count) {
    return block_sum(x + j * kLanes, count, zeros<A>());
  });
  return A((rest + double(sum(tail))) / double(row.n));
}

template <class T, class A = Compute<T>>
NK_INLINE A row_mean_square(const T* x, const RowShape<A>& row, Vec<A> tail) {
  if (row.vectors <= kBlockVectors) return block_sum_of_squares(x, row.vectors, tail) * row.per_n;
  const double rest = sum_over_blocks(row.vectors, [&](int64_t j, int64_t count) {
    return block_sum_of_squares(x + j * kLanes, count, zeros<A>());
  });
  return A((rest + double(sum(tail * tail))) / double(row.n));
}

template <class T, class A = Compute<T>>
NK_INLINE CentredSums<A> row_centred_means(const T* x, const RowShape<A>& row, Vec<A> tail, A m0) {
  const Vec<A> m0_lanes = splat(m0);
  const Vec<A> tail_d = keep(tail - m0_lanes, row.tail_lanes);
  if (row.vectors <= kBlockVectors) {
    const CentredSums<A> sums = block_centred_sums(x, row.vectors, m0_lanes, tail_d);
    return {sums.s1 * row.per_n, sums.s2 * row.per_n};
  }
  double s1 = double(sum(tail_d)), s2 = double(sum(tail_d * tail_d));
  for (int64_t j = 0; j < row.vectors; j += kBlockVectors) {
    const int64_t count = row.vectors - j < kBlockVectors ? row.vectors - j : kBlockVectors;
    const CentredSums<A> sums = block_centred_sums(x + j * kLanes, count, m0_lanes, zeros<A>());
    s1 += double(sums.s1);
    s2 += double(sums.s2);
  }
  return {A(s1 / double(row.n)), A(s2 / double(row.n))};
}

NK_INLINE float square_root(float v) { return __builtin_sqrtf(v); }
NK_INLINE double square_root(double v) { return __builtin_sqrt(v); }

template <class A>
NK_INLINE A rstd_of(A var, double eps) {
  return A(1) / square_root(var + A(eps));
}

// The means behind a row's statistics: of x, and of (x - m0) and (x - m0)^2; RMSNorm's m0 is 0.
template <class A>
struct QuickSums {
  A m0;
  CentredSums<A> centred;
};

// False when these sums cannot be trusted: the row is constant or nearly so next to its mean, or a square may
// have left the range of A. careful_stats() then does the row again. (Of RMSNorm s1 is 0.)
template <class A>
NK_INLINE bool quick_stats(const QuickSums<A>& sums, double eps, RowStats<A>& stats) {
  const A dm = sums.centred.s1, mean_square = sums.centred.s2;
  stats = {sums.m0, dm, rstd_of(mean_square - dm * dm, eps)};
  const bool centred = dm == A(0) || (dm * dm <= mean_square * A(0.25) && mean_square >= RowLimits<A>::kSmall);
  return centred && mean_square <= RowLimits<A>::kLarge && mean_square + A(eps) >= RowLimits<A>::kSmall;
}

// The same statistics in double, of the row times a power of two that brings its largest value into [1, 2), and
// about its first value: nothing overflows or vanishes for any finite input. Slow and rare.
// Scalar math: x_hat = ((x * scale - m0) - dm) * rstd.
struct CarefulStats {
  double scale;
  double m0;
  double dm;
  double rstd;
};

NK_INLINE float value_of(const Float16* x) { return load_first(x, 1).r[0][0]; }
NK_INLINE float value_of(const BFloat16* x) {
  const uint32_t bits = uint32_t(x->bits) << 16;
  float value;
  __builtin_memcpy(&value, &bits, sizeof value);
  return value;
}
NK_INLINE float value_of(const float* x) { return *x; }
NK_INLINE double value_of(const double* x) { return *x; }
template <class T>
NK_INLINE double value_at(const T* x) {
  return double(value_of(x));
}

NK_INLINE double careful_x_hat(double x, const CarefulStats& stats) {
  return ((x * stats.scale - stats.m0) - stats.dm) * stats.rstd;
}

// The power of two for a row whose largest magnitude, or sqrt(eps) beside which smaller ones do not matter, is given.
NK_INLINE double careful_scale(double largest) {
  if (!(largest > 0.0 && largest < __builtin_inf())) return 1.0;
  int exponent;
  frexp(largest, &exponent);
  const int wanted = 1 - exponent;
  return ldexp(1.0, wanted < -1022 ? -1022 : wanted > 1022 ? 1022 : wanted);
}

template <RowNorm kNorm, class T>
static __attribute__((noinline)) CarefulStats careful_stats(const T* x, int64_t n, double eps) {
  const double first = value_at(x);
  double largest = square_root(eps);
  bool constant = true;
  for (int64_t j = 0; j < n; ++j) {
    const double magnitude = __builtin_fabs(value_at(x + j));
    largest = magnitude > largest ? magnitude : largest;
    constant &= value_at(x + j) == first;
  }
  if (kNorm == RowNorm::kLayerNorm && constant) return {1.0, first, 0.0, 1.0 / square_root(eps)};
  const double scale = careful_scale(largest);
  const double scaled_eps = eps * scale * scale;
  double s1 = 0.0, s2 = 0.0;
  if (kNorm == RowNorm::kRmsNorm) {
    for (int64_t j = 0; j < n; ++j) s2 += value_at(x + j) * scale * (value_at(x + j) * scale);
    return {scale, 0.0, 0.0, 1.0 / square_root(s2 / double(n) + scaled_eps)};
  }
  for (int64_t j = 0; j < n; ++j) s1 += value_at(x + j) * scale - first * scale;
  const double m0 = first * scale + s1 / double(n);
  s1 = 0.0;
  for (int64_t j = 0; j < n; ++j) {
    const double d = value_at(x + j) * scale - m0;
    s1 += d;
    s2 += d * d;
  }
  const double dm = s1 / double(n);
  const double var = s2 / double(n) - dm * dm;
  return {scale, m0, dm, 1.0 / square_root((var < 0.0 ? 0.0 : var) + scaled_eps)};
}

template <class A>
NK_INLINE RowStats<A> rounded(const CarefulStats& exact) {
  const double m0 = exact.m0 / exact.scale;
  return {A(m0), A((m0 - double(A(m0))) + exact.dm / exact.scale), A(exact.rstd * exact.scale)};
}

// Whether x_hat may be computed in A from these: else rstd is too small or large to be kept in A, or not a number.
template <class A>
NK_INLINE bool within_range(const RowStats<A>& stats) {
  return stats.rstd >= RowLimits<A>::kSmall && stats.rstd <= A(1) / RowLimits<A>::kSmall;
}

template <RowNorm kNorm, class A>
NK_INLINE void save_stats(A* to, const RowStats<A>& stats) {
  if constexpr (kNorm == RowNorm::kLayerNorm) {
    to[0] = stats.m0;
    to[1] = stats.dm;
    to[2] = stats.rstd;
  } else {
    to[0] = stats.rstd;
  }
}

template <RowNorm kNorm, class A>
NK_INLINE RowStats<A> saved_stats(const A* from) {
  if constexpr (kNorm == RowNorm::kLayerNorm) return {from[0], from[1], from[2]};
  return {A(0), A(0), from[0]};
}
