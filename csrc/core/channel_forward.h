// BatchNorm, GroupNorm and InstanceNorm forward, whatever the layout and the dtype. Included by isa/*.cpp.

// Of planes in whole vectors, of pixels as they lie: these know no samples.
static KeptPositions kept_positions(const ChannelShape& s, const uint8_t* mask) {
  return {mask, s.n_samples, s.n_positions, s.layout == ChannelLayout::kPlanes ? round_up(s.n_positions, kLanes) : s.n_positions};
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
