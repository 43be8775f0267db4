// e^x by the same operations on every instruction set (float64: the C library's). Included by kernels_impl.h.

template <class A>
NK_INLINE Vec<A> minus(Vec<A> v) {
  return zeros<A>() - v;
}

// A number as a sum of two, the second at most half a unit in the last place of the first.
template <class A>
struct Twofold {
  Vec<A> high;
  Vec<A> low;
};

// a + b where |a| >= |b| or a is 0: exactly.
template <class A>
NK_INLINE Twofold<A> exact_sum(Vec<A> a, Vec<A> b) {
  const Vec<A> high = a + b;
  return {high, b - (high - a)};
}

// For x <= 0: n = round(x / ln 2), r + r_low = x - n * ln 2, e^x = 2^n * e^(r + r_low); the Taylor polynomial of e^r to
// r^7 is 1 + r + r^2 * p.
struct ReducedExp {
  Vec<float> r, r_low, p;
  Vec<float> scale[2];  // 2^n in two factors: it may be subnormal

  NK_MEMBER explicit ReducedExp(Vec<float> x) {
    using Bits = RegisterOf<float>::Bits;
    const Vec<float> least = splat(-104.0f);  // e^-104 is 0
    x = where_greater(least, x, least, x);
    const Vec<float> shift = splat(0x1.8p23f), shifted = fma(x, splat(0x1.715476p0f), shift), n = shifted - shift;
    const Vec<float> near = fma(n, splat(-0x1.62e430p-1f), x), ln2_low = splat(0x1.05c610p-29f);  // near is exact
    r = fma(n, ln2_low, near);
    r_low = fma(n, ln2_low, near - r);
    p = fma(splat(1.0f / 5040), r, splat(1.0f / 720));
    p = fma(p, r, splat(1.0f / 120));
    p = fma(p, r, splat(1.0f / 24));
    p = fma(p, r, splat(1.0f / 6));
    p = fma(p, r, splat(0.5f));
    for (int i = 0; i < Vec<float>::kRegisters; ++i) {
      const Bits exponent = (Bits)shifted.r[i] - (Bits)shift.r[i], half = exponent >> 1;
      scale[0].r[i] = (RegisterOf<float>::Values)((half + 127) << 23);
      scale[1].r[i] = (RegisterOf<float>::Values)((exponent - half + 127) << 23);
    }
  }
};

// e^x for x <= 0, within 1.5 units in the last place.
NK_INLINE Vec<float> exp_of_negative(Vec<float> x) {
  const ReducedExp e(x);
  return (fma(e.r * e.r, e.p, e.r) + splat(1.0f)) * e.scale[0] * e.scale[1];
}

// The same within 2^-25.6 of itself, before the result is subnormal.
NK_INLINE Twofold<float> twofold_exp_of_negative(Vec<float> x) {
  const ReducedExp e(x);
  const Twofold<float> sum = exact_sum(splat(1.0f), e.r);
  const Twofold<float> value = exact_sum(sum.high, fma(e.r * e.r, e.p, sum.low + e.r_low));
  return {value.high * e.scale[0] * e.scale[1], value.low * e.scale[0] * e.scale[1]};
}
static __attribute__((noinline)) Twofold<double> twofold_exp_of_negative(Vec<double> x) {
  for (auto& values : x.r) {
    for (int j = 0; j < Vec<double>::kPerRegister; ++j) values[j] = exp(values[j]);
  }
  return {x, zeros<double>()};
}
