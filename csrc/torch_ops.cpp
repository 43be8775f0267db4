// The kernels as torch operators, for graphs that torch.compile and torch.export make: libtorch's stable ABI, so
// one library serves every torch from 2.10. Inputs may be strided; they are made contiguous here.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>

#include <optional>
#include <tuple>
#include <vector>

#include "arguments.h"
#include "torch_parallel.h"

namespace {

using namespace normkit;
using torch::headeronly::MemoryFormat;
using torch::headeronly::ScalarType;
using torch::stable::Tensor;
using MaybeTensor = std::optional<Tensor>;

void check_dtype(const Tensor& t) {
  STD_TORCH_CHECK(kernel_dtype(t.scalar_type()).has_value(),
                  "normkit: expected a tensor of dtype float32, float64, bfloat16 or float16, got another; convert it "
                  "with .to(...).");
}

// x as rows, which it can be.
Rows rows_of(const Tensor& x, int64_t n_axes) {
  check_dtype(x);
  STD_TORCH_CHECK(n_axes >= 1 && n_axes <= x.dim(), "normkit: expected n_axes between 1 and the ", x.dim(),
                  " axes of x, got ", n_axes, "; give the number of axes to normalize over.");
  return {x, n_axes};
}

// Null for one that is not there, as arguments.h wants it.
const Tensor* given(const MaybeTensor& t) { return t.has_value() ? &*t : nullptr; }
const Tensor* given(bool needed, const Tensor& t) { return needed ? &t : nullptr; }

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

// The parameter in order, if it is of that many elements.
MaybeTensor param(const MaybeTensor& p, int64_t n_cols, const char* name) {
  if (!p.has_value()) return {};
  check_dtype(*p);
  STD_TORCH_CHECK(p->numel() == n_cols, "normkit: expected ", name, " of ", n_cols, " elements, got ", p->numel(),
                  "; give one for each normalized position.");
  return in_order(p);
}

// Uninitialized, of the parameter's shape and dtype; nothing if the gradient is not needed.
Tensor empty_gradient(bool needed, const MaybeTensor& p, int64_t n_cols, const Tensor& x, const char* name) {
  if (!needed) return nothing(x);
  STD_TORCH_CHECK(p.has_value(), "normkit: expected ", name, " to take the gradient of, got None; give the one of the forward.");
  (void)param(p, n_cols, name);
  return empty_as(*p);
}

ScalarType stats_dtype(const Tensor& x) { return stats_type(x.scalar_type()); }

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
  const Rows rows = rows_of(x_given, n_axes);
  const Tensor x = in_order(x_given);
  const MaybeTensor residual = in_order(residual_given);
  const MaybeTensor w = param(w_given, rows.n_cols, "weight"), b = param(b_given, rows.n_cols, "bias");
  if (residual.has_value()) check_same(*residual, x, "residual");
  const bool adds = residual.has_value();
  Outputs out{empty_as(x), adds ? empty_as(x) : x, empty_stats(x, norm, rows.n_rows)};
  RowNormForward a = row_norm_forward_of(norm, rows, eps, x, given(residual), given(w), given(b), out.y,
                                         given(adds, out.z), &out.stats);
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
  const Rows rows = rows_of(x_given, n_axes);
  const Tensor dy = in_order(dy_given), x = in_order(x_given), stats = in_order(stats_given);
  const MaybeTensor w = param(w_given, rows.n_cols, "weight"), dz = in_order(dz_given);
  check_same(dy, x, "dy");
  if (dz.has_value()) check_same(*dz, x, "d_sum");
  check_stats(stats, x, rows.n_rows * stats_per_row(norm));
  Gradients out{need_dx ? empty_as(x) : nothing(x), empty_gradient(need_dw, w, rows.n_cols, x, "weight"),
                empty_gradient(need_db, b, rows.n_cols, x, "bias")};
  RowNormBackward a = row_norm_backward_of(norm, rows, eps, dy, x, stats, given(w), given(dz), given(need_dx, out.dx),
                                           given(need_dw, out.dw), given(need_db, out.db));
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
  check_dtype(x);
  STD_TORCH_CHECK(x.dim() >= 2, "normkit: expected x of shape (N, C, *), got ", x.dim(),
                  " axes; add the sample axis with .unsqueeze(0).");
  STD_TORCH_CHECK(n_groups == 0 || (n_groups > 0 && x.size(1) % n_groups == 0),
                  "normkit: expected num_channels divisible by num_groups, got ", x.size(1), " and ", n_groups,
                  "; use a divisor.");
  return channel_shape_of(x, format != MemoryFormat::Contiguous, n_groups);
}

Activation activation_of(int64_t code) {
  STD_TORCH_CHECK(code >= 0 && code <= 3, "normkit: expected activation 0 (none), 1 (relu), 2 (silu) or 3 (gelu), got ",
                  code, "; use one of them.");
  return static_cast<Activation>(code);
}

