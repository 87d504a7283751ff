/// The caption search and the caption decoder for Python.
#pragma once

#include <pybind11/pybind11.h>

namespace yolor_edge {

void bind_captions(pybind11::module_& module);

}  // namespace yolor_edge
