// Channels as planes: a slab is a number of runs of contiguous values. How kernels walk and add them up. Included
// by isa/*.cpp.

// `count` runs of `length` values each, one every `stride`, the first at `begin`; it is the slab's run number `first`.
struct Runs {
  int64_t begin;
  int64_t count;
  int64_t length;
  int64_t stride;
  int64_t first;
  int64_t size() const { return count * length; }
  Runs one(int64_t r) const { return {begin + r * stride, 1, length, stride, first + r}; }
};

// A slab as it is cut for sums: about this many values a block. Sums over blocks run in double and in order, so
// that it makes no difference to the bits which thread does which block.
constexpr int64_t kBlockValues = 16384;

class Blocks {
 public:
  Blocks(int64_t runs, int64_t length, int64_t stride)
      : runs_(runs),
        length_(length),
        stride_(stride),
        per_run_(ceil_div(length, kBlockValues)),
        runs_per_block_(per_run_ > 1 ? 1 : kBlockValues / length),
        count_(per_run_ > 1 ? runs * per_run_ : ceil_div(runs, runs_per_block_)) {}

  int64_t count() const { return count_; }
  bool is_one_run() const { return runs_ == 1; }

  // All of a slab that begins there.
  Runs all(int64_t begin) const { return {begin, runs_, length_, stride_, 0}; }

  // Its block number i.
  Runs at(int64_t begin, int64_t i) const {
    if (count_ == 1) return all(begin);
    if (per_run_ > 1) {
      const int64_t run = i / per_run_, offset = i % per_run_ * kBlockValues, left = length_ - offset;
      return {begin + run * stride_ + offset, 1, left < kBlockValues ? left : kBlockValues, 0, run};
    }
    const int64_t run = i * runs_per_block_, left = runs_ - run;
    return {begin + run * stride_, left < runs_per_block_ ? left : runs_per_block_, length_, stride_, run};
  }

 private:
  int64_t runs_;
  int64_t length_;
  int64_t stride_;
  int64_t per_run_;
  int64_t runs_per_block_;
  int64_t count_;
};

// The next run is asked for while one is read or written, as the processor's own foresight ends with a run; of the last what
// lies so far on.
constexpr int64_t kFetchAhead = 512;

// What is asked for while a run is written, by how far it lies from that: of the inputs the slabs that come next, which else would
// be waited for while memory has nothing to do in this one; or, where that is 0, of the output what is written next.
struct Ahead {
  int64_t to;
  int64_t from;
};

// Where the slabs of planes lie: with a run for each channel of each sample, as the weights see it (by_channel), and
// in as few runs as can be, as sums see it (joined).
struct Planes {
  // runs_join: whether runs may be taken together that lie one behind the other.
  Planes(const ChannelShape& s, bool runs_join)
      : shape(s),
        slabs_are_runs(runs_join && !s.over_batch()),
        channels_per_slab(s.channels_per_slab()),
        slab_size(s.slab_size()),
        by_channel(s.over_batch() ? Blocks(s.n_samples, s.n_positions, s.n_channels * s.n_positions)
                                  : Blocks(s.channels_per_slab(), s.n_positions, s.n_positions)),
        joined(slabs_are_runs || (runs_join && s.n_channels == 1) ? Blocks(1, s.slab_size(), 0) : by_channel),
        of_one_channel(s.over_batch() ? joined : Blocks(1, s.n_positions, 0)) {}

  int64_t begin(int64_t slab) const { return slab * channels_per_slab * shape.n_positions; }
  int64_t first_channel(int64_t slab) const {
    return shape.over_batch() ? slab : slab % shape.n_groups * channels_per_slab;
  }
  // From the channel of one run of a slab to that of the next.
  int64_t channel_step() const { return shape.over_batch() ? 0 : 1; }

  // How many slabs to take at once: what fits into the first cache.
  int64_t batch(int64_t item_bytes) const {
    const int64_t fit = (int64_t(16) << 10) / (slab_size * item_bytes);
    return fit < 1 ? 1 : fit < kBatch ? fit : kBatch;
  }

  // Which of `count` to take as number i: the last first, as the sums left it in the cache; but in order where all of it
  // is there still, since the processor foresees ascending addresses best.
  int64_t turn(int64_t i, int64_t count, int64_t item_bytes) const {
    return slab_size * item_bytes <= (int64_t(64) << 10) ? i : count - 1 - i;
  }

  // How far the run after number i in turn lies from it.
  int64_t ahead(int64_t i, const Runs& runs, int64_t item_bytes) const {
    if (i + 1 >= runs.count) return kFetchAhead;
    return (turn(i + 1, runs.count, item_bytes) - turn(i, runs.count, item_bytes)) * runs.stride;
  }

  // How far the slabs of the next batch lie from those of one, where it pays to ask for them: scattered runs must leave time to ask
  // for the output, too. Else 0.
  int64_t next_batch(int64_t item_bytes, int64_t inputs) const {
    const int64_t slab_bytes = slab_size * item_bytes;
    if (shape.over_batch() && slab_bytes > (int64_t(16) << 10)) return 0;
    return pays_to_ask_for_next(slab_bytes * inputs, shape.size_in_all() * item_bytes) ? begin(batch(item_bytes)) : 0;
  }

