// Activations in the pass of the norm: y = a(z), and a'(z) for the backward, in IEEE operations alone (float64: with exp
// and erfc of the C library, the same for every instruction set). Included by isa/*.cpp.
//
// Scalar math: relu = max(z, 0); silu = z * s(z), s(z) = 1 / (1 + e^-z); gelu = z * P(z), P(z) the normal distribution
// function. Both s and P are computed from e^(something not positive), so that nothing overflows or cancels; but float32's s of z
// near 0 from e^-z, which is far from overflow there.

// P(-t) for t >= 0, from gauss = e^(-t^2 / 2): gauss times a polynomial in (t - 2.5) / (t + 2.5), over 1 + t. Fitted at
// Chebyshev nodes for t < 15, where P ends: relative error 6e-9 before rounding. The last step of the polynomial, the
// division and the product carry their remainders along.
NK_INLINE Twofold<float> tail_of(Vec<float> t, Twofold<float> gauss) {
  constexpr float kFit[] = {-0x1.0d5eaep-14f, -0x1.de5faap-13f, 0x1.2c6f5cp-19f, 0x1.4bb642p-10f,
                            0x1.505f1cp-10f,  -0x1.8c610ep-8f,  -0x1.1d11b6p-7f, 0x1.795924p-5f,
                            -0x1.34f99ap-5f,  -0x1.772470p-4f,  0x1.fa8810p-2f};
  const Vec<float> k = splat(2.5f), q = (t - k) / (t + k), last = splat(kFit[10]), one = splat(1.0f);
  Vec<float> p = splat(kFit[0]);
  for (int i = 1; i < 10; ++i) p = fma(p, q, splat(kFit[i]));
  const Vec<float> n = fma(p, q, last), n_low = fma(p, q, last - n);
  const Twofold<float> d = exact_sum(one, t);
  const Vec<float> per_d = one / d.high, scaled = n * per_d;
  const Vec<float> scaled_low = (fma(-scaled, d.high, n) + fma(-scaled, d.low, n_low)) * per_d;
  const Vec<float> high = gauss.high * scaled, low = fma(gauss.high, scaled, -high);
  return {high, fma(gauss.high, scaled_low, fma(gauss.low, scaled, low))};
}
// erfc at the rounded t * sqrt(1/2), and its slope times what was rounded off.
[[maybe_unused]] static __attribute__((noinline)) Twofold<double> tail_of(Vec<double> t, Twofold<double> gauss) {
  const Vec<double> root = splat(0x1.6a09e667f3bcdp-1), root_low = splat(-0x1.bdd3413b26456p-55);
  const Vec<double> x = t * root, x_low = fma(t, root_low, fma(t, root, -x));
  Vec<double> tail;
  for (int i = 0; i < Vec<double>::kRegisters; ++i) {
    for (int j = 0; j < Vec<double>::kPerRegister; ++j) tail.r[i][j] = 0.5 * erfc(x.r[i][j]);
  }
  return {tail, gauss.high * x_low * splat(-0.56418958354775628695)};  // 1 / sqrt(pi)
}

// What brings back a product with z that was scaled below 0: 0 from `least` on, but infinity times 0 stays no number.
template <class A>
NK_INLINE Vec<A> scale_of(Vec<A> z, Vec<A> least, Vec<A> back) {
  return where_greater(zeros<A>(), z, where_greater(z, least, back, zeros<A>()), splat(A(1)));
}

// z * s(z), with s = n / (1 + e) of e = e^-|z|, where n is e below 0 and 1 above.
template <class A>
NK_INLINE Vec<A> z_times_sigmoid(Vec<A> z) {
  const Vec<A> none = zeros<A>(), one = splat(A(1));
  const ScaledExp<A> e(minus_magnitude(z));
  const Vec<A> back = splat(e.kBack), per_d = one / fma(e.high, back, one);
  const Vec<A> n = where_greater(none, z, e.high, one), n_low = where_greater(none, z, e.low, none);
  // The quotient q of the leading parts, corrected: q + (n - q * (1 + e)) / (1 + e). n - q is exact, for q >= n / 2. What is
  // scaled comes back last, so that a subnormal e costs no digits.
  const Vec<A> q = n * per_d, left = fma(-q, e.high * back, n - q) + fma(-q, e.low * back, n_low);
  return z * fma(left, per_d, q) * scale_of(z, splat(e.kLeast), back);
}

