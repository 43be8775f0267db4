// Channels as pixels: an image is a matrix with a row of channels for each position, and statistics run down its
// columns. BatchNorm sees the whole batch as one image. Included by isa/*.cpp.
//
// Narrow rows are folded: `fold` of them are taken as one, so that it is a number of whole vectors. What is left over
// of an image is a shorter row (`rest`). Where some pixels do not count (KeptRows) a row is one pixel.

// Memory is asked for so many items ahead: narrow rows, four at a time, defeat the processor's own foresight.
constexpr int64_t kAhead = 1024;

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
        n_rows(rows.walked() / fold),
        rest(rows.walked() % fold * s.n_channels),
        chunks(chunks_of(ceil_div(n_rows, kTogether), ceil_div(chunk_rows(n_cols), kTogether))),
        columns(ceil_div(n_cols, kColumns)) {}

  static constexpr int64_t fold_of(int64_t n_channels) {
    int64_t fold = 1;
    while (fold * n_channels % kLanes != 0 || fold * n_channels < kShort) fold *= 2;
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
    const int64_t chunk = i / columns, first = i % columns * kColumns, end = chunks.begin(chunk + 1) * kTogether;
    return {chunks.begin(chunk) * kTogether, end < n_rows ? end : n_rows, first,
            first + kColumns < n_cols ? first + kColumns : n_cols, chunk + 1 == chunks.count};
  }
  int64_t padded() const { return round_up(n_cols, kLanes); }
  // How many items ahead of what it reads the forward asks while it writes: for the next image where that pays.
  int64_t ahead(int64_t item_bytes) const {
    const int64_t image = n_pixels * shape.n_channels;
    return pays_to_ask_for_next(image * item_bytes, shape.size_in_all() * item_bytes) ? image : kAhead;
  }
  bool narrow() const { return n_cols <= 1024; }
  // Whether an image stays in a thread's own caches.
  bool in_caches(int64_t item_bytes) const { return n_pixels * shape.n_channels * item_bytes <= int64_t(1) << 20; }

  static constexpr int64_t kColumns = 4096;
  static constexpr int64_t kShort = 8 * kLanes;  // a row of fewer columns is worth folding
  static constexpr int64_t kTogether = 4;  // rows that are added up together
  ChannelShape shape;
  int64_t group;  // channels of a slab
  int64_t slabs;  // of an image
  int64_t images;
  int64_t n_pixels;  // of an image
  int64_t fold;
  int64_t n_cols;
  int64_t n_rows;
  int64_t rest;
  Chunks chunks;  // of the rows, by fours
  int64_t columns;
};

// The rows of an image that count: all. (kept.h has the other kind.)
class EveryRow {
 public:
  explicit EveryRow(const ChannelShape& s) : count_(s.over_batch() ? s.n_samples * s.n_positions : s.n_positions) {}
  static constexpr bool kAll = true;

  // How many pixels are walked over, and how many count.
  int64_t walked() const { return count_; }
  int64_t count() const { return count_; }
  NK_MEMBER bool counts(int64_t) const { return true; }
  NK_MEMBER bool none_of_four(int64_t) const { return false; }
  // The lanes to keep of row i: chosen where it counts.
  struct Every {};
  template <class A>
  using RowLanes = Every;
  template <class A>
  NK_MEMBER Every lanes(int64_t) const {
    return {};
  }
  NK_MEMBER int64_t near(int64_t i) const { return i; }

 private:
  int64_t count_;
};

// visit(its first channel, how many it has, slab) for the slabs of an image; where they are of one channel the loops that visit()
// has over a slab's are none.
template <class Visit>
NK_INLINE void each_slab(const Pixels& pixels, const Visit& visit) {
  const auto all = [&](int64_t group) NK_LAMBDA {
    for (int64_t s = 0; s < pixels.slabs; ++s) visit(s * group, group, s);
  };
  pixels.group == 1 ? all(1) : all(pixels.group);
}

template <class A>
NK_INLINE void fill(A* to, int64_t n, A value) {
  for (int64_t i = 0; i < n; ++i) to[i] = value;
}

