// Channels as pixels: an image is a matrix with a row of channels for each position, and statistics run down its
// columns. BatchNorm sees the whole batch as one image. Included by isa/*.cpp.
//
// Narrow rows are folded: `fold` of them are taken as one, so that it is a number of whole vectors. What is left over
// of an image is a shorter row (`rest`). Where some pixels do not count (masked_pixels.h) a row is one pixel.

struct Pixels {
  Pixels(const ChannelShape& s, bool folded)
      : shape(s),
        group(s.channels_per_slab()),
        slabs(s.n_channels / group),
        images(s.over_batch() ? 1 : s.n_samples),
        n_pixels(s.over_batch() ? s.n_samples * s.n_positions : s.n_positions),
        fold(folded ? fold_of(s.n_channels) : 1),
        n_cols(fold * s.n_channels),
        n_rows(n_pixels / fold),
        rest(n_pixels % fold * s.n_channels),
        chunks(chunks_of(n_rows, chunk_rows(n_cols))),
        columns(ceil_div(n_cols, kColumns)) {}

  static constexpr int64_t fold_of(int64_t n_channels) {
    int64_t fold = 1;
    while (fold * n_channels % kLanes != 0 || fold * n_channels < 8 * kLanes) fold *= 2;
    return fold * n_channels <= 2048 ? fold : 1;
  }
  static constexpr int64_t chunk_rows(int64_t n_cols) {
    const int64_t rows = ceil_div(int64_t(32768), n_cols);
    return rows < 64 ? 64 : rows;
  }

  // Number s of those of an image.
  int64_t slab_of(int64_t image, int64_t s) const { return image * slabs + s; }
  // A part of the work on an image: some rows, some columns.
  struct Part {
    int64_t first_row, last_row;
    int64_t first_col, last_col;
    bool last;  // the rest of the image comes after it
  };
  int64_t parts() const { return chunks.count * columns; }
  Part part(int64_t i) const {
    const int64_t chunk = i / columns, first = i % columns * kColumns;
    return {chunks.begin(chunk), chunks.begin(chunk + 1), first, first + kColumns < n_cols ? first + kColumns : n_cols,
            chunk + 1 == chunks.count};
  }
  int64_t padded() const { return round_up(n_cols, kLanes); }

  // How far ahead to ask for memory: narrow rows defeat the processor's own foresight.
  int64_t ahead() const { return n_cols <= 512 ? 8 * n_cols : 256; }

  static constexpr int64_t kColumns = 4096;
  ChannelShape shape;
  int64_t group;  // channels of a slab
  int64_t slabs;  // of an image
  int64_t images;
  int64_t n_pixels;  // of an image
  int64_t fold;
  int64_t n_cols;
  int64_t n_rows;
  int64_t rest;
  Chunks chunks;  // of the rows
  int64_t columns;
};

// Which rows of an image count: all. (masked_pixels.h has the other kind.)
class EveryRow {
 public:
  explicit EveryRow(const ChannelShape& s) : shape_(s) {}

  // What counts of some rows: keep(v, r) is v where number r of them counts, else 0.
  struct Kept {
    static constexpr bool any() { return true; }
    template <class A>
    NK_MEMBER Vec<A> keep(Vec<A> v, int) const {
      return v;
    }
  };
  static constexpr bool kAll = true;
  NK_MEMBER Kept four(int64_t) const { return {}; }
  NK_MEMBER Kept one(int64_t) const { return {}; }

  // How many values of a slab count, and how many pixels; and the pixel with `rank` of those before it.
  int64_t slab_size() const { return shape_.slab_size(); }
  int64_t count() const { return shape_.over_batch() ? shape_.n_samples * shape_.n_positions : shape_.n_positions; }
  int64_t at_rank(int64_t rank) const { return rank; }
  NK_MEMBER bool counts(int64_t) const { return true; }

 private:
  ChannelShape shape_;
};

// An array of one value a column, filled with one a channel, of(channel, its slab in the image), and padded to whole
// vectors.
template <class A, class Of>
NK_INLINE void fill_columns(const Pixels& pixels, A* to, const Of& of) {
  const int64_t channels = pixels.shape.n_channels;
  for (int64_t s = 0; s < pixels.slabs; ++s) {
    for (int64_t c = s * pixels.group; c < (s + 1) * pixels.group; ++c) to[c] = of(c, s);
  }
  for (int64_t j = channels; j < pixels.n_cols; ++j) to[j] = to[j - channels];
  for (int64_t j = pixels.n_cols; j < pixels.padded(); ++j) to[j] = A(0);
}

// one(kept, at, column, n) for the items of a part but its rows before `i` up to column `whole`, n <= 16 at a time. kept: what
// counts of the row.
template <class Rows, class One>
NK_INLINE void each_vector_left(const Pixels& pixels, const Rows& rows, const Pixels::Part& part, int64_t whole, int64_t i,
                                const One& one) {
  for (int64_t row = part.first_row; row < part.last_row; ++row) {
    const auto kept = rows.one(row);
    for (int64_t j = row < i ? whole : part.first_col; j < part.last_col; j += kLanes) {
      one(kept, row * pixels.n_cols + j, j, part.last_col - j < kLanes ? int(part.last_col - j) : kLanes);
    }
  }
  if (!part.last) return;
  const int64_t end = pixels.rest < part.last_col ? pixels.rest : part.last_col;
  for (int64_t j = part.first_col; j < end; j += kLanes) {
    one(rows.one(pixels.n_rows), pixels.n_rows * pixels.n_cols + j, j, end - j < kLanes ? int(end - j) : kLanes);
  }
}

