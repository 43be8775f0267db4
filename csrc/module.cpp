// normkit._C: the kernels for Python, past torch's dispatcher. Arguments are sizes and addresses as integers; the
// caller (normkit/kernels/cpu.py) answers for them. Limited API: one library for every Python from 3.10.
#define Py_LIMITED_API 0x030A0000
#include <Python.h>

#include <new>

#include "core/channel_norm.h"
#include "core/kernels.h"
#include "core/layer_norm2d.h"
#include "core/recurrent.h"
#include "core/row_norm.h"
#include "plain.h"
#include "torch_parallel.h"

namespace {

using namespace normkit;

// Reads the arguments of one call in order; ok() is false, and a Python error set, once one did not fit.
class Reader {
 public:
  Reader(PyObject* const* args, Py_ssize_t given, Py_ssize_t wanted) : args_(args) {
    if (given == wanted) return;
    PyErr_Format(PyExc_TypeError, "expected %zd arguments, got %zd", wanted, given);
    ok_ = false;
  }
  int64_t integer() {
    if (!ok_) return 0;
    const long long value = PyLong_AsLongLong(*args_++);
    ok_ = value != -1 || PyErr_Occurred() == nullptr;
    return value;
  }
  double real() {
    if (!ok_) return 0.0;
    const double value = PyFloat_AsDouble(*args_++);
    ok_ = value != -1.0 || PyErr_Occurred() == nullptr;
    return value;
  }
  void* address() {
    if (!ok_) return nullptr;
    void* value = PyLong_AsVoidPtr(*args_++);
    ok_ = value != nullptr || PyErr_Occurred() == nullptr;
    return value;
  }
  DType dtype() { return static_cast<DType>(integer()); }
  ConstArray const_array() {
    const void* data = address();
    return {data, dtype()};
  }
  MutableArray mutable_array() {
    void* data = address();
    return {data, dtype()};
  }
  bool ok() const { return ok_; }

