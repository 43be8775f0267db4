// BatchNorm, GroupNorm and InstanceNorm forward, whatever the layout and the dtype. Included by kernels_impl.h.

// Pixels know no samples.
static KeptPositions kept_positions(const ChannelShape& s, const uint8_t* mask) {
  const bool planes = s.layout == ChannelLayout::kPlanes;
  return {mask, planes ? s.n_samples : 1, planes ? s.n_positions : s.n_samples * s.n_positions};
}

template <class T>
static void masked_forward(const ChannelForward& a) {
  const KeptPositions kept = kept_positions(a.shape, a.mask);
  a.shape.layout == ChannelLayout::kPlanes ? masked_planes_forward<T>(a, kept) : masked_pixels_forward<T>(a, kept);
  update_running<Compute<T>>(a, kept.count());
}

template <class T>
static void channel_forward_of(const ChannelForward& a) {
  using A = Compute<T>;
  if (a.mean.data != nullptr) put_given_stats<A>(a);
  if (a.mask != nullptr) return masked_forward<T>(a);
  a.shape.layout == ChannelLayout::kPlanes ? planes_forward<T>(a) : pixels_forward<T>(a);
  update_running<A>(a, a.shape.slab_size());
}

static void channel_forward(const ChannelForward& a) {
  switch (a.shape.dtype) {
    case DType::kFloat32: return channel_forward_of<float>(a);
    case DType::kBFloat16: return channel_forward_of<BFloat16>(a);
    case DType::kFloat16: return channel_forward_of<Float16>(a);
    case DType::kFloat64: return channel_forward_of<double>(a);
  }
}