// The same for all items of a part, but four(kept, at, column) for whole vectors of four rows.
template <class Rows, class Four, class One>
NK_INLINE void each_vector_of_part(const Pixels& pixels, const Rows& rows, const Pixels::Part& part, const Four& four,
                                   const One& one) {
  const int64_t whole = part.first_col + (part.last_col - part.first_col) / kLanes * kLanes;
  int64_t i = part.first_row;
  for (; i + 4 <= part.last_row; i += 4) {
    const auto kept = rows.four(i);
    for (int64_t j = part.first_col; j < whole; j += kLanes) four(kept, i * pixels.n_cols + j, j);
  }
  each_vector_left(pixels, rows, part, whole, i, one);
}

// to[at] = op(k, at, j, n) for the items of a part, n <= 16 of them from column j, or 0 in a row that does not count; k = op.at(j)
// is what a column has in common. Narrow rows go one after the other, as memory likes it; of wide ones four together, since
// what all their columns have in common does not stay in the first cache.
template <class T, class Rows, class Op>
static __attribute__((noinline)) void map_part(const Pixels& pixels, const Rows& rows, const Pixels::Part& part, T* to, const Op& op) {
  const int64_t whole = part.first_col + (part.last_col - part.first_col) / kLanes * kLanes, n_cols = pixels.n_cols;
  const bool narrow = n_cols <= 1024;
  const auto put = [&](const auto& kept, int r, const auto& k, int64_t at, int64_t j) NK_LAMBDA {
    prefetch(to + at + 512);
    store(to + at, kept.keep(op(k, at, j, kLanes), r));
  };
  int64_t i = part.first_row;
  for (; i + 4 <= part.last_row; i += 4) {
    const auto kept = rows.four(i);
    const int64_t begin = i * n_cols;
    if (!kept.any()) {
      for (int r = 0; r < 4; ++r) clear(to + begin + r * n_cols + part.first_col, whole - part.first_col);
    } else if (narrow) {
      for (int r = 0; r < 4; ++r) {
        for (int64_t j = part.first_col; j < whole; j += kLanes) put(kept, r, op.at(j), begin + r * n_cols + j, j);
      }
    } else {
      for (int64_t j = part.first_col; j < whole; j += kLanes) {
        const auto k = op.at(j);
        for (int r = 0; r < 4; ++r) put(kept, r, k, begin + r * n_cols + j, j);
      }
    }
  }
  each_vector_left(pixels, rows, part, whole, i, [&](const auto& kept, int64_t at, int64_t j, int n) NK_LAMBDA {
    store_some(to + at, kept.keep(op(op.at(j), at, j, n), 0), n);
  });
}

// work(row, at, n) for each row of a part, and for what is left over after the last.
template <class Work>
NK_INLINE void each_row_of_part(const Pixels& pixels, const Pixels::Part& part, const Work& work) {
  for (int64_t row = part.first_row; row < part.last_row; ++row) {
    work(row, row * pixels.n_cols + part.first_col, part.last_col - part.first_col);
  }
  const int64_t end = pixels.rest < part.last_col ? pixels.rest : part.last_col;
  if (part.last && end > part.first_col) work(part.last_row, part.last_row * pixels.n_cols + part.first_col, end - part.first_col);
}

// work(block) for blocks of four rows of a part, the last with what is left over.
template <class Work>
NK_INLINE void each_block_of_rows(const Pixels& pixels, const Pixels::Part& part, const Work& work) {
  Pixels::Part block = part;
  for (int64_t row = part.first_row; row < part.last_row; row += 4) {
    block.first_row = row;
    block.last_row = row + 4 < part.last_row ? row + 4 : part.last_row;
    block.last = false;
    work(block);
  }
  block.first_row = block.last_row = part.last_row;
  block.last = part.last;
  if (part.last && pixels.rest > 0) work(block);
}

// put(at, column, n) for all items of a part, whether they count or not.
template <class Put>
NK_INLINE void each_vector_of_every_row(const Pixels& pixels, const Pixels::Part& part, const Put& put) {
  each_vector_of_part(
      pixels, EveryRow(pixels.shape), part,
      [&](EveryRow::Kept, int64_t at, int64_t j) NK_LAMBDA {
        for (int64_t r = 0; r < 4; ++r) put(at + r * pixels.n_cols, j, kLanes);
      },
      [&](EveryRow::Kept, int64_t at, int64_t j, int n) NK_LAMBDA { put(at, j, n); });
}

