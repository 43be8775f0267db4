// Activations in the pass of the norm: y = a(z), and a'(z) for the backward, in IEEE operations alone (float64: with exp
// and erfc of the C library, the same for every instruction set). Included by kernels_impl.h.
//
// Scalar math: relu = max(z, 0); silu = z * s(z), s(z) = 1 / (1 + e^-z); gelu = z * P(z), P(z) the normal distribution
// function. Both s and P are computed from e^(something not positive), so that nothing overflows or cancels.

// P(-t) / e^(-t^2 / 2) for t >= 0: a polynomial in (t - 2.5) / (t + 2.5), over 1 + t. Fitted at Chebyshev nodes for
// t < 15, where P ends: relative error 6e-9 before rounding.
NK_INLINE Vec<float> scaled_tail(Vec<float> t, Vec<float>) {
  constexpr float kFit[] = {-0x1.0d5eaep-14f, -0x1.de5faap-13f, 0x1.2c6f5cp-19f, 0x1.4bb642p-10f,
                            0x1.505f1cp-10f,  -0x1.8c610ep-8f,  -0x1.1d11b6p-7f, 0x1.795924p-5f,
                            -0x1.34f99ap-5f,  -0x1.772470p-4f,  0x1.fa8810p-2f};
  const Vec<float> k = splat(2.5f), q = (t - k) / (t + k);
  Vec<float> p = splat(kFit[0]);
  for (int i = 1; i < 11; ++i) p = fma(p, q, splat(kFit[i]));
  return p / (t + splat(1.0f));
}
static __attribute__((noinline)) Vec<double> scaled_tail(Vec<double> t, Vec<double> gauss) {
  for (int i = 0; i < Vec<double>::kRegisters; ++i) {
    for (int j = 0; j < Vec<double>::kPerRegister; ++j) {
      t.r[i][j] = 0.5 * erfc(t.r[i][j] * 0.70710678118654752440) / gauss.r[i][j];
    }
  }
  return t;
}

template <class A>
NK_INLINE Vec<A> minus_magnitude(Vec<A> z) {
  return where_greater(z, zeros<A>(), zeros<A>() - z, z);
}

template <class A>
struct Sigmoid {
  Vec<A> z;
  Vec<A> e = exp_of_negative(minus_magnitude(z));
  Vec<A> one = splat(A(1));
  Vec<A> below = one + e;
  NK_MEMBER Vec<A> numerator() const { return where_greater(zeros<A>(), z, e, one); }   // of s(z)
  NK_MEMBER Vec<A> complement() const { return where_greater(zeros<A>(), z, one, e); }  // of 1 - s(z)
};

template <class A>
struct NormalDistribution {
  Vec<A> z;
  Vec<A> gauss;  // e^(-z^2 / 2)
  Vec<A> p;      // P(z)
  NK_MEMBER explicit NormalDistribution(Vec<A> at) : z(at) {
    const Vec<A> half = splat(A(0.5)), one = splat(A(1));
    const Vec<A> least = splat(A(sizeof(A) == 4 ? -15 : -37.5));  // P ends there
    Vec<A> m = minus_magnitude(z);
    m = where_greater(least, m, least, m);
    const Vec<A> square = m * m, rest = fma(m, m, zeros<A>() - square);
    const Vec<A> main = exp_of_negative(zeros<A>() - half * square);
    gauss = fma(zeros<A>() - half * rest, main, main);
    const Vec<A> tail = gauss * scaled_tail(zeros<A>() - m, gauss);
    p = where_greater(zeros<A>(), z, tail, one - tail);
  }
};

// What becomes of 16 values in place: a(z), or a'(z).
template <class A>
struct Activate {
  using Fn = void (*)(A* z);

  static void silu(A* at) {
    const Sigmoid<A> s{load(at)};
    store(at, s.z * s.numerator() / s.below);
  }
  static void silu_slope(A* at) {
    const Sigmoid<A> s{load(at)};
    store(at, s.numerator() / s.below * fma(s.z, s.complement() / s.below, s.one));
  }
  static void gelu(A* at) {
    const NormalDistribution<A> n(load(at));
    store(at, n.z * n.p);
  }
  static void gelu_slope(A* at) {
    const NormalDistribution<A> n(load(at));
    store(at, fma(n.z * splat(A(0.39894228040143267794)), n.gauss, n.p));
  }
};

// max(z + residual, least): with least = 0 relu, with -inf nothing. NaN stays.
template <class A>
NK_INLINE Vec<A> add_above(Vec<A> z, Vec<A> residual, Vec<A> least) {
  z = z + residual;
  return where_greater(least, z, least, z);
}
template <class A>
NK_INLINE A least_of(Activation activation) {
  return activation == Activation::kRelu ? A(0) : A(-__builtin_inf());
}

// a and a' as the kernels call them. relu is done in place, the others by a call: their own arithmetic is what takes time,
// and so each is compiled once.
template <class A>
class Activated {
 public:
  explicit Activated(Activation activation)
      : value_(activation == Activation::kSilu ? Activate<A>::silu : activation == Activation::kGelu ? Activate<A>::gelu : nullptr),
        slope_(activation == Activation::kSilu   ? Activate<A>::silu_slope
               : activation == Activation::kGelu ? Activate<A>::gelu_slope
                                                 : nullptr) {}

  NK_MEMBER Vec<A> value(Vec<A> z) const {
    A lanes[kLanes];
    if (value_ == nullptr) {
      store(lanes, where_greater(zeros<A>(), z, zeros<A>(), z));
    } else {
      store(lanes, z);
      value_(lanes);
    }
    return load(lanes);
  }
  NK_MEMBER Vec<A> slope(Vec<A> z) const {
    A lanes[kLanes];
    if (slope_ == nullptr) {
      store(lanes, where_greater(z, zeros<A>(), splat(A(1)), zeros<A>()));
    } else {
      store(lanes, z);
      slope_(lanes);
    }
    return load(lanes);
  }
  // Of one value.
  double value(double z) const { return first_of(value(splat(A(z)))); }
  double slope(double z) const { return first_of(slope(splat(A(z)))); }

 private:
  static double first_of(Vec<A> v) {
    A lanes[kLanes];
    store(lanes, v);
    return double(lanes[0]);
  }
  typename Activate<A>::Fn value_;
  typename Activate<A>::Fn slope_;
};
