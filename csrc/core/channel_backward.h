// BatchNorm, GroupNorm and InstanceNorm backward, whatever the layout and the dtype. Included by kernels_impl.h.

// dw and db from the sums of each channel of each sample (BatchNorm: of the batch), in order.
static void put_parameter_gradients(const ChannelBackward& a, const Sums* sums) {
  const int64_t channels = a.shape.n_channels, samples = a.shape.over_batch() ? 1 : a.shape.n_samples;
  const Memory<double> memory(2 * channels);
  double* const dw = memory.data();
  double* const db = dw + channels;
  for (int64_t c = 0; c < channels; ++c) dw[c] = db[c] = 0.0;
  for (int64_t i = 0; i < samples; ++i) {
    for (int64_t c = 0; c < channels; ++c) {
      dw[c] += sums[i * channels + c].s2;
      db[c] += sums[i * channels + c].s1;
    }
  }
  if (a.dw.data != nullptr) store_sums(dw, a.dw, 0, channels);
  if (a.db.data != nullptr) store_sums(db, a.db, 0, channels);
}

template <class T>
static void channel_backward_of(const ChannelBackward& a) {
  const bool parameters = a.dw.data != nullptr || a.db.data != nullptr;
  const bool wants_sums = parameters || !a.constant_stats;
  const Memory<Sums> sums(wants_sums ? a.shape.slabs() * a.shape.channels_per_slab() : 1);
  Sums* const wanted = wants_sums ? sums.data() : nullptr;
  const bool planes = a.shape.layout == ChannelLayout::kPlanes;
  if (a.kept.count > 0) {
    planes ? masked_planes_backward<T>(a, wanted) : masked_pixels_backward<T>(a, wanted);
  } else {
    planes ? planes_backward<T>(a, wanted) : pixels_backward<T>(a, wanted);
  }
  if (parameters) put_parameter_gradients(a, sums.data());
}

static void channel_backward(const ChannelBackward& a) {
  switch (a.shape.dtype) {
    case DType::kFloat32: return channel_backward_of<float>(a);
    case DType::kBFloat16: return channel_backward_of<BFloat16>(a);
    case DType::kFloat16: return channel_backward_of<Float16>(a);
    case DType::kFloat64: return channel_backward_of<double>(a);
  }
}
