// BatchNorm, GroupNorm and InstanceNorm backward, whatever the layout and the dtype. Included by isa/*.cpp.

// dw and db from the sums of each channel of each sample (BatchNorm: of the batch), in order.
static void put_parameter_gradients(const ChannelBackward& a, const Sums* sums) {
  const int64_t channels = a.shape.n_channels, samples = a.shape.over_batch() ? 1 : a.shape.n_samples;
  const Memory<double> memory(2 * channels);
  double* const dw = memory.data();
  double* const db = dw + channels;
  for_range(a.parallel_for, 0, channels, grain_for(2 * samples), [&](int64_t first, int64_t last) {
    for (int64_t c = first; c < last; ++c) dw[c] = db[c] = 0.0;
    for (int64_t i = 0; i < samples; ++i) {
      for (int64_t c = first; c < last; ++c) {
        dw[c] += sums[i * channels + c].s2;
        db[c] += sums[i * channels + c].s1;
      }
    }
  });
  if (a.dw.data != nullptr) store_sums(dw, a.dw, 0, channels);
  if (a.db.data != nullptr) store_sums(db, a.db, 0, channels);
}

// Under a mask, where all of x shares statistics or is one sample.
static void masked_backward(const ChannelBackward& a, Sums* sums) {
  const ChannelShape& s = a.shape;
  if (s.layout == ChannelLayout::kPlanes) {
    const KeptPositions kept(a.mask, s.n_samples, s.n_positions);
    if (kept.count() > 0) return masked_planes_backward(a, kept, sums);
  } else {
    const KeptRows rows(a.mask, s.n_samples * s.n_positions);
    if (rows.count() > 0) return masked_pixels_backward(a, rows, sums);
  }
  if (a.dx != nullptr) clear(static_cast<char*>(a.dx), s.size() * size_of(s.dtype));
  for (int64_t c = 0; sums != nullptr && c < s.n_channels; ++c) sums[c] = Sums();
}

static void channel_backward(const ChannelBackward& a) {
  const bool parameters = a.dw.data != nullptr || a.db.data != nullptr;
  const bool wants_sums = parameters || !a.constant_stats;
  const Memory<Sums> memory(wants_sums ? a.shape.slabs() * a.shape.channels_per_slab() : 1);
  Sums* const sums = wants_sums ? memory.data() : nullptr;
  const ChannelShape& s = a.shape;
  if (a.mask == nullptr) {
    s.layout == ChannelLayout::kPlanes ? planes_backward(a, sums) : pixels_backward(a, sums);
  } else if (s.over_batch()) {
    masked_backward(a, sums);
  } else {
    for_each_large(s.n_samples, s.n_channels * s.n_positions, a.parallel_for, [&](int64_t i, ParallelFor parallel_for) {
      masked_backward(sample_of(a, i, parallel_for), sums == nullptr ? nullptr : sums + i * s.n_channels);
    });
  }
  if (parameters) put_parameter_gradients(a, sums);
}
