// Sums over the values of planes, in lanes. Included by isa/*.cpp.

// The sums over all blocks of the slab that begins there, each by sums(block).
template <class SumsOf>
NK_INLINE Sums sum_of_blocks(const Blocks& blocks, int64_t begin, ParallelFor parallel_for, const SumsOf& sums) {
  const int64_t count = blocks.count();
  if (count == 1) return sums(blocks.all(begin));
  const Memory<Sums> memory(count);
  Sums* const parts = memory.data();
  for_range(parallel_for, 0, count, 1, [&](int64_t first, int64_t last) {
    for (int64_t i = first; i < last; ++i) parts[i] = sums(blocks.at(begin, i));
  });
  Sums total;
  for (int64_t i = 0; i < count; ++i) total.add(parts[i]);
  return total;
}

// Of n >= 0 values: the division of a signed number would cost three instructions more.
NK_INLINE int64_t whole_vectors(int64_t n) { return int64_t(uint64_t(n) / kLanes); }

constexpr int64_t kVectors = 32;  // two chains of 16

// A pair of terms into the sums of a lane.
template <class A>
NK_INLINE void add_terms(Vec<A> p, Vec<A> q, Vec<A>& s1, Vec<A>& s2) {
  s1 = s1 + p;
  s2 = fma(p, q, s2);
}

// How many terms a lane adds up of a run, at most: there are two chains of them.
NK_INLINE int64_t chain_of(int64_t length) { return (ceil_div(length, kLanes) + 1) / 2; }

// A run of at most 16 terms a lane into their sums: its vectors by turns into a and b, what its last vector holds into b.
template <class A>
class FewTerms {
 public:
  NK_MEMBER explicit FewTerms(int64_t length)
      : length_(length), tail_(int(uint64_t(length) % kLanes)), tail_lanes_(first_lanes<A>(tail_)) {}

  // next: the run to ask for.
  template <class Kept, class Term>
  NK_MEMBER void add(int64_t run, int64_t next, const Kept& kept, const Term& term, Vec<A>& a1, Vec<A>& a2, Vec<A>& b1,
                     Vec<A>& b2) const {
    const auto add_vector = [&](int64_t j, Vec<A>& s1, Vec<A>& s2) NK_LAMBDA {
      term.fetch(next + j);
      term(run + j, [&](Vec<A> p, Vec<A> q) NK_LAMBDA { add_terms(kept.keep(p, j), kept.keep(q, j), s1, s2); });
    };
    const int64_t end = whole_vectors(kept.last) * kLanes;
    int64_t j = kept.first;
    for (; j + 2 * kLanes <= end; j += 2 * kLanes) {
      add_vector(j, a1, a2);
      add_vector(j + kLanes, b1, b2);
    }
    if (j < end) add_vector(j, a1, a2);
    if (tail_ != 0 && kept.last == length_) {
      const int64_t at = length_ - tail_;
      term(run + at, tail_, [&](Vec<A> p, Vec<A> q) NK_LAMBDA {
        add_terms(kept.keep_end(p, at, tail_lanes_), kept.keep_end(q, at, tail_lanes_), b1, b2);
      });
    }
  }

 private:
  int64_t length_;
  int tail_;
  Lanes<A> tail_lanes_;
};

// Whether no lane adds up more than 16 terms.
NK_INLINE bool are_few(int64_t runs, int64_t length) { return runs * chain_of(length) <= kVectors / 2; }

// sum_over_runs() of few.
template <class A, class Positions, class Term>
NK_INLINE Sums sum_over_few(const Runs& runs, const Positions& positions, const Term& term) {
  Vec<A> a1 = zeros<A>(), a2 = a1, b1 = a1, b2 = a1;
  const FewTerms<A> few(runs.length);
  const auto of_runs = positions.of(runs);
  for (int64_t i = 0; i < runs.count; ++i) {
    const int64_t run = runs.begin + i * runs.stride, next = run + (i + 1 < runs.count ? runs.stride : kFetchAhead);
    few.add(run, next, of_runs.run(i), term, a1, a2, b1, b2);
  }
  const Two<A> sums = sum(Pair<A>{a1 + b1, a2 + b2});
  return {double(sums.p), double(sums.q)};
}

