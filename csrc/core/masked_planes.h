// Planes of which only some positions count, for the kernels of planes_forward.h and planes_backward.h. Included by isa/*.cpp.
//
// What is computed at a position that does not count is taken away bit by bit, so NaN ends there. Which count is told by
// bytes, of which what lies well before the first position of a sample that counts, or well after its last, is never read; or,
// where that is nothing and words stay in the first cache, by words, of which nothing has to be made. (AVX-512 makes lanes of
// bytes in one step. float64 and older processors do without: this is for speed alone.)

#if defined(__AVX2__) && !defined(__AVX512F__)
#define NK_KEPT_WORDS
// A word for each position, of which all bits are set or none.
class KeptWords {
 public:
  KeptWords(const KeptPositions& kept, const ChannelShape& s)
      : stride_(round_up(s.n_positions, kLanes)), words_(s.n_samples * stride_ + kLanes) {
    for (int64_t i = 0; i < s.n_samples * stride_ + kLanes; ++i) words_.data()[i] = kept.bytes()[i];
  }

  // Whether this serves for a batch.
  static bool serve(const KeptPositions& kept, const ChannelShape& s) {
    if (s.n_samples * round_up(s.n_positions, kLanes) > kMost) return false;
    for (int64_t i = 0; i < s.n_samples; ++i) {
      if (kept.run(i).first != 0 || kept.run(i).last != s.n_positions) return false;
    }
    return true;
  }

  struct Run {
    const int32_t* words;
    static constexpr int64_t first = 0;
    int64_t last;
    NK_MEMBER Vec<float> keep(Vec<float> v, int64_t j) const {
      Lanes<float> lanes;
      for (int i = 0; i < Vec<float>::kRegisters; ++i) {
        __builtin_memcpy(&lanes.r[i], words + j + i * Vec<float>::kPerRegister, NK_REGISTER_BYTES);
      }
      return normkit::NK_ISA::keep(v, lanes);
    }
    // What lies beyond the lanes is beyond the end of the sample.
    NK_MEMBER Vec<float> keep_end(Vec<float> v, int64_t j, Lanes<float>) const { return keep(v, j); }
    NK_MEMBER bool counts(int64_t j) const { return words[j] != 0; }
  };
  NK_MEMBER Run run(int64_t sample, int64_t begin, int64_t length) const {
    return {words_.data() + sample * stride_ + begin, length};
  }

 private:
  static constexpr int64_t kMost = 8192;
  int64_t stride_;
  Memory<int32_t> words_;
};
#endif

// flags: KeptPositions or KeptWords.
template <class Flags>
class KeptPlanes {
 public:
  KeptPlanes(const KeptPositions& kept, const Flags& flags, const ChannelShape& shape)
      : flags_(flags), plane_(shape.n_positions), count_(kept.count()) {
    for (int i = 0; i < kSamples; ++i) {  // two together at each of four places
      const int64_t rank = (kept.count() * (2 * (i / 2) + 1) / 8 + i % 2) % kept.count();
      const KeptPositions::Place place = kept.at_rank(rank);
      samples_[i] = place.sample * shape.n_channels * plane_ + place.position;
    }
  }

  // Of the runs of a channel, each of one sample, which all begin at the same position.
  struct Of {
    const Flags& flags;
    int64_t first, offset, length;
    NK_MEMBER auto run(int64_t r) const { return flags.run(first + r, offset, length); }
  };
  static constexpr bool kAll = false;
  NK_MEMBER Of of(const Runs& runs) const {
    return {flags_, runs.first, runs.length == plane_ ? 0 : runs.begin % plane_, runs.length};
  }

  int64_t slab_size() const { return count_; }

  // 8 values that count.
  struct Samples {
    const int64_t* places;
    // Their mean in the channel that begins at x; of equal ones it is that value exactly.
    template <class T>
    NK_MEMBER Compute<T> mean(const T* x) const {
      const auto two = [&](int i) NK_LAMBDA { return value_of(x + places[i]) + value_of(x + places[i + 1]); };
      return ((two(0) + two(2)) + (two(4) + two(6))) * (Compute<T>(1) / Compute<T>(kSamples));
    }
  };
  Samples samples(const Runs&) const { return {samples_}; }

 private:
  static constexpr int kSamples = 8;
  const Flags& flags_;
  int64_t plane_;
  int64_t count_;
  int64_t samples_[kSamples];  // offsets in a channel
};

// work(positions) for those of a batch of T.
template <class T, class Work>
static void with_kept_planes(const KeptPositions& kept, const ChannelShape& shape, const Work& work) {
#if defined(NK_KEPT_WORDS)
  if constexpr (sizeof(T) <= 4) {
    if (KeptWords::serve(kept, shape)) {
      const KeptWords words(kept, shape);
      return work(KeptPlanes<KeptWords>(kept, words, shape));
    }
  }
#endif
  work(KeptPlanes<KeptPositions>(kept, kept, shape));
}
