// One virtual vector of 16 lanes, the same on every instruction set: one register under AVX-512, two under
// AVX2, four under SSE2 and NEON (twice as many for double). Every operation is an IEEE +, -, * or / or a fused
// multiply-add on each lane, and the compiler may fuse nothing by itself (-ffp-contract=off), so all instruction
// sets give the same bits. (x86 before AVX2 has no fused instruction: fma() is then a slow call into libm.)
//
// Included once per instruction set, inside that set's own namespace (see isa/isa.h): two copies of
// one function never meet in the linker.

constexpr int kLanes = 16;

#if defined(__AVX512F__)
#define NK_REGISTER_BYTES 64
#elif defined(__AVX2__)
#define NK_REGISTER_BYTES 32
#else
#define NK_REGISTER_BYTES 16
#endif

// Without the optimizer, code that is copied into every caller takes four times as long to compile: NK_OUTLINED keeps it apart.
#if defined(NK_OUTLINED)
#define NK_INLINE static inline
#define NK_MEMBER inline
#define NK_LAMBDA
#else
#define NK_INLINE static inline __attribute__((always_inline))
#define NK_MEMBER inline __attribute__((always_inline))
#define NK_LAMBDA __attribute__((always_inline))
#endif

template <class A>
struct RegisterOf;
template <>
struct RegisterOf<float> {
  typedef float Values __attribute__((vector_size(NK_REGISTER_BYTES)));
  typedef int32_t Bits __attribute__((vector_size(NK_REGISTER_BYTES)));
};
template <>
struct RegisterOf<double> {
  typedef double Values __attribute__((vector_size(NK_REGISTER_BYTES)));
  typedef int64_t Bits __attribute__((vector_size(NK_REGISTER_BYTES)));
};

template <class A>
struct Vec {
  using Values = typename RegisterOf<A>::Values;
  static constexpr int kRegisters = kLanes * sizeof(A) / NK_REGISTER_BYTES;
  static constexpr int kPerRegister = kLanes / kRegisters;
  Values r[kRegisters];
};

template <class A>
struct Pair {
  Vec<A> p;
  Vec<A> q;
};

// A choice of lanes.
#if defined(__AVX512F__)
template <class A>
struct Lanes {
  __mmask16 chosen;
};
#else
template <class A>
struct Lanes {
  using Bits = typename RegisterOf<A>::Bits;
  Bits r[Vec<A>::kRegisters];  // all bits set where chosen
};
#endif

using FloatValues = RegisterOf<float>::Values;
using DoubleValues = RegisterOf<double>::Values;

#if defined(__AVX512F__)
NK_INLINE FloatValues fma_register(FloatValues a, FloatValues b, FloatValues c) { return _mm512_fmadd_ps(a, b, c); }
NK_INLINE DoubleValues fma_register(DoubleValues a, DoubleValues b, DoubleValues c) {
  return _mm512_fmadd_pd(a, b, c);
}
#elif defined(__AVX2__)
NK_INLINE FloatValues fma_register(FloatValues a, FloatValues b, FloatValues c) { return _mm256_fmadd_ps(a, b, c); }
NK_INLINE DoubleValues fma_register(DoubleValues a, DoubleValues b, DoubleValues c) {
  return _mm256_fmadd_pd(a, b, c);
}
#elif defined(__ARM_NEON) && defined(__aarch64__)
NK_INLINE FloatValues fma_register(FloatValues a, FloatValues b, FloatValues c) {
  return (FloatValues)vfmaq_f32((float32x4_t)c, (float32x4_t)a, (float32x4_t)b);
}
NK_INLINE DoubleValues fma_register(DoubleValues a, DoubleValues b, DoubleValues c) {
  return (DoubleValues)vfmaq_f64((float64x2_t)c, (float64x2_t)a, (float64x2_t)b);
}
#else
// Slow and rare, so kept out of line: inlined, these calls would be most of the code.
[[maybe_unused]] static __attribute__((noinline)) FloatValues fma_register(FloatValues a, FloatValues b, FloatValues c) {
  for (int j = 0; j < 4; ++j) c[j] = __builtin_fmaf(a[j], b[j], c[j]);
  return c;
}
[[maybe_unused]] static __attribute__((noinline)) DoubleValues fma_register(DoubleValues a, DoubleValues b, DoubleValues c) {
  for (int j = 0; j < 2; ++j) c[j] = __builtin_fma(a[j], b[j], c[j]);
  return c;
}
#endif

