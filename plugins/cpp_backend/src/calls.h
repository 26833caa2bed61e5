// What Python calls with arrays, which are NumPy's: kernels and views of eager calls, and plans. For bindings.cpp alone.
#pragma once

#define NPY_NO_DEPRECATED_API NPY_2_0_API_VERSION
#include <nanobind/nanobind.h>
#include <numpy/arrayobject.h>

#include <cstdlib>
#include <span>

#include "executable.h"
#include "products.h"
#include "widened.h"

namespace needle {

namespace nb = nanobind;

using Arguments = std::span<PyObject* const>;

[[noreturn]] inline void refuse(const char* message) {
  PyErr_SetString(PyExc_TypeError, message);
  nb::raise_python_error();
}

// What Python's exception is for one of a kernel, and what it says.
inline std::pair<PyObject*, std::string> as_python(const std::exception_ptr& failure) {
  try {
    std::rethrow_exception(failure);
  } catch (const std::out_of_range& cause) {
    return {PyExc_IndexError, cause.what()};
  } catch (const std::domain_error& cause) {
    return {PyExc_ValueError, cause.what()};
  } catch (const std::bad_alloc&) {
    return {PyExc_MemoryError, "no room for what the kernel needs"};
  } catch (const std::exception& cause) {
    return {PyExc_RuntimeError, cause.what()};
  }
}

// A builtin function of its arguments, as the interpreter calls it fastest.
template <auto call>
nb::object builtin(const char* name, PyObject* self = nullptr) {
  using Fast = PyObject* (*)(PyObject*, PyObject* const*, Py_ssize_t);
  static PyMethodDef definition = {name, reinterpret_cast<PyCFunction>(reinterpret_cast<void (*)()>(Fast(call))), METH_FASTCALL,
                                   nullptr};
  return nb::steal(PyCFunction_New(&definition, self));
}

// The call of an object as a builtin function: what the interpreter does for one takes 0.05 us, and for an object 0.2.
template <class C>
nb::object function(nb::handle object) {
  static constexpr auto call = [](PyObject* self, PyObject* const* args, Py_ssize_t n) -> PyObject* {
    try {
      return (*nb::inst_ptr<C>(self))(Arguments(args, static_cast<size_t>(n))).release().ptr();
    } catch (nb::python_error& error) {
      error.restore();
    } catch (...) {
      auto [type, message] = as_python(std::current_exception());
      PyErr_SetString(type, message.c_str());
    }
    return nullptr;
  };
  return builtin<call>("kernel", object.ptr());
}

// Whether a NumPy array has memory of its own, row after row, that may be written.
inline bool owns(PyObject* array) {
  constexpr int kOwns = NPY_ARRAY_OWNDATA | NPY_ARRAY_CARRAY;
  return PyArray_Check(array) && PyArray_CHKFLAGS(reinterpret_cast<PyArrayObject*>(array), kOwns);
}

// The same as a function for the interpreter.
inline nb::object owns_function() {
  auto call = [](PyObject*, PyObject* array) -> PyObject* { return PyBool_FromLong(owns(array)); };
  static PyMethodDef definition = {"owns", call, METH_O, nullptr};
  return nb::steal(PyCFunction_New(&definition, nullptr));
}

// What needle_core.backend says of `Backend.alone`, as a function for the interpreter.
inline nb::object alone_function() {
  static constexpr auto call = [](PyObject*, PyObject* const* args, Py_ssize_t n) -> PyObject* {
    Py_ssize_t most = n ? PyLong_AsSsize_t(args[0]) : 0;
    if (most == -1 && PyErr_Occurred()) return nullptr;
    bool all = true;
    for (Py_ssize_t i = 1; i < n && all; ++i) all = Py_REFCNT(args[i]) <= most && owns(args[i]);
    return PyBool_FromLong(all);
  };
  return builtin<call>("alone");
}

// A new array of a shape and dtype, as NumPy describes them.
struct Result {
  Sizes shape;
  nb::object descr;

