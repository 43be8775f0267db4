// Planes of which only some positions count, for the kernels of planes_forward.h and planes_backward.h. Included by isa/*.cpp.
//
// What is computed at a position that does not count is taken away bit by bit, so NaN ends there. What lies well before the first
// position of a sample that counts, or well after its last, is never read (KeptPositions).

// Where no sample has an end to skip, the bounds of loops are known before they begin. Short planes are a fifth faster by that.
class KeptThroughout {
 public:
  KeptThroughout(const KeptPositions& kept, const ChannelShape& s) : bytes_(kept.bytes()), stride_(round_up(s.n_positions, kLanes)) {}

  struct Run : KeptFlags {
    static constexpr int64_t first = 0;
    int64_t last;
  };
  NK_MEMBER Run run(int64_t sample, int64_t begin, int64_t length) const { return {{bytes_ + sample * stride_ + begin}, length}; }

 private:
  const int8_t* bytes_;
  int64_t stride_;
};

// flags: KeptPositions or KeptThroughout.
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
  if (!kept.throughout()) return work(KeptPlanes<KeptPositions>(kept, kept, shape));
  const KeptThroughout throughout(kept, shape);
  work(KeptPlanes<KeptThroughout>(kept, throughout, shape));
}