// What a storage type is computed in.
template <class T>
struct ComputeOf {
  using type = float;
};
template <>
struct ComputeOf<double> {
  using type = double;
};
template <class T>
using Compute = typename ComputeOf<T>::type;

#define NK_EACH_REGISTER for (int i = 0; i < Vec<A>::kRegisters; ++i)

template <class A>
NK_INLINE Vec<A> operator+(Vec<A> a, Vec<A> b) {
  NK_EACH_REGISTER a.r[i] += b.r[i];
  return a;
}
template <class A>
NK_INLINE Vec<A> operator-(Vec<A> a, Vec<A> b) {
  NK_EACH_REGISTER a.r[i] -= b.r[i];
  return a;
}
template <class A>
NK_INLINE Vec<A> operator*(Vec<A> a, Vec<A> b) {
  NK_EACH_REGISTER a.r[i] *= b.r[i];
  return a;
}
template <class A>
NK_INLINE Vec<A> operator/(Vec<A> a, Vec<A> b) {
  NK_EACH_REGISTER a.r[i] /= b.r[i];
  return a;
}

template <class A>
NK_INLINE Vec<A> operator-(Vec<A> a) {
  NK_EACH_REGISTER a.r[i] = -a.r[i];
  return a;
}

// a * b + c, rounded once.
template <class A>
NK_INLINE Vec<A> fma(Vec<A> a, Vec<A> b, Vec<A> c) {
  NK_EACH_REGISTER c.r[i] = fma_register(a.r[i], b.r[i], c.r[i]);
  return c;
}

template <class A>
NK_INLINE Vec<A> splat(A value) {
  Vec<A> v;
  NK_EACH_REGISTER v.r[i] = value - typename Vec<A>::Values{};
  return v;
}
template <class A>
NK_INLINE Vec<A> zeros() {
  Vec<A> v;
  NK_EACH_REGISTER v.r[i] = typename Vec<A>::Values{};
  return v;
}

#if defined(__AVX512F__)
// Lanes 0 .. n-1.
template <class A>
NK_INLINE Lanes<A> first_lanes(int n) {
  return {__mmask16((1u << n) - 1)};
}
// Lanes n .. 15.
template <class A>
NK_INLINE Lanes<A> lanes_from(int n) {
  return {__mmask16(0xffffu << n)};
}
// All or none.
template <class A>
NK_INLINE Lanes<A> all_lanes(bool chosen) {
  return {__mmask16(-int(chosen))};
}

// The chosen lanes of v, 0 elsewhere.
NK_INLINE Vec<float> keep(Vec<float> v, Lanes<float> lanes) { return {_mm512_maskz_mov_ps(lanes.chosen, v.r[0])}; }
NK_INLINE Vec<double> keep(Vec<double> v, Lanes<double> lanes) {
  return {_mm512_maskz_mov_pd(__mmask8(lanes.chosen), v.r[0]), _mm512_maskz_mov_pd(__mmask8(lanes.chosen >> 8), v.r[1])};
}
#else
// Lanes 0 .. n-1.
template <class A>
NK_INLINE Lanes<A> first_lanes(int n) {
  using Bit = decltype(typename Lanes<A>::Bits{}[0] + 0);
  static constexpr Bit kBits[2 * kLanes] = {-1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1};
  Lanes<A> lanes;  // register by register: as a whole it would go through memory in smaller parts, for which its reader waits
  NK_EACH_REGISTER __builtin_memcpy(&lanes.r[i], kBits + kLanes - n + i * Vec<A>::kPerRegister, NK_REGISTER_BYTES);
  return lanes;
}
// Lanes n .. 15.
template <class A>
NK_INLINE Lanes<A> lanes_from(int n) {
  Lanes<A> lanes = first_lanes<A>(n);
  NK_EACH_REGISTER lanes.r[i] = ~lanes.r[i];
  return lanes;
}
// All or none.
template <class A>
NK_INLINE Lanes<A> all_lanes(bool chosen) {
  using Bit = decltype(typename Lanes<A>::Bits{}[0] + 0);
  Lanes<A> lanes;
  NK_EACH_REGISTER lanes.r[i] = typename Lanes<A>::Bits{} - Bit(chosen);
  return lanes;
}

