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

static void channel_backward(const ChannelBackward& a) {
  const bool parameters = a.dw.data != nullptr || a.db.data != nullptr;
  const bool wants_sums = parameters || !a.constant_stats;
  const Memory<Sums> memory(wants_sums ? a.shape.slabs() * a.shape.channels_per_slab() : 1);
  Sums* const sums = wants_sums ? memory.data() : nullptr;
  const bool planes = a.shape.layout == ChannelLayout::kPlanes;
  if (a.mask == nullptr) {
    planes ? planes_backward(a, sums) : pixels_backward(a, sums);
  } else if (planes) {
    masked_planes_backward(a, KeptPositions(a.mask, a.shape.n_samples, a.shape.n_positions), sums);
  } else {
    masked_pixels_backward(a, KeptRows(a.mask, a.shape.n_samples * a.shape.n_positions), sums);
  }
  if (parameters) put_parameter_gradients(a, sums);
}
