// sigmoid and tanh for the gates of recurrent networks, within 4 units in the last place; NaN stays NaN. Included by
// isa/*.cpp.

// 1 / (1 + exp(-x)), without cancellation at either end.
NK_INLINE Vec<float> sigmoid(Vec<float> x) {
  const Vec<float> one = splat(1.0f);
  const Vec<float> shrink = exp_of_negative(minus_magnitude(x));
  return where_greater(zeros<float>(), x, shrink, one) / (one + shrink);
}

// Scalar math: small x: x + x^3 p(x^2), with the minimax p of Cephes' tanhf; else (1 - e) / (1 + e), e = exp(-2|x|).
NK_INLINE Vec<float> tanh(Vec<float> x) {
  const Vec<float> one = splat(1.0f), below = minus_magnitude(x), x2 = x * x;
  Vec<float> p = splat(-5.70498872745e-3f);
  p = fma(p, x2, splat(2.06390887954e-2f));
  p = fma(p, x2, splat(-5.37397155531e-2f));
  p = fma(p, x2, splat(1.33314422036e-1f));
  p = fma(p, x2, splat(-3.33332819422e-1f));
  const Vec<float> near = fma(p * x2, x, x);
  const Vec<float> e = exp_of_negative(below + below);
  const Vec<float> far = (one - e) / (one + e);
  return where_greater(splat(-0.625f), below, where_greater(zeros<float>(), x, -far, far), near);
}