// The chosen lanes of v, 0 elsewhere.
template <class A>
NK_INLINE Vec<A> keep(Vec<A> v, Lanes<A> lanes) {
  using Values = typename Vec<A>::Values;
  using Bits = typename Lanes<A>::Bits;
  NK_EACH_REGISTER v.r[i] = (Values)((Bits)v.r[i] & lanes.r[i]);
  return v;
}
#endif

// -|v|.
template <class A>
NK_INLINE Vec<A> minus_magnitude(Vec<A> v) {
  using Values = typename Vec<A>::Values;
  using Bits = typename RegisterOf<A>::Bits;
  const Bits sign = (Bits)(-Values{});
  NK_EACH_REGISTER v.r[i] = (Values)((Bits)v.r[i] | sign);
  return v;
}

// |v| with the sign of x.
template <class A>
NK_INLINE Vec<A> with_sign_of(Vec<A> x, Vec<A> v) {
  using Values = typename Vec<A>::Values;
  using Bits = typename RegisterOf<A>::Bits;
  const Bits sign = (Bits)(-Values{});
  NK_EACH_REGISTER v.r[i] = (Values)(((Bits)v.r[i] & ~sign) | ((Bits)x.r[i] & sign));
  return v;
}

// Whether a > b in all lanes; NaN compares false.
NK_INLINE bool all_greater(Vec<float> a, Vec<float> b) {
#if defined(__AVX512F__)
  return _mm512_cmp_ps_mask(a.r[0], b.r[0], _CMP_GT_OQ) == 0xffff;
#else
  auto all = a.r[0] > b.r[0];
  for (int i = 1; i < Vec<float>::kRegisters; ++i) all &= a.r[i] > b.r[i];
#if defined(__AVX2__)
  return _mm256_movemask_ps((FloatValues)all) == 0xff;
#else
  for (int j = 1; j < Vec<float>::kPerRegister; ++j) all[0] &= all[j];
  return all[0] != 0;
#endif
#endif
}

// where(a > b, yes, no), lane by lane; NaN compares false.
template <class A>
NK_INLINE Vec<A> where_greater(Vec<A> a, Vec<A> b, Vec<A> yes, Vec<A> no) {
  NK_EACH_REGISTER yes.r[i] = a.r[i] > b.r[i] ? yes.r[i] : no.r[i];
  return yes;
}

// dy, and 0 where z <= 0: the derivative of relu is that of z where z is NaN, too.
template <class A>
NK_INLINE Vec<A> where_above_zero(Vec<A> z, Vec<A> dy) {
  NK_EACH_REGISTER dy.r[i] = z.r[i] <= 0 ? zeros<A>().r[i] : dy.r[i];
  return dy;
}

