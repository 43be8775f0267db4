// One register of compute values from memory, and as it is kept in memory (`packed`), for each storage type. Rounding is to
// nearest even, by integer arithmetic where the processor has no instruction that treats subnormals and NaN the same
// everywhere. Included by memory.h.

// What stores write, at any address. Vectors alias what their elements do and nothing else: after a memcpy, which may
// write anything, the compiler would read every pointer and size again.
typedef float FloatsInMemory __attribute__((vector_size(NK_REGISTER_BYTES), aligned(alignof(float))));
typedef double DoublesInMemory __attribute__((vector_size(NK_REGISTER_BYTES), aligned(alignof(double))));

using FloatBits = RegisterOf<float>::Bits;
typedef uint32_t UnsignedBits __attribute__((vector_size(NK_REGISTER_BYTES)));
typedef uint16_t HalfBits __attribute__((vector_size(NK_REGISTER_BYTES / 2)));
typedef uint16_t HalvesInMemory __attribute__((vector_size(NK_REGISTER_BYTES / 2), aligned(alignof(uint16_t))));

NK_INLINE void write_register(void* p, FloatValues v) { *(FloatsInMemory*)p = v; }
NK_INLINE void write_register(void* p, DoubleValues v) { *(DoublesInMemory*)p = v; }
NK_INLINE void write_register(void* p, HalfBits v) { *(HalvesInMemory*)p = (HalvesInMemory)v; }
#if defined(__AVX2__) && !defined(__AVX512F__)
typedef uint16_t WholeInMemory __attribute__((vector_size(NK_REGISTER_BYTES), aligned(alignof(uint16_t))));
NK_INLINE void write_register(void* p, __m256i v) { *(WholeInMemory*)p = (WholeInMemory)v; }
#endif

// The same past the caches, to an address that is a multiple of the register's size.
#if defined(__AVX512F__)
NK_INLINE void stream_register(void* p, FloatValues v) { _mm512_stream_ps((float*)p, (__m512)v); }
NK_INLINE void stream_register(void* p, DoubleValues v) { _mm512_stream_pd((double*)p, (__m512d)v); }
NK_INLINE void stream_register(void* p, HalfBits v) { _mm256_stream_si256((__m256i*)p, (__m256i)v); }
#elif defined(__AVX2__)
NK_INLINE void stream_register(void* p, FloatValues v) { _mm256_stream_ps((float*)p, (__m256)v); }
NK_INLINE void stream_register(void* p, DoubleValues v) { _mm256_stream_pd((double*)p, (__m256d)v); }
NK_INLINE void stream_register(void* p, HalfBits v) { _mm_stream_si128((__m128i*)p, (__m128i)v); }
#else
template <class Values>
NK_INLINE void stream_register(void* p, Values v) {
  write_register(p, v);
}
#endif

NK_INLINE FloatValues load_register(const float* p) {
  FloatValues v;
  __builtin_memcpy(&v, p, sizeof v);
  return v;
}
NK_INLINE FloatValues packed(const float*, FloatValues v) { return v; }

NK_INLINE DoubleValues load_register(const double* p) {
  DoubleValues v;
  __builtin_memcpy(&v, p, sizeof v);
  return v;
}
NK_INLINE DoubleValues packed(const double*, DoubleValues v) { return v; }

// 16-bit items as 32-bit lanes and back (values fit). The generic form is two shuffles a register slower.
#if defined(__AVX512F__)
NK_INLINE UnsignedBits load_halves(const void* p) {
  return (UnsignedBits)_mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i*)p));
}
#elif defined(__AVX2__)
NK_INLINE UnsignedBits load_halves(const void* p) {
  return (UnsignedBits)_mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i*)p));
}
NK_INLINE HalfBits halves(UnsignedBits bits) {
  const __m256i v = (__m256i)bits;
  return (HalfBits)_mm_packus_epi32(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1));
}
#else
NK_INLINE UnsignedBits load_halves(const void* p) {
  HalfBits h;
  __builtin_memcpy(&h, p, sizeof h);
  return __builtin_convertvector(h, UnsignedBits);
}
NK_INLINE HalfBits halves(UnsignedBits bits) { return __builtin_convertvector(bits, HalfBits); }
#endif

