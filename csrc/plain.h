// Whether the tensors of a call are plain beyond doubt: dense on the CPU, of a dtype that has kernels, contiguous and of
// no subclass. Asked through Python's attributes, for the stable ABI has no way from an object to its tensor; a
// "no" means that the call must be looked at with care, not that it is wrong.
#pragma once

#define Py_LIMITED_API 0x030A0000
#include <Python.h>

#include <cstdint>
#include <initializer_list>

namespace normkit {

// Owns one reference.
class Ref {
 public:
  explicit Ref(PyObject* object) : object_(object) {}
  Ref(const Ref&) = delete;
  Ref& operator=(const Ref&) = delete;
  ~Ref() { Py_XDECREF(object_); }
  PyObject* get() const { return object_; }
  bool is(PyObject* other) const { return object_ != nullptr && object_ == other; }

 private:
  PyObject* object_;
};

// What to compare with, found once: torch is imported before normkit._C is.
struct TorchNames {
  PyObject* tensor;
  PyObject* parameter;
  PyObject* strided;
  PyObject* dtypes[4];  // in the order of DType
  PyObject *is_cpu, *dtype, *layout, *is_nested, *is_neg, *is_zerotensor, *is_contiguous, *shape, *requires_grad;

  // False, and a Python error set, if torch is not as it should be.
  bool find() {
    const Ref torch(PyImport_ImportModule("torch"));
    const Ref nn(PyImport_ImportModule("torch.nn"));
    if (torch.get() == nullptr || nn.get() == nullptr) return false;
    const auto of_torch = [&](const char* name) { return PyObject_GetAttrString(torch.get(), name); };
    tensor = of_torch("Tensor");
    parameter = PyObject_GetAttrString(nn.get(), "Parameter");
    strided = of_torch("strided");
    const char* const names[] = {"float32", "bfloat16", "float16", "float64"};
    for (int i = 0; i < 4; ++i) dtypes[i] = of_torch(names[i]);
    is_cpu = PyUnicode_InternFromString("is_cpu");
    dtype = PyUnicode_InternFromString("dtype");
    layout = PyUnicode_InternFromString("layout");
    is_nested = PyUnicode_InternFromString("is_nested");
    is_neg = PyUnicode_InternFromString("is_neg");
    is_zerotensor = PyUnicode_InternFromString("_is_zerotensor");  // of zeros in no memory
    is_contiguous = PyUnicode_InternFromString("is_contiguous");
    shape = PyUnicode_InternFromString("shape");
    requires_grad = PyUnicode_InternFromString("requires_grad");
    return PyErr_Occurred() == nullptr;
  }

  bool says(PyObject* t, PyObject* name, PyObject* wanted) const {
    return Ref(PyObject_GetAttr(t, name)).is(wanted);
  }
  bool calls(PyObject* t, PyObject* name, PyObject* wanted) const {
    return Ref(PyObject_CallMethodObjArgs(t, name, nullptr)).is(wanted);
  }

  // The number of a plain tensor's dtype, or -1.
  int plain(PyObject* t) const {
    PyObject* const type = reinterpret_cast<PyObject*>(Py_TYPE(t));
    if (type != tensor && type != parameter) return -1;
    if (!says(t, is_cpu, Py_True) || !says(t, layout, strided) || !says(t, is_nested, Py_False)) return -1;
    if (!calls(t, is_contiguous, Py_True) || !calls(t, is_neg, Py_False) || !calls(t, is_zerotensor, Py_False)) return -1;
    const Ref found(PyObject_GetAttr(t, dtype));
    for (int i = 0; i < 4; ++i) {
      if (found.is(dtypes[i])) return i;
    }
    return -1;
  }

  // Whether p is None, or a plain tensor of this shape that kernels take beside x: x's dtype, or float32.
  bool plain_parameter(PyObject* p, PyObject* wanted_shape, int x_dtype) const {
    if (p == Py_None) return true;
    const int own = plain(p);
    constexpr int kFloat32 = 0, kFloat64 = 3;
    if (own < 0 || (own != x_dtype && (own != kFloat32 || x_dtype == kFloat64))) return false;
    const Ref found(PyObject_GetAttr(p, shape));
    return found.get() != nullptr && PyObject_RichCompareBool(found.get(), wanted_shape, Py_EQ) == 1;
  }
};

// The number of columns of a row norm over the axes `sizes` (a tuple) of x with these parameters, or -1.
inline int64_t plain_rows(const TorchNames& torch, PyObject* x, PyObject* sizes, PyObject* w, PyObject* b) {
  const int dtype = torch.plain(x);
  if (dtype < 0 || !PyTuple_Check(sizes)) return -1;
  const Ref shape(PyObject_GetAttr(x, torch.shape));
  if (shape.get() == nullptr) return -1;
  const Py_ssize_t n_axes = PyTuple_Size(sizes), first = PyTuple_Size(shape.get()) - n_axes;
  if (n_axes < 1 || first < 0) return -1;
  int64_t n_cols = 1;
  for (Py_ssize_t i = 0; i < n_axes; ++i) {
    PyObject* const wanted = PyTuple_GetItem(sizes, i);
    if (!PyLong_CheckExact(wanted)) return -1;
    const int64_t size = PyLong_AsLongLong(wanted);
    if (size != PyLong_AsLongLong(PyTuple_GetItem(shape.get(), first + i))) return -1;
    n_cols *= size;
  }
  const bool plain = torch.plain_parameter(w, sizes, dtype) && torch.plain_parameter(b, sizes, dtype);
  return plain ? n_cols : -1;
}

// Whether x is a plain (N, C, *) with values, w and b are None or plain parameters of (C), and so are mean and var, which
// may have any dtype but need no gradient.
inline bool plain_channels(const TorchNames& torch, PyObject* x, PyObject* w, PyObject* b, PyObject* mean, PyObject* var) {
  const int dtype = torch.plain(x);
  if (dtype < 0) return false;
  const Ref shape(PyObject_GetAttr(x, torch.shape));
  if (shape.get() == nullptr || PyTuple_Size(shape.get()) < 2) return false;
  for (Py_ssize_t i = 0; i < PyTuple_Size(shape.get()); ++i) {
    if (PyLong_AsLongLong(PyTuple_GetItem(shape.get(), i)) < 1) return false;
  }
  const Ref channels(PyTuple_GetSlice(shape.get(), 1, 2));
  if (channels.get() == nullptr || !torch.plain_parameter(w, channels.get(), dtype)) return false;
  if (!torch.plain_parameter(b, channels.get(), dtype)) return false;
  for (PyObject* const statistic : {mean, var}) {
    if (statistic == Py_None) continue;
    const Ref found(torch.plain(statistic) < 0 ? nullptr : PyObject_GetAttr(statistic, torch.shape));
    if (found.get() == nullptr || PyObject_RichCompareBool(found.get(), channels.get(), Py_EQ) != 1) return false;
    if (!torch.says(statistic, torch.requires_grad, Py_False)) return false;
  }
  return true;
}

// Whether residual is plain, and of the shape and dtype of x, which is.
inline bool plain_sum(const TorchNames& torch, PyObject* x, PyObject* residual) {
  const int dtype = torch.plain(residual);
  if (dtype < 0 || dtype != torch.plain(x)) return false;
  const Ref shape(PyObject_GetAttr(x, torch.shape)), other(PyObject_GetAttr(residual, torch.shape));
  return shape.get() != nullptr && other.get() != nullptr &&
         PyObject_RichCompareBool(shape.get(), other.get(), Py_EQ) == 1;
}

}  // namespace normkit
