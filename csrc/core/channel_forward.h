// BatchNorm, GroupNorm and InstanceNorm forward, whatever the layout and the dtype. Included by isa/*.cpp.

static void channel_forward(const ChannelForward& a) {
  const ChannelShape& s = a.shape;
  const bool planes = s.layout == ChannelLayout::kPlanes;
  by_dtype(s.dtype, [&](auto zero) {
    if (a.mean.data != nullptr) put_given_stats<Compute<decltype(zero)>>(a);
  });
  int64_t values = s.slab_size();
  if (a.mask == nullptr) {
    planes ? planes_forward(a) : pixels_forward(a);
  } else if (planes) {
    const KeptPositions kept(a.mask, s.n_samples, s.n_positions);
    masked_planes_forward(a, kept);
    values = kept.count();
  } else {
    const KeptRows rows(a.mask, s.n_samples * s.n_positions);
    masked_pixels_forward(a, rows);
    values = rows.count();
  }
  by_dtype(s.dtype, [&](auto zero) { update_running<Compute<decltype(zero)>>(a, values); });
}
