// exp, sigmoid and tanh on vectors, by the same operations on every instruction set. Included by kernels_impl.h.
// Within 2 units in the last place (sigmoid and tanh 4); NaN stays NaN.

NK_INLINE FloatValues power_of_two(FloatValues shifted) {
  // shifted = n + 1.5 * 2^23: n stands in the low bits, from where it moves into the exponent of 1.
  const UnsignedBits bits = (UnsignedBits)shifted;
  return (FloatValues)((bits << 23) + 0x3f800000u);
}

// exp(x) of x <= 0, which below -87 is held there. Scalar math: x = n ln 2 + r, |r| <= ln(2)/2; 2^n * exp(r), where
// exp(r) = 1 + r + r^2 q(r) with the minimax q of Cephes' expf.
NK_INLINE Vec<float> exp_of_negative(Vec<float> x) {
  const Vec<float> least = splat(-87.0f), shift = splat(12582912.0f);
  x = where_greater(least, x, least, x);
  const Vec<float> shifted = fma(x, splat(1.44269504f), shift);
  const Vec<float> n = shifted - shift;
  Vec<float> r = fma(n, splat(-0.693359375f), x);
  r = fma(n, splat(2.12194440e-4f), r);
  Vec<float> q = splat(1.9875691500e-4f);
  q = fma(q, r, splat(1.3981999507e-3f));
  q = fma(q, r, splat(8.3334519073e-3f));
  q = fma(q, r, splat(4.1665795894e-2f));
  q = fma(q, r, splat(1.6666665459e-1f));
  q = fma(q, r, splat(5.0000001201e-1f));
  Vec<float> y = fma(q * r, r, r) + splat(1.0f);
  for (int i = 0; i < Vec<float>::kRegisters; ++i) y.r[i] *= power_of_two(shifted.r[i]);
  return y;
}

NK_INLINE Vec<float> magnitude(Vec<float> x) {
  for (int i = 0; i < Vec<float>::kRegisters; ++i) x.r[i] = (FloatValues)((UnsignedBits)x.r[i] & 0x7fffffffu);
  return x;
}

// 1 / (1 + exp(-x)), without cancellation at either end.
NK_INLINE Vec<float> sigmoid(Vec<float> x) {
  const Vec<float> one = splat(1.0f);
  const Vec<float> shrink = exp_of_negative(zeros<float>() - magnitude(x));
  return where_greater(zeros<float>(), x, shrink, one) / (one + shrink);
}

// Scalar math: small x: x + x^3 p(x^2), with the minimax p of Cephes' tanhf; else (1 - e) / (1 + e), e = exp(-2|x|).
NK_INLINE Vec<float> tanh(Vec<float> x) {
  const Vec<float> one = splat(1.0f), size = magnitude(x), x2 = x * x;
  Vec<float> p = splat(-5.70498872745e-3f);
  p = fma(p, x2, splat(2.06390887954e-2f));
  p = fma(p, x2, splat(-5.37397155531e-2f));
  p = fma(p, x2, splat(1.33314422036e-1f));
  p = fma(p, x2, splat(-3.33332819422e-1f));
  const Vec<float> near = fma(p * x2, x, x);
  const Vec<float> e = exp_of_negative(zeros<float>() - (size + size));
  const Vec<float> far = (one - e) / (one + e);
  return where_greater(size, splat(0.625f), where_greater(zeros<float>(), x, zeros<float>() - far, far), near);
}
