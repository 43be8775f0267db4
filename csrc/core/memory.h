// Loads and stores of virtual vectors: memory of any alignment, any storage type, any number of lanes, to the caches or past them.
// Included by isa/isa.h after simd.h.

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
struct Past {
  static constexpr bool past = kPast;
};
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

// Items of a line of memory.
template <class T>
static constexpr int64_t line_of = 64 / sizeof(T);

template <class T>
NK_INLINE void prefetch(const T* p) {
  __builtin_prefetch(p, 0, 3);
}
