// Dropout from a counter: Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011).
// Element i takes word i % 4 of the block with counter i / 4, so the mask depends on the seed and the element
// alone: it is the same for every number of threads, and the backward makes it again. Included by isa/*.cpp.

constexpr int kPhiloxBlocks = 16;
constexpr int kPhiloxElements = 4 * kPhiloxBlocks;

// The words of kPhiloxBlocks consecutive blocks.
static void philox(uint64_t seed, uint64_t first_block, uint32_t words[kPhiloxElements]) {
  uint32_t c[4][kPhiloxBlocks];
  for (int i = 0; i < kPhiloxBlocks; ++i) {
    const uint64_t block = first_block + uint64_t(i);
    c[0][i] = uint32_t(block), c[1][i] = uint32_t(block >> 32), c[2][i] = 0, c[3][i] = 0;
  }
  uint32_t k0 = uint32_t(seed), k1 = uint32_t(seed >> 32);
  for (int round = 0; round < 10; ++round, k0 += 0x9e3779b9u, k1 += 0xbb67ae85u) {
    for (int i = 0; i < kPhiloxBlocks; ++i) {
      const uint64_t p0 = uint64_t(0xd2511f53u) * c[0][i], p1 = uint64_t(0xcd9e8d57u) * c[2][i];
      const uint32_t c1 = c[1][i], c3 = c[3][i];
      c[0][i] = uint32_t(p1 >> 32) ^ c1 ^ k0;
      c[1][i] = uint32_t(p1);
      c[2][i] = uint32_t(p0 >> 32) ^ c3 ^ k1;
      c[3][i] = uint32_t(p0);
    }
  }
  for (int i = 0; i < kPhiloxBlocks; ++i) {
    for (int word = 0; word < 4; ++word) words[4 * i + word] = c[word][i];
  }
}

// The factors of elements first .. first + n - 1: 0 with probability p, else 1 / (1 - p).
template <class A>
class DropoutFactors {
 public:
  DropoutFactors(Dropout dropout, int64_t n) : dropout_(dropout) {
    if (dropout.p > 0.0) factors_ = static_cast<A*>(allocate((n + 2 * kPhiloxElements) * int64_t(sizeof(A))));
  }
  DropoutFactors(const DropoutFactors&) = delete;
  DropoutFactors& operator=(const DropoutFactors&) = delete;
  ~DropoutFactors() { release(factors_); }

  // Null when nothing is dropped.
  const A* of(int64_t first, int64_t n) const {
    if (factors_ == nullptr) return nullptr;
    const A kept = dropout_.p < 1.0 ? A(1.0 / (1.0 - dropout_.p)) : A(0);
    const double scaled = dropout_.p * 4294967296.0;
    const uint32_t threshold = scaled < 4294967295.0 ? uint32_t(scaled) : 0xffffffffu;
    const int skip = int(first % 4);
    uint32_t words[kPhiloxElements];
    for (int64_t j = 0; j < n + skip; j += kPhiloxElements) {
      philox(dropout_.seed, uint64_t(first / 4 + j / 4), words);
      for (int i = 0; i < kPhiloxElements; ++i) factors_[j + i] = words[i] >= threshold ? kept : A(0);
    }
    return factors_ + skip;
  }

 private:
  Dropout dropout_;
  A* factors_ = nullptr;
};

// z = residual + x * factor (1 where factors is null), rounded once.
template <class T, class A = Compute<T>>
static void add_row(const T* x, const T* residual, const A* factors, T* z, int64_t n) {
  each_vector(n, [&](int64_t j, auto load_at, auto store_at) NK_LAMBDA {
    const Vec<A> xj = load_at(x + j), rj = load_at(residual + j);
    if (factors != nullptr) {
      store_at(z + j, fma(xj, load_at(factors + j), rj));
    } else {
      store_at(z + j, xj + rj);
    }
  });
}

// to = from * factor.
template <class T, class A = Compute<T>>
static void drop_row(const T* from, const A* factors, T* to, int64_t n) {
  each_vector(n, [&](int64_t j, auto load_at, auto store_at) NK_LAMBDA {
    store_at(to + j, load_at(from + j) * load_at(factors + j));
  });
}