  nb::object make() const {
    auto* type = reinterpret_cast<PyArray_Descr*>(descr.ptr());
    Py_INCREF(type);
    PyObject* made = PyArray_Empty(static_cast<int>(shape.size()), shape.data(), type, 0);
    if (!made) nb::raise_python_error();
    return nb::steal(made);
  }
};

inline PyArrayObject* first_of(Arguments args) {
  if (args.empty() || !PyArray_Check(args[0])) refuse("buffers of this backend are NumPy arrays");
  return reinterpret_cast<PyArrayObject*>(args[0]);
}

// `object` as an array that lies row after row: itself, or a copy that `keep` keeps alive.
inline PyArrayObject* dense(PyObject* object, nb::object& keep) {
  if (!PyArray_Check(object)) refuse("buffers of this backend are NumPy arrays");
  auto* array = reinterpret_cast<PyArrayObject*>(object);
  if (PyArray_IS_C_CONTIGUOUS(array) && PyArray_ISALIGNED(array)) return array;
  keep = nb::steal(PyArray_NewCopy(array, NPY_CORDER));
  if (!keep.is_valid()) nb::raise_python_error();
  return reinterpret_cast<PyArrayObject*>(keep.ptr());
}

// For eager calls that copy nothing where they need not: the first operand in another shape, or with its axes in another order.
class Arranged {
 public:
  Arranged(Sizes sizes, bool is_order) : sizes_(std::move(sizes)), is_order_(is_order) {}

  nb::object operator()(Arguments args) {
    PyArray_Dims dims{sizes_.data(), static_cast<int>(sizes_.size())};
    PyArrayObject* x = first_of(args);
    PyObject* y = is_order_ ? PyArray_Transpose(x, &dims) : PyArray_Newshape(x, &dims, NPY_CORDER);
    if (!y) nb::raise_python_error();
    return nb::steal(y);
  }

 private:
  Sizes sizes_;
  bool is_order_;
};

// The first operand repeated: a view of it, which is read-only.
class Repeated {
 public:
  explicit Repeated(Sizes shape) : shape_(std::move(shape)) {}

  nb::object operator()(Arguments args) const {
    PyArrayObject* x = first_of(args);
    int axes = static_cast<int>(shape_.size()), missing = axes - PyArray_NDIM(x);
    Sizes steps(shape_.size());
    for (int axis = missing; axis < axes; ++axis) {
      steps[axis] = PyArray_DIM(x, axis - missing) == 1 ? 0 : PyArray_STRIDE(x, axis - missing);
    }
    Py_INCREF(PyArray_DESCR(x));
    nb::object y = nb::steal(
        PyArray_NewFromDescr(&PyArray_Type, PyArray_DESCR(x), axes, shape_.data(), steps.data(), PyArray_DATA(x), 0, nullptr));
    Py_INCREF(x);
    if (!y.is_valid() || PyArray_SetBaseObject(reinterpret_cast<PyArrayObject*>(y.ptr()), reinterpret_cast<PyObject*>(x)) < 0) {
      nb::raise_python_error();
    }
    return y;
  }

 private:
  Sizes shape_;
};

// A kernel for eager calls: arrays in, new arrays out.
class Call {
 public:
  Call(std::shared_ptr<const Kernel> kernel, size_t inputs, std::vector<std::pair<Sizes, nb::object>> results, bool is_tuple)
      : kernel_(std::move(kernel)), inputs_(inputs), is_tuple_(is_tuple) {
    for (auto& [shape, descr] : results) results_.push_back({shape, descr});
  }

  nb::object operator()(Arguments args) const {
    if (args.size() != inputs_) refuse("another number of operands than the kernel was made for");
    constexpr size_t kFew = 16;
    const void* few[kFew];
    nb::object copies[kFew];
    std::vector<const void*> many;
    std::vector<nb::object> many_copies;
    const void** in = few;
    nb::object* keep = copies;
    if (inputs_ > kFew) {
      many.resize(inputs_), many_copies.resize(inputs_);
      in = many.data(), keep = many_copies.data();
    }
    for (size_t i = 0; i < inputs_; ++i) in[i] = PyArray_DATA(dense(args[i], keep[i]));
    nb::object made[kFew];
    void* out[kFew];
    for (size_t i = 0; i < results_.size(); ++i) {
      made[i] = results_[i].make();
      out[i] = PyArray_DATA(reinterpret_cast<PyArrayObject*>(made[i].ptr()));
    }
    {
      nb::gil_scoped_release released;
      int64_t bytes = kernel_->scratch_bytes();
      std::unique_ptr<void, decltype(&std::free)> scratch(bytes ? std::aligned_alloc(64, aligned(bytes)) : nullptr, std::free);
      if (bytes && !scratch) throw std::bad_alloc();
      kernel_->run(in, out, scratch.get());
    }
    if (!is_tuple_) return made[0];
    nb::object all = nb::steal(PyTuple_New(static_cast<Py_ssize_t>(results_.size())));
    for (size_t i = 0; i < results_.size(); ++i) PyTuple_SET_ITEM(all.ptr(), i, made[i].release().ptr());
    return all;
  }

