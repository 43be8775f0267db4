// The kernels' arguments from tensors, of whichever of torch's C++ classes: torch::stable::Tensor (torch_ops.cpp) and
// at::Tensor (eager/) have the same accessors. A null pointer stands for a tensor that is not there. parallel_for is the caller's.
#pragma once

#include <torch/headeronly/core/ScalarType.h>

#include <optional>

#include "core/channel_norm.h"
#include "core/layer_norm2d.h"
#include "core/row_norm.h"

namespace normkit {

inline std::optional<DType> kernel_dtype(torch::headeronly::ScalarType type) {
  using torch::headeronly::ScalarType;
  switch (type) {
    case ScalarType::Float: return DType::kFloat32;
    case ScalarType::BFloat16: return DType::kBFloat16;
    case ScalarType::Half: return DType::kFloat16;
    case ScalarType::Double: return DType::kFloat64;
    default: return std::nullopt;
  }
}

// Of the statistics kept for the backward, and of what they are computed in.
inline torch::headeronly::ScalarType stats_type(torch::headeronly::ScalarType of_x) {
  using torch::headeronly::ScalarType;
  return of_x == ScalarType::Double ? ScalarType::Double : ScalarType::Float;
}

template <class T>
const void* const_data(const T* t) {
  return t == nullptr ? nullptr : t->const_data_ptr();
}
template <class T>
void* mutable_data(const T* t) {
  return t == nullptr ? nullptr : t->mutable_data_ptr();
}
// Tensors here have a dtype that has kernels: the caller has looked.
template <class T>
ConstArray const_array(const T* t) {
  return t == nullptr ? ConstArray{} : ConstArray{t->const_data_ptr(), *kernel_dtype(t->scalar_type())};
}
template <class T>
MutableArray mutable_array(const T* t) {
  return t == nullptr ? MutableArray{} : MutableArray{t->mutable_data_ptr(), *kernel_dtype(t->scalar_type())};
}

// The last n_axes axes as columns, the others as rows.
struct Rows {
  int64_t n_rows = 1;
  int64_t n_cols = 1;
  template <class T>
  Rows(const T& x, int64_t n_axes) {
    const int64_t dims = x.dim();
    for (int64_t i = 0; i < dims; ++i) (i < dims - n_axes ? n_rows : n_cols) *= x.size(i);
  }
};

template <class T>
RowNormForward row_norm_forward_of(RowNorm norm, const Rows& rows, double eps, const T& x, const T* residual,
                                   const T* w, const T* b, const T& y, const T* z, const T* stats) {
  RowNormForward a{};
  a.norm = norm;
  a.dtype = *kernel_dtype(x.scalar_type());
  a.n_rows = rows.n_rows;
  a.n_cols = rows.n_cols;
  a.eps = eps;
  a.x = x.const_data_ptr();
  a.w = const_array(w);
  a.b = const_array(b);
  a.y = y.mutable_data_ptr();
  a.stats = mutable_data(stats);
  a.residual = const_data(residual);
  a.z = mutable_data(z);
  return a;
}

template <class T>
RowNormBackward row_norm_backward_of(RowNorm norm, const Rows& rows, double eps, const T& dy, const T& x,
                                     const T& stats, const T* w, const T* dz, const T* dx, const T* dw, const T* db) {
  RowNormBackward a{};
  a.norm = norm;
  a.dtype = *kernel_dtype(x.scalar_type());
  a.n_rows = rows.n_rows;
  a.n_cols = rows.n_cols;
  a.eps = eps;
  a.dy = dy.const_data_ptr();
  a.x = x.const_data_ptr();
  a.stats = stats.const_data_ptr();
  a.w = const_array(w);
  a.dz = const_data(dz);
  a.dx = mutable_data(dx);
  a.dw = mutable_array(dw);
  a.db = mutable_array(db);
  return a;
}

// x of (N, C, *), contiguous or, with together, its channels lying together at each position.
template <class T>
ChannelShape channel_shape_of(const T& x, bool together, int64_t n_groups) {
  ChannelShape shape{ChannelLayout::kPlanes, *kernel_dtype(x.scalar_type()), x.size(0), x.size(1), 1, n_groups};
  for (int64_t i = 2; i < x.dim(); ++i) shape.n_positions *= x.size(i);
  // With one position both lie alike: BatchNorm goes down the columns, GroupNorm along the rows.
  if (shape.n_positions == 1 ? n_groups == 0 : together) shape.layout = ChannelLayout::kPixels;
  return shape;
}

template <class T>
ChannelForward channel_norm_forward_of(const ChannelShape& shape, double eps, Activation activation, const T& x,
                                       const T* residual, const T* w, const T* b, const T* mean, const T* var,
                                       const T& y, const T& stats) {
  ChannelForward a{};
  a.shape = shape;
  a.eps = eps;
  a.x = x.const_data_ptr();
  a.residual = const_data(residual);
  a.w = const_array(w);
  a.b = const_array(b);
  a.activation = activation;
  a.mean = const_array(mean);
  a.var = const_array(var);
  a.y = y.mutable_data_ptr();
  a.stats = stats.mutable_data_ptr();
  return a;
}

template <class T>
ChannelBackward channel_norm_backward_of(const ChannelShape& shape, double eps, bool constant_stats,
                                         Activation activation, const T& dy, const T& x, const T& stats, const T* w,
                                         const T* b, const T* dx, const T* dw, const T* db) {
  ChannelBackward a{};
  a.shape = shape;
  a.eps = eps;
  a.constant_stats = constant_stats;
  a.dy = dy.const_data_ptr();
  a.x = x.const_data_ptr();
  a.stats = stats.const_data_ptr();
  a.w = const_array(w);
  a.b = const_array(b);
  a.activation = activation;
  a.dx = mutable_data(dx);
  a.dw = mutable_array(dw);
  a.db = mutable_array(db);
  return a;
}

// x of (N, C, H, W), contiguous.
template <class T>
LayerNorm2dShape layer_norm2d_shape_of(const T& x) {
  return {*kernel_dtype(x.scalar_type()), x.size(0), x.size(1), x.size(2) * x.size(3)};
}

template <class T>
LayerNorm2dForward layer_norm2d_forward_of(double eps, const T& x, const T* w, const T* b, const T& y, const T* stats) {
  LayerNorm2dForward a{};
  a.shape = layer_norm2d_shape_of(x);
  a.eps = eps;
  a.x = x.const_data_ptr();
  a.w = const_array(w);
  a.b = const_array(b);
  a.y = y.mutable_data_ptr();
  a.stats = mutable_data(stats);
  return a;
}

template <class T>
LayerNorm2dBackward layer_norm2d_backward_of(double eps, const T& dy, const T& x, const T& stats, const T* w,
                                             const T* dx, const T* dw, const T* db) {
  LayerNorm2dBackward a{};
  a.shape = layer_norm2d_shape_of(x);
  a.eps = eps;
  a.dy = dy.const_data_ptr();
  a.x = x.const_data_ptr();
  a.stats = stats.const_data_ptr();
  a.w = const_array(w);
  a.dx = mutable_data(dx);
  a.dw = mutable_array(dw);
  a.db = mutable_array(db);
  return a;
}

}  // namespace normkit
