// The kernels as torch operators, for graphs that torch.compile and torch.export make: libtorch's stable ABI, so
// one library serves every torch from 2.10. Inputs may be strided; they are made contiguous here.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>

#include <optional>
#include <tuple>
#include <vector>

#include "core/channel_norm.h"
#include "core/layer_norm2d.h"
#include "core/row_norm.h"
#include "torch_parallel.h"

namespace {

using namespace normkit;
using torch::headeronly::MemoryFormat;
using torch::headeronly::ScalarType;
using torch::stable::Tensor;
using MaybeTensor = std::optional<Tensor>;

DType dtype_of(const Tensor& t) {
  switch (t.scalar_type()) {
    case ScalarType::Float: return DType::kFloat32;
    case ScalarType::BFloat16: return DType::kBFloat16;
    case ScalarType::Half: return DType::kFloat16;
    case ScalarType::Double: return DType::kFloat64;
    default:
      STD_TORCH_CHECK(false, "normkit: expected a tensor of dtype float32, float64, bfloat16 or float16, got another; "
                             "convert it with .to(...).");
  }
}

// The n trailing axes as columns, the others as rows.
struct Rows {
  int64_t n_rows = 1;
  int64_t n_cols = 1;
  Rows(const Tensor& x, int64_t n_axes) {
    STD_TORCH_CHECK(n_axes >= 1 && n_axes <= x.dim(), "normkit: expected n_axes between 1 and the ", x.dim(),
                    " axes of x, got ", n_axes, "; give the number of axes to normalize over.");
    for (int64_t i = 0; i < x.dim(); ++i) (i < x.dim() - n_axes ? n_rows : n_cols) *= x.size(i);
  }
};

Tensor in_order(const Tensor& t) { return t.is_contiguous() ? t : torch::stable::contiguous(t); }
MaybeTensor in_order(const MaybeTensor& t) { return t.has_value() ? MaybeTensor(in_order(*t)) : MaybeTensor(); }

// Contiguous and uninitialized, of x's shape.
Tensor empty_as(const Tensor& x) { return torch::stable::new_empty(x, x.sizes()); }
Tensor nothing(const Tensor& x) { return torch::stable::new_empty(x, std::vector<int64_t>{0}); }

void check_same(const Tensor& a, const Tensor& x, const char* name) {
  bool same = a.dim() == x.dim() && a.scalar_type() == x.scalar_type();
  for (int64_t i = 0; same && i < x.dim(); ++i) same = a.size(i) == x.size(i);
  STD_TORCH_CHECK(same, "normkit: expected ", name, " of x's shape and dtype, got another; convert it first.");
}

ConstArray param(const MaybeTensor& p, int64_t n_cols, const char* name) {
  if (!p.has_value()) return {};
  STD_TORCH_CHECK(p->numel() == n_cols, "normkit: expected ", name, " of ", n_cols, " elements, got ", p->numel(),
                  "; give one for each normalized position.");
  return {p->const_data_ptr(), dtype_of(*p)};
}

// Uninitialized, of the parameter's shape and dtype; nothing if the gradient is not needed.
Tensor empty_gradient(bool needed, const MaybeTensor& p, int64_t n_cols, const Tensor& x, const char* name) {
  if (!needed) return nothing(x);
  STD_TORCH_CHECK(p.has_value(), "normkit: expected ", name, " to take the gradient of, got None; give the one of the forward.");
  (void)param(p, n_cols, name);
  return empty_as(*p);
}

ScalarType stats_dtype(const Tensor& x) {
  return x.scalar_type() == ScalarType::Double ? ScalarType::Double : ScalarType::Float;
}

void check_stats(const Tensor& stats, const Tensor& x, int64_t count) {
  STD_TORCH_CHECK(stats.numel() == count && stats.scalar_type() == stats_dtype(x),
                  "normkit: expected the ", count, " statistics that the forward returned, got ", stats.numel(),
                  " or another dtype; pass them on unchanged.");
}

Tensor empty_stats(const Tensor& x, RowNorm norm, int64_t n_rows) {
  std::vector<int64_t> sizes{n_rows};
  if (norm == RowNorm::kLayerNorm) sizes.push_back(stats_per_row(norm));
  return torch::stable::new_empty(x, sizes, stats_dtype(x));
}

struct Outputs {
  Tensor y, z, stats;
};

Outputs forward(RowNorm norm, const Tensor& x_given, const MaybeTensor& residual_given, const MaybeTensor& w_given,
                const MaybeTensor& b_given, int64_t n_axes, double eps) {
  const Rows rows(x_given, n_axes);
  const Tensor x = in_order(x_given);
  const MaybeTensor residual = in_order(residual_given), w = in_order(w_given), b = in_order(b_given);
  if (residual.has_value()) check_same(*residual, x, "residual");
  Outputs out{empty_as(x), residual.has_value() ? empty_as(x) : x, empty_stats(x, norm, rows.n_rows)};
  RowNormForward a{};
  a.norm = norm;
  a.dtype = dtype_of(x);
  a.n_rows = rows.n_rows;
  a.n_cols = rows.n_cols;
  a.eps = eps;
  a.x = x.const_data_ptr();
  a.w = param(w, rows.n_cols, "weight");
  a.b = param(b, rows.n_cols, "bias");
  a.y = out.y.mutable_data_ptr();
  a.stats = out.stats.mutable_data_ptr();
  if (residual.has_value()) {
    a.residual = residual->const_data_ptr();
    a.z = out.z.mutable_data_ptr();
  }
  a.parallel_for = torch_parallel;
  row_norm_forward(a);
  return out;
}

struct Gradients {
  Tensor dx, dw, db;
};

Gradients backward(RowNorm norm, const Tensor& dy_given, const Tensor& x_given, const Tensor& stats_given,
                   const MaybeTensor& w_given, const MaybeTensor& b, const MaybeTensor& dz_given, int64_t n_axes,
                   double eps, bool need_dx, bool need_dw, bool need_db) {
  const Rows rows(x_given, n_axes);
  const Tensor dy = in_order(dy_given), x = in_order(x_given), stats = in_order(stats_given);
  const MaybeTensor w = in_order(w_given), dz = in_order(dz_given);
  check_same(dy, x, "dy");
  if (dz.has_value()) check_same(*dz, x, "d_sum");
  check_stats(stats, x, rows.n_rows * stats_per_row(norm));
  Gradients out{need_dx ? empty_as(x) : nothing(x), empty_gradient(need_dw, w, rows.n_cols, x, "weight"),
                empty_gradient(need_db, b, rows.n_cols, x, "bias")};
  RowNormBackward a{};
  a.norm = norm;
  a.dtype = dtype_of(x);
  a.n_rows = rows.n_rows;
  a.n_cols = rows.n_cols;
  a.eps = eps;
  a.dy = dy.const_data_ptr();
  a.x = x.const_data_ptr();
  a.stats = stats.const_data_ptr();
  a.w = param(w, rows.n_cols, "weight");
  if (dz.has_value()) a.dz = dz->const_data_ptr();
  if (need_dx) a.dx = out.dx.mutable_data_ptr();
  if (need_dw) a.dw = {out.dw.mutable_data_ptr(), dtype_of(out.dw)};
  if (need_db) a.db = {out.db.mutable_data_ptr(), dtype_of(out.db)};
  a.parallel_for = torch_parallel;
  row_norm_backward(a);
  return out;
}

std::tuple<Tensor, Tensor> layer_norm(Tensor x, MaybeTensor weight, MaybeTensor bias, int64_t n_axes, double eps) {
  const Outputs out = forward(RowNorm::kLayerNorm, x, {}, weight, bias, n_axes, eps);
  return {out.y, out.stats};
}

std::tuple<Tensor, Tensor, Tensor> add_layer_norm(Tensor x, Tensor residual, MaybeTensor weight, MaybeTensor bias,
                                                  int64_t n_axes, double eps) {
  const Outputs out = forward(RowNorm::kLayerNorm, x, residual, weight, bias, n_axes, eps);
  return {out.y, out.z, out.stats};
}

std::tuple<Tensor, Tensor, Tensor> layer_norm_backward(Tensor dy, Tensor x, Tensor stats, MaybeTensor weight,
                                                       MaybeTensor bias, MaybeTensor d_sum, int64_t n_axes, double eps,
                                                       bool need_dx, bool need_dw, bool need_db) {
  const Gradients out =
      backward(RowNorm::kLayerNorm, dy, x, stats, weight, bias, d_sum, n_axes, eps, need_dx, need_dw, need_db);
  return {out.dx, out.dw, out.db};
}

std::tuple<Tensor, Tensor> rms_norm(Tensor x, MaybeTensor weight, int64_t n_axes, double eps) {
  const Outputs out = forward(RowNorm::kRmsNorm, x, {}, weight, {}, n_axes, eps);
  return {out.y, out.stats};
}

std::tuple<Tensor, Tensor, Tensor> add_rms_norm(Tensor x, Tensor residual, MaybeTensor weight, int64_t n_axes,
                                                double eps) {
  const Outputs out = forward(RowNorm::kRmsNorm, x, residual, weight, {}, n_axes, eps);
  return {out.y, out.z, out.stats};
}

std::tuple<Tensor, Tensor> rms_norm_backward(Tensor dy, Tensor x, Tensor stats, MaybeTensor weight, MaybeTensor d_sum,
                                             int64_t n_axes, double eps, bool need_dx, bool need_dw) {
  const Gradients out =
      backward(RowNorm::kRmsNorm, dy, x, stats, weight, {}, d_sum, n_axes, eps, need_dx, need_dw, false);
  return {out.dx, out.dw};
}

// The memory format of a tensor of samples, channels and positions: contiguous, unless it is plainly channels_last.
MemoryFormat format_of(const Tensor& x) {
  const int64_t dims = x.dim();
  if (x.is_contiguous() || (dims != 4 && dims != 5)) return MemoryFormat::Contiguous;
  int64_t expected = 1;
  for (int64_t k = 0; k < dims; ++k) {
    const int64_t axis = k == 0 ? 1 : k == dims - 1 ? 0 : dims - k;  // channels, then the positions from the last
    if (x.size(axis) != 1 && x.stride(axis) != expected) return MemoryFormat::Contiguous;
    expected *= x.size(axis);
  }
  return dims == 4 ? MemoryFormat::ChannelsLast : MemoryFormat::ChannelsLast3d;
}

ChannelShape channel_shape(const Tensor& x, MemoryFormat format, int64_t n_groups) {
  STD_TORCH_CHECK(x.dim() >= 2, "normkit: expected x of shape (N, C, *), got ", x.dim(),
                  " axes; add the sample axis with .unsqueeze(0).");
  ChannelShape shape{ChannelLayout::kPlanes, dtype_of(x), x.size(0), x.size(1), 1, n_groups};
  for (int64_t i = 2; i < x.dim(); ++i) shape.n_positions *= x.size(i);
  STD_TORCH_CHECK(n_groups == 0 || (n_groups > 0 && shape.n_channels % n_groups == 0),
                  "normkit: expected num_channels divisible by num_groups, got ", shape.n_channels, " and ", n_groups,
                  "; use a divisor.");
  if (format != MemoryFormat::Contiguous || shape.n_positions == 1) shape.layout = ChannelLayout::kPixels;
  return shape;
}

Activation activation_of(int64_t code) {
  STD_TORCH_CHECK(code >= 0 && code <= 3, "normkit: expected activation 0 (none), 1 (relu), 2 (silu) or 3 (gelu), got ",
                  code, "; use one of them.");
  return static_cast<Activation>(code);
}

std::tuple<Tensor, Tensor> channel_norm(Tensor x_given, MaybeTensor weight, MaybeTensor bias, MaybeTensor mean,
                                        MaybeTensor var, int64_t n_groups, double eps, int64_t activation) {
  const MemoryFormat format = format_of(x_given);
  ChannelForward a{};
  a.shape = channel_shape(x_given, format, n_groups);
  a.activation = activation_of(activation);
  STD_TORCH_CHECK(mean.has_value() == var.has_value() && (!mean.has_value() || n_groups == 0),
                  "normkit: expected both mean and var or neither, and neither with num_groups, got another; give both.");
  const Tensor x = torch::stable::contiguous(x_given, format);
  const MaybeTensor w = in_order(weight), b = in_order(bias), m = in_order(mean), v = in_order(var);
  Tensor y = torch::stable::empty_like(x);
  Tensor stats = torch::stable::new_empty(x, std::vector<int64_t>{a.shape.slabs(), kStatsPerSlab}, stats_dtype(x));
  a.eps = eps;
  a.x = x.const_data_ptr();
  a.w = param(w, a.shape.n_channels, "weight");
  a.b = param(b, a.shape.n_channels, "bias");
  a.mean = param(m, a.shape.n_channels, "mean");
  a.var = param(v, a.shape.n_channels, "var");
  a.y = y.mutable_data_ptr();
  a.stats = stats.mutable_data_ptr();
  a.parallel_for = torch_parallel;
  channel_norm_forward(a);
  return {y, stats};
}

std::tuple<Tensor, Tensor, Tensor> channel_norm_gradients(Tensor dy_given, Tensor x_given, Tensor stats_given,
                                                          MaybeTensor weight, MaybeTensor bias, int64_t n_groups,
                                                          bool constant_stats, double eps, bool need_dx, bool need_dw,
                                                          bool need_db, int64_t activation) {
  const MemoryFormat format = format_of(x_given);
  ChannelBackward a{};
  a.shape = channel_shape(x_given, format, n_groups);
  a.activation = activation_of(activation);
  check_same(dy_given, x_given, "dy");
  const Tensor x = torch::stable::contiguous(x_given, format), dy = torch::stable::contiguous(dy_given, format);
  const Tensor stats = in_order(stats_given);
  check_stats(stats, x, a.shape.slabs() * kStatsPerSlab);
  const MaybeTensor w = in_order(weight), b = in_order(bias);
  Tensor dx = need_dx ? torch::stable::empty_like(x) : nothing(x);
  Tensor dw = empty_gradient(need_dw, w, a.shape.n_channels, x, "weight");
  Tensor db = empty_gradient(need_db, bias, a.shape.n_channels, x, "bias");
  a.eps = eps;
  a.constant_stats = constant_stats;
  a.dy = dy.const_data_ptr();
  a.x = x.const_data_ptr();
  a.stats = stats.const_data_ptr();
  a.w = param(w, a.shape.n_channels, "weight");
  a.b = param(b, a.shape.n_channels, "bias");
  if (need_dx) a.dx = dx.mutable_data_ptr();
  if (need_dw) a.dw = {dw.mutable_data_ptr(), dtype_of(dw)};
  if (need_db) a.db = {db.mutable_data_ptr(), dtype_of(db)};
  a.parallel_for = torch_parallel;
  channel_norm_backward(a);
  return {dx, dw, db};
}

LayerNorm2dShape layer_norm2d_shape(const Tensor& x) {
  STD_TORCH_CHECK(x.dim() == 4, "normkit: expected x of shape (N, C, H, W), got ", x.dim(),
                  " axes; add the sample axis with .unsqueeze(0).");
  return {dtype_of(x), x.size(0), x.size(1), x.size(2) * x.size(3)};
}

std::tuple<Tensor, Tensor> layer_norm2d(Tensor x_given, MaybeTensor weight, MaybeTensor bias, double eps) {
  LayerNorm2dForward a{};
  a.shape = layer_norm2d_shape(x_given);
  const Tensor x = in_order(x_given);
  const MaybeTensor w = in_order(weight), b = in_order(bias);
  Tensor y = empty_as(x);
  Tensor stats = torch::stable::new_empty(
      x, std::vector<int64_t>{a.shape.n_samples, kStatsPerPosition, a.shape.n_positions}, stats_dtype(x));
  a.eps = eps;
  a.x = x.const_data_ptr();
  a.w = param(w, a.shape.n_channels, "weight");
  a.b = param(b, a.shape.n_channels, "bias");
  a.y = y.mutable_data_ptr();
  a.stats = stats.mutable_data_ptr();
  a.parallel_for = torch_parallel;
  layer_norm2d_forward(a);
  return {y, stats};
}

std::tuple<Tensor, Tensor, Tensor> layer_norm2d_gradients(Tensor dy_given, Tensor x_given, Tensor stats_given,
                                                          MaybeTensor weight, MaybeTensor bias, double eps,
                                                          bool need_dx, bool need_dw, bool need_db) {
  LayerNorm2dBackward a{};
  a.shape = layer_norm2d_shape(x_given);
  check_same(dy_given, x_given, "dy");
  const Tensor x = in_order(x_given), dy = in_order(dy_given), stats = in_order(stats_given);
  check_stats(stats, x, a.shape.n_samples * kStatsPerPosition * a.shape.n_positions);
  const MaybeTensor w = in_order(weight);
  Tensor dx = need_dx ? empty_as(x) : nothing(x);
  Tensor dw = empty_gradient(need_dw, w, a.shape.n_channels, x, "weight");
  Tensor db = empty_gradient(need_db, bias, a.shape.n_channels, x, "bias");
  a.eps = eps;
  a.dy = dy.const_data_ptr();
  a.x = x.const_data_ptr();
  a.stats = stats.const_data_ptr();
  a.w = param(w, a.shape.n_channels, "weight");
  if (need_dx) a.dx = dx.mutable_data_ptr();
  if (need_dw) a.dw = {dw.mutable_data_ptr(), dtype_of(dw)};
  if (need_db) a.db = {db.mutable_data_ptr(), dtype_of(db)};
  a.parallel_for = torch_parallel;
  layer_norm2d_backward(a);
  return {dx, dw, db};
}

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(normkit, m) {
  m.def("layer_norm(Tensor x, Tensor? weight, Tensor? bias, int n_axes, float eps) -> (Tensor, Tensor)");
  m.def(
      "add_layer_norm(Tensor x, Tensor residual, Tensor? weight, Tensor? bias, int n_axes, float eps) -> "
      "(Tensor, Tensor, Tensor)");
  m.def(
      "layer_norm_backward(Tensor dy, Tensor x, Tensor stats, Tensor? weight, Tensor? bias, Tensor? d_sum, int n_axes, "
      "float eps, bool need_dx, bool need_dw, bool need_db) -> (Tensor, Tensor, Tensor)");
  m.def("rms_norm(Tensor x, Tensor? weight, int n_axes, float eps) -> (Tensor, Tensor)");
  m.def("add_rms_norm(Tensor x, Tensor residual, Tensor? weight, int n_axes, float eps) -> (Tensor, Tensor, Tensor)");
  m.def(
      "rms_norm_backward(Tensor dy, Tensor x, Tensor stats, Tensor? weight, Tensor? d_sum, int n_axes, float eps, bool "
      "need_dx, bool need_dw) -> (Tensor, Tensor)");
  m.def(
      "channel_norm(Tensor x, Tensor? weight, Tensor? bias, Tensor? mean, Tensor? var, int num_groups, float eps, "
      "int activation=0) -> "
      "(Tensor, Tensor)");
  m.def(
      "channel_norm_backward(Tensor dy, Tensor x, Tensor stats, Tensor? weight, Tensor? bias, int num_groups, bool "
      "constant_stats, float eps, bool need_dx, bool need_dw, bool need_db, int activation=0) -> (Tensor, Tensor, Tensor)");
  m.def("layer_norm2d(Tensor x, Tensor? weight, Tensor? bias, float eps) -> (Tensor, Tensor)");
  m.def(
      "layer_norm2d_backward(Tensor dy, Tensor x, Tensor stats, Tensor? weight, Tensor? bias, float eps, bool need_dx, "
      "bool need_dw, bool need_db) -> (Tensor, Tensor, Tensor)");
}

STABLE_TORCH_LIBRARY_IMPL(normkit, CPU, m) {
  m.impl("layer_norm", TORCH_BOX(&layer_norm));
  m.impl("add_layer_norm", TORCH_BOX(&add_layer_norm));
  m.impl("layer_norm_backward", TORCH_BOX(&layer_norm_backward));
  m.impl("rms_norm", TORCH_BOX(&rms_norm));
  m.impl("add_rms_norm", TORCH_BOX(&add_rms_norm));
  m.impl("rms_norm_backward", TORCH_BOX(&rms_norm_backward));
  m.impl("channel_norm", TORCH_BOX(&channel_norm));
  m.impl("channel_norm_backward", TORCH_BOX(&channel_norm_gradients));
  m.impl("layer_norm2d", TORCH_BOX(&layer_norm2d));
  m.impl("layer_norm2d_backward", TORCH_BOX(&layer_norm2d_gradients));
}
