/// Forms of masks for Python: crops into frames of bytes or bits, and into run-length codes.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <cstring>
#include <stdexcept>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "bindings_arguments.hpp"
#include "host/recycling.hpp"
#include "vision/bits.hpp"
#include "vision/rle.hpp"

namespace yolor_edge {
namespace {

using Size = std::pair<int64_t, int64_t>;

/// A crop as Python holds it, kept alive while it is read.
struct HeldCrop {
    py::array_t<uint8_t, py::array::c_style> pixels;
    int64_t y0;
    int64_t x0;
    int64_t height;
    int64_t width;
};

std::vector<HeldCrop> held_crops(const py::sequence& crops, int64_t height, int64_t width) {
    std::vector<HeldCrop> held;
    for (const py::handle& item : crops) {
        const auto [y0, x0, crop] = item.cast<std::tuple<int64_t, int64_t, py::array>>();
        require_dtype<uint8_t>("crop", crop);
        if (crop.ndim() != 2) refuse_shape("crop", "(height, width)", crop);
        if (y0 < 0 || x0 < 0 || y0 > height - crop.shape(0) || x0 > width - crop.shape(1)) {
            throw std::invalid_argument("every crop must lie inside the image, got one of shape " +
                                        shape_of(crop) + " at (" + std::to_string(y0) + ", " +
                                        std::to_string(x0) + ") of (" + std::to_string(height) + ", " +
                                        std::to_string(width) + ")");
        }
        held.push_back(
            {py::array_t<uint8_t, py::array::c_style>::ensure(crop), y0, x0, crop.shape(0), crop.shape(1)});
    }
    return held;
}

void require_frames(const py::array& frames, const py::sequence& crops, const std::string& sides) {
    const auto n = static_cast<py::ssize_t>(crops.size());
    if (frames.ndim() != 3 || frames.shape(0) != n) {
        refuse_shape("frames", "(" + std::to_string(n) + ", " + sides + ")", frames);
    }
    if (!(frames.flags() & py::array::c_style) || !frames.writeable()) {
        throw std::invalid_argument("frames must be C-contiguous and writable");
    }
}

/// Bytes of an array, or 0 where the shape is none or the number is too large, which numpy then says.
size_t bytes_of(const std::vector<py::ssize_t>& shape, py::ssize_t item) {
    size_t bytes = static_cast<size_t>(item);
    for (const py::ssize_t length : shape) {
        if (length < 0 || __builtin_mul_overflow(bytes, static_cast<size_t>(length), &bytes)) return 0;
    }
    return bytes;
}

/// An array of zeros like `numpy.zeros`, a large one in memory that is reused once the last
/// reference to the array and to every view of it is gone.
py::array cleared_array_binding(const std::vector<py::ssize_t>& shape, const py::dtype& dtype) {
    const size_t bytes = bytes_of(shape, dtype.itemsize());
    MemoryBlock* block = bytes < kLeastRecycled || dtype.kind() == 'O' ? nullptr : acquire_block(bytes);
    if (block == nullptr) {
        return py::module_::import("numpy").attr("zeros")(py::cast(shape), dtype).cast<py::array>();
    }
    const py::capsule owner(block, [](void* used) { release_block(static_cast<MemoryBlock*>(used)); });
    if (!block->is_clear) {
        const py::gil_scoped_release unlocked;
        std::memset(block->data, 0, bytes);
    }
    return py::array(dtype, shape, block->data, owner);
}

/// Write crops into frames (N, height, width), or zeros in their place.
void paste_crops_binding(const py::array& frames, const py::sequence& crops, bool erase) {
    require_dtype<bool>("frames", frames);
    require_frames(frames, crops, "height, width");
    const int64_t height = frames.shape(1);
    const int64_t width = frames.shape(2);
    const std::vector<HeldCrop> held = held_crops(crops, height, width);
    auto* frame = static_cast<uint8_t*>(py::array(frames).mutable_data());
    const py::gil_scoped_release unlocked;
    for (const HeldCrop& crop : held) {
        uint8_t* first = frame + crop.y0 * width + crop.x0;
        const uint8_t* pixels = crop.pixels.data();
        for (int64_t y = 0; y < crop.height; ++y) {
            uint8_t* row = first + y * width;
            if (erase) {
                std::fill(row, row + crop.width, uint8_t{0});
            } else {
                std::copy(pixels + y * crop.width, pixels + (y + 1) * crop.width, row);
            }
        }
        frame += height * width;
    }
}

/// Write crops into frames of bits (N, height, (width + 7) / 8).
void paste_bits_binding(const py::array& frames, const py::sequence& crops, int64_t width) {
    require_dtype<uint8_t>("frames", frames);
    require_at_least("width", 0, width);
    const int64_t row_bytes = (width + 7) / 8;
    require_frames(frames, crops, "height, " + std::to_string(row_bytes));
    if (frames.shape(2) != row_bytes) {
        refuse_shape("frames", "(N, height, " + std::to_string(row_bytes) + ")", frames);
    }
    const int64_t height = frames.shape(1);
    const std::vector<HeldCrop> held = held_crops(crops, height, width);
    auto* frame = static_cast<uint8_t*>(py::array(frames).mutable_data());
    const py::gil_scoped_release unlocked;
    for (const HeldCrop& crop : held) {
        const uint8_t* pixels = crop.pixels.data();
        for (int64_t y = 0; y < crop.height; ++y) {
            set_bits(pixels + y * crop.width, crop.width, crop.x0, frame + (crop.y0 + y) * row_bytes);
        }
        frame += height * row_bytes;
    }
}

py::list rle_codes_binding(const py::sequence& crops, Size image_size) {
    require_positive("image_size", image_size.first, image_size.second);
    const std::vector<HeldCrop> held = held_crops(crops, image_size.first, image_size.second);
    std::vector<std::string> codes;
    {
        const py::gil_scoped_release unlocked;
        for (const HeldCrop& crop : held) {
            codes.push_back(rle_code(crop.pixels.data(), crop.height, crop.width, crop.width, crop.y0,
                                     crop.x0, image_size.first, image_size.second));
        }
    }
    py::list result;
    for (const std::string& code : codes) {
        py::dict entry;
        entry["size"] = std::vector<int64_t>{image_size.first, image_size.second};
        entry["counts"] = code;
        result.append(entry);
    }
    return result;
}

}  // namespace

void bind_masks(py::module_& module) {
    module.def("cleared_array", &cleared_array_binding, py::arg("shape"), py::arg("dtype"));
    module.def("drop_kept_memory", &drop_kept_blocks);
    module.def("paste_crops", &paste_crops_binding, py::arg("frames"), py::arg("crops"),
               py::arg("erase") = false);
    module.def("paste_bits", &paste_bits_binding, py::arg("frames"), py::arg("crops"), py::arg("width"));
    module.def("rle_codes", &rle_codes_binding, py::arg("crops"), py::arg("image_size"));
}

}  // namespace yolor_edge