// The sums of each of `count` planes that lie one behind the other and of which the same values count, as sum_over_few() has them:
// to(i, s1, s2) of the term make(i), plane after plane. What they share is found once.
template <class A, class Kept, class Make, class To>
NK_INLINE void sum_each_of_few(int64_t begin, int64_t count, int64_t length, const Kept& kept, const Make& make, const To& to) {
  const FewTerms<A> few(length);
  for (int64_t i = 0; i < count; ++i) {
    Vec<A> a1 = zeros<A>(), a2 = a1, b1 = a1, b2 = a1;
    const int64_t run = begin + i * length;
    few.add(run, run + (i + 1 < count ? length : kFetchAhead), kept, make(i), a1, a2, b1, b2);
    const Two<A> sums = sum(Pair<A>{a1 + b1, a2 + b2});
    to(i, sums.p, sums.q);
  }
}

// The same where lanes go on in double.
template <class A, class Positions, class Term>
static __attribute__((noinline)) Sums sum_over_many(const Runs& runs, const Positions& positions, const Term& term) {
  const int64_t vectors = runs.length / kLanes;
  const int tail = int(runs.length % kLanes);
  const Lanes<A> tail_lanes = first_lanes<A>(tail);
  const int64_t chain = chain_of(runs.length);

  Vec<double> total1 = zeros<double>(), total2 = total1;
  Vec<A> a1 = zeros<A>(), a2 = a1, b1 = a1, b2 = a1;
  const auto flush = [&]() NK_LAMBDA {
    total1 = total1 + widen(a1 + b1);
    total2 = total2 + widen(a2 + b2);
    a1 = a2 = b1 = b2 = zeros<A>();
  };
  const auto of_runs = positions.of(runs);
  int64_t room = 16;
  for (int64_t i = 0; i < runs.count; ++i) {
    const int64_t run = runs.begin + i * runs.stride, next = run + (i + 1 < runs.count ? runs.stride : kFetchAhead);
    const auto kept = of_runs.run(i);
    const int64_t end = whole_vectors(kept.last);
    const auto add_vector = [&](int64_t j, Vec<A>& s1, Vec<A>& s2) NK_LAMBDA {
      term(run + j * kLanes, [&](Vec<A> p, Vec<A> q) NK_LAMBDA {
        add_terms(kept.keep(p, j * kLanes), kept.keep(q, j * kLanes), s1, s2);
      });
    };
    int64_t j = whole_vectors(kept.first);
    for (;;) {
      const int64_t stop = end - j < kVectors ? end : j + kVectors;
      for (; j + 2 <= stop; j += 2) {
        term.fetch(next + j * kLanes);
        term.fetch(next + (j + 1) * kLanes);
        add_vector(j, a1, a2);
        add_vector(j + 1, b1, b2);
      }
      if (j < stop) {
        add_vector(j, a1, a2);
        ++j;
      }
      if (j >= end) break;
      flush();
    }
    if (tail != 0 && kept.last == runs.length) {
      const int64_t at = vectors * kLanes;
      term(run + at, tail, [&](Vec<A> p, Vec<A> q) NK_LAMBDA {
        add_terms(kept.keep_end(p, at, tail_lanes), kept.keep_end(q, at, tail_lanes), b1, b2);
      });
    }
    room -= chain;
    if (room < chain) {
      flush();
      room = 16;
    }
  }
  flush();
  return {sum(total1), sum(total2)};
}

// s1 = sum(p), s2 = sum(p * q) over what counts of the runs, of the pairs that term(offset, to) gives to(p, q) for 16 values and
// term(offset, n, to) for the n < 16 at the end of a run (and whatever beyond); returned as pairs they would go through memory.
// A lane adds up to 17 terms in A before it goes on in double: also where all terms are equal, and rounded alike, that keeps
// within 5 units of 2^-24. Where the lanes take all terms so, their sums are added in A, too: five roundings more.
// make() gives the term: few runs need it in no memory, many do.
template <class A, class Positions, class Make>
NK_INLINE Sums sum_over_runs(const Runs& runs, const Positions& positions, const Make& make) {
  if (are_few(runs.count, runs.length)) return sum_over_few<A>(runs, positions, make());
  return sum_over_many<A>(runs, positions, make());
}