  // Whether a curve that can be is taken at once, run by run, which does a part of each run's last vector twice. The shortest runs
  // wait in memory together, without gaps.
  bool at_once() const { return shape.n_positions >= 2 * kLanes; }

  // Whether each plane is a slab, and a block.
  bool are_slabs() const { return !shape.over_batch() && channels_per_slab == 1 && by_channel.count() == 1; }

  // Few large slabs are shared among the threads block by block, many are dealt out whole.
  bool few_and_large() const { return shape.slabs() < 32 && slab_size > 4 * kBlockValues; }

  ChannelShape shape;
  bool slabs_are_runs;  // each lies in one piece, and may be taken as such
  int64_t channels_per_slab;  // divisions, done once
  int64_t slab_size;
  Blocks by_channel;
  Blocks joined;
  Blocks of_one_channel;  // the part of a slab that belongs to one channel
};

// The weight and bias of each value of GroupNorm's slabs, where planes are shorter than a vector: a slab is then mapped as one
// run.
template <class A>
class ShortPlanes {
 public:
  ShortPlanes(const Planes& planes, const Param<A>& w, const Param<A>& b)
      : plane_(planes.shape.n_positions),
        size_(planes.slabs_are_runs && planes.channels_per_slab > 1 && plane_ < kLanes ? planes.shape.n_channels * plane_ : 0),
        memory_(2 * size_ + 1) {
    A *to_w = memory_.data(), *to_b = to_w + size_;
    for (int64_t c = 0; to_w < memory_.data() + size_; ++c) {
      const A wc = w.values()[c * w.step()], bc = b.values()[c * b.step()];
      for (int64_t i = 0; i < plane_; ++i) *to_w++ = wc, *to_b++ = bc;
    }
  }
  bool are_there() const { return size_ != 0; }
  // From channel c on.
  const A* w(int64_t c) const { return memory_.data() + c * plane_; }
  const A* b(int64_t c) const { return w(c) + size_; }

 private:
  int64_t plane_, size_;
  Memory<A> memory_;
};

// What z = ((x - m0) - dm) * (rstd * w) + b is found by, in one channel.
template <class A>
struct ChannelOfPlanes {
  Vec<A> m0, dm, scale, bias;
  NK_MEMBER ChannelOfPlanes(const SlabStats<A>& stats, A w, A b) : m0(splat(stats.m0)), dm(splat(stats.dm)) {
    change(stats, w, b);
  }
  // To another one of the same slab.
  NK_MEMBER void change(const SlabStats<A>& stats, A w, A b) {
    scale = splat(A(stats.rstd * w));
    bias = splat(b);
  }
  NK_MEMBER Vec<A> z(Vec<A> x) const { return fma((x - m0) - dm, scale, bias); }
};

// Calls work.some_slabs(first, count, parallel_for) for all slabs.
template <class T, class Work>
NK_INLINE void for_each_slab(const Work& work, const Planes& planes, ParallelFor parallel_for) {
  const int64_t slabs = planes.shape.slabs(), batch = planes.batch(sizeof(T));
  if (planes.few_and_large()) {
    for (int64_t slab = 0; slab < slabs; ++slab) work.some_slabs(slab, 1, parallel_for);
    end_streams();  // of what is not shared out
    return;
  }
  for_range(parallel_for, 0, slabs, grain_for(planes.slab_size), [&](int64_t first, int64_t last) {
    for (int64_t i = first; i < last; i += batch) {
      work.some_slabs(i, last - i < batch ? last - i : batch, one_after_the_other);
    }
  });
}

// Which values of a slab count: all. (masked_planes.h has the other kind.)
class EveryPosition {
 public:
  explicit EveryPosition(const ChannelShape& s) : slab_size_(s.slab_size()) {}

  // Of a run: keep(v, j) is v where values j .. j+15 count, else 0; keep_end(v, j, lanes) the same where the run ends within them,
  // after these lanes. None counts but in [first, last).
  struct Run {
    static constexpr int64_t first = 0;
    int64_t last;
    template <class A>
    NK_MEMBER Vec<A> keep(Vec<A> v, int64_t) const {
      return v;
    }
    template <class A>
    NK_MEMBER Vec<A> keep_end(Vec<A> v, int64_t, Lanes<A> lanes) const {
      return normkit::NK_ISA::keep(v, lanes);
    }
    NK_MEMBER bool counts(int64_t) const { return true; }
  };
  struct Of {
    int64_t length;
    NK_MEMBER Run run(int64_t) const { return {length}; }
  };
  static constexpr bool kAll = true;
  static constexpr bool runs_join() { return true; }
  NK_MEMBER Of of(const Runs& runs) const { return {runs.length}; }

  // How many values of a slab count.
  int64_t slab_size() const { return slab_size_; }