// silu of 16 values, in float32 within 2 units in the last place.
constexpr float kSiluReach = 16.0f;  // 2^n + 1 is exact
NK_INLINE Vec<double> silu_of(Vec<double> z) { return z_times_sigmoid(z); }
NK_INLINE Vec<float> silu_of(Vec<float> z) {
  return near_or_far(z, kSiluReach, z / PartsOfExp(-z).plus(1.0f), [](Vec<float> v) { return z_times_sigmoid(v); });
}

// Its slope s(z) * (1 + z * s(-z)), to a few roundings.
template <class A>
NK_INLINE Vec<A> slope_with_care(Vec<A> z) {
  const Vec<A> none = zeros<A>(), one = splat(A(1));
  const ScaledExp<A> e(minus_magnitude(z));
  const Vec<A> back = splat(e.kBack), small = e.high * back, per_d = one / (one + small);
  const Vec<A> s = where_greater(none, z, e.high, one) * per_d, rest = where_greater(none, z, one, small) * per_d;
  return s * fma(z, rest, one) * scale_of(z, splat(e.kLeast), back);
}
NK_INLINE Vec<double> silu_slope_of(Vec<double> z) { return slope_with_care(z); }
NK_INLINE Vec<float> silu_slope_of(Vec<float> z) {
  const PartsOfExp e(-z);
  const Vec<float> one = splat(1.0f), s = one / e.plus(1.0f);
  return near_or_far(z, kSiluReach, s * fma(z, e.plus(0.0f) * s, one), [](Vec<float> v) { return slope_with_care(v); });
}

template <class A>
struct NormalDistribution {
  static constexpr A kEnd = A(sizeof(A) == 4 ? -15 : -39);  // P goes no further, and times any z below is 0
  Vec<A> z;
  Vec<A> least;      // -|z|, to the end
  Twofold<A> gauss;  // e^(-z^2 / 2) / kBack
  Twofold<A> tail;   // P(-|z|) / kBack
  Twofold<A> above;  // P(|z|)
  NK_MEMBER explicit NormalDistribution(Vec<A> at) : z(at), least(larger(splat(kEnd), minus_magnitude(at))) {
    const Vec<A> half = least * splat(A(0.5)), exponent = half * least, exponent_low = fma(half, least, -exponent);
    const ScaledExp<A> main(-exponent);
    gauss = {main.high, fma(-exponent_low, main.high, main.low)};
    tail = tail_of(-least, gauss);
    const Vec<A> back = splat(main.kBack);
    above = exact_sum(splat(A(1)), -(tail.high * back));
    above.low = above.low - tail.low * back;
  }
  // z * P(z); the small part with a finite z, for infinity times 0 is no number.
  NK_MEMBER Vec<A> times_z() const {
    const Vec<A> none = zeros<A>(), finite = where_greater(none, z, least, -least);
    const Vec<A> high = where_greater(none, z, tail.high, above.high), low = where_greater(none, z, tail.low, above.low);
    const Vec<A> product = fma(z, high, finite * low) * scale_of(z, splat(kEnd), splat(ScaledExp<A>::kBack));
    return where_greater(none, least, product, z);  // 0 keeps its sign
  }
  // P(z) + z * P'(z)
  NK_MEMBER Vec<A> slope_of_times_z() const {
    const Vec<A> back = splat(ScaledExp<A>::kBack), p = where_greater(zeros<A>(), z, tail.high * back, above.high);
    return fma(z * splat(A(0.39894228040143267794)), (gauss.high + gauss.low) * back, p);
  }
};