// where(a > b, a, b), lane by lane: NaN in either gives b.
#if defined(__AVX512F__)
NK_INLINE FloatValues larger_register(FloatValues a, FloatValues b) { return _mm512_max_ps(a, b); }
NK_INLINE DoubleValues larger_register(DoubleValues a, DoubleValues b) { return _mm512_max_pd(a, b); }
#elif defined(__AVX2__)
NK_INLINE FloatValues larger_register(FloatValues a, FloatValues b) { return _mm256_max_ps(a, b); }
NK_INLINE DoubleValues larger_register(DoubleValues a, DoubleValues b) { return _mm256_max_pd(a, b); }
#else
template <class Values>
NK_INLINE Values larger_register(Values a, Values b) {
  return a > b ? a : b;
}
#endif
template <class A>
NK_INLINE Vec<A> larger(Vec<A> a, Vec<A> b) {
  NK_EACH_REGISTER b.r[i] = larger_register(a.r[i], b.r[i]);
  return b;
}

// The sum of all lanes in a fixed tree: lane i meets i+8, then i+4, i+2, i+1.
template <class A, int kCount, class Values>
NK_INLINE A sum_register(Values v) {
  if constexpr (kCount == 2) {
    return v[0] + v[1];
  } else {
    typedef A Half __attribute__((vector_size(kCount / 2 * sizeof(A))));
    struct Halves {
      Half low, high;
    } halves;
    __builtin_memcpy(&halves, &v, sizeof v);
    return sum_register<A, kCount / 2>(halves.low + halves.high);
  }
}
template <class A>
NK_INLINE A sum(Vec<A> v) {
  for (int half = Vec<A>::kRegisters / 2; half > 0; half /= 2) {
    for (int i = 0; i < half; ++i) v.r[i] += v.r[i + half];
  }
  return sum_register<A, Vec<A>::kPerRegister>(v.r[0]);
}

// The sums of two vectors, each in that tree; together they take less.
template <class A>
struct Two {
  A p;
  A q;
};
template <class A>
NK_INLINE Two<A> sum(Pair<A> v) {
  return {sum(v.p), sum(v.q)};
}
#if defined(__AVX2__)
#if defined(__AVX512F__)
NK_INLINE __m256 folded(Vec<float> v) { return _mm256_add_ps(_mm512_castps512_ps256(v.r[0]), _mm512_extractf32x8_ps(v.r[0], 1)); }
#else
NK_INLINE __m256 folded(Vec<float> v) { return _mm256_add_ps(v.r[0], v.r[1]); }
#endif
NK_INLINE Two<float> sum(Pair<float> v) {
  const __m256 p = folded(v.p), q = folded(v.q);
  __m256 s = _mm256_add_ps(_mm256_permute2f128_ps(p, q, 0x20), _mm256_permute2f128_ps(p, q, 0x31));
  s = _mm256_add_ps(s, _mm256_permute_ps(s, 0x4e));
  s = _mm256_add_ps(s, _mm256_permute_ps(s, 0xb1));
  return {_mm256_cvtss_f32(s), _mm_cvtss_f32(_mm256_extractf128_ps(s, 1))};
}
#endif

// The same 16 lanes in double.
NK_INLINE Vec<double> widen(Vec<double> v) { return v; }
NK_INLINE Vec<double> widen(Vec<float> v) {
  Vec<double> w;
  for (int i = 0; i < Vec<float>::kRegisters; ++i) {
#if defined(__AVX512F__)
    w.r[2 * i] = _mm512_maskz_cvtps_pd(0xff, _mm512_castps512_ps256(v.r[i]));
    w.r[2 * i + 1] = _mm512_maskz_cvtps_pd(0xff, _mm512_extractf32x8_ps(v.r[i], 1));
#elif defined(__AVX2__)
    w.r[2 * i] = _mm256_cvtps_pd(_mm256_castps256_ps128(v.r[i]));
    w.r[2 * i + 1] = _mm256_cvtps_pd(_mm256_extractf128_ps(v.r[i], 1));
#else
    typedef float Half __attribute__((vector_size(NK_REGISTER_BYTES / 2)));
    Half halves[2];
    __builtin_memcpy(halves, &v.r[i], sizeof halves);
    w.r[2 * i] = __builtin_convertvector(halves[0], DoubleValues);
    w.r[2 * i + 1] = __builtin_convertvector(halves[1], DoubleValues);
#endif
  }
  return w;
}
