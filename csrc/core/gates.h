// sigmoid and tanh for the gates of recurrent networks, within 4 units in the last place; NaN stays NaN. Included by
// isa/*.cpp.

// 1 / (1 + e^-x).
constexpr float kSigmoidReach = 87.0f;  // 2^n is a normal number
NK_INLINE Vec<float> sigmoid(Vec<float> x) {
  const Vec<float> one = splat(1.0f);
  return near_or_far(x, kSigmoidReach, one / PartsOfExp(-x).plus(1.0f), [](Vec<float> v) {
    const ScaledExp<float> e(minus_magnitude(v));
    const Vec<float> unit = splat(1.0f), small = e.high * splat(e.kBack);
    return where_greater(zeros<float>(), v, small, unit) / (unit + small);
  });
}

// (e^2x - 1) / (e^2x + 1), which loses nothing near 0, as 1 goes from the power of two; of -|x|, beyond -10 it is -1.
NK_INLINE Vec<float> tanh(Vec<float> x) {
  const Vec<float> below = larger(splat(-10.0f), minus_magnitude(x));
  const PartsOfExp e(below + below);
  return with_sign_of(x, e.plus(-1.0f) / e.plus(1.0f));
}
