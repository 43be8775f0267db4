// e^x by the same operations on every instruction set (float64: the C library's). Included by kernels_impl.h.

// e^x for x <= 0: n = round(x / ln 2), r = x - n * ln 2, 2^n * (the Taylor polynomial of e^r to r^7).
NK_INLINE Vec<float> exp_of_negative(Vec<float> x) {
  using Bits = RegisterOf<float>::Bits;
  const Vec<float> least = splat(-104.0f), one = splat(1.0f);  // e^-104 is 0
  x = where_greater(least, x, least, x);
  const Vec<float> shift = splat(0x1.8p23f), shifted = fma(x, splat(0x1.715476p0f), shift), n = shifted - shift;
  const Vec<float> r = fma(n, splat(0x1.05c610p-29f), fma(n, splat(-0x1.62e430p-1f), x));
  Vec<float> p = fma(splat(1.0f / 5040), r, splat(1.0f / 720));
  p = fma(p, r, splat(1.0f / 120));
  p = fma(p, r, splat(1.0f / 24));
  p = fma(p, r, splat(1.0f / 6));
  p = fma(p, r, splat(0.5f));
  p = fma(r * r, p, r) + one;
  Vec<float> low, high;  // 2^n in two factors: it may be subnormal
  for (int i = 0; i < Vec<float>::kRegisters; ++i) {
    const Bits exponent = (Bits)shifted.r[i] - (Bits)shift.r[i], half = exponent >> 1;
    low.r[i] = (RegisterOf<float>::Values)((half + 127) << 23);
    high.r[i] = (RegisterOf<float>::Values)((exponent - half + 127) << 23);
  }
  return p * low * high;
}
static __attribute__((noinline)) Vec<double> exp_of_negative(Vec<double> x) {
  for (auto& values : x.r) {
    for (int j = 0; j < Vec<double>::kPerRegister; ++j) values[j] = exp(values[j]);
  }
  return x;
}