std::tuple<Tensor, Tensor> channel_norm(Tensor x_given, MaybeTensor weight, MaybeTensor bias, MaybeTensor mean,
                                        MaybeTensor var, int64_t n_groups, double eps, int64_t activation) {
  const MemoryFormat format = format_of(x_given);
  const ChannelShape shape = channel_shape(x_given, format, n_groups);
  STD_TORCH_CHECK(mean.has_value() == var.has_value() && (!mean.has_value() || n_groups == 0),
                  "normkit: expected both mean and var or neither, and neither with num_groups, got another; give both.");
  const int64_t c = shape.n_channels;
  const Tensor x = torch::stable::contiguous(x_given, format);
  const MaybeTensor w = param(weight, c, "weight"), b = param(bias, c, "bias");
  const MaybeTensor m = param(mean, c, "mean"), v = param(var, c, "var");
  Tensor y = torch::stable::empty_like(x);
  Tensor stats = torch::stable::new_empty(x, std::vector<int64_t>{shape.slabs(), kStatsPerSlab}, stats_dtype(x));
  ChannelForward a = channel_norm_forward_of<Tensor>(shape, eps, activation_of(activation), x, nullptr, given(w), given(b),
                                                     given(m), given(v), y, stats);
  a.parallel_for = torch_parallel;
  channel_norm_forward(a);
  return {y, stats};
}

std::tuple<Tensor, Tensor, Tensor> channel_norm_gradients(Tensor dy_given, Tensor x_given, Tensor stats_given,
                                                          MaybeTensor weight, MaybeTensor bias, int64_t n_groups,
                                                          bool constant_stats, double eps, bool need_dx, bool need_dw,
                                                          bool need_db, int64_t activation) {
  const MemoryFormat format = format_of(x_given);
  const ChannelShape shape = channel_shape(x_given, format, n_groups);
  const int64_t c = shape.n_channels;
  check_same(dy_given, x_given, "dy");
  const Tensor x = torch::stable::contiguous(x_given, format), dy = torch::stable::contiguous(dy_given, format);
  const Tensor stats = in_order(stats_given);
  check_stats(stats, x, shape.slabs() * kStatsPerSlab);
  const MaybeTensor w = param(weight, c, "weight"), b = param(bias, c, "bias");
  Tensor dx = need_dx ? torch::stable::empty_like(x) : nothing(x);
  Tensor dw = empty_gradient(need_dw, w, c, x, "weight");
  Tensor db = empty_gradient(need_db, bias, c, x, "bias");
  ChannelBackward a =
      channel_norm_backward_of(shape, eps, constant_stats, activation_of(activation), dy, x, stats, given(w), given(b),
                               given(need_dx, dx), given(need_dw, dw), given(need_db, db));
  a.parallel_for = torch_parallel;
  channel_norm_backward(a);
  return {dx, dw, db};
}

// x in order, if it is of images.
Tensor images(const Tensor& x) {
  check_dtype(x);
  STD_TORCH_CHECK(x.dim() == 4, "normkit: expected x of shape (N, C, H, W), got ", x.dim(),
                  " axes; add the sample axis with .unsqueeze(0).");
  return in_order(x);
}

std::tuple<Tensor, Tensor> layer_norm2d(Tensor x_given, MaybeTensor weight, MaybeTensor bias, double eps) {
  const Tensor x = images(x_given);
  const MaybeTensor w = param(weight, x.size(1), "weight"), b = param(bias, x.size(1), "bias");
  Tensor y = empty_as(x);
  Tensor stats = torch::stable::new_empty(
      x, std::vector<int64_t>{x.size(0), kStatsPerPosition, x.size(2) * x.size(3)}, stats_dtype(x));
  LayerNorm2dForward a = layer_norm2d_forward_of(eps, x, given(w), given(b), y, &stats);
  a.parallel_for = torch_parallel;
  layer_norm2d_forward(a);
  return {y, stats};
}

std::tuple<Tensor, Tensor, Tensor> layer_norm2d_gradients(Tensor dy_given, Tensor x_given, Tensor stats_given,
                                                          MaybeTensor weight, MaybeTensor bias, double eps,
                                                          bool need_dx, bool need_dw, bool need_db) {
  const Tensor x = images(x_given);
  check_same(dy_given, x_given, "dy");
  const Tensor dy = in_order(dy_given), stats = in_order(stats_given);
  check_stats(stats, x, x.size(0) * kStatsPerPosition * x.size(2) * x.size(3));
  const MaybeTensor w = param(weight, x.size(1), "weight");
  Tensor dx = need_dx ? empty_as(x) : nothing(x);
  Tensor dw = empty_gradient(need_dw, w, x.size(1), x, "weight");
  Tensor db = empty_gradient(need_db, bias, x.size(1), x, "bias");
  LayerNorm2dBackward a = layer_norm2d_backward_of(eps, dy, x, stats, given(w), given(need_dx, dx), given(need_dw, dw),
                                                   given(need_db, db));
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