// ---- bfloat16: the upper half of a float32 ----

#if defined(__AVX2__) && !defined(__AVX512F__)
// By shuffles of bytes alone: shifts have one port on some processors, and two steps in these.
NK_INLINE FloatValues load_register(const BFloat16* p) {
  const __m256i twice = _mm256_broadcastsi128_si256(_mm_loadu_si128((const __m128i*)p));
  return (FloatValues)_mm256_shuffle_epi8(
      twice, _mm256_setr_epi8(-1, -1, 0, 1, -1, -1, 2, 3, -1, -1, 4, 5, -1, -1, 6, 7,  //
                              -1, -1, 8, 9, -1, -1, 10, 11, -1, -1, 12, 13, -1, -1, 14, 15));
}
NK_INLINE UnsignedBits upper_halves(UnsignedBits bits) {
  return (UnsignedBits)_mm256_shuffle_epi8(
      (__m256i)bits, _mm256_setr_epi8(2, 3, -1, -1, 6, 7, -1, -1, 10, 11, -1, -1, 14, 15, -1, -1,  //
                                      2, 3, -1, -1, 6, 7, -1, -1, 10, 11, -1, -1, 14, 15, -1, -1));
}
NK_INLINE HalfBits packed_upper_halves(UnsignedBits bits) {
  const __m256i both = _mm256_shuffle_epi8(
      (__m256i)bits, _mm256_setr_epi8(2, 3, 6, 7, 10, 11, 14, 15, -1, -1, -1, -1, -1, -1, -1, -1,  //
                                      2, 3, 6, 7, 10, 11, 14, 15, -1, -1, -1, -1, -1, -1, -1, -1));
  return (HalfBits)_mm_unpacklo_epi64(_mm256_castsi256_si128(both), _mm256_extracti128_si256(both, 1));
}
#else
NK_INLINE FloatValues load_register(const BFloat16* p) { return (FloatValues)(load_halves(p) << 16); }
NK_INLINE UnsignedBits upper_halves(UnsignedBits bits) { return bits >> 16; }
#if !defined(__AVX512F__)
NK_INLINE HalfBits packed_upper_halves(UnsignedBits bits) { return halves(bits >> 16); }
#endif
#endif
#if defined(__AVX512F__)
// Upper halves by one shuffle, and NaN by a mask; or by one instruction, which would take subnormal numbers for 0, and keep of a
// NaN what it can.
NK_INLINE HalfBits packed(const BFloat16*, FloatValues v) {
#if defined(__AVX512BF16__)
  constexpr int kQuietNan = 0x01, kSubnormal = 0x20, kSignalingNan = 0x80;
  if (__builtin_expect(_mm512_fpclass_ps_mask((__m512)v, kQuietNan | kSubnormal | kSignalingNan) == 0, 1)) {
    return (HalfBits)_mm512_cvtneps_pbh((__m512)v);
  }
#endif
  const UnsignedBits bits = (UnsignedBits)v;
  const UnsignedBits nearest_even = bits + 0x7fffu + (upper_halves(bits) & 1u);
  const __m512i odd = _mm512_broadcast_i64x4(_mm256_setr_epi16(1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31));
  const __m256i halves = _mm512_castsi512_si256(_mm512_permutexvar_epi16(odd, (__m512i)nearest_even));
  const __mmask16 nan = _mm512_cmp_ps_mask((__m512)v, (__m512)v, _CMP_UNORD_Q);
  return (HalfBits)_mm256_mask_set1_epi16(halves, nan, -1);
}
#else
// In the upper half of each.
NK_INLINE UnsignedBits rounded_to_bfloat16(FloatValues v) {
  const UnsignedBits bits = (UnsignedBits)v;
  const UnsignedBits nearest_even = bits + 0x7fffu + (upper_halves(bits) & 1u);
  return nearest_even | (UnsignedBits)(v != v);  // all bits: a NaN again, which rounding might have left
}
NK_INLINE HalfBits packed(const BFloat16*, FloatValues v) { return packed_upper_halves(rounded_to_bfloat16(v)); }
#if defined(__AVX2__)
NK_INLINE __m256i packed_pair(const BFloat16*, FloatValues v, FloatValues w) {
  const __m256i a = _mm256_srli_epi32((__m256i)rounded_to_bfloat16(v), 16);
  const __m256i both = _mm256_packus_epi32(a, _mm256_srli_epi32((__m256i)rounded_to_bfloat16(w), 16));
  return _mm256_permute4x64_epi64(both, 0xd8);  // in each half of a register there are four of v, then four of w
}
#endif
#endif

