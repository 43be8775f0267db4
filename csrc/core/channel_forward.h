// BatchNorm, GroupNorm and InstanceNorm forward, whatever the layout and the dtype. Included by isa/*.cpp.

// Under a mask, where all of x shares statistics or is one sample. How many positions count.
static int64_t masked_forward(const ChannelForward& a) {
  const ChannelShape& s = a.shape;
  int64_t count;
  if (s.layout == ChannelLayout::kPlanes) {
    const KeptPositions kept(a.mask, s.n_samples, s.n_positions);
    count = kept.count();
    if (count > 0) masked_planes_forward(a, kept);
  } else {
    const KeptRows rows(a.mask, s.n_samples * s.n_positions);
    count = rows.count();
    if (count > 0) masked_pixels_forward(a, rows);
  }
  if (count == 0) {
    clear(static_cast<char*>(a.y), s.size() * size_of(s.dtype));
    if (a.mean.data == nullptr) clear(static_cast<char*>(a.stats), s.slabs() * kStatsPerSlab * stats_size(s.dtype));
  }
  return count;
}

static void channel_forward(const ChannelForward& a) {
  const ChannelShape& s = a.shape;
  by_dtype(s.dtype, [&](auto zero) {
    if (a.mean.data != nullptr) put_given_stats<Compute<decltype(zero)>>(a);
  });
  // How many values there are behind the statistics of a channel, in each sample that has its own.
  const int64_t samples = s.over_batch() ? 1 : s.n_samples;
  const Memory<int64_t> memory(samples);
  int64_t* const counts = memory.data();
  if (a.mask == nullptr) {
    s.layout == ChannelLayout::kPlanes ? planes_forward(a) : pixels_forward(a);
    for (int64_t i = 0; i < samples; ++i) counts[i] = s.slab_size();
  } else if (s.over_batch()) {
    counts[0] = masked_forward(a);
  } else {
    for_each_large(s.n_samples, s.n_channels * s.n_positions, a.parallel_for, [&](int64_t i, ParallelFor parallel_for) {
      counts[i] = masked_forward(sample_of(a, i, parallel_for));
    });
  }
  by_dtype(s.dtype, [&](auto zero) { update_running<Compute<decltype(zero)>>(a, counts); });
}