// total1[j] = sum(p), total2[j] = sum(p * q) down the columns of a part, of the pairs that term(coefficients, at) gives
// for 16 items from `at` and term(coefficients, at, n) for n of them (0 beyond), with coefficients = term.at(column); of the
// rows that count.
// A lane adds up to 16 sums of four terms in A before it goes on in double.
template <class A, class Rows, class Term>
static __attribute__((noinline)) void sum_columns(const Pixels& pixels, const Rows& rows, const Pixels::Part& part, const Term& term,
                           double* total1, double* total2) {
  constexpr int64_t kRows = 64, kBlock = 512;
  for (int64_t j = part.first_col; j < round_up(part.last_col, kLanes); ++j) total1[j] = total2[j] = 0.0;
  A sums1[kBlock], sums2[kBlock];
  for (int64_t row = part.first_row; row < part.last_row || (row == part.first_row && part.last); row += kRows) {
    Pixels::Part block = part;
    block.first_row = row;
    block.last_row = row + kRows < part.last_row ? row + kRows : part.last_row;
    block.last = part.last && block.last_row == part.last_row;
    for (int64_t first = part.first_col; first < part.last_col; first += kBlock) {
      block.first_col = first;
      block.last_col = first + kBlock < part.last_col ? first + kBlock : part.last_col;
      const int64_t padded = round_up(block.last_col - first, kLanes);
      for (int64_t j = 0; j < padded; ++j) sums1[j] = sums2[j] = A(0);
      each_vector_of_part(
          pixels, rows, block,
          [&](auto kept, int64_t at, int64_t j) NK_LAMBDA {
            if (!kept.any()) return;
            const auto k = term.at(j);
            for (int64_t r = 0; r < 4; ++r) term.fetch(at + r * pixels.n_cols + pixels.ahead());
            const auto row = [&](int r) NK_LAMBDA {
              const Pair<A> t = term(k, at + r * pixels.n_cols);
              return Pair<A>{kept.keep(t.p, r), kept.keep(t.q, r)};
            };
            const Pair<A> a = row(0), b = row(1), c = row(2), d = row(3);
            A *to1 = sums1 + (j - first), *to2 = sums2 + (j - first);
            store(to1, load(to1) + ((a.p + b.p) + (c.p + d.p)));
            store(to2, load(to2) + (fma(b.p, b.q, a.p * a.q) + fma(d.p, d.q, c.p * c.q)));
          },
          [&](auto kept, int64_t at, int64_t j, int n) NK_LAMBDA {
            const Pair<A> t = term(term.at(j), at, n);
            const Vec<A> p = kept.keep(t.p, 0), q = kept.keep(t.q, 0);
            A *to1 = sums1 + (j - first), *to2 = sums2 + (j - first);
            store(to1, load(to1) + p);
            store(to2, fma(p, q, load(to2)));
          });
      for (int64_t j = 0; j < padded; j += kLanes) {
        double *to1 = total1 + first + j, *to2 = total2 + first + j;
        store(to1, load(to1) + widen(load(sums1 + j)));
        store(to2, load(to2) + widen(load(sums2 + j)));
      }
    }
  }
}

// The sums of each channel of an image: its parts one after the other or shared among the threads. then(part) follows a part.
template <class A, class Rows, class Term, class Then>
NK_INLINE void sum_channels(const Pixels& pixels, const Rows& rows, const Term& term, ParallelFor parallel_for,
                            Sums* of_channel, const Then& then) {
  const int64_t padded = pixels.padded(), count = pixels.chunks.count;
  const Memory<double> memory(count * 2 * padded);
  for_range(parallel_for, 0, pixels.parts(), 1, [&](int64_t first, int64_t last) {
    for (int64_t i = first; i < last; ++i) {
      double* totals = memory.data() + i / pixels.columns * 2 * padded;
      sum_columns<A>(pixels, rows, pixels.part(i), term, totals, totals + padded);
      then(pixels.part(i));
    }
  });
  double* const total = memory.data();
  for (int64_t chunk = 1; chunk < count; ++chunk) {
    const double* more = total + chunk * 2 * padded;
    for (int64_t j = 0; j < 2 * padded; ++j) total[j] += more[j];
  }
  const int64_t channels = pixels.shape.n_channels;
  for (int64_t c = 0; c < channels; ++c) {
    of_channel[c] = {total[c], total[padded + c]};
    for (int64_t j = c + channels; j < pixels.n_cols; j += channels) of_channel[c].add({total[j], total[padded + j]});
  }
}

// Calls work.one_image(image, parallel_for) for all images: large ones are shared among the threads, small ones dealt out.
template <class Work>
NK_INLINE void for_each_image(const Work& work, const Pixels& pixels, ParallelFor parallel_for) {
  const int64_t items = pixels.n_pixels * pixels.shape.n_channels;
  if (pixels.images < 32 && items > 2 * kParallelElements) {
    for (int64_t image = 0; image < pixels.images; ++image) work.one_image(image, parallel_for);
    return;
  }
  for_range(parallel_for, 0, pixels.images, grain_for(items), [&](int64_t first, int64_t last) {
    for (int64_t image = first; image < last; ++image) work.one_image(image, one_after_the_other);
  });
}
