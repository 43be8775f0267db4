// The norms' backwards as nodes of torch's autograd graph. What a kernel cannot do (a backward that is itself
// differentiated, or that somebody watches) is handed over to the Python that knows how: `hand_over` of the family's
// module in normkit.kernels.
#pragma once

#include <torch/csrc/autograd/function.h>
#include <torch/csrc/autograd/saved_variable.h>

#include <string>

#include "../table.h"
#include "plain.h"

namespace normkit {

using torch::autograd::SavedVariable;
using torch::autograd::variable_list;

extern const KernelTable* table;  // of normkit._C, found when the module is imported

// What a backward reads again. Which of them there are is the family's matter.
struct Kept {
  at::Tensor x, w, b, stats, y, mask;
};

class NormBackward : public torch::autograd::Node {
 public:
  // Before the forward, as torch's own nodes do: the graph above x is that of the call.
  void save_inputs(const at::Tensor& x, const at::Tensor& w, const at::Tensor& b);
  void save_outputs(const at::Tensor& z, const at::Tensor& stats, const at::Tensor& y);
  void save_mask(const at::Tensor& mask);

  void release_variables() override;

  double eps = 0.0;
  std::optional<at::ScalarType> b_type;  // b itself enters no gradient, unless an activation follows

 protected:
  variable_list apply(variable_list&& gradients) override;
  virtual variable_list compute(const Kept& kept, const variable_list& gradients) const = 0;
  bool kernel_can(const Kept& kept, const variable_list& gradients) const;
  // The module in normkit.kernels, and what of the call is no tensor.
  virtual const char* module() const = 0;
  virtual PyObject* call() const = 0;

  bool needs(size_t i) const { return task_should_compute_output(i); }
  at::Tensor gradient_like(const at::Tensor& t, size_t i) const { return needs(i) ? empty_as(t) : at::Tensor(); }
  // The number of b's dtype in csrc/core, or None.
  PyObject* b_code() const;

 private:
  Kept unpack();
  variable_list hand_over(const Kept& kept, const variable_list& gradients) const;

  SavedVariable x_, w_, b_, stats_, y_, mask_;
  int64_t n_w_ = 0, n_b_ = 0, n_stats_ = 0, n_mask_ = 0;  // how many elements each had
};

// Its inputs are the gradients of y and, after a residual add, of z; its outputs those of x, residual, w and b.
class RowNormBackwardNode final : public NormBackward {
 public:
  RowNorm norm = RowNorm::kLayerNorm;
  int64_t n_axes = 1;
  Dropout dropout;
  std::string name() const override { return "RowNormBackward"; }

 protected:
  variable_list compute(const Kept& kept, const variable_list& gradients) const override;
  const char* module() const override { return "normkit.kernels.rows"; }
  PyObject* call() const override;
};

// Its outputs are the gradients of x, residual, w and b.
class ChannelNormBackwardNode final : public NormBackward {
 public:
  int64_t n_groups = 0;
  Activation activation = Activation::kNone;  // that the kernel undoes
  bool by_sign = false;                       // relu followed a residual add: the sign of y tells what it passed on
  bool constant_stats = false;
  std::string name() const override { return "ChannelNormBackward"; }

 protected:
  variable_list compute(const Kept& kept, const variable_list& gradients) const override;
  const char* module() const override { return "normkit.kernels.channels"; }
  PyObject* call() const override;
};

// Its outputs are the gradients of x, w and b.
class LayerNorm2dBackwardNode final : public NormBackward {
 public:
  std::string name() const override { return "LayerNorm2dBackward"; }

 protected:
  variable_list compute(const Kept& kept, const variable_list& gradients) const override;
  const char* module() const override { return "normkit.kernels.layer_norm2d"; }
  PyObject* call() const override;
};

// torch before 2.13 counts references to nodes by shared_ptr, which frees them by its own function, found by their type.
template <class N>
auto new_node() {
  if constexpr (std::is_base_of_v<c10::intrusive_ptr_target, N>) {
    return c10::make_intrusive<N>();
  } else {
    return std::shared_ptr<N>(new N(), [](N* node) { deleteNode(node); });
  }
}
template <class N>
using NodePtr = decltype(new_node<N>());

}  // namespace normkit
