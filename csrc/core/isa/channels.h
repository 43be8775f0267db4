// What the files of the channel norms share: BatchNorm, GroupNorm and InstanceNorm by layout, with and without a mask.
#pragma once

#include "isa.h"

namespace normkit::NK_ISA {

#include "../rows_stats.h"
#include "../exp.h"
#include "../activation.h"
#include "../channel_stats.h"
#include "../kept.h"

// The statistics and y. Each backward gives dx, and the sums of each channel of each slab where they are wanted: `sums`
// may be null.
void planes_forward(const ChannelForward& a);
void planes_backward(const ChannelBackward& a, Sums* sums);
void pixels_forward(const ChannelForward& a);
void pixels_backward(const ChannelBackward& a, Sums* sums);
void masked_planes_forward(const ChannelForward& a, const KeptPositions& kept);
void masked_planes_backward(const ChannelBackward& a, const KeptPositions& kept, Sums* sums);
void masked_pixels_forward(const ChannelForward& a, const KeptRows& rows);
void masked_pixels_backward(const ChannelBackward& a, const KeptRows& rows, Sums* sums);

}  // namespace normkit::NK_ISA
