// Planes of which only some positions count, for the kernels of planes_forward.h and planes_backward.h. Included by isa/*.cpp.
//
// What is computed at a position that does not count is taken away bit by bit, so NaN ends there. What lies well before the first
// position of a sample that counts, or well after its last, is never read (KeptPositions).

// Which runs of a slab count. Those that the samples of a batch have of a channel are each masked as their sample is; those of one
// sample's channels all alike.

// As the samples have it, ends to skip and all.
class KeptWithEnds {
 public:
  KeptWithEnds(const KeptPositions& kept, const ChannelShape& s)
      : kept_(kept), plane_(s.n_positions), sample_step_(s.over_batch() ? 1 : 0) {}

  struct Of {
    const KeptPositions& kept;
    int64_t first, sample_step, offset, length;
    NK_MEMBER KeptRun run(int64_t r) const { return kept.run((first + r) * sample_step, offset, length); }
  };
  NK_MEMBER Of of(const Runs& runs) const {
    return {kept_, runs.first, sample_step_, runs.length == plane_ ? 0 : runs.begin % plane_, runs.length};
  }
  static constexpr bool runs_join() { return false; }

 private:
  const KeptPositions& kept_;
  int64_t plane_, sample_step_;
};

// Where no sample has an end to skip, the bounds of loops are known before they begin. Short planes are a fifth faster by that, and
// more where the channels of a group, masked alike, are taken as one run.
class KeptThroughout {
 public:
  KeptThroughout(const KeptPositions& kept, const ChannelShape& s)
      : period_(s.n_positions),
        sample_step_(s.over_batch() ? round_up(s.n_positions, kLanes) : 0),
        run_step_(sample_step_),
        joined_(joins(s) ? s.slab_size() + kLanes : 1),
        bytes_(kept.bytes()) {
    if (!joins(s)) return;
    period_ = s.slab_size();
    run_step_ = s.n_positions;
    bytes_ = joined_.data();
    for (int64_t j = 0; j < period_; j += s.n_positions) __builtin_memcpy(joined_.data() + j, kept.bytes(), size_t(s.n_positions));
    __builtin_memset(joined_.data() + period_, 0, kLanes);
  }

  struct Run : KeptFlags {
    static constexpr int64_t first = 0;
    int64_t last;
  };
  struct Of {
    const int8_t* bytes;
    int64_t run_step, length;
    NK_MEMBER Run run(int64_t r) const { return {{bytes + r * run_step}, length}; }
  };
  NK_MEMBER Of of(const Runs& runs) const {
    const int64_t offset = runs.length == period_ ? 0 : runs.begin % period_;
    return {bytes_ + runs.first * sample_step_ + offset, run_step_, runs.length};
  }
  bool runs_join() const { return bytes_ == joined_.data(); }

 private:
  // A byte a value is read for nothing where planes are long.
  static bool joins(const ChannelShape& s) { return !s.over_batch() && s.channels_per_slab() > 1 && s.n_positions < 32 * kLanes; }

  int64_t period_, sample_step_, run_step_;
  Memory<int8_t> joined_;
  const int8_t* bytes_;
};

// flags: KeptWithEnds or KeptThroughout.
template <class Flags>
class KeptPlanes {
 public:
  KeptPlanes(const KeptPositions& kept, const ChannelShape& shape) : flags_(kept, shape), count_(kept.count() * shape.channels_per_slab()) {
    for (int i = 0; i < kSamples; ++i) {  // two together at each of four places
      const int64_t rank = (count_ * (2 * (i / 2) + 1) / 8 + i % 2) % count_;
      const int64_t channel = rank / kept.count();
      const KeptPositions::Place place = kept.at_rank(rank % kept.count());
      samples_[i] = (place.sample * shape.n_channels + channel) * shape.n_positions + place.position;
    }
  }

  static constexpr bool kAll = false;
  NK_MEMBER auto of(const Runs& runs) const { return flags_.of(runs); }
  bool runs_join() const { return flags_.runs_join(); }

  int64_t slab_size() const { return count_; }

  // 8 values that count.
  struct Samples {
    const int64_t* places;
    // Their mean in the slab that begins at x; of equal ones it is that value exactly.
    template <class T>
    NK_MEMBER Compute<T> mean(const T* x) const {
      const auto two = [&](int i) NK_LAMBDA { return value_of(x + places[i]) + value_of(x + places[i + 1]); };
      return ((two(0) + two(2)) + (two(4) + two(6))) * (Compute<T>(1) / Compute<T>(kSamples));
    }
  };
  Samples samples(const Runs&) const { return {samples_}; }

 private:
  static constexpr int kSamples = 8;
  Flags flags_;
  int64_t count_;
  int64_t samples_[kSamples];  // offsets in a slab
};

// work(positions) by the kind of positions that a mask has.
template <class Work>
static void with_kept_planes(const KeptPositions& kept, const ChannelShape& shape, const Work& work) {
  kept.throughout() ? work(KeptPlanes<KeptThroughout>(kept, shape)) : work(KeptPlanes<KeptWithEnds>(kept, shape));
}
