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

// e^x = (1 + less_one) * power, with power = 2^n, n = round(x / ln 2), or 2^(n + ahead). Of r = x - n * ln 2, less_one = e^r - 1 =
// r + r^2 * p(r), with p of degree 4 fitted by Remez' algorithm for the least relative error of e^r: 0.06 units of 2^-24. Of no
// use but where power is a normal number.
struct PartsOfExp {
  Vec<float> less_one;
  Vec<float> power;

  NK_MEMBER explicit PartsOfExp(Vec<float> x, int ahead = 0) {
    // In the last bits of `shifted` stands n, and the exponent of 2^ahead as a float has it.
    const Vec<float> shift = splat(0x1.8p23f + float(127 + ahead)), shifted = fma(x, splat(0x1.715476p0f), shift);
    const Vec<float> n = shifted - shift;
    const Vec<float> r = fma(n, splat(0x1.05c610p-29f), fma(n, splat(-0x1.62e430p-1f), x)), r2 = r * r;
    const Vec<float> p0 = fma(r, splat(0x1.555492p-3f), splat(0x1.fffffcp-2f));
    const Vec<float> p2 = fma(r, splat(0x1.1239d6p-7f), splat(0x1.5558f2p-5f));
    less_one = fma(fma(fma(r2, splat(0x1.6a2448p-10f), p2), r2, p0), r2, r);
    for (int i = 0; i < Vec<float>::kRegisters; ++i) {
      power.r[i] = (RegisterOf<float>::Values)((RegisterOf<float>::Bits)shifted.r[i] << 23);
    }
  }

  // e^x + c; rounded once where power + c is exact.
  NK_MEMBER Vec<float> plus(float c) const { return fma(less_one, power, power + splat(c)); }
};

// Functions of e^x are found from its parts near 0, and with care in lanes whose |x| is no less than `reach`, or NaN. A lane's bits
// are the same whatever those beside it hold.
template <class Far>
static __attribute__((noinline)) Vec<float> with_far_lanes(Vec<float> x, float reach, Vec<float> near, const Far& far) {
  return where_greater(minus_magnitude(x), splat(-reach), near, far(x));
}
template <class Far>
NK_INLINE Vec<float> near_or_far(Vec<float> x, float reach, Vec<float> near, const Far& far) {
  return all_greater(minus_magnitude(x), splat(-reach)) ? near : with_far_lanes(x, reach, near, far);
}

template <>
struct ScaledExp<float> {
  static constexpr int kAhead = 65;  // no n makes 2^(n + kAhead) subnormal
  static constexpr float kBack = 0x1p-65f;
  static constexpr float kLeast = -110.0f;  // times any x below, this is 0
  Vec<float> high;
  Vec<float> low;  // what is rounded off: of less_one and 1, exactly

  NK_MEMBER explicit ScaledExp(Vec<float> x) {
    const PartsOfExp e(larger(splat(kLeast), x), kAhead);
    high = fma(e.less_one, e.power, e.power);
    low = fma(e.less_one, e.power, e.power - high);
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