// Arrays of one value a column that hold those of the channels: again for all columns, and padded to whole vectors.
template <class... A>
NK_INLINE void complete_columns(const Pixels& pixels, A*... arrays) {
  const int64_t channels = pixels.shape.n_channels;
  const auto complete = [&](auto* to) {
    for (int64_t j = channels; j < pixels.n_cols; ++j) to[j] = to[j - channels];
    for (int64_t j = pixels.n_cols; j < pixels.padded(); ++j) to[j] = 0;
  };
  (complete(arrays), ...);
}

template <class A>
NK_INLINE Vec<A> keep(Vec<A> v, EveryRow::Every) {
  return v;
}
template <class A, class Kept>
NK_INLINE Pair<A> keep(Pair<A> v, Kept kept) {
  return {keep(v.p, kept), keep(v.q, kept)};
}

// Four rows from number i on: where they begin, and which of them are kept.
template <class A, class Rows>
struct FourRows {
  int64_t begin[4];
  typename Rows::template RowLanes<A> kept[4];
  NK_MEMBER FourRows(const Pixels& pixels, const Rows& rows, int64_t i) {
    for (int r = 0; r < 4; ++r) begin[r] = (i + r) * pixels.n_cols, kept[r] = rows.template lanes<A>(i + r);
  }
};

// Asks for memory as it lies, line by line.
template <class Op>
NK_INLINE void ask_ahead(int64_t begin, int64_t end, const Op& op) {
  for (int64_t at = begin; at < end; at += Op::kLine) op.fetch(at + kAhead);
}

// one(kept, at, column, n) for the items of a part but its rows before `i` up to column `whole`, n <= 16 at a time.
template <class A, class Rows, class One>
NK_INLINE void each_vector_left(const Pixels& pixels, const Rows& rows, const Pixels::Part& part, int64_t whole, int64_t i,
                                const One& one) {
  for (int64_t row = part.first_row; row < part.last_row; ++row) {
    const int64_t begin = row * pixels.n_cols;
    const auto kept = rows.template lanes<A>(row);
    for (int64_t j = row < i ? whole : part.first_col; j < part.last_col; j += kLanes) {
      one(kept, begin + j, j, part.last_col - j < kLanes ? int(part.last_col - j) : kLanes);
    }
  }
  if constexpr (Rows::kAll) {
    if (!part.last) return;
    const int64_t end = pixels.rest < part.last_col ? pixels.rest : part.last_col;
    for (int64_t j = part.first_col; j < end; j += kLanes) {
      one(rows.template lanes<A>(pixels.n_rows), pixels.n_rows * pixels.n_cols + j, j, end - j < kLanes ? int(end - j) : kLanes);
    }
  }
}

// to[at] = op(k, at, j, n) for the items of a part, n <= 16 of them from column j, and 0 in the rows that do not count;
// k = op.at(j) is what a column has in common. Or `past` the caches, where that serves.
// op is a copy, so that the compiler sees that nothing stored here changes its fields. Narrow rows go one after the other, as memory
// likes it, and ask for what lies so many items `ahead`. Four go together where they are wide, since what all their columns have in
// common does not stay in the first cache; where neither memory is waited for, nor much computed for a value (of 16 bits); or where
// they are so short that a loop over one is hardly begun.
template <bool kPast, class T, class Rows, class Op>
static __attribute__((noinline)) void map_rows(const Pixels& pixels, const Rows& rows, const Pixels::Part& part, T* to,
                                               int64_t ahead, Op op) {
  const int64_t whole = part.first_col + (part.last_col - part.first_col) / kLanes * kLanes;
  const bool computed_soon = Rows::kAll && sizeof(T) >= sizeof(float) && pixels.in_caches(sizeof(T));
  const bool one_by_one = pixels.narrow() && !computed_soon && (kPast || pixels.n_cols >= pixels.kShort);
  const auto put_at = [&](auto kept, const auto& k, int64_t at, int64_t j) NK_LAMBDA {
    if (!kPast) prefetch(to + at + 512);
    put(to + at, keep(op(k, at, j, kLanes), kept), Past<kPast>());
  };
  int64_t i = part.first_row;
  for (; i + 4 <= part.last_row; i += 4) {
    const FourRows<Compute<T>, Rows> these(pixels, rows, i);
    if (rows.none_of_four(i)) {
      for (int r = 0; r < 4; ++r) clear(to + these.begin[r] + part.first_col, whole - part.first_col);
    } else if (one_by_one) {
      for (int r = 0; r < 4; ++r) {
        for (int64_t j = part.first_col; j < whole; j += kLanes) {
          op.fetch(these.begin[r] + j + ahead);
          put_at(these.kept[r], op.at(j), these.begin[r] + j, j);
        }
      }
    } else {
      for (int64_t j = part.first_col; j < whole; j += kLanes) {
        const auto k = op.at(j);
        for (int r = 0; r < 4; ++r) put_at(these.kept[r], k, these.begin[r] + j, j);
      }
    }
  }
  each_vector_left<Compute<T>>(pixels, rows, part, whole, i, [&](auto kept, int64_t at, int64_t j, int n) NK_LAMBDA {
    store_some(to + at, keep(op(op.at(j), at, j, n), kept), n);
  });
}

