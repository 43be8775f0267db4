// Which positions of a batch count, as the masked kernels ask for it: a byte for each, of which all bits are set or none.
// Included by isa/*.cpp.

// The lanes whose byte is set, of 16.
template <class A>
NK_INLINE Lanes<A> lanes_of(const int8_t* bytes) {
  Lanes<A> lanes;
#if defined(__AVX512F__)
  if constexpr (sizeof(A) == 4) {
    lanes.r[0] = (typename Lanes<A>::Bits)_mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i*)bytes));
    return lanes;
  }
#elif defined(__AVX2__)
  if constexpr (sizeof(A) == 4) {
    NK_EACH_REGISTER lanes.r[i] = (typename Lanes<A>::Bits)_mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i*)(bytes + 8 * i)));
    return lanes;
  }
#endif
  typedef int8_t Bytes __attribute__((vector_size(Vec<A>::kPerRegister)));
  NK_EACH_REGISTER {
    Bytes some;
    __builtin_memcpy(&some, bytes + i * Vec<A>::kPerRegister, sizeof some);
    lanes.r[i] = __builtin_convertvector(some, typename Lanes<A>::Bits);
  }
  return lanes;
}

// Some positions that follow one another in a sample. None counts but in [first, last), where first is a multiple of 16.
struct KeptRun {
  const int8_t* bytes;
  int64_t first, last;

  // Of positions j .. j+15; beyond the end of the sample none counts.
  template <class A>
  NK_MEMBER Lanes<A> at(int64_t j) const {
    return lanes_of<A>(bytes + j);
  }
  NK_MEMBER bool one(int64_t j) const { return bytes[j] != 0; }
};

class KeptPositions {
 public:
  // Of a mask [samples, positions], whose bytes are 0 where a position does not count. From one sample to the next there are
  // `stride` bytes, and 16 after the last.
  KeptPositions(const uint8_t* mask, int64_t samples, int64_t positions, int64_t stride)
      : stride_(stride), bytes_(samples * stride + kLanes), samples_(samples), spans_(samples) {
    for (int64_t i = 0; i < samples; ++i) {
      int8_t* const to = bytes_.data() + i * stride;
      spans_.data()[i] = copy(mask + i * positions, positions, to);
      for (int64_t j = positions; j < stride; ++j) to[j] = 0;
      count_ += spans_.data()[i].count;
    }
    for (int64_t j = 0; j < kLanes; ++j) bytes_.data()[samples * stride + j] = 0;
  }

  // How many count.
  int64_t count() const { return count_; }
  const int8_t* bytes() const { return bytes_.data(); }

  // `length` positions of a sample from `begin`, a multiple of 16.
  NK_MEMBER KeptRun run(int64_t sample, int64_t begin, int64_t length) const {
    const Span span = spans_.data()[sample];
    return {bytes_.data() + sample * stride_ + begin, within(span.first - begin, length), within(span.last - begin, length)};
  }

  struct Place {
    int64_t sample, position;
  };
  // The one that counts with `rank` before it; the first of all where there is none.
  Place at_rank(int64_t rank) const {
    for (int64_t i = 0; i < samples_; ++i) {
      if (rank >= spans_.data()[i].count) {
        rank -= spans_.data()[i].count;
        continue;
      }
      const int8_t* const bytes = bytes_.data() + i * stride_;
      int64_t j = spans_.data()[i].first;
      for (int64_t n = count_of_eight(bytes + j); rank >= n; n = count_of_eight(bytes + j)) rank -= n, j += 8;
      for (;; ++j) {
        rank += bytes[j];
        if (rank < 0) return {i, j};
      }
    }
    return {0, 0};
  }

 private:
  struct Span {
    int64_t first, last, count;
  };

  static int64_t within(int64_t j, int64_t length) { return j < 0 ? 0 : j < length ? j : length; }

  static uint64_t eight(const int8_t* bytes) {
    uint64_t together;
    __builtin_memcpy(&together, bytes, sizeof together);
    return together;
  }
  static int64_t count_of_eight(const int8_t* bytes) { return __builtin_popcountll(eight(bytes)) / 8; }

  static Span copy(const uint8_t* mask, int64_t positions, int8_t* to) {
    int64_t count = 0;
    for (int64_t j = 0; j < positions; ++j) {
      to[j] = mask[j] != 0 ? -1 : 0;
      count -= to[j];
    }
    if (count == 0) return {0, 0, 0};
    int64_t first = 0, last = positions;
    while (to[first] == 0) ++first;
    while (to[last - 1] == 0) --last;
    return {first / kLanes * kLanes, last, count};
  }

  int64_t stride_;
  Memory<int8_t> bytes_;
  int64_t samples_;
  Memory<Span> spans_;
  int64_t count_ = 0;
};

// a(z) of an activation that is one; a curve is taken 16 values at a time here.
template <class A>
NK_INLINE Vec<A> value_of(const Activated<A>& activated, Vec<A> z) {
  if (!activated.is_curve()) return above_zero(z);
  A lanes[kLanes];
  store(lanes, z);
  activated.values(lanes, kLanes);
  return load(lanes);
}
// dy * a'(z).
template <class A>
NK_INLINE Vec<A> through_slope_of(const Activated<A>& activated, Vec<A> z, Vec<A> dy) {
  if (!activated.is_curve()) return where_above_zero(z, dy);
  A lanes[kLanes];
  store(lanes, z);
  activated.slopes(lanes, kLanes);
  return dy * load(lanes);
}

template <class T>
NK_INLINE void clear(T* to, int64_t n) {
  if (n > 0) __builtin_memset(static_cast<void*>(to), 0, size_t(n) * sizeof(T));
}