 private:
  std::shared_ptr<const Kernel> kernel_;
  size_t inputs_;
  std::vector<Result> results_;
  bool is_tuple_;
};

// A matrix product for eager calls. An operand that is the transpose of an array which lies row after row is read as it lies,
// as in a plan that has the transpose as part of the product: the numbers are the same.
class ProductCall {
 public:
  ProductCall(DType dtype, Sizes a, Sizes b, std::pair<Sizes, nb::object> result)
      : dtype_(dtype), shapes_{std::move(a), std::move(b)}, result_{result.first, result.second} {
    calls_[0] = make(false, false);
  }

  nb::object operator()(Arguments args) {
    if (args.size() != 2) refuse("a product has two operands");
    int form = 0;
    nb::object operands[2];
    for (int k = 0; k < 2; ++k) {
      PyObject* given = args[k];
      bool turned = is_transposed(given);
      operands[k] = turned ? nb::steal(PyArray_SwapAxes(reinterpret_cast<PyArrayObject*>(given),
                                                        PyArray_NDIM(reinterpret_cast<PyArrayObject*>(given)) - 2,
                                                        PyArray_NDIM(reinterpret_cast<PyArrayObject*>(given)) - 1))
                           : nb::borrow(given);
      form |= turned << k;
    }
    if (!calls_[form]) calls_[form] = make(form & 1, form & 2);
    PyObject* const turned[] = {operands[0].ptr(), operands[1].ptr()};
    return (*calls_[form])(turned);
  }

 private:
  static bool is_transposed(PyObject* object) {
    if (!PyArray_Check(object)) return false;
    auto* array = reinterpret_cast<PyArrayObject*>(object);
    int axes = PyArray_NDIM(array);
    if (axes < 2 || PyArray_IS_C_CONTIGUOUS(array) || !PyArray_ISALIGNED(array)) return false;
    npy_intp step = PyArray_ITEMSIZE(array);
    auto lies = [&](int axis) {
      bool fits = PyArray_STRIDE(array, axis) == step || PyArray_DIM(array, axis) == 1;
      step *= PyArray_DIM(array, axis);
      return fits;
    };
    if (!lies(axes - 2) || !lies(axes - 1)) return false;
    for (int axis = axes - 3; axis >= 0; --axis) {
      if (!lies(axis)) return false;
    }
    return true;
  }

  std::unique_ptr<Call> make(bool transpose_a, bool transpose_b) const {
    auto turned = [](Sizes shape, bool transposed) {
      if (transposed) std::swap(shape[shape.size() - 1], shape[shape.size() - 2]);
      return shape;
    };
    Sizes a = turned(shapes_[0], transpose_a), b = turned(shapes_[1], transpose_b);
    std::shared_ptr<const Kernel> kernel =
        make_product(is_half(dtype_) ? DType::Float32 : dtype_, a, b, transpose_a, transpose_b, false);
    if (is_half(dtype_)) kernel = make_widened(kernel, {{a, dtype_}, {b, dtype_}}, {{result_.shape, dtype_}});
    return std::make_unique<Call>(kernel, 2, std::vector<std::pair<Sizes, nb::object>>{{result_.shape, result_.descr}}, false);
  }

