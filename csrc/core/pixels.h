// Channels as pixels: an image is a matrix with a row of channels for each position, and statistics run down its
// columns. BatchNorm sees the whole batch as one image. Included by isa/*.cpp.
//
// Narrow rows are folded: `fold` of them are taken as one, so that it is a number of whole vectors. What is left over
// of an image is a shorter row (`rest`). Where some pixels do not count (KeptRows) a row is one pixel, and the rows are those
// that do.

struct Pixels {
  template <class Rows>
  Pixels(const ChannelShape& s, const Rows& rows)
      : shape(s),
        group(s.channels_per_slab()),
        slabs(s.n_channels / group),
        images(s.over_batch() ? 1 : s.n_samples),
        n_pixels(s.over_batch() ? s.n_samples * s.n_positions : s.n_positions),
        fold(Rows::kAll ? fold_of(s.n_channels) : 1),
        n_cols(fold * s.n_channels),
        n_rows(rows.count() / fold),
        rest(rows.count() % fold * s.n_channels),
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
    int64_t end() const { return last_row + last; }
  };
  int64_t parts() const { return chunks.count * columns; }
  Part part(int64_t i) const {
    const int64_t chunk = i / columns, first = i % columns * kColumns;
    return {chunks.begin(chunk), chunks.begin(chunk + 1), first, first + kColumns < n_cols ? first + kColumns : n_cols,
            chunk + 1 == chunks.count};
  }
  int64_t padded() const { return round_up(n_cols, kLanes); }

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

// The rows of an image that count: all. (kept.h has the other kind.)
class EveryRow {
 public:
  explicit EveryRow(const ChannelShape& s) : count_(s.over_batch() ? s.n_samples * s.n_positions : s.n_positions) {}
  static constexpr bool kAll = true;

  // How many pixels there are; and which pixel, or folded row, is number i of them.
  int64_t count() const { return count_; }
  NK_MEMBER int64_t at(int64_t i) const { return i; }

