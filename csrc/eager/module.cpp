// normkit._eager: one call from Python looks at the tensors, allocates, computes and records the backward. None stands for
// "look at this with care": the arguments may be wrong, or right in a way that is not common. Built against libtorch's
// C++, so it serves the torch that it was built for, and no other.
#include <torch/csrc/autograd/functions/utils.h>
#include <torch/csrc/utils/object_ptr.h>

#include "call.h"
#include "nodes.h"

namespace normkit {

const KernelTable* table = nullptr;

namespace {

using torch::autograd::collect_next_edges;
using torch::autograd::set_history;

// Other Python threads run meanwhile, unless the call is shorter than letting them.
template <class Args>
void run(void (*kernel)(const Args&), Args& args, int64_t elements) {
  constexpr int64_t kWorthReleasing = 16384;
  args.parallel_for = table->parallel_for;
  if (elements < kWorthReleasing) return kernel(args);
  const pybind11::gil_scoped_release released;
  kernel(args);
}

// Compiled autograd knows Python's functions, and no node but torch's own.
bool is_compiled_autograd() {
  static PyObject* const module_name = PyUnicode_InternFromString("torch._dynamo.compiled_autograd");
  static PyObject* const flag = PyUnicode_InternFromString("compiled_autograd_enabled");
  PyObject* const module = PyDict_GetItem(PyImport_GetModuleDict(), module_name);  // none until somebody imports it
  if (module == nullptr) return false;
  THPObjectPtr enabled(PyObject_GetAttr(module, flag));
  if (!enabled) PyErr_Clear();
  return enabled.get() == Py_True;
}

bool requires_grad(std::initializer_list<const at::Tensor*> tensors) {
  return is_recording() && std::any_of(tensors.begin(), tensors.end(),
                                       [](const at::Tensor* t) { return t->defined() && t->requires_grad(); });
}

std::optional<at::ScalarType> type_of(const at::Tensor& b) {
  return b.defined() ? std::optional(b.scalar_type()) : std::nullopt;
}

// What the norms over rows have in common.
struct RowCall {
  RowNorm norm;
  at::Tensor x, residual, w, b;
  int64_t n_axes;
  double eps = 0.0;
  Dropout dropout;
};

struct RowOutputs {
  at::Tensor y, z;  // z where there is a residual; none where only Python's function will do
};

RowOutputs row_norm(const RowCall& c) {
  const bool adds = c.residual.defined();
  const Rows rows(c.x, c.n_axes);
  NodePtr<RowNormBackwardNode> node;
  at::Tensor stats;
  if (requires_grad({&c.x, &c.residual, &c.w, &c.b})) {
    if (is_compiled_autograd()) return {};
    node = new_node<RowNormBackwardNode>();
    node->set_next_edges(collect_next_edges(c.x, c.residual, c.w, c.b));
    node->save_inputs(adds ? at::Tensor() : c.x, c.w, {});
    node->eps = c.eps;
    node->b_type = type_of(c.b);
    node->norm = c.norm;
    node->n_axes = c.n_axes;
    node->dropout = c.dropout;
  }
  if (node || adds) stats = empty({rows.n_rows * stats_per_row(c.norm)}, stats_type(c.x.scalar_type()));
  at::Tensor y = empty_as(c.x), z = adds ? empty_as(c.x) : at::Tensor();
  RowNormForward a =
      row_norm_forward_of(c.norm, rows, c.eps, c.x, given(c.residual), given(c.w), given(c.b), y, given(z), given(stats));
  a.dropout = c.dropout;
  run(table->row_norm_forward, a, c.x.numel());
  if (node) {
    set_history(y, node);
    if (adds && (c.x.requires_grad() || c.residual.requires_grad())) set_history(z, node);
    node->save_outputs(z, stats, {});
  }
  return {std::move(y), std::move(z)};
}

// y, or y and z where there is a residual.
PyObject* row_norm(RowNorm norm, Arguments& in, bool adds) {
  const at::Tensor x = in.tensor();
  const at::Tensor residual = adds ? in.tensor() : at::Tensor();
  if (!in.ok()) Py_RETURN_NONE;
  const int64_t n_axes = in.axes(x);
  if (!in.ok()) Py_RETURN_NONE;
  const at::IntArrayRef shape = x.sizes().slice(x.dim() - n_axes);
  const at::Tensor w = in.parameter(shape, x);
  const at::Tensor b = norm == RowNorm::kLayerNorm ? in.parameter(shape, x) : at::Tensor();
  const double eps = norm == RowNorm::kLayerNorm ? in.eps() : in.rms_eps(x);
  Dropout dropout;
  if (adds) {
    dropout.p = in.real();
    dropout.seed = static_cast<uint64_t>(in.integer());
    in.require(residual.is_contiguous() && same_shape_and_type(residual, x) && dropout.p >= 0.0 && dropout.p <= 1.0);
  }
  in.require(x.is_contiguous() && x.numel() > 0);
  if (!in.ok()) Py_RETURN_NONE;

  auto [y, z] = row_norm({norm, x, residual, w, b, n_axes, eps, dropout});
  if (!y.defined()) Py_RETURN_NONE;
  if (!adds) return THPVariable_Wrap(std::move(y));
  PyObject* const both = PyTuple_New(2);
  if (both == nullptr) return nullptr;
  PyTuple_SET_ITEM(both, 0, THPVariable_Wrap(std::move(y)));
  PyTuple_SET_ITEM(both, 1, THPVariable_Wrap(std::move(z)));
  return both;
}

// What the norms over channels have in common.
struct ChannelCall {
  at::Tensor x, residual, w, b, mean, var, mask;
  int64_t n_groups = 0;
  double eps = 0.0, momentum = 0.0;
  Activation activation = Activation::kNone;
  bool updates = false;  // mean and var are running statistics, not given ones

