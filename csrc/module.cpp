// normkit._C: the kernels for Python, past torch's dispatcher. Arguments are sizes and addresses as integers; the
// caller (normkit/kernels/cpu.py) answers for them. Limited API: one library for every Python from 3.10.
#define Py_LIMITED_API 0x030A0000
#include <Python.h>

#include <new>
#include <type_traits>

#include "core/batch_lstm.h"
#include "core/channel_norm.h"
#include "core/kernels.h"
#include "core/layer_norm2d.h"
#include "core/product.h"
#include "core/recurrent.h"
#include "core/row_norm.h"
#include "core/step_statistics.h"
#include "plain.h"
#include "table.h"
#include "torch_parallel.h"

namespace {

using namespace normkit;

// Reads the arguments of one call in order into the fields of the kernel's; ok() is false, and a Python error set, once one
// did not fit.
class Reader {
 public:
  Reader(PyObject* const* args, Py_ssize_t given) : next_(args), end_(args + given) {}

  template <class... Fields>
  Reader& operator()(Fields&... fields) {
    (read(fields), ...);
    return *this;
  }
  bool ok() const { return ok_; }
  // Whether that were all of the arguments.
  bool done() {
    if (ok_ && next_ != end_) fail("expected %zd arguments less", end_ - next_);
    return ok_;
  }

 private:
  PyObject* take() {
    if (ok_ && next_ == end_) fail("expected more arguments than these");
    return ok_ ? *next_++ : nullptr;
  }
  template <class... Values>
  void fail(const char* message, Values... values) {
    PyErr_Format(PyExc_TypeError, message, values...);
    ok_ = false;
  }

  void read(int64_t& field) {
    PyObject* const o = take();
    if (o == nullptr) return;
    field = PyLong_AsLongLong(o);
    ok_ = field != -1 || PyErr_Occurred() == nullptr;
  }
  void read(double& field) {
    PyObject* const o = take();
    if (o == nullptr) return;
    field = PyFloat_AsDouble(o);
    ok_ = field != -1.0 || PyErr_Occurred() == nullptr;
  }
  template <class T>
    requires(std::is_enum_v<T> || std::is_same_v<T, bool> || std::is_same_v<T, uint64_t>)
  void read(T& field) {
    int64_t value = 0;
    read(value);
    field = static_cast<T>(value);
  }
  template <class T>
  void read(T*& address) {
    PyObject* const o = take();
    if (o == nullptr) return;
    void* const value = PyLong_AsVoidPtr(o);
    ok_ = value != nullptr || PyErr_Occurred() == nullptr;
    address = static_cast<T*>(value);
  }
  void read(ConstArray& array) { (*this)(array.data, array.dtype); }
  void read(MutableArray& array) { (*this)(array.data, array.dtype); }
  void read(Dropout& dropout) { (*this)(dropout.p, dropout.seed); }
  void read(ChannelShape& s) { (*this)(s.layout, s.dtype, s.n_samples, s.n_channels, s.n_positions, s.n_groups); }
  void read(LayerNorm2dShape& s) { (*this)(s.dtype, s.n_samples, s.n_channels, s.n_positions); }

