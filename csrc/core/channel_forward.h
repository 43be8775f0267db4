// BatchNorm, GroupNorm and InstanceNorm forward, whatever the layout and the dtype. Included by kernels_impl.h.

template <class T>
static void channel_forward_of(const ChannelForward& a) {
  using A = Compute<T>;
  if (a.mean.data != nullptr) put_given_stats<A>(a);
  const bool planes = a.shape.layout == ChannelLayout::kPlanes;
  if (a.kept.count > 0) {
    planes ? masked_planes_forward<T>(a) : masked_pixels_forward<T>(a);
  } else {
    planes ? planes_forward<T>(a) : pixels_forward<T>(a);
  }
  update_running<A>(a);
}

static void channel_forward(const ChannelForward& a) {
  switch (a.shape.dtype) {
    case DType::kFloat32: return channel_forward_of<float>(a);
    case DType::kBFloat16: return channel_forward_of<BFloat16>(a);
    case DType::kFloat16: return channel_forward_of<Float16>(a);
    case DType::kFloat64: return channel_forward_of<double>(a);
  }
}
