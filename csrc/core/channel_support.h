// What the channel kernels need beside the vector type. Included by kernels_impl.h.

// A ParallelFor that stays on this thread.
static void one_after_the_other(int64_t begin, int64_t end, int64_t, RangeFn fn, void* context) {
  fn(begin, end, context);
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

// n <= 16 items, and 0 in the other lanes.
template <class T>
NK_INLINE Vec<Compute<T>> load_some(const T* p, int n) {
  return load_rest(p, n, p + n);
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
