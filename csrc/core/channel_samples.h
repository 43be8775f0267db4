// One sample of a call whose samples have statistics of their own (GroupNorm, InstanceNorm), as a call by itself. Included by
// isa/*.cpp.

// Of what is kept of a slab.
static constexpr int64_t stats_size(DType dtype) { return dtype == DType::kFloat64 ? 8 : 4; }

// Where number i lies.
class SampleOfChannels {
 public:
  SampleOfChannels(const ChannelShape& s, int64_t i)
      : position_(i * s.n_positions),
        value_(position_ * s.n_channels * size_of(s.dtype)),
        stat_(i * s.n_groups * kStatsPerSlab * stats_size(s.dtype)) {}
  const uint8_t* of_mask(const uint8_t* mask) const { return mask + position_; }
  template <class V>  // void or const void
  V* of_values(V* data) const {
    return beyond(data, value_);
  }
  template <class V>
  V* of_stats(V* stats) const {
    return beyond(stats, stat_);
  }

 private:
  static const void* beyond(const void* data, int64_t bytes) {
    return data == nullptr ? nullptr : static_cast<const char*>(data) + bytes;
  }
  static void* beyond(void* data, int64_t bytes) { return const_cast<void*>(beyond(const_cast<const void*>(data), bytes)); }

  int64_t position_, value_, stat_;
};

// It updates no running statistics.
static ChannelForward sample_of(const ChannelForward& a, int64_t i, ParallelFor parallel_for) {
  ChannelForward one = a;
  const SampleOfChannels sample(a.shape, i);
  one.shape.n_samples = 1;
  one.shape.n_calls = a.shape.n_samples;
  one.x = sample.of_values(a.x);
  one.residual = sample.of_values(a.residual);
  one.y = sample.of_values(a.y);
  one.stats = sample.of_stats(a.stats);
  one.mask = sample.of_mask(a.mask);
  one.running.mean.data = one.running.var.data = nullptr;
  one.parallel_for = parallel_for;
  return one;
}

static ChannelBackward sample_of(const ChannelBackward& a, int64_t i, ParallelFor parallel_for) {
  ChannelBackward one = a;
  const SampleOfChannels sample(a.shape, i);
  one.shape.n_samples = 1;
  one.shape.n_calls = a.shape.n_samples;
  one.dy = sample.of_values(a.dy);
  one.x = sample.of_values(a.x);
  one.stats = sample.of_stats(a.stats);
  one.dx = sample.of_values(a.dx);
  one.mask = sample.of_mask(a.mask);
  one.parallel_for = parallel_for;
  return one;
}
