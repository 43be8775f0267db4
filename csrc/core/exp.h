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

// e^x for x <= 0 as (high + low) * kBack, a power of two that keeps both out of the subnormal numbers; of kLeast below it.
template <class A>
struct ScaledExp;

// n = round(x / ln 2), r = x - n * ln 2, e^x = 2^n * e^r. e^r - 1 = r + r^2 * p(r), with p of degree 4 fitted by Remez'
// algorithm for the least relative error of e^r: 0.06 units of 2^-24.
template <>
struct ScaledExp<float> {
  static constexpr int kAhead = 65;  // no n makes 2^(n + kAhead) subnormal
  static constexpr float kBack = 0x1p-65f;
  static constexpr float kLeast = -110.0f;  // times any x below, this is 0
  Vec<float> high;
  Vec<float> low;  // what is rounded off: of e^r - 1 and 1, exactly

  NK_MEMBER explicit ScaledExp(Vec<float> x) {
    x = larger(splat(kLeast), x);
    // In the last bits of `shifted` stands n, and the exponent of 2^kAhead as a float has it.
    const Vec<float> shift = splat(0x1.8p23f + (127 + kAhead)), shifted = fma(x, splat(0x1.715476p0f), shift);
    const Vec<float> n = shifted - shift;
    const Vec<float> r = fma(n, splat(0x1.05c610p-29f), fma(n, splat(-0x1.62e430p-1f), x)), r2 = r * r;
    const Vec<float> p0 = fma(r, splat(0x1.555492p-3f), splat(0x1.fffffcp-2f));
    const Vec<float> p2 = fma(r, splat(0x1.1239d6p-7f), splat(0x1.5558f2p-5f));
    const Vec<float> less_one = fma(fma(fma(r2, splat(0x1.6a2448p-10f), p2), r2, p0), r2, r);
    Vec<float> scale;
    for (int i = 0; i < Vec<float>::kRegisters; ++i) {
      scale.r[i] = (RegisterOf<float>::Values)((RegisterOf<float>::Bits)shifted.r[i] << 23);
    }
    high = fma(less_one, scale, scale);
    low = fma(less_one, scale, scale - high);
  }
};

// By the C library.
template <>
struct ScaledExp<double> {
  static constexpr double kBack = 1.0;
  static constexpr double kLeast = -800.0;
  Vec<double> high;
  Vec<double> low = zeros<double>();

  NK_MEMBER explicit ScaledExp(Vec<double> x) : high(of(x)) {}

 private:
  static __attribute__((noinline)) Vec<double> of(Vec<double> x) {
    for (auto& values : x.r) {
      for (int j = 0; j < Vec<double>::kPerRegister; ++j) values[j] = exp(values[j]);
    }
    return x;
  }
};

// e^x for x <= 0.
template <class A>
NK_INLINE Vec<A> exp_of_negative(Vec<A> x) {
  const ScaledExp<A> e(x);
  return e.high * splat(e.kBack);
}

