// What the channel kernels need beside the vector type. Included by kernels_impl.h.

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
