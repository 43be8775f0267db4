// Planes of which only some positions count, for the kernels of planes_forward.h and planes_backward.h. Included by isa/*.cpp.
//
// What is computed at a position that does not count is taken away bit by bit, so NaN ends there; and what lies well before
// the first position of a sample that counts, or well after its last, is never read (kSkips: some sample has such).
template <bool kSkips>
class KeptPlanes {
 public:
  KeptPlanes(const KeptPositions& kept, const ChannelShape& shape) : kept_(kept), plane_(shape.n_positions) {
    for (int i = 0; i < kSamples; ++i) {  // four together at each of four places
      const int64_t rank = (kept.count() * (2 * (i / 4) + 1) / 8 + i % 4) % kept.count();
      const KeptPositions::Place place = kept.at_rank(rank);
      samples_[i] = place.sample * shape.n_channels * plane_ + place.position;
    }
  }

  // A run of which nothing is skipped.
  struct Whole {
    const int8_t* bytes;
    static constexpr int64_t first = 0;
    int64_t last;
    template <class A>
    NK_MEMBER Vec<A> keep(Vec<A> v, int64_t j) const {
      return KeptRun{bytes, first, last}.keep(v, j);
    }
    NK_MEMBER bool counts(int64_t j) const { return bytes[j] != 0; }
  };
  // Of the runs of a channel, each of one sample, which all begin at the same position.
  struct Of {
    const KeptPositions& kept;
    int64_t first, offset, length;
    NK_MEMBER auto run(int64_t r) const {
      if constexpr (kSkips) {
        return kept.run(first + r, offset, length);
      } else {
        return Whole{kept.run(first + r).bytes + offset, length};
      }
    }
  };
  static constexpr bool kAll = false;
  NK_MEMBER Of of(const Runs& runs) const { return {kept_, runs.first, runs.begin % plane_, runs.length}; }

  int64_t slab_size() const { return kept_.count(); }

  // The mean of 16 values that count; of equal ones it is that value exactly.
  template <class T>
  NK_MEMBER Compute<T> sample_mean(const T* x, const Runs& slab) const {
    T values[kSamples];
    for (int i = 0; i < kSamples; ++i) values[i] = x[slab.begin + samples_[i]];
    return sum(load(values)) * (Compute<T>(1) / Compute<T>(kSamples));
  }

 private:
  static constexpr int kSamples = kLanes;
  const KeptPositions& kept_;
  int64_t plane_;
  int64_t samples_[kSamples];  // offsets in a channel
};

// work(positions) for those of a batch.
template <class Work>
static void with_kept_planes(const KeptPositions& kept, const ChannelShape& shape, const Work& work) {
  bool skips = false;
  for (int64_t i = 0; i < shape.n_samples; ++i) skips |= kept.run(i).first != 0 || kept.run(i).last != shape.n_positions;
  skips ? work(KeptPlanes<true>(kept, shape)) : work(KeptPlanes<false>(kept, shape));
}