  // Up to 64 of them in 4 places of each slab.
  struct Samples {
    int n = kLanes;
    int64_t places[4];
    float share;
    explicit Samples(const Runs& slab) {
      while (n > slab.length) n /= 2;
      for (int i = 0; i < 4; ++i) {
        places[i] = slab.count * (2 * i + 1) / 8 * slab.stride + (slab.length - n) * (2 * i + 1) / 8;
      }
      share = 0.25f / float(n);
    }
    // Their mean in the slab that begins at x. Of equal values it is that value exactly: their number is a power of 2.
    template <class T>
    NK_MEMBER Compute<T> mean(const T* x) const {
      const auto some = [&](int i) NK_LAMBDA { return load_some(x + places[i], n); };
      return sum((some(0) + some(1)) + (some(2) + some(3))) * Compute<T>(share);
    }
  };
  Samples samples(const Runs& slab) const { return Samples(slab); }

 private:
  int64_t slab_size_;
};

// Calls visit(offset) for each value that counts, and otherwise(offset) for the others.
template <class Positions, class Visit, class Otherwise>
NK_INLINE void each_offset(const Runs& runs, const Positions& positions, const Visit& visit, const Otherwise& otherwise) {
  for (int64_t i = 0; i < runs.count; ++i) {
    const int64_t begin = runs.begin + i * runs.stride;
    const auto kept = positions.of(runs).run(i);
    for (int64_t j = 0; j < runs.length; ++j) kept.counts(j) ? visit(begin + j) : otherwise(begin + j);
  }
}
template <class Positions, class Visit>
NK_INLINE void each_offset(const Runs& runs, const Positions& positions, const Visit& visit) {
  each_offset(runs, positions, visit, [](int64_t) {});
}

// The statistics of a slab in double.
template <class T, class Positions>
static ExactStats exact_planes(const T* x, const Runs& slab, const Positions& positions, double eps) {
  return exact_stats(x, positions.slab_size(), eps, [&](const auto& visit) { each_offset(slab, positions, visit); });
}

// to[i] = fn(from[i]...) over a run, which may be where `to` is, or 0 where a value does not count. The last 16 items are
// read before the first are written, and written last: they overlap what precedes them. What is `ahead` comes next: it is
// asked for. Or `past` the caches, where that serves.
template <class T, class Kept, class Fn, class... From>
NK_INLINE void map_run(T* to, Ahead ahead, int64_t length, const Kept& kept, bool past, const Fn& fn, const From*... from) {
  if (past && whole_lines(to, length)) {
    clear(to, kept.first);
    for (int64_t i = kept.first; i < kept.last; i += kLanes) {
      if (ahead.from != 0) (prefetch(from + i + ahead.from), ...);
      put(to + i, kept.keep(fn(load(from + i)...), i), Past<true>());
    }
    clear(to + kept.last, length - kept.last);
    return;
  }
  if (length < kLanes) {
    store_first(to, kept.keep(fn(load_first(from, int(length))...), 0), int(length));
    return;
  }
  const bool to_the_end = kept.last == length;
  const int64_t end = to_the_end ? length - kLanes : kept.last;
  Vec<Compute<T>> last = zeros<Compute<T>>();
  if (to_the_end) last = kept.keep(fn(load(from + end)...), end);
  clear(to, kept.first);
  for (int64_t i = kept.first; i < end; i += kLanes) {
    if (ahead.from == 0) {
      prefetch(to + i + ahead.to);
    } else {
      (prefetch(from + i + ahead.from), ...);
    }
    store(to + i, kept.keep(fn(load(from + i)...), i));
  }
  to_the_end ? store(to + end, last) : clear(to + end, length - end);
}

// to(at, v) for each vector of z = fn(x) over `length` values, run after run of `run_length` which lie one behind the other,
// as curves take them: a piece at a time, of all runs that it holds. channel(run) gives the fn of a run.
template <class A, class T, class Channel, class CurveFn, class To>
NK_INLINE void map_by_pieces(const T* x, const T* x_end, int64_t length, int64_t run_length, const Channel& channel,
                             const CurveFn& curve, const To& to) {
  A z[kCurvePiece + kLanes];
  for (int64_t first = 0; first < length; first += kCurvePiece) {
    const int64_t n = length - first < kCurvePiece ? length - first : kCurvePiece;
    for (int64_t i = first; i < first + n;) {
      const int64_t run = i / run_length, run_end = (run + 1) * run_length;
      const int64_t stop = run_end < first + n ? run_end : first + n;
      const auto fn = channel(run);
      // Whole vectors: what lies beyond the run is put right by the next one.
      for (int64_t j = i; j < stop; j += kLanes) {
        store(z + (j - first), fn(load_rest(x + j, stop - j < kLanes ? int(stop - j) : kLanes, x_end)));
      }
      i = stop;
    }
    curve(z, n);
    each_vector(n, [&](int64_t j, auto load_at, auto store_at) NK_LAMBDA { to(first + j, load_at(z + j), load_at, store_at); });
  }
}
