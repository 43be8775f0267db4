// Pixels of which only some count, for the kernels of pixels_forward.h and pixels_backward.h. Included by isa/*.cpp.
//
// What is computed at a pixel that does not count is taken away bit by bit, so NaN ends there; where none of four rows
// counts they are not read.
class KeptRows {
 public:
  // Of the positions of the batch, one sample directly after the other.
  explicit KeptRows(const KeptPositions& kept, int64_t positions)
      : kept_(kept), bytes_(kept.bytes()), positions_(positions) {}

  struct Kept {
    int32_t rows[4];  // all bits set or none
    NK_MEMBER bool any() const { return (rows[0] | rows[1] | rows[2] | rows[3]) != 0; }
    template <class A>
    NK_MEMBER Vec<A> keep(Vec<A> v, int r) const {
      using Bits = typename Lanes<A>::Bits;
      using Bit = decltype(Bits{}[0] + 0);
      Lanes<A> lanes;
      NK_EACH_REGISTER lanes.r[i] = Bit(rows[r]) - Bits{};
      return normkit::NK_ISA::keep(v, lanes);
    }
  };
  static constexpr bool kAll = false;
  NK_MEMBER Kept four(int64_t i) const { return {{bytes_[i], bytes_[i + 1], bytes_[i + 2], bytes_[i + 3]}}; }
  NK_MEMBER Kept one(int64_t i) const { return {{bytes_[i], 0, 0, 0}}; }

  int64_t slab_size() const { return kept_.count(); }
  int64_t count() const { return kept_.count(); }
  int64_t at_rank(int64_t rank) const {
    const KeptPositions::Place place = kept_.at_rank(rank);
    return place.sample * positions_ + place.position;
  }
  NK_MEMBER bool counts(int64_t i) const { return bytes_[i] != 0; }

 private:
  const KeptPositions& kept_;
  const int8_t* bytes_;
  int64_t positions_;  // of a sample
};