 private:
  int64_t count_;
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

// Where four rows begin, from number i of those that count, and what comes after them.
template <class Rows>
struct FourRows {
  int64_t begin[5];
  int64_t share;  // of all between, but of long gaps, for each vector of a row
  NK_MEMBER FourRows(const Pixels& pixels, const Rows& rows, int64_t i) {
    for (int r = 0; r < 4; ++r) begin[r] = rows.at(i + r) * pixels.n_cols;
    begin[4] = i + 4 < pixels.n_rows ? rows.at(i + 4) * pixels.n_cols : begin[3] + pixels.n_cols;
    const int64_t most = 8 * pixels.n_cols, between = begin[4] - begin[0] < most ? begin[4] - begin[0] : most;
    share = Rows::kAll ? 4 * kLanes : between / ceil_div(pixels.n_cols, kLanes);
  }
};

// Asks for memory as it lies, line by line, so many items after some: narrow rows, four at a time, defeat the processor's own
// foresight, and so do short gaps between them.
constexpr int64_t kAhead = 1024;
template <class Op>
NK_INLINE void ask_ahead(int64_t begin, int64_t end, const Op& op) {
  for (int64_t at = begin; at < end; at += Op::kLine) op.fetch(at + kAhead);
}

// one(at, column, n) for the items of a part but its rows before `i` up to column `whole`, n <= 16 at a time.
template <class Rows, class One>
NK_INLINE void each_vector_left(const Pixels& pixels, const Rows& rows, const Pixels::Part& part, int64_t whole, int64_t i,
                                const One& one) {
  for (int64_t row = part.first_row; row < part.last_row; ++row) {
    const int64_t begin = rows.at(row) * pixels.n_cols;
    for (int64_t j = row < i ? whole : part.first_col; j < part.last_col; j += kLanes) {
      one(begin + j, j, part.last_col - j < kLanes ? int(part.last_col - j) : kLanes);
    }
  }
  if (!part.last) return;
  const int64_t end = pixels.rest < part.last_col ? pixels.rest : part.last_col;
  for (int64_t j = part.first_col; j < end; j += kLanes) {
    one(pixels.n_rows * pixels.n_cols + j, j, end - j < kLanes ? int(end - j) : kLanes);
  }
}

// The same for all items of a part, but four(rows, column) for whole vectors of four rows.
template <class Rows, class Four, class One>
NK_INLINE void each_vector_of_part(const Pixels& pixels, const Rows& rows, const Pixels::Part& part, const Four& four,
                                   const One& one) {
  const int64_t whole = part.first_col + (part.last_col - part.first_col) / kLanes * kLanes;
  int64_t i = part.first_row;
  for (; i + 4 <= part.last_row; i += 4) {
    const FourRows<Rows> these(pixels, rows, i);
    for (int64_t j = part.first_col; j < whole; j += kLanes) four(these, j);
  }
  each_vector_left(pixels, rows, part, whole, i, one);
}

// 0 in the rows that do not count and lie before those that do from number i up to `end`, in the columns of a part; number
// n_rows is the end of the image.
template <class T, class Rows>
NK_INLINE void clear_before(const Pixels& pixels, const Rows& rows, const Pixels::Part& part, int64_t i, int64_t end, T* to) {
  if constexpr (!Rows::kAll) {
    for (; i < end; ++i) {
      const int64_t next = i < pixels.n_rows ? rows.at(i) : pixels.n_pixels;
      for (int64_t row = i == 0 ? 0 : rows.at(i - 1) + 1; row < next; ++row) {
        clear(to + row * pixels.n_cols + part.first_col, part.last_col - part.first_col);
      }
    }
  }
}

// to[at] = op(k, at, j, n) for the items of a part, n <= 16 of them from column j, and 0 in the rows between that do not count;
// k = op.at(j) is what a column has in common.
// op is a copy, so that the compiler sees that nothing stored here changes its fields. Narrow rows go one after the other, as memory
// likes it; of wide ones four together, since what all their columns have in common does not stay in the first cache.
template <class T, class Rows, class Op>
static __attribute__((noinline)) void map_part(const Pixels& pixels, const Rows& rows, const Pixels::Part& part, T* to, Op op) {
  const int64_t whole = part.first_col + (part.last_col - part.first_col) / kLanes * kLanes;
  const bool narrow = pixels.n_cols <= 1024;
  const auto put = [&](const auto& k, int64_t at, int64_t j) NK_LAMBDA {
    prefetch(to + at + 512);
    store(to + at, op(k, at, j, kLanes));
  };
  int64_t i = part.first_row;
  for (; i + 4 <= part.last_row; i += 4) {
    const FourRows<Rows> these(pixels, rows, i);
    clear_before(pixels, rows, part, i, i + 4, to);
    if (narrow) {
      for (int r = 0; r < 4; ++r) {
        const int64_t begin = these.begin[r];
        for (int64_t j = part.first_col; j < whole; j += kLanes) {
          op.fetch(begin + j + kAhead);
          put(op.at(j), begin + j, j);
        }
        if (these.begin[r + 1] - begin <= 2 * pixels.n_cols) ask_ahead(begin + pixels.n_cols, these.begin[r + 1], op);
      }
    } else {
      for (int64_t j = part.first_col; j < whole; j += kLanes) {
        const auto k = op.at(j);
        for (int r = 0; r < 4; ++r) put(k, these.begin[r] + j, j);
      }
    }
  }
  clear_before(pixels, rows, part, i, part.end(), to);
  each_vector_left(pixels, rows, part, whole, i, [&](int64_t at, int64_t j, int n) NK_LAMBDA {
    store_some(to + at, op(op.at(j), at, j, n), n);
  });
}

// work(at, n) for each row of a part, and for what is left over after the last.
template <class Rows, class Work>
NK_INLINE void each_row_of_part(const Pixels& pixels, const Rows& rows, const Pixels::Part& part, const Work& work) {
  for (int64_t row = part.first_row; row < part.last_row; ++row) {
    work(rows.at(row) * pixels.n_cols + part.first_col, part.last_col - part.first_col);
  }
  const int64_t end = pixels.rest < part.last_col ? pixels.rest : part.last_col;
  if (part.last && end > part.first_col) work(pixels.n_rows * pixels.n_cols + part.first_col, end - part.first_col);
}

// visit(offset in the image, channel) for each value of slab s of an image that counts.
template <class Rows, class Visit>
NK_INLINE void each_item(const Pixels& pixels, const Rows& rows, int64_t s, const Visit& visit) {
  const int64_t channels = pixels.shape.n_channels, group = pixels.group;
  for (int64_t i = 0; i < rows.count(); ++i) {
    for (int64_t c = s * group; c < (s + 1) * group; ++c) visit(rows.at(i) * channels + c, c);
  }
}

// total1[j] = sum(p), total2[j] = sum(p * q) down the columns of a part, of the pairs that term(coefficients, at) gives
// for 16 items from `at` and term(coefficients, at, n) for n of them (0 beyond), with coefficients = term.at(column).
// A lane adds up to 16 sums of four terms in A before it goes on in double; of the columns after the last whole vector up to 64
// terms.
template <class A, class Rows, class Term>
static __attribute__((noinline)) void sum_columns(const Pixels& pixels, const Rows& rows, const Pixels::Part& part,
                                                  Term term, double* total1, double* total2) {
  constexpr int64_t kRows = 64, kBlock = 512;
  for (int64_t j = part.first_col; j < round_up(part.last_col, kLanes); ++j) total1[j] = total2[j] = 0.0;
  const bool narrow = pixels.n_cols <= kBlock;
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
          [&](const FourRows<Rows>& these, int64_t j) NK_LAMBDA {
            const auto k = term.at(j);
            if (narrow) {
              const int64_t at = these.begin[0] + j / kLanes * these.share;
              ask_ahead(at, at + these.share, term);
            } else {
              for (int r = 0; r < 4; ++r) term.fetch(these.begin[r] + j + 256);
            }
            const Pair<A> a = term(k, these.begin[0] + j), b = term(k, these.begin[1] + j);
            const Pair<A> c = term(k, these.begin[2] + j), d = term(k, these.begin[3] + j);
            A *to1 = sums1 + (j - first), *to2 = sums2 + (j - first);
            store(to1, load(to1) + ((a.p + b.p) + (c.p + d.p)));
            store(to2, load(to2) + (fma(b.p, b.q, a.p * a.q) + fma(d.p, d.q, c.p * c.q)));
          },
          [&](int64_t at, int64_t j, int n) NK_LAMBDA {
            const Pair<A> t = term(term.at(j), at, n);
            A *to1 = sums1 + (j - first), *to2 = sums2 + (j - first);
            store(to1, load(to1) + t.p);
            store(to2, fma(t.p, t.q, load(to2)));
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
