// What normkit._C gives normkit._eager: its kernels, and torch's thread pool, in a capsule. The capsule's name carries a
// digest of the headers that both were built from, so that libraries of different builds do not meet.
#pragma once

#include "core/channel_norm.h"
#include "core/layer_norm2d.h"
#include "core/row_norm.h"

namespace normkit {

struct KernelTable {
  ParallelFor parallel_for;
  void (*row_norm_forward)(const RowNormForward&);
  void (*row_norm_backward)(const RowNormBackward&);
  void (*channel_norm_forward)(const ChannelForward&);
  void (*channel_norm_backward)(const ChannelBackward&);
  void (*layer_norm2d_forward)(const LayerNorm2dForward&);
  void (*layer_norm2d_backward)(const LayerNorm2dBackward&);
};

constexpr char kTableName[] = "normkit._C.table/" NORMKIT_HEADERS;

}  // namespace normkit
