// Count, mean and centred second moment of a part of the data, merged exactly as Chan, Golub and LeVeque (1983)
// do; in double, so that merging adds nothing visible to a float32 result. Included by kernels_impl.h.

struct Moments {
  double count;
  double mean;
  double m2;  // sum of (x - mean)^2
};

// The moments of x from sums of x - shift: s1 = sum(x - shift), s2 = sum((x - shift)^2).
NK_INLINE Moments moments_about(double count, double shift, double s1, double s2) {
  const double offset = s1 / count;
  return {count, shift + offset, s2 - s1 * offset};
}

NK_INLINE Moments merge(Moments a, Moments b) {
  if (a.count == 0) return b;
  if (b.count == 0) return a;
  const double count = a.count + b.count;
  const double delta = b.mean - a.mean;
  return {count, a.mean + delta * (b.count / count), a.m2 + b.m2 + delta * delta * (a.count * (b.count / count))};
}
