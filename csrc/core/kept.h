// Which positions of a batch count, as the masked kernels ask for it: of planes a byte for each, of which all bits are set or
// none; of pixels the mask itself.
// Included by isa/*.cpp.

// The lanes whose byte is set, of 16.
template <class A>
NK_INLINE Lanes<A> lanes_of(const int8_t* bytes) {
#if defined(__AVX512F__)
  return {_mm_movepi8_mask(_mm_loadu_si128((const __m128i*)bytes))};
#else
  Lanes<A> lanes;
#if defined(__AVX2__)
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
#endif
}

// The flags of some positions that follow one another in a sample.
struct KeptFlags {
  const int8_t* bytes;

  // v of positions j .. j+15 where they count, else 0.
  template <class A>
  NK_MEMBER Vec<A> keep(Vec<A> v, int64_t j) const {
    return normkit::NK_ISA::keep(v, lanes_of<A>(bytes + j));
  }
  // Of these lanes: beyond them lies what is not of the run.
  template <class A>
  NK_MEMBER Vec<A> keep_end(Vec<A> v, int64_t j, Lanes<A> lanes) const {
    return normkit::NK_ISA::keep(keep(v, j), lanes);
  }
  NK_MEMBER bool counts(int64_t j) const { return bytes[j] != 0; }
};

// None counts but in [first, last); both are multiples of 16, or the end.
struct KeptRun : KeptFlags {
  int64_t first, last;
};

class KeptPositions {
 public:
  // Of a mask [samples, positions], whose bytes are 0 where a position does not count. Each sample takes whole vectors, and
  // there is one after the last.
  KeptPositions(const uint8_t* mask, int64_t samples, int64_t positions)
      : bytes_(samples * round_up(positions, kLanes) + kLanes), n_samples_(samples), n_positions_(positions), samples_(samples) {
    const int64_t stride = round_up(positions, kLanes);
    for (int64_t i = 0; i < samples; ++i) {
      int8_t* const to = bytes_.data() + i * stride;
      samples_.data()[i] = copy(mask + i * positions, positions, to);
      for (int64_t j = positions; j < stride; ++j) to[j] = 0;
      count_ += samples_.data()[i].count;
    }
    for (int64_t j = 0; j < kLanes; ++j) bytes_.data()[samples * stride + j] = 0;
  }

  // How many count.
  int64_t count() const { return count_; }
  // All flags: those of a sample take whole vectors.
  const int8_t* bytes() const { return bytes_.data(); }
  // Whether no sample has an end to skip.
  bool throughout() const {
    for (int64_t i = 0; i < n_samples_; ++i) {
      if (run(i).first != 0 || run(i).last != n_positions_) return false;
    }
    return true;
  }

  // All positions of a sample; or `length` of them from `begin`, a multiple of 16.
  NK_MEMBER const KeptRun& run(int64_t sample) const { return samples_.data()[sample].all; }
  NK_MEMBER KeptRun run(int64_t sample, int64_t begin, int64_t length) const {
    const KeptRun& all = run(sample);
    if (length == n_positions_) return all;  // and begin is 0
    return {{all.bytes + begin}, within(all.first - begin, length), within(all.last - begin, length)};
  }

  struct Place {
    int64_t sample, position;
  };
  // The one that counts with `rank` before it; the first of all where there is none.
  Place at_rank(int64_t rank) const {
    for (int64_t i = 0; i < n_samples_; ++i) {
      if (rank >= samples_.data()[i].count) {
        rank -= samples_.data()[i].count;
        continue;
      }
      const int8_t* const bytes = run(i).bytes;
      int64_t j = run(i).first;
      for (int64_t n = count_of_eight(bytes + j); rank >= n; n = count_of_eight(bytes + j)) rank -= n, j += 8;
      for (;; ++j) {
        rank += bytes[j];
        if (rank < 0) return {i, j};
      }
    }
    return {0, 0};
  }

 private:
  struct Sample {
    KeptRun all;
    int64_t count;
  };

  static int64_t within(int64_t j, int64_t length) { return j < 0 ? 0 : j < length ? j : length; }

  static int64_t count_of_eight(const int8_t* bytes) {
    uint64_t together;
    __builtin_memcpy(&together, bytes, sizeof together);
    return __builtin_popcountll(together) / 8;
  }

  static Sample copy(const uint8_t* mask, int64_t positions, int8_t* to) {
    int64_t count = 0;
    for (int64_t j = 0; j < positions; ++j) {
      to[j] = mask[j] != 0 ? -1 : 0;
      count -= to[j];
    }
    if (count == 0) return {{{to}, 0, 0}, 0};
    int64_t first = 0, last = positions;
    while (to[first] == 0) ++first;
    while (to[last - 1] == 0) --last;
    first = first < kWorthSkipping ? 0 : first / kLanes * kLanes;
    last = positions - last < kWorthSkipping ? positions : round_up(last, kLanes);
    return {{{to}, first, last}, count};
  }

  // At the ends of a sample fewer than these are computed in vain: the processor foresees loops of equal length.
  static constexpr int64_t kWorthSkipping = 4 * kLanes;

  Memory<int8_t> bytes_;
  int64_t n_samples_, n_positions_;
  Memory<Sample> samples_;
  int64_t count_ = 0;
};

// The rows of a batch of pixels that count. All are walked over; what is computed in one that does not count is taken away bit by
// bit, but where four together do not count they are passed by.
class KeptRows {
 public:
  KeptRows(const uint8_t* mask, int64_t pixels) : mask_(mask), pixels_(pixels) {
    int64_t count = 0;
    for (int64_t i = 0; i < pixels; ++i) count += mask[i] != 0;
    count_ = count;
  }
  static constexpr bool kAll = false;
  int64_t walked() const { return pixels_; }
  int64_t count() const { return count_; }
  NK_MEMBER bool counts(int64_t i) const { return mask_[i] != 0; }
  NK_MEMBER bool none_of_four(int64_t i) const {
    uint32_t four;
    __builtin_memcpy(&four, mask_ + i, sizeof four);
    return four == 0;
  }
  template <class A>
  using RowLanes = Lanes<A>;
  template <class A>
  NK_MEMBER Lanes<A> lanes(int64_t i) const {
    return all_lanes<A>(counts(i));
  }
  // One that counts, at `i` or soon after it.
  int64_t near(int64_t i) const {
    while (!counts(i)) i = i + 1 < pixels_ ? i + 1 : 0;
    return i;
  }

 private:
  const uint8_t* mask_;
  int64_t pixels_;
  int64_t count_ = 0;
};