// ---- float16 ----

#if defined(__AVX512F__)
NK_INLINE FloatValues load_register(const Float16* p) {
  return (FloatValues)_mm512_maskz_cvtph_ps(0xffff, _mm256_loadu_si256((const __m256i*)p));
}
NK_INLINE HalfBits packed(const Float16*, FloatValues v) {
  return (HalfBits)_mm512_maskz_cvtps_ph(0xffff, (__m512)v, _MM_FROUND_TO_NEAREST_INT);
}
#elif defined(__F16C__)
NK_INLINE FloatValues load_register(const Float16* p) {
  return (FloatValues)_mm256_cvtph_ps(_mm_loadu_si128((const __m128i*)p));
}
NK_INLINE HalfBits packed(const Float16*, FloatValues v) {
  return (HalfBits)_mm256_cvtps_ph((__m256)v, _MM_FROUND_TO_NEAREST_INT);
}
#else
NK_INLINE FloatValues load_register(const Float16* p) {
  const UnsignedBits h = load_halves(p);
  const UnsignedBits magnitude = (h & 0x7fffu) << 13;
  const UnsignedBits rebiased = magnitude + (112u << 23);
  // Subnormal: the bits count units of 2^-24; an exact subtraction normalizes them.
  const FloatValues unit = (FloatValues)(UnsignedBits{} + (113u << 23));
  const UnsignedBits subnormal = (UnsignedBits)((FloatValues)(magnitude + (113u << 23)) - unit);
  const UnsignedBits special = magnitude | 0x7f800000u;
  const UnsignedBits quiet = (FloatBits)magnitude > 0x0f800000 ? special | 0x400000u : special;
  UnsignedBits bits = (FloatBits)magnitude < 0x00800000 ? subnormal : rebiased;
  bits = (FloatBits)magnitude >= 0x0f800000 ? quiet : bits;
  return (FloatValues)(bits | ((h & 0x8000u) << 16));
}
NK_INLINE HalfBits packed(const Float16*, FloatValues v) {
  const UnsignedBits bits = (UnsignedBits)v;
  const UnsignedBits magnitude = bits & 0x7fffffffu;
  const UnsignedBits normal = (magnitude + (((magnitude >> 13) & 1u) + (0xfffu - (112u << 23)))) >> 13;
  // Below 2^-14: adding 0.5 makes the float adder round at 2^-24, to nearest even.
  const UnsignedBits half = UnsignedBits{} + 0x3f000000u;
  const UnsignedBits subnormal = (UnsignedBits)((FloatValues)magnitude + (FloatValues)half) - half;
  const UnsignedBits nan = ((magnitude >> 13) & 0x3ffu) | 0x7e00u;
  UnsignedBits h = (FloatBits)magnitude < 0x38800000 ? subnormal : normal;
  h = (FloatBits)magnitude >= 0x47800000 ? UnsignedBits{} + 0x7c00u : h;
  h = (FloatBits)magnitude > 0x7f800000 ? nan : h;
  return halves(h | ((bits >> 16) & 0x8000u));
}
#endif