  DType dtype_;
  Sizes shapes_[2];
  Result result_;
  std::unique_ptr<Call> calls_[4];  // by which operands are transposed
};

using Where = std::pair<int, int64_t>;
using Step = std::tuple<std::shared_ptr<const Kernel>, std::vector<Where>, std::vector<Where>>;

inline std::vector<Task> tasks(const std::vector<Step>& steps) {
  std::vector<Task> made;
  auto places = [](const std::vector<Where>& from) {
    std::vector<needle::Place> to;
    for (auto& [base, offset] : from) to.push_back({base, offset});
    return to;
  };
  for (auto& [kernel, inputs, outputs] : steps) made.push_back({kernel, places(inputs), places(outputs)});
  return made;
}

// A plan for compiled calls.
class Plan {
 public:
  // `results` are the new arrays; `outputs` says for each output of the plan what it is: the number of an input (0 ...), of a
  // result, counted on from the inputs, or of a constant, counted on from the results. Places are (base, offset in bytes), base
  // 0 being the arena and the others counted from 1 in the same order.
  Plan(size_t inputs, std::vector<std::pair<Sizes, nb::object>> results, std::vector<nb::object> constants,
       std::vector<int> outputs, std::vector<Step> steps, int64_t arena)
      : inputs_(inputs),
        constants_(std::move(constants)),
        outputs_(std::move(outputs)),
        steps_(steps.size()),
        executable_(tasks(steps), arena) {
    for (auto& [shape, descr] : results) results_.push_back({shape, descr});
    copies_.resize(constants_.size());
    for (size_t i = 0; i < constants_.size(); ++i)
      constant_data_.push_back(PyArray_DATA(dense(constants_[i].ptr(), copies_[i])));
  }

  nb::object operator()(Arguments args) const {
    std::vector<void*> bases(1 + inputs_ + results_.size() + constants_.size());
    std::vector<nb::object> keep(inputs_ + results_.size());
    fill(args, bases, keep);
    try {
      nb::gil_scoped_release released;
      executable_.run(bases.data());
    } catch (const TaskError& error) {
      raise(error);
    }
    nb::object all = nb::steal(PyTuple_New(static_cast<Py_ssize_t>(outputs_.size())));
    for (size_t i = 0; i < outputs_.size(); ++i) {
      size_t k = outputs_[i];
      PyObject* y = k < inputs_                     ? args[k]
                    : k < inputs_ + results_.size() ? keep[k].ptr()
                                                    : constants_[k - inputs_ - results_.size()].ptr();
      Py_INCREF(y);
      PyTuple_SET_ITEM(all.ptr(), i, y);
    }
    return all;
  }

  // The seconds that each step took in one run on `args`, whose donated inputs are written.
  std::vector<double> profile(nb::args args) const {
    std::vector<void*> bases(1 + inputs_ + results_.size() + constants_.size());
    std::vector<nb::object> keep(inputs_ + results_.size());
    fill({reinterpret_cast<PyTupleObject*>(args.ptr())->ob_item, args.size()}, bases, keep);
    std::vector<double> seconds(steps_);
    try {
      executable_.run_timed(bases.data(), seconds.data());
    } catch (const TaskError& error) {
      raise(error);
    }
    return seconds;
  }

 private:
  void fill(Arguments args, std::vector<void*>& bases, std::vector<nb::object>& keep) const {
    if (args.size() != inputs_) refuse("another number of inputs than the plan has");
    size_t base = 1;
    for (size_t i = 0; i < inputs_; ++i) bases[base++] = PyArray_DATA(dense(args[i], keep[i]));
    for (size_t i = 0; i < results_.size(); ++i) {
      keep[inputs_ + i] = results_[i].make();
      bases[base++] = PyArray_DATA(reinterpret_cast<PyArrayObject*>(keep[inputs_ + i].ptr()));
    }
    for (void* data : constant_data_) bases[base++] = data;
  }

  // The kernel's exception as Python's, its arguments the message and the number of the step.
  [[noreturn]] static void raise(const TaskError& error) {
    auto [type, message] = as_python(error.cause);
    PyErr_SetObject(type, nb::make_tuple(message, error.task).ptr());
    nb::raise_python_error();
  }

  size_t inputs_;
  std::vector<Result> results_;
  std::vector<nb::object> constants_, copies_;
  std::vector<void*> constant_data_;
  std::vector<int> outputs_;
  size_t steps_;
  Executable executable_;
};

}  // namespace needle