// Not several rows at once past the caches: too many lines are open then.
template <class T, class Rows, class Op>
NK_INLINE void map_part(const Pixels& pixels, const Rows& rows, const Pixels::Part& part, T* to, bool past, int64_t ahead,
                        const Op& op) {
  past && pixels.narrow() && whole_lines(to, pixels.n_cols) ? map_rows<true>(pixels, rows, part, to, ahead, op)
                                                            : map_rows<false>(pixels, rows, part, to, ahead, op);
}

// work(at, n) for each row of a part that counts, and for what is left over after the last; gap(at, n) for one that does not.
template <class Rows, class Work, class Gap>
NK_INLINE void each_row_of_part(const Pixels& pixels, const Rows& rows, const Pixels::Part& part, const Work& work,
                                const Gap& gap) {
  for (int64_t row = part.first_row; row < part.last_row; ++row) {
    const int64_t at = row * pixels.n_cols + part.first_col, n = part.last_col - part.first_col;
    rows.counts(row) ? work(at, n) : gap(at, n);
  }
  const int64_t end = pixels.rest < part.last_col ? pixels.rest : part.last_col;
  if (part.last && end > part.first_col) work(pixels.n_rows * pixels.n_cols + part.first_col, end - part.first_col);
}

// visit(offset in the image, channel) for each value of slab s of an image that counts.
template <class Rows, class Visit>
NK_INLINE void each_item(const Pixels& pixels, const Rows& rows, int64_t s, const Visit& visit) {
  const int64_t channels = pixels.shape.n_channels, group = pixels.group;
  for (int64_t i = 0; i < pixels.n_pixels; ++i) {
    for (int64_t c = s * group; rows.counts(i) && c < (s + 1) * group; ++c) visit(i * channels + c, c);
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
      const int64_t whole = first + (block.last_col - first) / kLanes * kLanes;
      int64_t i = block.first_row;
      for (; i + 4 <= block.last_row; i += 4) {
        if (rows.none_of_four(i)) continue;
        const FourRows<A, Rows> these(pixels, rows, i);
        for (int64_t j = first; j < whole; j += kLanes) {
          const auto k = term.at(j);
          if (narrow) {
            const int64_t at = these.begin[0] + 4 * j;
            ask_ahead(at, at + 4 * kLanes, term);
          } else {
            for (int r = 0; r < 4; ++r) term.fetch(these.begin[r] + j + 256);
          }
          const auto of = [&](int r) NK_LAMBDA { return keep(term(k, these.begin[r] + j), these.kept[r]); };
          const Pair<A> a = of(0), b = of(1), c = of(2), d = of(3);
          A *to1 = sums1 + (j - first), *to2 = sums2 + (j - first);
          store(to1, load(to1) + ((a.p + b.p) + (c.p + d.p)));
          store(to2, load(to2) + (fma(b.p, b.q, a.p * a.q) + fma(d.p, d.q, c.p * c.q)));
        }
      }
      each_vector_left<A>(pixels, rows, block, whole, i, [&](auto kept, int64_t at, int64_t j, int n) NK_LAMBDA {
        const Pair<A> t = keep(term(term.at(j), at, n), kept);
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

// Calls work.one_image(image, parallel_for) for all images.
template <class Work>
NK_INLINE void for_each_image(const Work& work, const Pixels& pixels, ParallelFor parallel_for) {
  for_each_large(pixels.images, pixels.n_pixels * pixels.shape.n_channels, parallel_for,
                 [&](int64_t image, ParallelFor within) { work.one_image(image, within); });
}