 private:
  PyObject* const* args_;
  bool ok_ = true;
};

// Other Python threads run meanwhile, unless the call is shorter than letting them.
template <class Args>
PyObject* run(void (*kernel)(const Args&), const Args& args, int64_t elements) {
  constexpr int64_t kWorthReleasing = 16384;
  PyThreadState* state = elements >= kWorthReleasing ? PyEval_SaveThread() : nullptr;
  bool out_of_memory = false;
  try {
    kernel(args);
  } catch (const std::bad_alloc&) {
    out_of_memory = true;
  }
  if (state != nullptr) PyEval_RestoreThread(state);
  if (out_of_memory) return PyErr_NoMemory();
  Py_RETURN_NONE;
}

PyObject* row_norm_forward_py(PyObject*, PyObject* const* args, Py_ssize_t n) {
  Reader in(args, n, 16);
  RowNormForward a{};
  a.norm = static_cast<RowNorm>(in.integer());
  a.dtype = in.dtype();
  a.n_rows = in.integer();
  a.n_cols = in.integer();
  a.eps = in.real();
  a.x = in.address();
  a.w = in.const_array();
  a.b = in.const_array();
  a.y = in.address();
  a.stats = in.address();
  a.residual = in.address();
  a.z = in.address();
  a.dropout.p = in.real();
  a.dropout.seed = static_cast<uint64_t>(in.integer());
  a.parallel_for = torch_parallel;
  return in.ok() ? run(row_norm_forward, a, a.n_rows * a.n_cols) : nullptr;
}

PyObject* row_norm_backward_py(PyObject*, PyObject* const* args, Py_ssize_t n) {
  Reader in(args, n, 19);
  RowNormBackward a{};
  a.norm = static_cast<RowNorm>(in.integer());
  a.dtype = in.dtype();
  a.n_rows = in.integer();
  a.n_cols = in.integer();
  a.eps = in.real();
  a.dy = in.address();
  a.x = in.address();
  a.stats = in.address();
  a.w = in.const_array();
  a.dz = in.address();
  a.dx = in.address();
  a.dropped = in.address();
  a.dropout.p = in.real();
  a.dropout.seed = static_cast<uint64_t>(in.integer());
  a.dw = in.mutable_array();
  a.db = in.mutable_array();
  a.parallel_for = torch_parallel;
  return in.ok() ? run(row_norm_backward, a, a.n_rows * a.n_cols) : nullptr;
}

ChannelShape channel_shape(Reader& in) {
  ChannelShape shape{};
  shape.layout = static_cast<ChannelLayout>(in.integer());
  shape.dtype = in.dtype();
  shape.n_samples = in.integer();
  shape.n_channels = in.integer();
  shape.n_positions = in.integer();
  shape.n_groups = in.integer();
  return shape;
}

Kept kept(Reader& in, ChannelLayout layout) {
  Kept kept{};
  void* const positions = in.address();
  kept.count = in.integer();
  if (layout == ChannelLayout::kPlanes) {
    kept.words = positions;
  } else {
    kept.rows = static_cast<const int64_t*>(positions);
  }
  return kept;
}

PyObject* channel_norm_forward_py(PyObject*, PyObject* const* args, Py_ssize_t n) {
  Reader in(args, n, 27);
  ChannelForward a{};
  a.shape = channel_shape(in);
  a.eps = in.real();
  a.x = in.address();
  a.residual = in.address();
  a.w = in.const_array();
  a.b = in.const_array();
  a.activation = static_cast<Activation>(in.integer());
  a.mean = in.const_array();
  a.var = in.const_array();
  a.y = in.address();
  a.stats = in.address();
  a.running.mean = in.mutable_array();
  a.running.var = in.mutable_array();
  a.running.momentum = in.real();
  a.kept = kept(in, a.shape.layout);
  a.parallel_for = torch_parallel;
  return in.ok() ? run(channel_norm_forward, a, a.shape.size()) : nullptr;
}

PyObject* channel_norm_backward_py(PyObject*, PyObject* const* args, Py_ssize_t n) {
  Reader in(args, n, 23);
  ChannelBackward a{};
  a.shape = channel_shape(in);
  a.eps = in.real();
  a.constant_stats = in.integer() != 0;
  a.dy = in.address();
  a.x = in.address();
  a.stats = in.address();
  a.w = in.const_array();
  a.b = in.const_array();
  a.activation = static_cast<Activation>(in.integer());
  a.dx = in.address();
  a.dw = in.mutable_array();
  a.db = in.mutable_array();
  a.kept = kept(in, a.shape.layout);
  a.parallel_for = torch_parallel;
  return in.ok() ? run(channel_norm_backward, a, a.shape.size()) : nullptr;
}

LayerNorm2dShape layer_norm2d_shape(Reader& in) {
  LayerNorm2dShape shape{};
  shape.dtype = in.dtype();
  shape.n_samples = in.integer();
  shape.n_channels = in.integer();
  shape.n_positions = in.integer();
  return shape;
}

PyObject* layer_norm2d_forward_py(PyObject*, PyObject* const* args, Py_ssize_t n) {
  Reader in(args, n, 12);
  LayerNorm2dForward a{};
  a.shape = layer_norm2d_shape(in);
  a.eps = in.real();
  a.x = in.address();
  a.w = in.const_array();
  a.b = in.const_array();
  a.y = in.address();
  a.stats = in.address();
  a.parallel_for = torch_parallel;
  return in.ok() ? run(layer_norm2d_forward, a, size_of(a.shape)) : nullptr;
}

PyObject* layer_norm2d_backward_py(PyObject*, PyObject* const* args, Py_ssize_t n) {
  Reader in(args, n, 15);
  LayerNorm2dBackward a{};
  a.shape = layer_norm2d_shape(in);
  a.eps = in.real();
  a.dy = in.address();
  a.x = in.address();
  a.stats = in.address();
  a.w = in.const_array();
  a.dx = in.address();
  a.dw = in.mutable_array();
  a.db = in.mutable_array();
  a.parallel_for = torch_parallel;
  return in.ok() ? run(layer_norm2d_backward, a, size_of(a.shape)) : nullptr;
}

void read_recurrent(Reader& in, Recurrent& a) {
  a.cell = static_cast<RecurrentCell>(in.integer());
  a.place = static_cast<RecurrentPlace>(in.integer());
  a.norm = static_cast<RowNorm>(in.integer());
  a.has_norm_c = in.integer() != 0;
  a.n_hidden = in.integer();
  a.n_steps = in.integer();
  a.n_sequences = in.integer();
  a.sizes = static_cast<const int64_t*>(in.address());
  a.eps = in.real();
  a.w_hh = static_cast<const float*>(in.address());
  for (ConstArray* parameter : {&a.norm_w, &a.norm_b, &a.norm_c_w, &a.norm_c_b}) parameter->data = in.address();
  for (const float** values : {&a.p, &a.h0, &a.c0}) *values = static_cast<const float*>(in.address());
  a.parallel_for = torch_parallel;
}

PyObject* recurrent_forward_py(PyObject*, PyObject* const* args, Py_ssize_t n) {
  Reader in(args, n, 24);
  RecurrentForward a{};
  read_recurrent(in, a);
  for (float** values : {&a.y, &a.z, &a.z_stats, &a.c, &a.c_stats, &a.h_last, &a.c_last}) {
    *values = static_cast<float*>(in.address());
  }
  return in.ok() ? run(recurrent_forward, a, a.n_steps * a.n_sequences * a.gates()) : nullptr;
}

PyObject* recurrent_backward_py(PyObject*, PyObject* const* args, Py_ssize_t n) {
  Reader in(args, n, 30);
  RecurrentBackward a{};
  read_recurrent(in, a);
  for (const float** values : {&a.z, &a.z_stats, &a.c, &a.c_stats, &a.y, &a.dy, &a.dh_last, &a.dc_last}) {
    *values = static_cast<const float*>(in.address());
  }
  for (float** values : {&a.da, &a.dz, &a.du, &a.dh0, &a.dc0}) *values = static_cast<float*>(in.address());
  return in.ok() ? run(recurrent_backward, a, a.n_steps * a.n_sequences * a.gates()) : nullptr;
}

PyObject* gru_forward_py(PyObject*, PyObject* const* args, Py_ssize_t n) {
  Reader in(args, n, 25);
  GruForward a{};
  read_recurrent(in, a);
  a.b_hh = static_cast<const float*>(in.address());
  for (float** values : {&a.y, &a.in_rz, &a.in_n, &a.q_n, &a.stats_rz, &a.stats_n, &a.h_last}) {
    *values = static_cast<float*>(in.address());
  }
  return in.ok() ? run(gru_forward, a, a.n_steps * a.n_sequences * a.gates()) : nullptr;
}

PyObject* gru_backward_py(PyObject*, PyObject* const* args, Py_ssize_t n) {
  Reader in(args, n, 32);
  GruBackward a{};
  read_recurrent(in, a);
  for (const float** values :
       {&a.b_hh, &a.in_rz, &a.in_n, &a.q_n, &a.stats_rz, &a.stats_n, &a.y, &a.dy, &a.dh_last}) {
    *values = static_cast<const float*>(in.address());
  }
  for (float** values : {&a.dp, &a.dout_rz, &a.dout_n, &a.dq_rz, &a.dq_n, &a.dh0}) {
    *values = static_cast<float*>(in.address());
  }
  return in.ok() ? run(gru_backward, a, a.n_steps * a.n_sequences * a.gates()) : nullptr;
}

TorchNames torch_names;  // filled when the module is imported

PyObject* plain_rows_py(PyObject*, PyObject* const* args, Py_ssize_t n) {
  if (n != 4) return PyErr_Format(PyExc_TypeError, "expected 4 arguments, got %zd", n);
  const int64_t n_cols = plain_rows(torch_names, args[0], args[1], args[2], args[3]);
  PyErr_Clear();  // whatever was odd about the arguments, the caller's own checks will say
  return PyLong_FromLongLong(n_cols);
}

// A truth about plain tensors; whatever was odd about the arguments, the caller's own checks will say.
PyObject* truth(bool plain) {
  PyErr_Clear();
  return PyBool_FromLong(plain);
}

PyObject* plain_channels_py(PyObject*, PyObject* const* args, Py_ssize_t n) {
  if (n != 5) return PyErr_Format(PyExc_TypeError, "expected 5 arguments, got %zd", n);
  return truth(plain_channels(torch_names, args[0], args[1], args[2], args[3], args[4]));
}

PyObject* plain_sum_py(PyObject*, PyObject* const* args, Py_ssize_t n) {
  if (n != 2) return PyErr_Format(PyExc_TypeError, "expected 2 arguments, got %zd", n);
  return truth(plain_sum(torch_names, args[0], args[1]));
}

PyObject* isa_py(PyObject*, PyObject*) { return PyUnicode_FromString(kernels().isa); }

PyMethodDef methods[] = {
    {"isa", isa_py, METH_NOARGS, "The instruction set that the kernels use: portable, avx2 or avx512."},
    {"plain_rows", reinterpret_cast<PyCFunction>(reinterpret_cast<void (*)()>(plain_rows_py)), METH_FASTCALL,
     "(x, sizes, w, b): the columns of a row norm whose arguments are plain beyond doubt, or -1."},
    {"plain_channels", reinterpret_cast<PyCFunction>(reinterpret_cast<void (*)()>(plain_channels_py)), METH_FASTCALL,
     "(x, w, b, mean, var): whether a channel norm's arguments are plain beyond doubt."},
    {"plain_sum", reinterpret_cast<PyCFunction>(reinterpret_cast<void (*)()>(plain_sum_py)), METH_FASTCALL,
     "(x, residual): whether the two may be added, beyond doubt."},
    {"row_norm_forward", reinterpret_cast<PyCFunction>(reinterpret_cast<void (*)()>(row_norm_forward_py)),
     METH_FASTCALL,
     "(norm, dtype, n_rows, n_cols, eps, x, w, w_dtype, b, b_dtype, y, stats, residual, z, p, seed)"},
    {"row_norm_backward", reinterpret_cast<PyCFunction>(reinterpret_cast<void (*)()>(row_norm_backward_py)),
     METH_FASTCALL,
     "(norm, dtype, n_rows, n_cols, eps, dy, x, stats, w, w_dtype, dz, dx, dropped, p, seed, dw, dw_dtype, db, "
     "db_dtype)"},
    {"channel_norm_forward", reinterpret_cast<PyCFunction>(reinterpret_cast<void (*)()>(channel_norm_forward_py)),
     METH_FASTCALL,
     "(layout, dtype, n_samples, n_channels, n_positions, n_groups, eps, x, residual, w, w_dtype, b, b_dtype, activation, mean, "
     "mean_dtype, var, var_dtype, y, stats, running_mean, its_dtype, running_var, its_dtype, momentum, kept, n_kept)"},
    {"channel_norm_backward", reinterpret_cast<PyCFunction>(reinterpret_cast<void (*)()>(channel_norm_backward_py)),
     METH_FASTCALL,
     "(layout, dtype, n_samples, n_channels, n_positions, n_groups, eps, constant_stats, dy, x, stats, w, w_dtype, b, "
     "b_dtype, activation, dx, dw, dw_dtype, db, db_dtype, kept, n_kept)"},
    {"layer_norm2d_forward", reinterpret_cast<PyCFunction>(reinterpret_cast<void (*)()>(layer_norm2d_forward_py)),
     METH_FASTCALL, "(dtype, n_samples, n_channels, n_positions, eps, x, w, w_dtype, b, b_dtype, y, stats)"},
    {"layer_norm2d_backward", reinterpret_cast<PyCFunction>(reinterpret_cast<void (*)()>(layer_norm2d_backward_py)),
     METH_FASTCALL,
     "(dtype, n_samples, n_channels, n_positions, eps, dy, x, stats, w, w_dtype, dx, dw, dw_dtype, db, db_dtype)"},
    {"recurrent_forward", reinterpret_cast<PyCFunction>(reinterpret_cast<void (*)()>(recurrent_forward_py)),
     METH_FASTCALL,
     "(cell, place, norm, has_norm_c, n_hidden, n_steps, n_sequences, sizes, eps, w_hh, norm_w, norm_b, norm_c_w, "
     "norm_c_b, p, h0, c0, y, z, z_stats, c, c_stats, h_last, c_last)"},
    {"recurrent_backward", reinterpret_cast<PyCFunction>(reinterpret_cast<void (*)()>(recurrent_backward_py)),
     METH_FASTCALL,
     "(cell, place, norm, has_norm_c, n_hidden, n_steps, n_sequences, sizes, eps, w_hh, norm_w, norm_b, norm_c_w, "
     "norm_c_b, p, h0, c0, z, z_stats, c, c_stats, y, dy, dh_last, dc_last, da, dz, du, dh0, dc0)"},
    {"gru_forward", reinterpret_cast<PyCFunction>(reinterpret_cast<void (*)()>(gru_forward_py)), METH_FASTCALL,
     "(as recurrent_forward up to c0, b_hh, y, in_rz, in_n, q_n, stats_rz, stats_n, h_last)"},
    {"gru_backward", reinterpret_cast<PyCFunction>(reinterpret_cast<void (*)()>(gru_backward_py)), METH_FASTCALL,
     "(as recurrent_backward up to c0, b_hh, in_rz, in_n, q_n, stats_rz, stats_n, y, dy, dh_last, dp, dout_rz, dout_n, "
     "dq_rz, dq_n, dh0)"},
    {nullptr, nullptr, 0, nullptr},
};

PyModuleDef module = {PyModuleDef_HEAD_INIT, "_C",    "normkit's compiled kernels.", 0, methods, nullptr, nullptr,
                      nullptr,               nullptr};

}  // namespace

PyMODINIT_FUNC PyInit__C() { return torch_names.find() ? PyModule_Create(&module) : nullptr; }
