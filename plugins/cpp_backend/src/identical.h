// Whether Python objects are the very ones that they were: what a compiled function asks at each call. For bindings.cpp alone.
//
// As in Python's own C functions -1 says that an exception is set, and else an int is a bool.
#pragma once

#include "calls.h"

namespace needle {

// Whether `container` holds the objects of the list `content`, the values of a dict before its keys. Sets ValueError where
// there are more or fewer.
inline int holds(PyObject* container, PyObject* content) {
  Py_ssize_t size = PyList_GET_SIZE(content), n = 0;
  bool same = true;
  auto is = [&](Py_ssize_t i, PyObject* object) { same = same && i < size && PyList_GET_ITEM(content, i) == object; };
  if (PyDict_Check(container)) {
    Py_ssize_t count = PyDict_GET_SIZE(container), position = 0;
    PyObject *key, *value;
    for (Py_ssize_t i = 0; PyDict_Next(container, &position, &key, &value); ++i) is(i, value), is(count + i, key);
    n = 2 * count;
  } else if (PyList_Check(container)) {
    for (n = 0; n < PyList_GET_SIZE(container); ++n) is(n, PyList_GET_ITEM(container, n));
  } else {
    nb::object iterator = nb::steal(PyObject_GetIter(container));
    if (!iterator.is_valid()) return -1;
    while (PyObject* object = PyIter_Next(iterator.ptr())) {
      is(n++, object);
      Py_DECREF(object);
    }
    if (PyErr_Occurred()) return -1;
  }
  if (n == size) return same;
  PyErr_SetString(PyExc_ValueError, "more or fewer");
  return -1;
}

// A new reference to mapping[name], or to `absent`; null if an exception is set.
inline PyObject* item(PyObject* mapping, PyObject* name, PyObject* absent) {
  bool is_dict = PyDict_Check(mapping);
  PyObject* found = is_dict ? Py_XNewRef(PyDict_GetItemWithError(mapping, name)) : PyObject_GetItem(mapping, name);
  if (found) return found;
  if (PyErr_Occurred() && !PyErr_ExceptionMatches(PyExc_KeyError)) return nullptr;
  PyErr_Clear();
  return Py_NewRef(absent);
}

// A new reference to owner.name, which for the cell of a closure is what it contains; null if an exception is set.
inline PyObject* attribute(PyObject* owner, PyObject* name) {
  bool is_filled = PyCell_Check(owner) && PyCell_GET(owner);
  return is_filled ? Py_NewRef(PyCell_GET(owner)) : PyObject_GetAttr(owner, name);
}

// What needle_core.backend says of `Backend.identical`.
inline int identical(PyObject* containers, PyObject* contents, PyObject* items, PyObject* absent, PyObject* attributes,
                     PyObject* values) {
  for (Py_ssize_t i = 0; i < PyList_GET_SIZE(containers); ++i) {
    int same = holds(PyList_GET_ITEM(containers, i), PyList_GET_ITEM(contents, i));
    if (same != 1) return same;
  }
  Py_ssize_t named = PyList_GET_SIZE(items);
  for (Py_ssize_t i = 0; i < PyList_GET_SIZE(values); ++i) {
    PyObject* pair = i < named ? PyList_GET_ITEM(items, i) : PyList_GET_ITEM(attributes, i - named);
    PyObject *owner = PyTuple_GET_ITEM(pair, 0), *name = PyTuple_GET_ITEM(pair, 1);
    PyObject* found = i < named ? item(owner, name, absent) : attribute(owner, name);
    if (!found) return -1;
    bool same = found == PyList_GET_ITEM(values, i);
    Py_DECREF(found);
    if (!same) return false;
  }
  return true;
}

// The same as a function for the interpreter.
inline nb::object identical_function() {
  static constexpr auto call = [](PyObject*, PyObject* const* args, Py_ssize_t n) -> PyObject* {
    if (n != 6) return PyErr_Format(PyExc_TypeError, "identical has six arguments, not %zd", n);
    int same = identical(args[0], args[1], args[2], args[3], args[4], args[5]);
    return same < 0 ? nullptr : PyBool_FromLong(same);
  };
  return builtin<call>("identical");
}

}  // namespace needle
