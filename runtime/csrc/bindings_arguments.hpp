/// Arguments of the bindings: what is asked of arrays, and the words that refuse others.
#pragma once

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <stdexcept>
#include <string>

#include "vision/heads.hpp"

namespace yolor_edge {

namespace py = pybind11;

std::string text_of(const py::handle& value);
std::string shape_of(const py::array& array);

[[noreturn]] void refuse_shape(const char* name, const std::string& expected, const py::array& array);

template <class Value>
void require_dtype(const char* name, const py::array& array) {
    if (py::isinstance<py::array_t<Value>>(array)) return;
    throw std::invalid_argument(std::string(name) + " must have dtype " + text_of(py::dtype::of<Value>()) +
                                ", got " + text_of(array.dtype()));
}

inline bool is_aligned(const py::array& array) {
    return (array.flags() & py::detail::npy_api::NPY_ARRAY_ALIGNED_) != 0;
}

/// Whether an array holds half-precision numbers in this machine's byte order.
bool is_half(const py::array& array);

void require_at_least(const char* name, int64_t lowest, int64_t value);
void require_positive(const char* name, int64_t height, int64_t width);

/// The number of threads a call may use.
int checked_threads(int64_t threads);

/// A head as Python holds it, kept alive while it is read.
struct HeldHead {
    py::array values;
    HeadView view;

    py::ssize_t shape(py::ssize_t axis) const { return values.shape(axis); }
};

/// A head of rank 2, (channels, columns), or 3, (channels, rows, columns): an array of float32 or float16, or
/// (an array of uint8 or int8, scale, zero_point). It is read where it lies, whatever its strides; only an
/// array whose elements lie askew in memory is copied.
HeldHead held_head(const char* name, const py::object& given, py::ssize_t rank, const std::string& expected);

/// Forms of masks: crops put into frames of bytes or bits, run-length codes.
void bind_masks(py::module_& module);

/// The tracker, and the assignment it stands on.
void bind_tracking(py::module_& module);

}  // namespace yolor_edge
