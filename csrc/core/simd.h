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

// A choice that the compiler makes.
template <bool kIt>
struct Flag {
  static constexpr bool kValue = kIt;
};

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

// ---- Loads and stores: memory of any alignment, any storage type ----

#include "convert.h"

template <class T>
NK_INLINE Vec<Compute<T>> load(const T* p) {
  using A = Compute<T>;
  Vec<A> v;
  NK_EACH_REGISTER v.r[i] = load_register(p + i * Vec<A>::kPerRegister);
  return v;
}
#if defined(__AVX2__) && !defined(__AVX512F__)
NK_INLINE void store(BFloat16* p, Vec<float> v) { write_register(p, packed_pair(p, v.r[0], v.r[1])); }
#endif
template <class T>
NK_INLINE void store(T* p, Vec<Compute<T>> v) {
  using A = Compute<T>;
  NK_EACH_REGISTER write_register(p + i * Vec<A>::kPerRegister, packed(p, v.r[i]));
}

// Whether n items of an output are written past the caches.
template <class T>
NK_INLINE bool past_caches(int64_t n) {
  return n * int64_t(sizeof(T)) >= stream_bytes();
}
// Where a loop writes: to the caches as always, or past them, to whole_lines() then. A type, so that there is a loop for each: a
// choice in every step costs a tenth of the time.
template <bool kPast>
struct Past {};
template <class T>
NK_INLINE void put(T* p, Vec<Compute<T>> v, Past<false>) {
  store(p, v);
}
template <class T>
NK_INLINE void put(T* p, Vec<Compute<T>> v, Past<true>) {
  using A = Compute<T>;
  NK_EACH_REGISTER stream_register(p + i * Vec<A>::kPerRegister, packed(p, v.r[i]));
}
template <class Loop>
NK_INLINE void by_past(bool past, const Loop& loop) {
  past ? loop(Past<true>()) : loop(Past<false>());
}
// Whether n items from p are whole vectors and whole lines of memory: a line that is written past the caches in part costs more
// than it saves.
template <class T>
NK_INLINE bool whole_lines(const T* p, int64_t n) {
  return n % kLanes == 0 && (reinterpret_cast<uintptr_t>(p) | uint64_t(n) * sizeof(T)) % 64 == 0;
}

// Copies n < 16 items with moves of fixed size (a call to memcpy costs more than the rest of a short row).
template <class T>
NK_INLINE void copy_few(T* to, const T* from, int n) {
  if (n & 8) {
    __builtin_memcpy(to, from, 8 * sizeof(T));
    to += 8, from += 8;
  }
  if (n & 4) {
    __builtin_memcpy(to, from, 4 * sizeof(T));
    to += 4, from += 4;
  }
  if (n & 2) {
    __builtin_memcpy(to, from, 2 * sizeof(T));
    to += 2, from += 2;
  }
  if (n & 1) __builtin_memcpy(to, from, sizeof(T));
}

#if defined(__AVX512F__)
// The first n <= 16 lanes from memory, 0 elsewhere; touches nothing past p + n.
template <class T>
NK_INLINE Vec<Compute<T>> load_first(const T* p, int n) {
  const uint32_t few = (1u << n) - 1;
  if constexpr (sizeof(T) == 2) {
    const __m256i items = _mm256_maskz_loadu_epi16(__mmask16(few), p);
    return load((const T*)&items);
  } else if constexpr (sizeof(T) == 4) {
    return {_mm512_maskz_loadu_ps(__mmask16(few), p)};
  } else {
    return {_mm512_maskz_loadu_pd(__mmask8(few), p), _mm512_maskz_loadu_pd(__mmask8(few >> 8), p + 8)};
  }
}
template <class T>
NK_INLINE void store_first(T* p, Vec<Compute<T>> v, int n) {
  const uint32_t few = (1u << n) - 1;
  if constexpr (sizeof(T) == 2) {
    __m256i items;
    store((T*)&items, v);
    _mm256_mask_storeu_epi16(p, __mmask16(few), items);
  } else if constexpr (sizeof(T) == 4) {
    _mm512_mask_storeu_ps(p, __mmask16(few), (__m512)v.r[0]);
  } else {
    _mm512_mask_storeu_pd(p, __mmask8(few), (__m512d)v.r[0]);
    _mm512_mask_storeu_pd(p + 8, __mmask8(few >> 8), (__m512d)v.r[1]);
  }
}

// The first n <= 16 items, and whatever is in the other lanes.
template <class T>
NK_INLINE Vec<Compute<T>> load_rest(const T* p, int n, const T*) {
  return load_first(p, n);
}
#else
// The first n < 16 lanes from memory, 0 elsewhere; touches nothing past p + n.
template <class T>
NK_INLINE Vec<Compute<T>> load_first(const T* p, int n) {
  T lanes[kLanes] = {};
  copy_few(lanes, p, n);
  return load(lanes);
}
template <class T>
NK_INLINE void store_first(T* p, Vec<Compute<T>> v, int n) {
  T lanes[kLanes];
  store(lanes, v);
  copy_few(p, lanes, n);
}

// The first n <= 16 items, and whatever is in the other lanes: loaded whole where that stays before `end`. The choice is made
// between addresses, since one between vectors would go through memory.
template <class T>
NK_INLINE Vec<Compute<T>> load_rest(const T* p, int n, const T* end) {
  T few[kLanes];
  if (p + kLanes > end) {
    for (T& item : few) item = T();
    copy_few(few, p, n);
    p = few;
  }
  return load(p);
}
#endif

// n <= 16 items, and 0 in the other lanes.
template <class T>
NK_INLINE Vec<Compute<T>> load_some(const T* p, int n) {
  return load_rest(p, n, p + n);
}
template <class T>
NK_INLINE void store_some(T* p, Vec<Compute<T>> v, int n) {
  n == kLanes ? store(p, v) : store_first(p, v, n);
}

// fn(j, load, store) for each vector of [0, n), whose load and store know where it ends.
template <class Body>
NK_INLINE void each_vector(int64_t n, const Body& fn) {
  int64_t j = 0;
  for (; j + kLanes <= n; j += kLanes) {
    fn(
        j, [](const auto* p) NK_LAMBDA { return load(p); }, [](auto* p, auto v) NK_LAMBDA { store(p, v); });
  }
  const int few = int(n - j);
  if (few == 0) return;
  fn(
      j, [few](const auto* p) NK_LAMBDA { return load_first(p, few); },
      [few](auto* p, auto v) NK_LAMBDA { store_first(p, v, few); });
}

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

// Items of a line of memory.
template <class T>
static constexpr int64_t line_of = 64 / sizeof(T);

template <class T>
NK_INLINE void prefetch(const T* p) {
  __builtin_prefetch(p, 0, 3);
}
