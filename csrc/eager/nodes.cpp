#include "nodes.h"

#include <ATen/ops/threshold_backward.h>
#include <ATen/ops/where.h>

#include <mutex>

namespace normkit {

namespace {

// A reference that ends with its scope, while the interpreter is held.
class Owned {
 public:
  explicit Owned(PyObject* object) : object_(object) {
    if (object_ != nullptr) return;
    python_error error;
    error.persist();
    throw error;
  }
  Owned(const Owned&) = delete;
  Owned& operator=(const Owned&) = delete;
  ~Owned() { Py_XDECREF(object_); }
  PyObject* get() const { return object_; }
  PyObject* release() { return std::exchange(object_, nullptr); }

 private:
  PyObject* object_;
};

PyObject* wrapped(const at::Tensor& t) { return t.defined() ? THPVariable_Wrap(t) : Py_NewRef(Py_None); }

PyObject* tuple_of(std::initializer_list<const at::Tensor*> tensors) {
  Owned tuple(PyTuple_New(static_cast<Py_ssize_t>(tensors.size())));
  Py_ssize_t i = 0;
  for (const at::Tensor* t : tensors) PyTuple_SET_ITEM(tuple.get(), i++, Owned(wrapped(*t)).release());
  return tuple.release();
}

}  // namespace

void NormBackward::save_inputs(const at::Tensor& x, const at::Tensor& w, const at::Tensor& b) {
  x_ = SavedVariable(x, false);
  w_ = SavedVariable(w, false);
  b_ = SavedVariable(b, false);
  n_w_ = w.defined() ? w.numel() : 0;
  n_b_ = b.defined() ? b.numel() : 0;
}

void NormBackward::save_outputs(const at::Tensor& z, const at::Tensor& stats, const at::Tensor& y) {
  if (z.defined()) x_ = SavedVariable(z, z.requires_grad());
  stats_ = SavedVariable(stats, false);
  n_stats_ = stats.numel();
  y_ = SavedVariable(y, true);
}

void NormBackward::save_mask(const at::Tensor& mask) {
  mask_ = SavedVariable(mask, false);
  n_mask_ = mask.numel();
}

void NormBackward::release_variables() {
  const std::lock_guard<std::mutex> lock(mutex_);
  for (SavedVariable* saved : {&x_, &w_, &b_, &stats_, &y_, &mask_}) saved->reset_data();
}

Kept NormBackward::unpack() {
  const std::lock_guard<std::mutex> lock(mutex_);
  const auto self = getptr();
  return {x_.unpack(self),     w_.unpack(self), b_.unpack(self),
          stats_.unpack(self), y_.unpack(self), mask_.unpack(self)};
}

variable_list NormBackward::apply(variable_list&& gradients) {
  const bool any = std::any_of(gradients.begin(), gradients.end(), [](const at::Tensor& g) { return g.defined(); });
  if (!any) return variable_list(num_outputs());
  const Kept kept = unpack();
  return kernel_can(kept, gradients) ? compute(kept, gradients) : hand_over(kept, gradients);
}

// What hooks on saved tensors gave back may be anything: it is read only if it looks as it did.
bool NormBackward::kernel_can(const Kept& kept, const variable_list& gradients) const {
  if (at::GradMode::is_enabled() || !is_plain_here() || !gradients[0].defined()) return false;
  for (const at::Tensor& g : gradients) {
    if (g.defined() && (!is_plain(g) || !same_shape_and_type(g, kept.x))) return false;
  }
  if (!is_plain(kept.x) || !dense_format(kept.x).has_value()) return false;
  const std::pair<const at::Tensor&, int64_t> others[] = {{kept.w, n_w_}, {kept.b, n_b_}, {kept.stats, n_stats_}};
  for (const auto& [t, n] : others) {
    if (t.defined() ? !is_plain(t) || !t.is_contiguous() || t.numel() != n : n != 0) return false;
  }
  if (kept.mask.defined() ? !is_mask_of(kept.mask, kept.x) : n_mask_ != 0) return false;
  return kept.stats.scalar_type() == stats_type(kept.x.scalar_type());
}

variable_list NormBackward::hand_over(const Kept& kept, const variable_list& gradients) const {
  const pybind11::gil_scoped_acquire held;
  const size_t n = num_outputs();
  const Owned family(PyImport_ImportModule(module()));
  const Owned function(PyObject_GetAttrString(family.get(), "hand_over"));
  const Owned of_call(call());
  const Owned saved(tuple_of({&kept.x, &kept.w, &kept.b, &kept.stats, &kept.y, &kept.mask}));
  const Owned given_gradients(gradients.size() > 1 ? tuple_of({&gradients[0], &gradients[1]})
                                                   : tuple_of({&gradients[0]}));
  Owned needed(PyTuple_New(static_cast<Py_ssize_t>(n)));
  for (size_t i = 0; i < n; ++i) PyTuple_SET_ITEM(needed.get(), static_cast<Py_ssize_t>(i), PyBool_FromLong(needs(i)));
  const Owned found(PyObject_CallFunctionObjArgs(function.get(), of_call.get(), saved.get(), given_gradients.get(),
                                                 needed.get(), nullptr));
  TORCH_CHECK(PyTuple_Check(found.get()) && PyTuple_GET_SIZE(found.get()) == static_cast<Py_ssize_t>(n),
              "normkit: expected ", n, " gradients of ", module());
  variable_list result(n);
  for (size_t i = 0; i < n; ++i) {
    PyObject* const g = PyTuple_GET_ITEM(found.get(), static_cast<Py_ssize_t>(i));
    if (g != Py_None) result[i] = THPVariable_Unpack(g);
  }
  return result;
}

PyObject* NormBackward::b_code() const {
  return b_type.has_value() ? PyLong_FromLong(static_cast<long>(*kernel_dtype(*b_type))) : Py_NewRef(Py_None);
}

variable_list RowNormBackwardNode::compute(const Kept& kept, const variable_list& gradients) const {
  const at::Tensor &z = kept.x, dy = gradients[0].contiguous();
  const at::Tensor d_sum = gradients.size() > 1 && gradients[1].defined() ? gradients[1].contiguous() : at::Tensor();
  const at::Tensor dz = needs(0) || needs(1) ? empty_as(z) : at::Tensor();
  const at::Tensor dropped = needs(0) && dropout.p > 0 ? empty_as(z) : at::Tensor();
  const at::Tensor dw = kept.w.defined() ? gradient_like(kept.w, 2) : at::Tensor();
  const at::Tensor db = b_type.has_value() && needs(3) ? empty(z.sizes().slice(z.dim() - n_axes), *b_type) : at::Tensor();
  RowNormBackward a = row_norm_backward_of(norm, Rows(z, n_axes), eps, dy, z, kept.stats, given(kept.w), given(d_sum),
                                           given(dz), given(dw), given(db));
  a.dropped = mutable_data(given(dropped));
  a.dropout = dropout;
  a.parallel_for = table->parallel_for;
  table->row_norm_backward(a);
  return {dropout.p > 0 ? dropped : needs(0) ? dz : at::Tensor(), needs(1) ? dz : at::Tensor(), dw, db};
}

PyObject* RowNormBackwardNode::call() const {
  return Py_BuildValue("(iLdNdK)", static_cast<int>(norm), static_cast<long long>(n_axes), eps, b_code(), dropout.p,
                       static_cast<unsigned long long>(dropout.seed));
}

variable_list ChannelNormBackwardNode::compute(const Kept& kept, const variable_list& gradients) const {
  const at::Tensor& x = kept.x;
  const at::Tensor dy = by_sign ? at::threshold_backward(gradients[0], kept.y, 0) : gradients[0];
  at::Tensor d_residual = needs(1) ? dy : at::Tensor();
  if (d_residual.defined() && kept.mask.defined()) {
    std::vector<int64_t> places = x.sizes().vec();
    places[1] = 1;
    d_residual = at::where(kept.mask.view(places), dy, at::Scalar(0));
  }
  if (!(needs(0) || needs(2) || needs(3))) return {at::Tensor(), d_residual, at::Tensor(), at::Tensor()};
  const at::MemoryFormat format = *dense_format(x);
  const at::Tensor dense_dy = dy.contiguous(format);
  const at::Tensor dx = needs(0) ? empty_as(x, format) : at::Tensor();
  const at::Tensor dw = kept.w.defined() ? gradient_like(kept.w, 2) : at::Tensor();
  const at::Tensor db = b_type.has_value() && needs(3) ? empty({x.size(1)}, *b_type) : at::Tensor();
  ChannelBackward a = channel_norm_backward_of(
      channel_shape_of(x, format != at::MemoryFormat::Contiguous, n_groups), eps, constant_stats, activation,
      dense_dy, x, kept.stats, given(kept.w), given(kept.b), given(dx), given(dw), given(db));
  if (kept.mask.defined()) a.mask = static_cast<const uint8_t*>(kept.mask.const_data_ptr());
  a.parallel_for = table->parallel_for;
  table->channel_norm_backward(a);
  return {dx, d_residual, dw, db};
}

PyObject* ChannelNormBackwardNode::call() const {
  return Py_BuildValue("(LdiNNN)", static_cast<long long>(n_groups), eps, static_cast<int>(activation),
                       PyBool_FromLong(by_sign), PyBool_FromLong(constant_stats), b_code());
}

variable_list LayerNorm2dBackwardNode::compute(const Kept& kept, const variable_list& gradients) const {
  const at::Tensor &x = kept.x, dy = gradients[0].contiguous();
  const at::Tensor dx = gradient_like(x, 0);
  const at::Tensor dw = kept.w.defined() ? gradient_like(kept.w, 1) : at::Tensor();
  const at::Tensor db = b_type.has_value() && needs(2) ? empty({x.size(1)}, *b_type) : at::Tensor();
  LayerNorm2dBackward a = layer_norm2d_backward_of(eps, dy, x, kept.stats, given(kept.w),
                                                   given(dx), given(dw), given(db));
  a.parallel_for = table->parallel_for;
  table->layer_norm2d_backward(a);
  return {dx, dw, db};
}

PyObject* LayerNorm2dBackwardNode::call() const { return Py_BuildValue("(dN)", eps, b_code()); }

}  // namespace normkit