  // Whether the kernel takes it: as _call_checks.py and choose.py have it, beyond doubt.
  bool usable() const {
    const auto format = dense_format(x);
    if (!format.has_value()) return false;
    if (residual.defined()) {
      if (!same_shape_and_type(residual, x) || !residual.is_contiguous(*format)) return false;
      if (activation != Activation::kNone && activation != Activation::kRelu) return false;
    }
    if (mean.defined() != var.defined()) return false;
    // torch refuses to change such a tensor outside inference mode; whoever looks with care says so.
    return !(updates && mean.defined() && (is_of_inference(mean) || is_of_inference(var)));
  }
};

PyObject* channel_norm(const ChannelCall& c) {
  const at::MemoryFormat format = *dense_format(c.x);
  const bool own = c.updates || !c.mean.defined();
  const ChannelShape shape = channel_shape_of(c.x, format != at::MemoryFormat::Contiguous, c.n_groups);
  NodePtr<ChannelNormBackwardNode> node;
  if (requires_grad({&c.x, &c.residual, &c.w, &c.b})) {
    if (is_compiled_autograd()) Py_RETURN_NONE;
    node = new_node<ChannelNormBackwardNode>();
    node->set_next_edges(collect_next_edges(c.x, c.residual, c.w, c.b));
    // After a residual add the sign of y tells what relu passed on; without it, x does.
    node->by_sign = c.residual.defined() && c.activation == Activation::kRelu;
    node->activation = c.residual.defined() ? Activation::kNone : c.activation;
    node->save_inputs(c.x, c.w, node->activation == Activation::kNone ? at::Tensor() : c.b);
    node->eps = c.eps;
    node->b_type = type_of(c.b);
    node->n_groups = c.n_groups;
    node->constant_stats = !own;
    if (c.mask.defined()) node->save_mask(c.mask);
  }
  at::Tensor y = empty_as(c.x, format);
  const at::Tensor stats = empty({shape.slabs(), kStatsPerSlab}, stats_type(c.x.scalar_type()));
  const at::Tensor none;
  ChannelForward a =
      channel_norm_forward_of(shape, c.eps, c.activation, c.x, given(c.residual), given(c.w), given(c.b),
                              given(own ? none : c.mean), given(own ? none : c.var), y, stats);
  if (c.mask.defined()) a.mask = static_cast<const uint8_t*>(c.mask.const_data_ptr());
  if (own) a.running = {mutable_array(given(c.mean)), mutable_array(given(c.var)), c.momentum};
  run(table->channel_norm_forward, a, shape.size());
  if (own && c.mean.defined()) {
    c.mean.unsafeGetTensorImpl()->bump_version();
    c.var.unsafeGetTensorImpl()->bump_version();
  }
  if (node) {
    set_history(y, node);
    node->save_outputs({}, stats, node->by_sign ? y : none);
  }
  return THPVariable_Wrap(std::move(y));
}

// Whether a mask leaves statistics two values or more, of the batch or, with so many values at a position, of each sample that is
// not all padding; one is not.
bool leaves_enough(const at::Tensor& mask, int64_t values_at_a_position, bool per_sample) {
  const uint8_t* bytes = static_cast<const uint8_t*>(mask.const_data_ptr());
  const int64_t samples = per_sample ? mask.size(0) : 1, positions = mask.numel() / samples;
  bool any = false;
  for (int64_t i = 0; i < samples; ++i, bytes += positions) {
    int64_t count = 0;
    for (int64_t j = 0; j < positions && count < 2; ++j) count += bytes[j] != 0;
    if (count * values_at_a_position == 1) return false;
    any = any || count > 0;
  }
  return any;
}

at::Tensor input_of_channels(Arguments& in) {
  at::Tensor x = in.tensor();
  in.require(x.defined() && x.dim() >= 2 && x.numel() > 0);
  return x;
}

void read_affine(Arguments& in, ChannelCall& c) {
  const at::IntArrayRef channels = c.x.sizes().slice(1, 1);
  c.w = in.parameter(channels, c.x);
  c.b = in.parameter(channels, c.x);
}
// The norms that keep running statistics.
void read_with_statistics(Arguments& in, ChannelCall& c) {
  c.mean = in.statistic(c.x);
  c.var = in.statistic(c.x);
  read_affine(in, c);
  c.updates = in.truth();
  c.momentum = in.real();
  c.eps = in.eps();
}

PyObject* layer_norm(Arguments& in) { return row_norm(RowNorm::kLayerNorm, in, false); }
PyObject* rms_norm(Arguments& in) { return row_norm(RowNorm::kRmsNorm, in, false); }
PyObject* add_layer_norm(Arguments& in) { return row_norm(RowNorm::kLayerNorm, in, true); }
PyObject* add_rms_norm(Arguments& in) { return row_norm(RowNorm::kRmsNorm, in, true); }

PyObject* batch_norm(Arguments& in) {
  ChannelCall c;
  c.x = input_of_channels(in);
  if (!in.ok()) Py_RETURN_NONE;
  read_with_statistics(in, c);
  c.activation = in.activation();
  c.residual = in.tensor_or_none();
  c.mask = in.mask(c.x);
  if (!in.ok() || !c.usable()) Py_RETURN_NONE;
  if (c.mask.defined() && c.updates && !leaves_enough(c.mask, 1, false)) Py_RETURN_NONE;
  if (c.updates ? c.eps == 0.0 || c.x.numel() <= c.x.size(1) : !c.mean.defined()) Py_RETURN_NONE;
  return channel_norm(c);
}

PyObject* group_norm(Arguments& in) {
  ChannelCall c;
  c.x = input_of_channels(in);
  c.n_groups = in.integer();
  if (!in.ok()) Py_RETURN_NONE;
  read_affine(in, c);
  c.eps = in.eps();
  c.activation = in.activation();
  c.mask = in.mask(c.x);
  if (!in.ok() || !c.usable() || c.n_groups < 1 || c.x.size(1) % c.n_groups != 0) Py_RETURN_NONE;
  if (c.x.numel() <= c.x.size(0) * c.n_groups) Py_RETURN_NONE;  // one value a group
  if (c.mask.defined() && !leaves_enough(c.mask, c.x.size(1) / c.n_groups, true)) Py_RETURN_NONE;
  return channel_norm(c);
}

PyObject* instance_norm(Arguments& in) {
  ChannelCall c;
  c.x = input_of_channels(in);
  if (!in.ok()) Py_RETURN_NONE;
  read_with_statistics(in, c);
  c.mask = in.mask(c.x);
  if (!in.ok() || !c.usable()) Py_RETURN_NONE;
  if (c.mask.defined() && c.updates && !leaves_enough(c.mask, 1, true)) Py_RETURN_NONE;
  if (c.updates ? c.x.numel() <= c.x.size(0) * c.x.size(1) : !c.mean.defined()) Py_RETURN_NONE;
  if (c.updates) c.n_groups = c.x.size(1);
  return channel_norm(c);
}

PyObject* layer_norm2d(Arguments& in) {
  const at::Tensor x = in.tensor();
  in.require(x.defined() && x.dim() == 4 && x.numel() > 0 && dense_format(x).has_value());
  if (!in.ok()) Py_RETURN_NONE;
  const at::IntArrayRef shape = x.sizes().slice(1, 1);
  const at::Tensor w = in.parameter(shape, x), b = in.parameter(shape, x);
  const double eps = in.eps();
  if (!in.ok()) Py_RETURN_NONE;
  if (!x.is_contiguous()) {  // channels_last: a row of channels at each position
    const at::Tensor y = row_norm({RowNorm::kLayerNorm, x.permute({0, 2, 3, 1}), {}, w, b, 1, eps, {}}).y;
    if (!y.defined()) Py_RETURN_NONE;
    return THPVariable_Wrap(y.permute({0, 3, 1, 2}));
  }
  NodePtr<LayerNorm2dBackwardNode> node;
  at::Tensor stats;
  if (requires_grad({&x, &w, &b})) {
    if (is_compiled_autograd()) Py_RETURN_NONE;
    node = new_node<LayerNorm2dBackwardNode>();
    node->set_next_edges(collect_next_edges(x, w, b));
    node->save_inputs(x, w, {});
    node->eps = eps;
    node->b_type = type_of(b);
    stats = empty({x.size(0), kStatsPerPosition, x.size(2) * x.size(3)}, stats_type(x.scalar_type()));
  }
  at::Tensor y = empty_as(x);
  LayerNorm2dForward a = layer_norm2d_forward_of(eps, x, given(w), given(b), y, given(stats));
  run(table->layer_norm2d_forward, a, x.numel());
  if (node) {
    set_history(y, node);
    node->save_outputs({}, stats, {});
  }
  return THPVariable_Wrap(std::move(y));
}

PyObject* plain_floats(PyObject*, PyObject* const* args, Py_ssize_t n) {
  Arguments in(args, n, n);
  for (Py_ssize_t i = 0; i < n && in.ok(); ++i) {
    const at::Tensor t = in.tensor_or_none();
    in.require(!t.defined() || (t.scalar_type() == at::kFloat && t.numel() > 0));
  }
  return PyBool_FromLong(in.ok());
}

template <PyObject* (*function)(Arguments&), Py_ssize_t wanted>
PyObject* entry(PyObject*, PyObject* const* args, Py_ssize_t n) {
  try {
    Arguments in(args, n, wanted);
    return function(in);
  } catch (...) {
    torch::translate_exception_to_python(std::current_exception());
    return nullptr;
  }
}

template <PyObject* (*function)(Arguments&), Py_ssize_t wanted>
constexpr PyMethodDef method(const char* name, const char* doc) {
  return {name, reinterpret_cast<PyCFunction>(reinterpret_cast<void (*)()>(entry<function, wanted>)), METH_FASTCALL, doc};
}

PyMethodDef methods[] = {
    method<layer_norm, 5>("layer_norm", "(x, shape, w, b, eps): y, or None."),
    method<rms_norm, 4>("rms_norm", "(x, shape, w, eps): y, or None."),
    method<add_layer_norm, 8>("add_layer_norm", "(x, residual, shape, w, b, eps, dropout_p, seed): (y, sum), or None."),
    method<add_rms_norm, 7>("add_rms_norm", "(x, residual, shape, w, eps, dropout_p, seed): (y, sum), or None."),
    method<batch_norm, 11>("batch_norm",
                           "(x, mean, var, w, b, training, momentum, eps, activation, residual, mask): y, or None."),
    method<group_norm, 7>("group_norm", "(x, num_groups, w, b, eps, activation, mask): y, or None."),
    method<instance_norm, 9>("instance_norm", "(x, mean, var, w, b, use_input_stats, momentum, eps, mask): y, or None."),
    method<layer_norm2d, 4>("layer_norm2d", "(x, w, b, eps): y, or None."),
    {"plain_floats", reinterpret_cast<PyCFunction>(reinterpret_cast<void (*)()>(plain_floats)), METH_FASTCALL,
     "(*tensors): whether beyond doubt nobody watches, and each is None or float32 in plain memory, with values."},
    {nullptr, nullptr, 0, nullptr},
};

PyModuleDef module_def = {PyModuleDef_HEAD_INIT, "_eager", "Calls of normkit's kernels by libtorch's own tensors.",
                          0, methods, nullptr, nullptr, nullptr, nullptr};

// What torch.<name> says, or empty.
std::string said_by_torch(const char* module, const char* name) {
  THPObjectPtr imported(PyImport_ImportModule(module));
  THPObjectPtr value(imported ? PyObject_GetAttrString(imported, name) : nullptr);
  THPObjectPtr text(value ? PyObject_Str(value) : nullptr);
  const char* const said = text ? PyUnicode_AsUTF8(text) : nullptr;
  return said == nullptr ? std::string() : said;
}

PyObject* init() {
  const std::string version = said_by_torch("torch", "__version__"), commit = said_by_torch("torch.version", "git_version");
  if (PyErr_Occurred()) return nullptr;
  if (version != NORMKIT_TORCH_VERSION || commit != NORMKIT_TORCH_COMMIT) {
    return PyErr_Format(PyExc_ImportError, "built for torch %s (%.8s), this is %s (%.8s)", NORMKIT_TORCH_VERSION,
                        NORMKIT_TORCH_COMMIT, version.c_str(), commit.c_str());
  }
  THPObjectPtr library(PyImport_ImportModule("normkit._C"));
  THPObjectPtr capsule(library ? PyObject_GetAttrString(library, "table") : nullptr);
  table = capsule ? static_cast<const KernelTable*>(PyCapsule_GetPointer(capsule, kTableName)) : nullptr;
  if (table == nullptr) {
    PyErr_Clear();
    return PyErr_Format(PyExc_ImportError, "built with another normkit._C than the one that is there");
  }
  (void)PlainKeys::get();
  return PyModule_Create(&module_def);
}

}  // namespace

}  // namespace normkit

PyMODINIT_FUNC PyInit__eager() { return normkit::init(); }
