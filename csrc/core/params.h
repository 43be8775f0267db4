// Parameters (weight, bias) reach kernels as compute values, whatever dtype they are stored in, and their
// gradients leave as sums in double. Included by isa/*.cpp.

template <class T, class A>
static void convert_array(const T* from, A* to, int64_t n) {
  int64_t j = 0;
  for (; j + kLanes <= n; j += kLanes) {
    const Vec<Compute<T>> v = load(from + j);
    Compute<T> lanes[kLanes];
    store(lanes, v);
    for (int i = 0; i < kLanes; ++i) to[j + i] = A(lanes[i]);
  }
  if (j < n) {
    const Vec<Compute<T>> v = load_first(from + j, int(n - j));
    Compute<T> lanes[kLanes];
    store(lanes, v);
    for (int i = 0; j + i < n; ++i) to[j + i] = A(lanes[i]);
  }
}

// A parameter as vectors of A: read in place where it is stored so, else from a converted copy. An absent one
// reads as the same constant everywhere (step 0), so that kernels need no second form: multiplying by 1 and adding
// -0 leave every value as it is.
template <class A>
class Param {
 public:
  Param(ConstArray array, int64_t n, A absent) : step_(array.data != nullptr) {
    if (array.data == nullptr) {
      for (A& value : stack_) value = absent;
      values_ = stack_;
      return;
    }
    constexpr DType kOwn = sizeof(A) == 8 ? DType::kFloat64 : DType::kFloat32;
    if (array.dtype == kOwn) {
      values_ = static_cast<const A*>(array.data);
      return;
    }
    if (n > kOnStack) heap_ = static_cast<A*>(allocate(n * int64_t(sizeof(A))));
    A* copy = n > kOnStack ? heap_ : stack_;
    switch (array.dtype) {
      case DType::kFloat32: convert_array(static_cast<const float*>(array.data), copy, n); break;
      case DType::kFloat64: convert_array(static_cast<const double*>(array.data), copy, n); break;
      case DType::kBFloat16: convert_array(static_cast<const BFloat16*>(array.data), copy, n); break;
      case DType::kFloat16: convert_array(static_cast<const Float16*>(array.data), copy, n); break;
    }
    values_ = copy;
  }
  Param(const Param&) = delete;
  Param& operator=(const Param&) = delete;
  ~Param() { release(heap_); }

  const A* values() const { return values_; }
  int64_t step() const { return step_; }  // from one value to the next: 1, or 0
  Vec<A> tail(int64_t j, int n) const { return step_ != 0 ? load_first(values_ + j, n) : load(values_); }

 private:
  static constexpr int64_t kOnStack = 1024;
  A stack_[kOnStack];
  A* heap_ = nullptr;
  const A* values_;
  int64_t step_;
};

template <class T>
static void store_doubles(const double* from, T* to, int64_t n) {
  for (int64_t j = 0; j < n; j += kLanes) {
    const int few = n - j < kLanes ? int(n - j) : kLanes;
    Compute<T> lanes[kLanes] = {};
    for (int i = 0; i < few; ++i) lanes[i] = Compute<T>(from[j + i]);
    const Vec<Compute<T>> v = load(lanes);
    if (few == kLanes) {
      store(to + j, v);
    } else {
      store_first(to + j, v, few);
    }
  }
}

// Sums, rounded once to the dtype they are kept in. (Twice for 16 bits: double to float32 first.)
static void store_sums(const double* sums, MutableArray to, int64_t first, int64_t n) {
  switch (to.dtype) {
    case DType::kFloat32: store_doubles(sums, static_cast<float*>(to.data) + first, n); break;
    case DType::kFloat64: store_doubles(sums, static_cast<double*>(to.data) + first, n); break;
    case DType::kBFloat16: store_doubles(sums, static_cast<BFloat16*>(to.data) + first, n); break;
    case DType::kFloat16: store_doubles(sums, static_cast<Float16*>(to.data) + first, n); break;
  }
}
