// Which positions of a batch count, as the masked kernels ask for it: a bit for each. Included by isa/*.cpp.

// The lanes whose bit is 1; that of lane 0 is the lowest.
template <class A>
NK_INLINE Lanes<A> lanes_of(uint32_t bits) {
  using Bits = typename Lanes<A>::Bits;
  using Bit = decltype(Bits{}[0] + 0);
  static constexpr Bit kBits[kLanes] = {1,      1 << 1, 1 << 2,  1 << 3,  1 << 4,  1 << 5,  1 << 6,  1 << 7,
                                        1 << 8, 1 << 9, 1 << 10, 1 << 11, 1 << 12, 1 << 13, 1 << 14, 1 << 15};
  const Bits all = Bit(bits) - Bits{};
  Lanes<A> lanes;
  __builtin_memcpy(&lanes, kBits, sizeof lanes);
  NK_EACH_REGISTER lanes.r[i] = (all & lanes.r[i]) == lanes.r[i];
  return lanes;
}

// Some positions that follow one another in a sample. None counts but in [first, last), where first is a multiple of 16.
struct KeptRun {
  const uint8_t* bits;
  int64_t first, last;

  // Of positions j .. j+15, j a multiple of 16; beyond the end of the sample none counts.
  template <class A>
  NK_MEMBER Lanes<A> at(int64_t j) const {
    return lanes_of<A>(uint32_t(bits[j / 8]) | uint32_t(bits[j / 8 + 1]) << 8);
  }
  // The same for any j.
  template <class A>
  NK_MEMBER Lanes<A> from(int64_t j) const {
    const uint8_t* const p = bits + j / 8;
    return lanes_of<A>((uint32_t(p[0]) | uint32_t(p[1]) << 8 | uint32_t(p[2]) << 16) >> j % 8);
  }
  NK_MEMBER bool one(int64_t j) const { return bits[j / 8] >> j % 8 & 1; }
};

class KeptPositions {
 public:
  // Of a mask [samples, positions], whose bytes are 0 where a position does not count.
  KeptPositions(const uint8_t* mask, int64_t samples, int64_t positions)
      : stride_(round_up(positions, kLanes) / 8 + 1), bits_(samples * stride_), samples_(samples), spans_(samples) {
    for (int64_t i = 0; i < samples; ++i) spans_.data()[i] = pack(mask + i * positions, positions, bits_.data() + i * stride_);
    for (int64_t i = 0; i < samples; ++i) count_ += spans_.data()[i].count;
  }

  // How many count.
  int64_t count() const { return count_; }

  // `length` positions of a sample from `begin`, a multiple of 16.
  NK_MEMBER KeptRun run(int64_t sample, int64_t begin, int64_t length) const {
    const Span span = spans_.data()[sample];
    return {bits_.data() + sample * stride_ + begin / 8, within(span.first - begin, length), within(span.last - begin, length)};
  }

  // Calls visit(sample, position) for each that counts, in order.
  template <class Visit>
  NK_MEMBER void each(const Visit& visit) const {
    for (int64_t i = 0; i < samples_; ++i) {
      const uint8_t* const bits = bits_.data() + i * stride_;
      for (int64_t j = 0; j < stride_; ++j) {
        for (uint32_t left = bits[j]; left != 0; left &= left - 1) visit(i, 8 * j + __builtin_ctz(left));
      }
    }
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
      const uint8_t* const bits = bits_.data() + i * stride_;
      int64_t j = 0;
      for (; rank >= __builtin_popcount(bits[j]); ++j) rank -= __builtin_popcount(bits[j]);
      uint32_t left = bits[j];
      for (; rank > 0; --rank) left &= left - 1;
      return {i, 8 * j + __builtin_ctz(left)};
    }
    return {0, 0};
  }

 private:
  struct Span {
    int64_t first, last, count;
  };

  static int64_t within(int64_t j, int64_t length) { return j < 0 ? 0 : j < length ? j : length; }

  Span pack(const uint8_t* mask, int64_t positions, uint8_t* bits) const {
    Span span{0, 0, 0};
    for (int64_t j = 0; j < stride_; ++j) {
      bits[j] = 8 * j < positions ? eight(mask + 8 * j, positions - 8 * j) : 0;
      if (bits[j] == 0) continue;
      if (span.count == 0) span.first = 8 * j / kLanes * kLanes;
      span.last = 8 * (j + 1) < positions ? 8 * (j + 1) : positions;
      span.count += __builtin_popcount(bits[j]);
    }
    return span;
  }

  // The bits of the first n bytes, or of 8.
  static uint8_t eight(const uint8_t* from, int64_t n) {
    uint64_t bytes = 0;
    if (n >= 8) {
      __builtin_memcpy(&bytes, from, 8);
    } else {
      for (int64_t i = 0; i < n; ++i) bytes |= uint64_t(from[i]) << 8 * i;
    }
    bytes |= bytes >> 4, bytes |= bytes >> 2, bytes |= bytes >> 1;  // the lowest bit of each byte: whether it is not 0
    return uint8_t((bytes & 0x0101010101010101) * 0x0102040810204080 >> 56);
  }

  int64_t stride_;  // bytes of a sample; the last is 0, since from() reads one too many
  Memory<uint8_t> bits_;
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
