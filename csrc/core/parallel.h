// parallel_for over a lambda or not at all, and memory of its own for each part. Included by isa/*.cpp.

// What this thread wrote past the caches is written before what it writes next, such as that it is done.
NK_INLINE void end_streams() {
#if defined(__AVX2__)
  _mm_sfence();
#endif
}

// A ParallelFor that stays on this thread, for loops inside a part of another loop.
[[maybe_unused]] static void one_after_the_other(int64_t begin, int64_t end, int64_t, RangeFn fn, void* context) {
  fn(begin, end, context);
}

// Streams end with each part, and need not within one.
template <class Body>
static void for_range(ParallelFor parallel_for, int64_t begin, int64_t end, int64_t grain, const Body& body) {
  if (begin >= end) return;
  const bool within = parallel_for == one_after_the_other;
  if (within || end - begin <= grain) {
    body(begin, end);
    if (!within) end_streams();
    return;
  }
  parallel_for(
      begin, end, grain,
      [](int64_t first, int64_t last, void* context) {
        (*static_cast<const Body*>(context))(first, last);
        end_streams();
      },
      const_cast<Body*>(&body));
}

// work(i, parallel_for) for all i < n, of so many elements each: where they are few and large each is shared among the threads, else
// they are dealt out.
template <class Work>
static void for_each_large(int64_t n, int64_t elements_each, ParallelFor parallel_for, const Work& work) {
  if (n < 32 && elements_each > 2 * kParallelElements) {
    for (int64_t i = 0; i < n; ++i) work(i, parallel_for);
    return;
  }
  for_range(parallel_for, 0, n, grain_for(elements_each), [&](int64_t first, int64_t last) {
    for (int64_t i = first; i < last; ++i) work(i, one_after_the_other);
  });
}

// Memory that lives as long as this does.
template <class A>
class Memory {
 public:
  explicit Memory(int64_t n) : data_(static_cast<A*>(allocate(n * int64_t(sizeof(A))))) {}
  Memory(const Memory&) = delete;
  Memory& operator=(const Memory&) = delete;
  ~Memory() { release(data_); }
  A* data() const { return data_; }

 private:
  A* data_;
};
