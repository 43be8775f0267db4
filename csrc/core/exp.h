// e^x by the same operations on every instruction set (float64: the C library's). Included by isa/*.cpp.

// A number as a sum of two, the second at most half a unit in the last place of the first.
template <class A>
struct Twofold {
  Vec<A> high;
  Vec<A> low;
};

// a + b exactly, where a is 0 or |a| >= |b|, or a is a multiple of b's last place.
template <class A>
NK_INLINE Twofold<A> exact_sum(Vec<A> a, Vec<A> b) {
  const Vec<A> high = a + b;
  return {high, b - (high - a)};
}

// For x <= 0: n = round(x / ln 2), r = x - n * ln 2, e^x = 2^n * e^r; e^r - 1 by its Taylor polynomial to r^7.
struct ReducedExp {
  Vec<float> less_one;  // e^r - 1
  Vec<float> scale;     // 2^n * 2^kAhead, which no n makes subnormal

  static constexpr int kAhead = 65;

  NK_MEMBER explicit ReducedExp(Vec<float> x) {
    const Vec<float> least = splat(-104.0f);  // e^-104 is 0
    x = where_greater(least, x, least, x);
    // In the last bits of `shifted` stands n, and the exponent of 2^kAhead as a float has it.
    const Vec<float> shift = splat(0x1.8p23f + (127 + kAhead)), shifted = fma(x, splat(0x1.715476p0f), shift);
    const Vec<float> n = shifted - shift;
    const Vec<float> r = fma(n, splat(0x1.05c610p-29f), fma(n, splat(-0x1.62e430p-1f), x));
    Vec<float> p = fma(splat(1.0f / 5040), r, splat(1.0f / 720));
    p = fma(p, r, splat(1.0f / 120));
    p = fma(p, r, splat(1.0f / 24));
    p = fma(p, r, splat(1.0f / 6));
    p = fma(p, r, splat(0.5f));
    less_one = fma(r * r, p, r);
    for (int i = 0; i < Vec<float>::kRegisters; ++i) {
      scale.r[i] = (RegisterOf<float>::Values)((RegisterOf<float>::Bits)shifted.r[i] << 23);
    }
  }

  // v * 2^n, rounded once.
  NK_MEMBER Vec<float> times_scale(Vec<float> v) const { return v * scale * splat(0x1p-65f); }
};

// e^x for x <= 0.
NK_INLINE Vec<float> exp_of_negative(Vec<float> x) {
  const ReducedExp e(x);
  return e.times_scale(e.less_one + splat(1.0f));
}
static __attribute__((noinline)) Vec<double> exp_of_negative(Vec<double> x) {
  for (auto& values : x.r) {
    for (int j = 0; j < Vec<double>::kPerRegister; ++j) values[j] = exp(values[j]);
  }
  return x;
}

// The same with what its last addition rounds off.
NK_INLINE Twofold<float> twofold_exp_of_negative(Vec<float> x) {
  const ReducedExp e(x);
  const Twofold<float> value = exact_sum(splat(1.0f), e.less_one);
  return {e.times_scale(value.high), e.times_scale(value.low)};
}
NK_INLINE Twofold<double> twofold_exp_of_negative(Vec<double> x) { return {exp_of_negative(x), zeros<double>()}; }