  PyObject* const* next_;
  PyObject* const* end_;
  bool ok_ = true;
};

// Other Python threads run meanwhile, unless the call is shorter than letting them.
template <class Args>
PyObject* run(Reader& in, void (*kernel)(const Args&), Args& args, int64_t elements) {
  if (!in.done()) return nullptr;
  args.parallel_for = torch_parallel;
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
  Reader in(args, n);
  RowNormForward a{};
  in(a.norm, a.dtype, a.n_rows, a.n_cols, a.eps, a.x, a.w, a.b, a.y, a.stats, a.residual, a.z, a.dropout);
  return run(in, row_norm_forward, a, a.n_rows * a.n_cols);
}

PyObject* row_norm_backward_py(PyObject*, PyObject* const* args, Py_ssize_t n) {
  Reader in(args, n);
  RowNormBackward a{};
  in(a.norm, a.dtype, a.n_rows, a.n_cols, a.eps, a.dy, a.x, a.stats, a.w, a.dz, a.dx, a.dropped, a.dropout, a.dw, a.db);
  return run(in, row_norm_backward, a, a.n_rows * a.n_cols);
}

PyObject* channel_norm_forward_py(PyObject*, PyObject* const* args, Py_ssize_t n) {
  Reader in(args, n);
  ChannelForward a{};
  in(a.shape, a.eps, a.x, a.residual, a.w, a.b, a.activation, a.mean, a.var, a.y, a.stats);
  in(a.running.mean, a.running.var, a.running.momentum, a.mask);
  return run(in, channel_norm_forward, a, a.shape.size());
}

PyObject* channel_norm_backward_py(PyObject*, PyObject* const* args, Py_ssize_t n) {
  Reader in(args, n);
  ChannelBackward a{};
  in(a.shape, a.eps, a.constant_stats, a.dy, a.x, a.stats, a.w, a.b, a.activation, a.dx, a.dw, a.db, a.mask);
  return run(in, channel_norm_backward, a, a.shape.size());
}

PyObject* layer_norm2d_forward_py(PyObject*, PyObject* const* args, Py_ssize_t n) {
  Reader in(args, n);
  LayerNorm2dForward a{};
  in(a.shape, a.eps, a.x, a.w, a.b, a.y, a.stats);
  return run(in, layer_norm2d_forward, a, size_of(a.shape));
}

PyObject* layer_norm2d_backward_py(PyObject*, PyObject* const* args, Py_ssize_t n) {
  Reader in(args, n);
  LayerNorm2dBackward a{};
  in(a.shape, a.eps, a.dy, a.x, a.stats, a.w, a.dx, a.dw, a.db);
  return run(in, layer_norm2d_backward, a, size_of(a.shape));
}

void read_recurrent(Reader& in, Recurrent& a) {
  in(a.cell, a.place, a.norm, a.has_norm_p, a.has_norm_c, a.n_hidden, a.n_out, a.n_steps, a.n_sequences, a.sizes, a.eps);
  in(a.p, a.h0, a.c0, a.w_hh, a.w_hr, a.b_ih, a.b_hh, a.norm_p_w.data, a.norm_p_b.data, a.norm_w.data, a.norm_b.data);
  in(a.norm_c_w.data, a.norm_c_b.data);
}

int64_t elements(const Recurrent& a) { return a.n_steps * a.n_sequences * a.gates(); }

PyObject* recurrent_forward_py(PyObject*, PyObject* const* args, Py_ssize_t n) {
  Reader in(args, n);
  RecurrentForward a{};
  read_recurrent(in, a);
  in(a.y, a.p_stats, a.z, a.z_stats, a.c, a.c_stats, a.h_last, a.c_last);
  return run(in, recurrent_forward, a, elements(a));
}

PyObject* recurrent_backward_py(PyObject*, PyObject* const* args, Py_ssize_t n) {
  Reader in(args, n);
  RecurrentBackward a{};
  read_recurrent(in, a);
  in(a.p_stats, a.z, a.z_stats, a.c, a.c_stats, a.y, a.dy, a.dh_last, a.dc_last, a.dp, a.dz, a.dh, a.m, a.dh0, a.dc0);
  in(a.db, a.dnorm_p_w, a.dnorm_p_b, a.dnorm_w, a.dnorm_b, a.dnorm_c_w, a.dnorm_c_b);
  return run(in, recurrent_backward, a, elements(a));
}

PyObject* gru_forward_py(PyObject*, PyObject* const* args, Py_ssize_t n) {
  Reader in(args, n);
  GruForward a{};
  read_recurrent(in, a);
  in(a.y, a.p_stats_rz, a.p_stats_n, a.z_rz, a.z_n, a.q_n, a.stats_rz, a.stats_n, a.h_last);
  return run(in, gru_forward, a, elements(a));
}

PyObject* gru_backward_py(PyObject*, PyObject* const* args, Py_ssize_t n) {
  Reader in(args, n);
  GruBackward a{};
  read_recurrent(in, a);
  in(a.p_stats_rz, a.p_stats_n, a.z_rz, a.z_n, a.q_n, a.stats_rz, a.stats_n, a.y, a.dy, a.dh_last, a.dp, a.dq, a.dh0);
  in(a.db, a.dnorm_p_w, a.dnorm_p_b, a.dnorm_w, a.dnorm_b);
  return run(in, gru_backward, a, elements(a));
}

void read_batch_lstm(Reader& in, BatchLstm& a) {
  in(a.n_hidden, a.n_out, a.n_steps, a.n_sequences, a.sizes, a.n_places, a.by_batch, a.eps, a.w_hh, a.w_hr);
  for (ColumnNorm* norm : {&a.ih, &a.hh, &a.sum, &a.c}) {
    in(norm->w, norm->b, norm->running_mean, norm->running_var, norm->stats);
  }
  in(a.u, a.h0, a.c0);
}

int64_t elements(const BatchLstm& a) { return a.n_steps * a.n_sequences * 4 * a.n_hidden; }

// True, or False where the kernel has found values that it cannot serve.
PyObject* batch_lstm_forward_py(PyObject*, PyObject* const* args, Py_ssize_t n) {
  Reader in(args, n);
  BatchLstmForward a{};
  read_batch_lstm(in, a);
  in(a.y, a.z, a.cells, a.h_last, a.c_last);
  bool out_of_range = false;
  a.out_of_range = &out_of_range;
  PyObject* const none = run(in, batch_lstm_forward, a, elements(a));
  if (none == nullptr) return nullptr;
  Py_DecRef(none);
  return PyBool_FromLong(!out_of_range);
}

PyObject* batch_lstm_backward_py(PyObject*, PyObject* const* args, Py_ssize_t n) {
  Reader in(args, n);
  BatchLstmBackward a{};
  read_batch_lstm(in, a);
  in(a.z, a.cells, a.dy, a.dh_last, a.dc_last, a.du, a.dz, a.dh, a.m, a.dh0, a.dc0);
  in(a.dw_ih, a.db_ih, a.dw_hh, a.db_hh, a.dw_sum, a.db_sum, a.dw_c, a.db_c);
  return run(in, batch_lstm_backward, a, elements(a));
}

PyObject* update_step_statistics_py(PyObject*, PyObject* const* args, Py_ssize_t n) {
  Reader in(args, n);
  StepStatistics a{};
  in(a.n_cols, a.n_steps, a.sizes, a.n_places, a.momentum, a.stats, a.running_mean, a.running_var);
  return run(in, update_step_statistics, a, a.n_steps * a.n_cols);
}

PyObject* multiply_py(PyObject*, PyObject* const* args, Py_ssize_t n) {
  Reader in(args, n);
  Product a{};
  in(a.n_rows, a.n_deep, a.n_cols, a.a, a.a_row, a.a_deep, a.b, a.b_deep, a.b_col, a.out);
  return run(in, multiply, a, a.n_rows * a.n_cols * a.n_deep);
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

PyObject* is_amd_with_avx512_py(PyObject*, PyObject*) { return PyBool_FromLong(is_amd_with_avx512()); }

PyObject* stream_bytes_py(PyObject*, PyObject*) { return PyLong_FromLongLong(stream_bytes()); }

PyObject* keep_freed_memory_py(PyObject*, PyObject*) {
  keep_freed_memory();
  Py_RETURN_NONE;
}

PyMethodDef methods[] = {
    {"isa", isa_py, METH_NOARGS, "The instruction set that the kernels use: portable, avx2, avx512 or avx512_bf16."},
    {"is_amd_with_avx512", is_amd_with_avx512_py, METH_NOARGS, "Whether this is a processor of AMD's that has AVX-512."},
    {"stream_bytes", stream_bytes_py, METH_NOARGS, "From how many bytes on outputs are written past the caches."},
    {"keep_freed_memory", keep_freed_memory_py, METH_NOARGS, "Lets the heap keep up to 64 MiB of what is freed."},
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
     "mean_dtype, var, var_dtype, y, stats, running_mean, its_dtype, running_var, its_dtype, momentum, mask)"},
    {"channel_norm_backward", reinterpret_cast<PyCFunction>(reinterpret_cast<void (*)()>(channel_norm_backward_py)),
     METH_FASTCALL,
     "(layout, dtype, n_samples, n_channels, n_positions, n_groups, eps, constant_stats, dy, x, stats, w, w_dtype, b, "
     "b_dtype, activation, dx, dw, dw_dtype, db, db_dtype, mask)"},
    {"layer_norm2d_forward", reinterpret_cast<PyCFunction>(reinterpret_cast<void (*)()>(layer_norm2d_forward_py)),
     METH_FASTCALL, "(dtype, n_samples, n_channels, n_positions, eps, x, w, w_dtype, b, b_dtype, y, stats)"},
    {"layer_norm2d_backward", reinterpret_cast<PyCFunction>(reinterpret_cast<void (*)()>(layer_norm2d_backward_py)),
     METH_FASTCALL,
     "(dtype, n_samples, n_channels, n_positions, eps, dy, x, stats, w, w_dtype, dx, dw, dw_dtype, db, db_dtype)"},
    {"recurrent_forward", reinterpret_cast<PyCFunction>(reinterpret_cast<void (*)()>(recurrent_forward_py)),
     METH_FASTCALL,
     "(cell, place, norm, has_norm_p, has_norm_c, n_hidden, n_out, n_steps, n_sequences, sizes, eps, p, h0, c0, w_hh, w_hr, b_ih, "
     "b_hh, norm_p_w, norm_p_b, norm_w, norm_b, norm_c_w, norm_c_b, y, p_stats, z, z_stats, c, c_stats, h_last, c_last)"},
    {"recurrent_backward", reinterpret_cast<PyCFunction>(reinterpret_cast<void (*)()>(recurrent_backward_py)),
     METH_FASTCALL,
     "(as recurrent_forward up to norm_c_b, p_stats, z, z_stats, c, c_stats, y, dy, dh_last, dc_last, dp, dz, dh, m, dh0, dc0, db, "
     "dnorm_p_w, dnorm_p_b, dnorm_w, dnorm_b, dnorm_c_w, dnorm_c_b)"},
    {"gru_forward", reinterpret_cast<PyCFunction>(reinterpret_cast<void (*)()>(gru_forward_py)), METH_FASTCALL,
     "(as recurrent_forward up to norm_c_b, y, p_stats_rz, p_stats_n, z_rz, z_n, q_n, stats_rz, stats_n, h_last)"},
    {"gru_backward", reinterpret_cast<PyCFunction>(reinterpret_cast<void (*)()>(gru_backward_py)), METH_FASTCALL,
     "(as recurrent_forward up to norm_c_b, p_stats_rz, p_stats_n, z_rz, z_n, q_n, stats_rz, stats_n, y, dy, dh_last, dp, dq, dh0, "
     "db, dnorm_p_w, dnorm_p_b, dnorm_w, dnorm_b)"},
    {"batch_lstm_forward", reinterpret_cast<PyCFunction>(reinterpret_cast<void (*)()>(batch_lstm_forward_py)),
     METH_FASTCALL,
     "(n_hidden, n_out, n_steps, n_sequences, sizes, n_places, by_batch, eps, w_hh, w_hr, for ih, hh, sum and c each: w, b, "
     "running_mean, running_var, stats; u, h0, c0, y, z, cells, h_last, c_last): whether all values were in range"},
    {"batch_lstm_backward", reinterpret_cast<PyCFunction>(reinterpret_cast<void (*)()>(batch_lstm_backward_py)),
     METH_FASTCALL,
     "(as batch_lstm_forward up to c0, z, cells, dy, dh_last, dc_last, du, dz, dh, m, dh0, dc0, then for ih, hh, sum and c "
     "each: dw, db)"},
    {"update_step_statistics", reinterpret_cast<PyCFunction>(reinterpret_cast<void (*)()>(update_step_statistics_py)),
     METH_FASTCALL, "(n_cols, n_steps, sizes, n_places, momentum, stats, running_mean, running_var)"},
    {"multiply", reinterpret_cast<PyCFunction>(reinterpret_cast<void (*)()>(multiply_py)), METH_FASTCALL,
     "(n_rows, n_deep, n_cols, a, a_row, a_deep, b, b_deep, b_col, out)"},
    {nullptr, nullptr, 0, nullptr},
};

PyModuleDef module = {PyModuleDef_HEAD_INIT, "_C",    "normkit's compiled kernels.", 0, methods, nullptr, nullptr,
                      nullptr,               nullptr};

// For normkit._eager, which calls the kernels without Python in between.
const KernelTable table = {torch_parallel,         row_norm_forward,      row_norm_backward,    channel_norm_forward,
                           channel_norm_backward, layer_norm2d_forward, layer_norm2d_backward};

PyObject* init() {
  if (!torch_names.find()) return nullptr;
  PyObject* const created = PyModule_Create(&module);
  PyObject* const capsule = PyCapsule_New(const_cast<KernelTable*>(&table), kTableName, nullptr);
  if (created == nullptr || capsule == nullptr || PyModule_AddObject(created, "table", capsule) < 0) return nullptr;
  return created;
}

}  // namespace

PyMODINIT_FUNC PyInit__C() { return init(); }
