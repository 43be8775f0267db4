// A tile: some neighbouring positions of a sample with all their channels. It is a matrix with a row for each channel
// and a column for each position, packed into memory of its own: in the tensor its rows lie a whole plane apart, and
// planes of 2^k bytes would drive one another out of the cache. Included by isa/*.cpp.
//
// Columns are taken 16 at a time. The last 16 overlap those before them where the number is not a multiple: columns are
// independent of one another, so what is done twice gives the same twice.

// How many rows ahead to ask for memory: rows shorter than a page defeat the processor's own foresight.
constexpr int64_t kRowsAhead = 8;

struct Tiles {
  // `arrays`: how many values are packed for each item.
  Tiles(const LayerNorm2dShape& s, int64_t arrays)
      : shape(s),
        per_sample(ceil_div(s.n_positions, most_columns(s.n_channels * arrays))),
        width(round_up(ceil_div(s.n_positions, per_sample), kLanes)) {
    per_sample = ceil_div(s.n_positions, width);
  }

  // What stays in the second cache, but runs of a few cache lines at least.
  static constexpr int64_t most_columns(int64_t values_per_column) {
    const int64_t fit = 65536 / values_per_column;
    return fit < 64 ? 64 : fit;
  }

  int64_t count() const { return shape.n_samples * per_sample; }
  int64_t items() const { return width * shape.n_channels; }

  LayerNorm2dShape shape;
  int64_t per_sample;
  int64_t width;
};

struct Tile {
  Tile(const Tiles& tiles, int64_t i)
      : channels(tiles.shape.n_channels), plane(tiles.shape.n_positions), width(tiles.width) {
    const int64_t sample = i / tiles.per_sample, first = i % tiles.per_sample * width;
    begin = sample * channels * plane + first;
    stats_begin = sample * kStatsPerPosition * plane + first;
    columns = plane - first < width ? plane - first : width;
    slots = round_up(columns, kLanes);
  }
  // The same tile of fewer than 16 columns as one of 16 in memory of its own (see Staged).
  Tile staged() const {
    Tile tile = *this;
    tile.begin = tile.stats_begin = 0;
    tile.plane = tile.columns = kLanes;
    tile.in_tensor = false;
    return tile;
  }
  bool narrow() const { return columns < kLanes; }
  // Whether its rows in a tensor, of which it begins at p, are whole lines of memory.
  template <class T>
  bool whole_lines(const T* p) const {
    return in_tensor && normkit::NK_ISA::whole_lines(p, columns) && normkit::NK_ISA::whole_lines(p, plane);
  }

  // The column that a place in the packed row begins at.
  NK_MEMBER int64_t column(int64_t slot) const { return slot + kLanes <= columns ? slot : columns - kLanes; }
  // Of the last 16, those that the ones before do not hold already.
  template <class A>
  Lanes<A> fresh_lanes() const {
    return lanes_from<A>(int(slots - columns));
  }

  int64_t channels;
  int64_t plane;  // from one channel to the next
  int64_t width;
  int64_t begin;        // of the tile's first item in the tensor
  int64_t stats_begin;  // and in the statistics
  int64_t columns;
  int64_t slots;  // places in a packed row
  bool in_tensor = true;  // or in memory of its own
};

// Rows of fewer than 16 items, copied into rows of 16, so that kernels need to know whole vectors alone, and back.
template <class T>
class Staged {
 public:
  Staged(const Tile& tile, int64_t rows) : n_(int(tile.columns)), stride_(tile.plane), rows_(rows), memory_(rows * kLanes) {}
  T* data() const { return memory_.data(); }
  void read(const T* from, Compute<T> elsewhere) const {
    for (int64_t i = 0; i < rows_; ++i) {
      store(data() + i * kLanes, splat(elsewhere));
      copy_few(data() + i * kLanes, from + i * stride_, n_);
    }
  }
  void write(T* to) const {
    for (int64_t i = 0; i < rows_; ++i) copy_few(to + i * stride_, data() + i * kLanes, n_);
  }

 private:
  int n_;
  int64_t stride_;
  int64_t rows_;
  Memory<T> memory_;
};

template <int kCount>
struct Count {
  static constexpr int kValue = kCount;
};

// body(first channel, Count<4>()) for four channels at a time, Count<1>() for what is left.
template <class Body>
NK_INLINE void by_fours(int64_t begin, int64_t end, const Body& body) {
  int64_t c = begin;
  for (; c + 4 <= end; c += 4) body(c, Count<4>());
  for (; c < end; ++c) body(c, Count<1>());
}

// Sums down the columns of a tile, in double.
template <class A>
struct ColumnSums {
  A* part1;  // of one block of channels
  A* part2;
  double* total1;
  double* total2;
};

// total1[slot] = sum(p), total2[slot] = sum(p * q) over all channels, of the pairs term(column_values, channel, slot), with
// column_values = term.at(slot). A lane adds up to 16 sums of four terms in A before it goes on in double.
template <class A, bool kProducts, class Term>
NK_INLINE void sum_down(const Tile& tile, const ColumnSums<A>& sums, const Term& term) {
  constexpr int64_t kBlock = 64;
  for (int64_t j = 0; j < tile.slots; ++j) sums.total1[j] = sums.total2[j] = 0.0;
  for (int64_t first = 0; first < tile.channels; first += kBlock) {
    for (int64_t j = 0; j < tile.slots; ++j) sums.part1[j] = sums.part2[j] = A(0);
    by_fours(first, first + kBlock < tile.channels ? first + kBlock : tile.channels, [&](int64_t c, auto count) NK_LAMBDA {
      for (int64_t j = 0; j < tile.slots; j += kLanes) {
        const auto at = term.at(j);
        Vec<A> s1 = load(sums.part1 + j), s2 = load(sums.part2 + j);
        if constexpr (count.kValue == 4) {
          Vec<A> p, p2, q, q2;
          term(at, c, j, [&](Vec<A> a, Vec<A> b) NK_LAMBDA { p = a, p2 = a * b; });
          term(at, c + 1, j, [&](Vec<A> a, Vec<A> b) NK_LAMBDA { p = p + a, p2 = fma(a, b, p2); });
          term(at, c + 2, j, [&](Vec<A> a, Vec<A> b) NK_LAMBDA { q = a, q2 = a * b; });
          term(at, c + 3, j, [&](Vec<A> a, Vec<A> b) NK_LAMBDA { q = q + a, q2 = fma(a, b, q2); });
          s1 = s1 + (p + q);
          if (kProducts) s2 = s2 + (p2 + q2);
        } else {
          term(at, c, j, [&](Vec<A> a, Vec<A> b) NK_LAMBDA { s1 = s1 + a, s2 = fma(a, b, s2); });
        }
        store(sums.part1 + j, s1);
        if (kProducts) store(sums.part2 + j, s2);
      }
    });
    for (int64_t j = 0; j < tile.slots; j += kLanes) {
      store(sums.total1 + j, load(sums.total1 + j) + widen(load(sums.part1 + j)));
      if (kProducts) store(sums.total2 + j, load(sums.total2 + j) + widen(load(sums.part2 + j)));
    }
  }
}