// step(v) in place of n values.
template <class A, class Step>
NK_INLINE void in_place(A* at, int64_t n, const Step& step) {
  for (int64_t j = 0; j < n; j += kLanes) {
    A lanes[kLanes] = {};
    const int few = n - j < kLanes ? int(n - j) : 0;
    if (few != 0) copy_few(lanes, at + j, few);
    A* const p = few != 0 ? lanes : at + j;
    store(p, step(load(p)));
    if (few != 0) copy_few(at + j, lanes, few);
  }
}

// a(z), or a'(z), in place of n values.
template <class A>
struct Curve {
  using Fn = void (*)(A* z, int64_t n);

  static void silu(A* at, int64_t n) {
    in_place(at, n, [](Vec<A> z) NK_LAMBDA { return silu_of(z); });
  }
  static void silu_slope(A* at, int64_t n) {
    in_place(at, n, [](Vec<A> z) NK_LAMBDA { return silu_slope_of(z); });
  }
  static void gelu(A* at, int64_t n) {
    in_place(at, n, [](Vec<A> z) NK_LAMBDA { return NormalDistribution<A>(z).times_z(); });
  }
  static void gelu_slope(A* at, int64_t n) {
    in_place(at, n, [](Vec<A> z) NK_LAMBDA { return NormalDistribution<A>(z).slope_of_times_z(); });
  }
};

// max(z + residual, least): with least = 0 relu, with -inf nothing. NaN stays.
template <class A>
NK_INLINE Vec<A> add_above(Vec<A> z, Vec<A> residual, Vec<A> least) {
  z = z + residual;
  return larger(least, z);
}
template <class A>
NK_INLINE A least_of(Activation activation) {
  return activation == Activation::kRelu ? A(0) : A(-__builtin_inf());
}

// As many values as are taken to a curve at once, in the first cache.
constexpr int64_t kCurvePiece = 1024;

// a and a' as the kernels call them. relu is a choice that they make in place (above_zero, where_above_zero); the others,
// the curves, are compiled once and called for many values.
template <class A>
class Activated {
 public:
  explicit Activated(Activation activation)
      : activation_(activation),
        values_(activation == Activation::kSilu   ? Curve<A>::silu
                : activation == Activation::kGelu ? Curve<A>::gelu
                                                  : nullptr),
        slopes_(activation == Activation::kSilu   ? Curve<A>::silu_slope
                : activation == Activation::kGelu ? Curve<A>::gelu_slope
                                                  : nullptr) {}

  bool is_relu() const { return activation_ == Activation::kRelu; }
  bool is_curve() const { return values_ != nullptr; }
  // A curve that loops take where z is, in place of a call for many values: it is short enough.
  static constexpr bool kSiluAtOnce = sizeof(A) == 4;
  bool is_silu_at_once() const { return kSiluAtOnce && activation_ == Activation::kSilu; }
  void values(A* z, int64_t n) const { values_(z, n); }
  void slopes(A* z, int64_t n) const { slopes_(z, n); }

  // Of one value.
  double value(double z) const { return is_curve() ? of_one(values_, z) : is_relu() && z <= 0.0 ? 0.0 : z; }
  // dy * a'(z).
  double through(double dy, double z) const { return is_curve() ? dy * of_one(slopes_, z) : is_relu() && z <= 0.0 ? 0.0 : dy; }

 private:
  static double of_one(typename Curve<A>::Fn fn, double z) {
    A lanes[1];
    lanes[0] = A(z);
    fn(lanes, 1);
    return double(lanes[0]);
  }
  Activation activation_;
  typename Curve<A>::Fn values_;
  typename Curve<A>::Fn slopes_;
};

// relu of z, in which NaN stays.
template <class A>
NK_INLINE Vec<A> above_zero(Vec<A> z) {
  return larger(zeros<A>(), z);
}
