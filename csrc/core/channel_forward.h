// BatchNorm, GroupNorm and InstanceNorm forward, whatever the layout and the dtype. Included by isa/*.cpp.

// Pixels know no samples.
static KeptPositions kept_positions(const ChannelShape& s, const uint8_t* mask) {
  const bool planes = s.layout == ChannelLayout::kPlanes;
  return {mask, planes ? s.n_samples : 1, planes ? s.n_positions : s.n_samples * s.n_positions};
}

static void channel_forward(const ChannelForward& a) {
  const ChannelShape& s = a.shape;
  const bool planes = s.layout == ChannelLayout::kPlanes;
  by_dtype(s.dtype, [&](auto zero) {
    if (a.mean.data != nullptr) put_given_stats<Compute<decltype(zero)>>(a);
  });
  int64_t values = s.slab_size();
  if (a.mask == nullptr) {
    planes ? planes_forward(a) : pixels_forward(a);
  } else {
    const KeptPositions kept = kept_positions(s, a.mask);
    planes ? masked_planes_forward(a, kept) : masked_pixels_forward(a, kept);
    values = kept.count();
  }
  by_dtype(s.dtype, [&](auto zero) { update_running<Compute<decltype(zero)>>(a, values); });
}
