// parallel_for over a lambda. Included by kernels_impl.h.

template <class Body>
static void for_range(ParallelFor parallel_for, int64_t begin, int64_t end, int64_t grain, const Body& body) {
  if (begin >= end) return;
  if (end - begin <= grain) {
    body(begin, end);
    return;
  }
  parallel_for(
      begin, end, grain,
      [](int64_t first, int64_t last, void* context) { (*static_cast<const Body*>(context))(first, last); },
      const_cast<Body*>(&body));
}
