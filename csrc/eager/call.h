// The arguments of a call from Python, as the tensors and numbers that they stand for.
#pragma once

#include <cmath>
#include <limits>

#include "plain.h"

namespace normkit {

// The arguments of a call, read one after the other; ok() is false once one of them must be looked at with care.
class Arguments {
 public:
  Arguments(PyObject* const* args, Py_ssize_t given, Py_ssize_t wanted) : next_(args) {
    ok_ = given == wanted && is_plain_here();
  }
  bool ok() const { return ok_; }
  void require(bool condition) { ok_ = ok_ && condition; }

  at::Tensor tensor() {
    PyObject* const o = take();
    if (o == nullptr || !THPVariable_CheckExact(o) || !is_plain(THPVariable_Unpack(o))) return fail();
    return THPVariable_Unpack(o);
  }
  at::Tensor tensor_or_none() {
    if (ok_ && *next_ == Py_None) return ++next_, at::Tensor();
    return tensor();
  }
  // A weight or bias of x.
  at::Tensor parameter(at::IntArrayRef shape, const at::Tensor& x) {
    at::Tensor p = tensor_or_none();
    require(!p.defined() || (p.sizes() == shape && p.is_contiguous() && fits(p, x)));
    return p;
  }
  // A mean or variance of each channel.
  at::Tensor statistic(const at::Tensor& x) {
    at::Tensor s = tensor_or_none();
    require(!s.defined() || (s.dim() == 1 && s.size(0) == x.size(1) && s.is_contiguous() && !s.requires_grad()));
    return s;
  }
  // Which positions of x count.
  at::Tensor mask(const at::Tensor& x) {
    PyObject* const o = take();
    if (o == nullptr || o == Py_None) return {};
    if (!THPVariable_CheckExact(o)) return fail();
    at::Tensor m = THPVariable_Unpack(o);
    require(is_mask_of(m, x));
    return m;
  }
  // The number of x's last axes that an integer or a sequence of integers gives the sizes of.
  int64_t axes(const at::Tensor& x) {
    PyObject* const sizes = take();
    if (sizes == nullptr) return 0;
    if (PyLong_CheckExact(sizes)) return require(x.dim() > 0 && is_size(sizes, x.size(-1))), 1;
    if (!PyTuple_Check(sizes) && !PyList_CheckExact(sizes)) return require(false), 0;
    const Py_ssize_t n = PySequence_Fast_GET_SIZE(sizes);
    require(n >= 1 && n <= x.dim());
    for (Py_ssize_t i = 0; ok_ && i < n; ++i) require(is_size(PySequence_Fast_GET_ITEM(sizes, i), x.size(x.dim() - n + i)));
    return n;
  }
  double real() {
    PyObject* const o = take();
    require(o != nullptr && PyFloat_CheckExact(o));
    return ok_ ? PyFloat_AS_DOUBLE(o) : 0.0;
  }
  double eps() {
    const double value = real();
    require(value >= 0.0 && std::isfinite(value));
    return value;
  }
  // None stands for that of the dtype which x is computed in.
  double rms_eps(const at::Tensor& x) {
    if (!ok_ || *next_ != Py_None) return eps();
    ++next_;
    return x.scalar_type() == at::kDouble ? std::numeric_limits<double>::epsilon()
                                          : double(std::numeric_limits<float>::epsilon());
  }
  int64_t integer() {
    PyObject* const o = take();
    require(o != nullptr && PyLong_CheckExact(o));
    int overflow = 0;
    const int64_t value = ok_ ? PyLong_AsLongLongAndOverflow(o, &overflow) : 0;
    require(overflow == 0);
    return value;
  }
  bool truth() {
    PyObject* const o = take();
    require(o == Py_True || o == Py_False);
    return o == Py_True;
  }
  Activation activation() {
    PyObject* const o = take();
    if (o == nullptr || o == Py_None) return Activation::kNone;
    require(PyUnicode_CheckExact(o));
    constexpr std::pair<const char*, Activation> kNames[] = {
        {"relu", Activation::kRelu}, {"silu", Activation::kSilu}, {"gelu", Activation::kGelu}};
    for (const auto& [name, activation] : kNames) {
      if (ok_ && PyUnicode_CompareWithASCIIString(o, name) == 0) return activation;
    }
    return require(false), Activation::kNone;
  }

 private:
  PyObject* take() { return ok_ ? *next_++ : nullptr; }
  at::Tensor fail() {
    ok_ = false;
    return {};
  }
  static bool is_size(PyObject* o, int64_t size) {
    int overflow = 0;
    return PyLong_CheckExact(o) && PyLong_AsLongLongAndOverflow(o, &overflow) == size && overflow == 0;
  }

  PyObject* const* next_;
  bool ok_;
};

}  // namespace normkit
