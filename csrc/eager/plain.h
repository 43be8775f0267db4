// Which tensors a kernel may read, and where: what is asked of Python's attributes in ../plain.h and of choose.py, asked of
// libtorch.
#pragma once

#include <torch/csrc/autograd/python_variable.h>

#include <ATen/core/grad_mode.h>
#include <ATen/ops/empty_native.h>
#include <c10/core/InferenceMode.h>
#include <c10/core/impl/LocalDispatchKeySet.h>

#include "../arguments.h"

namespace normkit {

// The dispatch keys of a dense CPU tensor, outside and inside inference mode. A subclass with its own dispatch, a
// negated view, a meta, fake, sparse, nested, functional or batched tensor has others.
struct PlainKeys {
  c10::DispatchKeySet usual, of_inference;

  static const PlainKeys& get() {
    static const PlainKeys keys = [] {
      const auto of_new_tensor = [] { return at::native::empty_cpu({0}, at::kFloat).key_set(); };
      PlainKeys found{of_new_tensor(), {}};
      const c10::InferenceMode guard;
      found.of_inference = of_new_tensor();
      return found;
    }();
    return keys;
  }
};

inline bool is_of_inference(const at::Tensor& t) { return t.key_set() == PlainKeys::get().of_inference; }

inline bool has_plain_keys(const at::Tensor& t) {
  const PlainKeys& keys = PlainKeys::get();
  return t.key_set() == keys.usual || t.key_set() == keys.of_inference;
}
inline bool is_plain(const at::Tensor& t) {
  return has_plain_keys(t) && kernel_dtype(t.scalar_type()).has_value() && !t._fw_grad(0).defined();
}
// One byte for each position of x (N, C, *): (N, *).
inline bool is_mask_of(const at::Tensor& t, const at::Tensor& x) {
  return has_plain_keys(t) && t.scalar_type() == at::kBool && t.is_contiguous() && t.dim() + 1 == x.dim() &&
         t.size(0) == x.size(0) && t.sizes().slice(1) == x.sizes().slice(2);
}

// Nobody watches operations go by. torch.func's transforms, dispatch modes (fake tensors among them), tracing and the vmap
// over gradients each include a dispatch key of their own.
inline bool is_plain_here() {
  const auto keys = c10::impl::tls_local_dispatch_key_set();
  return (keys.included_ - c10::default_included_set).empty();
}

// Whether operations on what requires a gradient are recorded: not inside an operator's own implementation.
inline bool is_recording() {
  if (!at::GradMode::is_enabled()) return false;
  return !c10::impl::tls_local_dispatch_key_set().excluded_.has(c10::DispatchKey::AutogradFunctionality);
}

inline bool same_shape_and_type(const at::Tensor& a, const at::Tensor& x) {
  return a.scalar_type() == x.scalar_type() && a.sizes() == x.sizes();
}

// Whether kernels take p beside x: x's dtype, or float32.
inline bool fits(const at::Tensor& p, const at::Tensor& x) {
  const auto type = p.scalar_type();
  return type == x.scalar_type() || (type == at::kFloat && x.scalar_type() != at::kDouble);
}

// Null for a tensor that is not defined, as arguments.h wants it.
inline const at::Tensor* given(const at::Tensor& t) { return t.defined() ? &t : nullptr; }

// The memory format in which x is dense: contiguous, one of the channels_last formats, or neither.
inline std::optional<at::MemoryFormat> dense_format(const at::Tensor& x) {
  if (x.is_contiguous()) return at::MemoryFormat::Contiguous;
  if (x.dim() == 4 && x.is_contiguous(at::MemoryFormat::ChannelsLast)) return at::MemoryFormat::ChannelsLast;
  if (x.dim() == 5 && x.is_contiguous(at::MemoryFormat::ChannelsLast3d)) return at::MemoryFormat::ChannelsLast3d;
  return std::nullopt;
}

inline at::Tensor empty(at::IntArrayRef sizes, at::ScalarType type,
                        at::MemoryFormat format = at::MemoryFormat::Contiguous) {
  return at::native::empty_cpu(sizes, type, at::kStrided, at::Device(at::kCPU), false, format);
}
inline at::Tensor empty_as(const at::Tensor& x, at::MemoryFormat format = at::MemoryFormat::Contiguous) {
  return empty(x.sizes(), x.scalar_type(), format);
}

}  // namespace normkit
