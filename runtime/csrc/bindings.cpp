/// With the other files of this name, what knows Python: checks arguments, allocates results, releases the
/// GIL, calls one kernel.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <cmath>
#include <initializer_list>
#include <limits>
#include <optional>
#include <stdexcept>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "bindings_arguments.hpp"
#include "bindings_captions.hpp"
#include "host/scratch.hpp"
#include "simd/cpu_features.hpp"
#include "simd/half.hpp"
#include "vision/boxes.hpp"
#include "vision/letterbox.hpp"
#include "vision/masks.hpp"
#include "vision/nms.hpp"
#include "vision/sampling.hpp"
#include "vision/semantic.hpp"

using namespace yolor_edge;

namespace {

/// An array the caller gave to be written into: exactly this dtype and shape, contiguous and writable.
template <class Value>
py::array_t<Value> output_array(const std::optional<py::array>& given, const std::vector<py::ssize_t>& shape,
                                const std::string& expected) {
    if (!given) return py::array_t<Value>(shape);
    require_dtype<Value>("out", *given);
    if (std::vector<py::ssize_t>(given->shape(), given->shape() + given->ndim()) != shape) {
        refuse_shape("out", expected, *given);
    }
    if (!(given->flags() & py::array::c_style) || !is_aligned(*given) || !given->writeable()) {
        throw std::invalid_argument(
            "out must be C-contiguous, aligned and writable; call numpy.empty for one that is");
    }
    return py::reinterpret_borrow<py::array_t<Value>>(*given);
}

ImageView yuv_view(const py::array& image, const std::string& layout) {
    const bool is_nv12 = layout == "nv12";
    const char* expected =
        is_nv12 ? "(height * 3 / 2, width), height and width even" : "(height, width, 2), width even";
    const bool fits = is_nv12 ? image.ndim() == 2 && image.shape(0) % 3 == 0 && image.shape(1) % 2 == 0
                              : image.ndim() == 3 && image.shape(2) == 2 && image.shape(1) % 2 == 0;
    if (!fits) refuse_shape("image", expected, image);
    if (image.size() == 0) {
        throw std::invalid_argument("image must have at least one pixel, got shape " + shape_of(image));
    }
    const py::ssize_t pixel = is_nv12 ? 1 : 2;
    if (image.strides(1) != pixel || (!is_nv12 && image.strides(2) != 1)) {
        throw std::invalid_argument("rows of a " + layout +
                                    " image must be packed; call numpy.ascontiguousarray");
    }
    const py::ssize_t height = is_nv12 ? image.shape(0) / 3 * 2 : image.shape(0);
    require_positive("image size", height, image.shape(1));
    return {
        static_cast<const uint8_t*>(image.data()),      height, image.shape(1), 3, image.strides(0), pixel, 1,
        is_nv12 ? PixelLayout::nv12 : PixelLayout::yuyv};
}

ImageView image_view(const py::array& image, const std::string& layout = "bgr") {
    require_dtype<uint8_t>("image", image);
    if (layout == "nv12" || layout == "yuyv") return yuv_view(image, layout);
    if (layout != "bgr") {
        throw std::invalid_argument("layout must be bgr, nv12 or yuyv, got " + layout);
    }
    if (!(image.ndim() == 2 || (image.ndim() == 3 && (image.shape(2) == 3 || image.shape(2) == 1)))) {
        refuse_shape("image", "(height, width, 3) or (height, width)", image);
    }
    if (image.size() == 0) {
        throw std::invalid_argument("image must have at least one pixel, got shape " + shape_of(image));
    }
    require_positive("image size", image.shape(0), image.shape(1));
    const bool has_channels = image.ndim() == 3;
    return {static_cast<const uint8_t*>(image.data()), image.shape(0),          image.shape(1),
            has_channels ? image.shape(2) : 1,         image.strides(0),        image.strides(1),
            has_channels ? image.strides(2) : 1,       PixelLayout::interleaved};
}

void require_apart(const char* name, const py::array& input, const py::array& out) {
    if (py::module_::import("numpy").attr("may_share_memory")(input, out).cast<bool>()) {
        throw std::invalid_argument(std::string("out must not share memory with ") + name);
    }
}

/// The one of `known` (name, value) that is called so.
template <class Value>
Value named(const char* argument, const std::string& name,
            std::initializer_list<std::pair<const char*, Value>> known) {
    std::string names;
    for (const auto& [candidate, value] : known) {
        if (name == candidate) return value;
        names += (names.empty() ? "" : ", ") + std::string(candidate);
    }
    throw std::invalid_argument(std::string(argument) + " must be one of " + names + ", got " + name);
}

Rounding rounding_of(const std::string& name) {
    return named<Rounding>("rounding", name,
                           {{"half_up", Rounding::half_up}, {"half_even", Rounding::half_even}});
}

py::array_t<float> letterbox_binding(const py::array& image, int64_t height, int64_t width, uint8_t pad_value,
                                     bool swap_rb, const std::optional<py::array>& out, double scale,
                                     const std::string& layout, int64_t threads,
                                     const std::string& rounding_name) {
    const ImageView view = image_view(image, layout);
    const Rounding rounding = rounding_of(rounding_name);
    const int thread_count = checked_threads(threads);
    require_positive("input size", height, width);
    auto output = output_array<float>(out, {3, height, width}, "(3, height, width) of the input");
    if (out) require_apart("image", image, output);
    float* data = output.mutable_data();
    {
        py::gil_scoped_release unlocked;
        letterbox(view, height, width, pad_value, swap_rb, static_cast<float>(scale), data, thread_count,
                  rounding);
    }
    return output;
}

py::array_t<uint8_t> letterbox_u8_binding(const py::array& image, int64_t height, int64_t width,
                                          uint8_t pad_value, bool swap_rb,
                                          const std::optional<py::array>& out,
                                          const std::string& rounding_name) {
    const ImageView view = image_view(image);
    const Rounding rounding = rounding_of(rounding_name);
    require_positive("input size", height, width);
    auto output = output_array<uint8_t>(out, {height, width, 3}, "(height, width, 3) of the input");
    if (out) require_apart("image", image, output);
    uint8_t* data = output.mutable_data();
    {
        py::gil_scoped_release unlocked;
        letterbox_u8(view, height, width, pad_value, swap_rb, data, rounding);
    }
    return output;
}

std::tuple<int64_t, int64_t, int64_t, int64_t> letterbox_geometry_binding(
    std::pair<int64_t, int64_t> image_size, std::pair<int64_t, int64_t> input_size,
    const std::string& rounding) {
    require_positive("image_size", image_size.first, image_size.second);
    require_positive("input_size", input_size.first, input_size.second);
    const LetterboxGeometry geometry = letterbox_geometry(
        image_size.first, image_size.second, input_size.first, input_size.second, rounding_of(rounding));
    return {geometry.resized_height, geometry.resized_width, geometry.pad_top, geometry.pad_left};
}

// Arguments of the kernels that read the heads.

using FloatArray = py::array_t<float, py::array::c_style>;
using Size = std::pair<int64_t, int64_t>;

/// A float16 array widened to float32.
FloatArray widened(const py::array& array) {
    const py::array packed =
        array.flags() & py::array::c_style && is_aligned(array) ? array : py::array(array.attr("copy")("C"));
    FloatArray values(std::vector<py::ssize_t>(packed.shape(), packed.shape() + packed.ndim()));
    const auto* halves = static_cast<const uint16_t*>(packed.data());
    float* data = values.mutable_data();
    const auto n = static_cast<size_t>(packed.size());
    {
        py::gil_scoped_release unlocked;
        widen_half(halves, n, data);
    }
    return values;
}

FloatArray widen_half_binding(const py::array& halves) {
    if (!is_half(halves)) {
        throw std::invalid_argument("halves must have dtype float16, got " +
                                    py::str(halves.dtype()).cast<std::string>());
    }
    return widened(halves);
}

/// `array` as contiguous, aligned float32 of rank `rank`: itself, or a copy where it is neither.
FloatArray float_array(const char* name, const py::array& array, py::ssize_t rank,
                       const std::string& expected) {
    require_dtype<float>(name, array);
    if (array.ndim() != rank) refuse_shape(name, expected, array);
    if (!is_aligned(array)) return FloatArray::ensure(array.attr("copy")());
    return FloatArray::ensure(array);
}

/// `boxes` of shape (n, 4); n = -1 takes any.
FloatArray box_array(const py::array& boxes, py::ssize_t n = -1) {
    const std::string expected = n < 0 ? "(N, 4)" : "(" + std::to_string(n) + ", 4)";
    FloatArray array = float_array("boxes", boxes, 2, expected);
    if (array.shape(1) != 4 || (n >= 0 && array.shape(0) != n)) refuse_shape("boxes", expected, boxes);
    return array;
}

void require_unit_interval(const char* name, double value) {
    if (!(value >= 0.0 && value <= 1.0)) {
        throw std::invalid_argument(std::string(name) + " must lie in 0..1, got " +
                                    text_of(py::float_(value)));
    }
}

/// (scale_y, scale_x, pad_top, pad_left) of a letterbox.
using Geometry = std::tuple<double, double, int64_t, int64_t>;

struct ImageFrame {
    AxisFrame vertical;
    AxisFrame horizontal;
};

ImageFrame image_frame(const Geometry& geometry, int64_t stride, int64_t grid_height, int64_t grid_width) {
    const auto [scale_y, scale_x, pad_top, pad_left] = geometry;
    const bool is_sound = std::isfinite(scale_y) && std::isfinite(scale_x) && scale_y > 0.0 &&
                          scale_x > 0.0 && pad_top >= 0 && pad_left >= 0;
    if (!is_sound) {
        throw std::invalid_argument(
            "geometry must be (scale_y, scale_x, pad_top, pad_left) with positive scales and padding of at "
            "least 0, "
            "got " +
            text_of(py::cast(geometry)));
    }
    require_at_least("stride", 1, stride);
    return {{scale_y, pad_top, stride, grid_height}, {scale_x, pad_left, stride, grid_width}};
}

template <class Value>
py::array_t<Value> array_of(const std::vector<Value>& values, const std::vector<py::ssize_t>& shape) {
    py::array_t<Value> array(shape);
    std::copy(values.begin(), values.end(), array.mutable_data());
    return array;
}

/// The cells that the columns of the heads are of, each within a grid of `count`.
std::vector<int32_t> chosen_cells(const py::array& cells, int64_t count) {
    require_dtype<int32_t>("cells", cells);
    if (cells.ndim() != 1 || cells.size() == 0) refuse_shape("cells", "(K,), K at least 1", cells);
    const auto values = py::array_t<int32_t, py::array::c_style | py::array::forcecast>::ensure(cells);
    std::vector<int32_t> chosen(values.data(), values.data() + values.size());
    for (const int32_t cell : chosen) {
        if (cell < 0 || cell >= count) {
            throw std::invalid_argument("cells must lie in 0.." + std::to_string(count - 1) + ", got " +
                                        std::to_string(cell));
        }
    }
    return chosen;
}

/// The columns that the heads have to have, with the cells they are of.
HeadGrid head_grid(const std::vector<int64_t>& strides, Size input_size, BoxCoding coding,
                   const std::optional<int64_t>& box_count, const std::optional<py::array>& chosen) {
    require_positive("input_size", input_size.first, input_size.second);
    for (const int64_t stride : strides) {
        require_at_least("strides", 1, stride);
        if (input_size.first % stride != 0 || input_size.second % stride != 0) {
            throw std::invalid_argument("input_size must be divisible by every stride, got " +
                                        text_of(py::cast(input_size)) + " and stride " +
                                        std::to_string(stride));
        }
    }
    if (box_count.has_value() != (coding == BoxCoding::xyxy)) {
        throw std::invalid_argument("box_count goes with the box_coding xyxy, and with no other");
    }
    HeadGrid grid{strides, input_size.first, input_size.second};
    if (box_count) {
        require_at_least("box_count", 1, *box_count);
        grid.box_count = *box_count;
    }
    if (chosen) grid.chosen = chosen_cells(*chosen, grid.cells());
    return grid;
}

py::tuple decode_boxes_binding(const py::object& scores, const py::object& boxes,
                               const std::vector<int64_t>& strides, Size input_size, double score_threshold,
                               double iou_threshold, int64_t max_detections, int64_t max_candidates,
                               bool class_agnostic, const std::optional<py::array>& chosen, int64_t threads,
                               const std::string& box_coding_name, const std::string& score_coding_name,
                               const std::optional<int64_t>& box_count) {
    const int thread_count = checked_threads(threads);
    const auto box_coding =
        named<BoxCoding>("box_coding", box_coding_name,
                         {{"dfl", BoxCoding::dfl}, {"ltrb", BoxCoding::ltrb}, {"xyxy", BoxCoding::xyxy}});
    const auto score_coding =
        named<ScoreCoding>("score_coding", score_coding_name,
                           {{"logits", ScoreCoding::logits}, {"probabilities", ScoreCoding::probabilities}});
    const HeadGrid grid = head_grid(strides, input_size, box_coding, box_count, chosen);
    const int64_t cells = grid.columns();
    const std::string cell_count = std::to_string(cells);
    const HeldHead score_values = held_head("scores", scores, 2, "(C, " + cell_count + ")");
    if (score_values.shape(1) != cells)
        refuse_shape("scores", "(C, " + cell_count + ")", score_values.values);
    if (score_values.values.size() > std::numeric_limits<int32_t>::max()) {
        throw std::invalid_argument("scores must have fewer than 2^31 values, got shape " +
                                    shape_of(score_values.values));
    }
    const bool has_bins = box_coding == BoxCoding::dfl;
    const std::string box_shape = (has_bins ? "(4 * bins, " : "(4, ") + cell_count + ")";
    const HeldHead box_values = held_head("boxes", boxes, 2, box_shape);
    const bool are_rows_right =
        has_bins ? box_values.shape(0) != 0 && box_values.shape(0) % 4 == 0 : box_values.shape(0) == 4;
    if (!are_rows_right || box_values.shape(1) != cells) refuse_shape("boxes", box_shape, box_values.values);
    if (std::isnan(score_threshold)) throw std::invalid_argument("score_threshold must be a number, got nan");
    require_unit_interval("iou_threshold", iou_threshold);
    require_at_least("max_detections", 0, max_detections);
    require_at_least("max_candidates", 0, max_candidates);
    const DecodeOptions options{score_threshold, static_cast<float>(iou_threshold), max_detections,
                                max_candidates, class_agnostic};
    const BoxHeads heads{score_values.view,       score_values.shape(0), box_values.view,
                         box_values.shape(0) / 4, score_coding,          box_coding};
    thread_local Detections found;
    {
        py::gil_scoped_release unlocked;
        decode_boxes(heads, grid, options, thread_count, &found);
    }
    const auto n = static_cast<py::ssize_t>(found.scores.size());
    return py::make_tuple(array_of(found.boxes, {n, 4}), array_of(found.scores, {n}),
                          array_of(found.class_ids, {n}), array_of(found.cells, {n}));
}

py::array_t<int32_t> nms_binding(const py::array& boxes, const py::array& scores, const py::array& class_ids,
                                 double iou_threshold, int64_t max_detections, bool class_agnostic) {
    const FloatArray box_values = box_array(boxes);
    const py::ssize_t n = box_values.shape(0);
    const std::string expected = "(" + std::to_string(n) + ",)";
    const FloatArray score_values = float_array("scores", scores, 1, expected);
    if (score_values.size() != n) refuse_shape("scores", expected, scores);
    if (!py::isinstance<py::array_t<int64_t>>(class_ids)) require_dtype<int32_t>("class_ids", class_ids);
    if (class_ids.ndim() != 1 || class_ids.size() != n) refuse_shape("class_ids", expected, class_ids);
    require_unit_interval("iou_threshold", iou_threshold);
    require_at_least("max_detections", 0, max_detections);
    if (n > std::numeric_limits<int32_t>::max()) refuse_shape("boxes", "(N, 4), N below 2^31", boxes);
    const auto class_values =
        py::array_t<int32_t, py::array::c_style | py::array::forcecast>::ensure(class_ids);
    const float* box_data = box_values.data();
    const float* score_data = score_values.data();
    const int32_t* class_data = class_values.data();
    thread_local std::vector<int32_t> kept, order, sorted_classes;
    thread_local std::vector<float> sorted_boxes;
    {
        py::gil_scoped_release unlocked;
        const auto size = static_cast<size_t>(n);
        const auto limit = static_cast<size_t>(max_detections);
        order.resize(size);
        order.resize(order_by_score(box_data, score_data, size, order.data()));
        sorted_boxes.clear();
        sorted_classes.clear();
        sorted_boxes.reserve(4 * order.size());
        sorted_classes.reserve(order.size());
        for (const int32_t i : order) {
            const float* box = box_data + 4 * static_cast<int64_t>(i);
            sorted_boxes.insert(sorted_boxes.end(), box, box + 4);
            sorted_classes.push_back(class_data[i]);
        }
        kept.resize(std::min(order.size(), limit));
        kept.resize(nms(sorted_boxes.data(), sorted_classes.data(), order.size(),
                        static_cast<float>(iou_threshold), limit, class_agnostic, kept.data()));
        for (int32_t& index : kept) index = order[static_cast<size_t>(index)];
        trim(&order, &sorted_classes, &sorted_boxes);
    }
    return array_of(kept, {static_cast<py::ssize_t>(kept.size())});
}

py::list mask_crops_binding(const py::object& prototypes, const py::object& coefficients,
                            const py::array& boxes, Size image_size, const Geometry& geometry, int64_t stride,
                            int64_t threads) {
    const int thread_count = checked_threads(threads);
    const HeldHead prototype_values = held_head("prototypes", prototypes, 3, "(K, h, w)");
    if (prototype_values.values.size() == 0) {
        refuse_shape("prototypes", "(K, h, w), each at least 1", prototype_values.values);
    }
    const py::ssize_t channels = prototype_values.shape(0);
    const std::string expected = "(N, " + std::to_string(channels) + ")";
    const HeldHead coefficient_values = held_head("coefficients", coefficients, 2, expected);
    if (coefficient_values.shape(1) != channels) {
        refuse_shape("coefficients", expected, coefficient_values.values);
    }
    const py::ssize_t n = coefficient_values.shape(0);
    const FloatArray box_values = box_array(boxes, n);
    require_positive("image_size", image_size.first, image_size.second);
    const ImageFrame frame =
        image_frame(geometry, stride, prototype_values.shape(1), prototype_values.shape(2));

    // All crops lie in one block of memory, each a view that keeps it alive.
    std::vector<PixelRegion> regions;
    std::vector<py::ssize_t> starts;
    py::ssize_t bytes = 0;
    for (py::ssize_t i = 0; i < n; ++i) {
        regions.push_back(region_of_box(box_values.data() + 4 * i, image_size.first, image_size.second));
        starts.push_back(bytes);
        bytes += static_cast<py::ssize_t>(regions.back().height * regions.back().width);
    }
    py::array_t<uint8_t> block(bytes);
    std::vector<MaskTarget> targets;
    for (size_t i = 0; i < regions.size(); ++i) {
        targets.push_back({block.mutable_data() + starts[i], regions[i].width});
    }
    {
        py::gil_scoped_release unlocked;
        fill_masks(prototype_values.view, channels, coefficient_values.view, frame.vertical, frame.horizontal,
                   image_size.first, image_size.second, regions.size(), regions.data(), targets.data(),
                   thread_count);
    }
    py::list result;
    for (size_t i = 0; i < regions.size(); ++i) {
        const PixelRegion& region = regions[i];
        result.append(
            py::make_tuple(region.y0, region.x0,
                           py::array_t<uint8_t>({region.height, region.width}, targets[i].data, block)));
    }
    return result;
}

py::array_t<uint8_t> semantic_argmax_binding(const py::object& logits, Size image_size,
                                             const Geometry& geometry, int64_t stride,
                                             const std::optional<py::array>& out, int64_t threads) {
    const int thread_count = checked_threads(threads);
    const char* expected = "(S, h, w) with 1 to 256 classes S";
    const HeldHead values = held_head("logits", logits, 3, expected);
    if (values.values.size() == 0 || values.shape(0) > 256) refuse_shape("logits", expected, values.values);
    require_positive("image_size", image_size.first, image_size.second);
    const ImageFrame frame = image_frame(geometry, stride, values.shape(1), values.shape(2));
    auto map =
        output_array<uint8_t>(out, {image_size.first, image_size.second}, "(height, width) of the image");
    if (out) require_apart("logits", values.values, map);
    {
        const int64_t classes = values.shape(0);
        uint8_t* map_data = map.mutable_data();
        py::gil_scoped_release unlocked;
        semantic_argmax(values.view, classes, frame.vertical, frame.horizontal, image_size.first,
                        image_size.second, thread_count, map_data);
    }
    return map;
}

std::vector<std::string> simd_levels() {
    std::vector<std::string> names;
    for (int i = 0; i <= static_cast<int>(best_simd_level()); ++i) {
        names.emplace_back(simd_level_name(static_cast<SimdLevel>(i)));
    }
    return names;
}

void set_simd_level_binding(const std::string& name) {
    SimdLevel level;
    if (!find_simd_level(name.c_str(), &level)) {
        throw std::invalid_argument("simd level must be one of " + simd_level_names() + ", got " + name);
    }
    set_simd_level(level);
}

}  // namespace

PYBIND11_MODULE(_native, module) {
    require_simd_level();  // pybind11 makes an ImportError of it
    module.doc() = "Kernels of the runtime. Arguments, results and errors are described in _native.pyi.";
    module.def("letterbox_geometry", &letterbox_geometry_binding, py::arg("image_size"),
               py::arg("input_size"), py::arg("rounding") = "half_up");
    module.def("letterbox", &letterbox_binding, py::arg("image"), py::arg("height"), py::arg("width"),
               py::arg("pad_value") = 114, py::arg("swap_rb") = true, py::arg("out") = py::none(),
               py::arg("scale") = 1.0 / 255.0, py::arg("layout") = "bgr", py::arg("threads") = 1,
               py::arg("rounding") = "half_up");
    module.def("letterbox_u8", &letterbox_u8_binding, py::arg("image"), py::arg("height"), py::arg("width"),
               py::arg("pad_value") = 114, py::arg("swap_rb") = true, py::arg("out") = py::none(),
               py::arg("rounding") = "half_up");
    module.def("decode_boxes", &decode_boxes_binding, py::arg("scores"), py::arg("boxes"), py::arg("strides"),
               py::arg("input_size"), py::arg("score_threshold") = 0.25, py::arg("iou_threshold") = 0.65,
               py::arg("max_detections") = 300, py::arg("max_candidates") = 30000,
               py::arg("class_agnostic") = false, py::arg("cells") = py::none(), py::arg("threads") = 1,
               py::arg("box_coding") = "dfl", py::arg("score_coding") = "logits",
               py::arg("box_count") = py::none());
    module.def("nms", &nms_binding, py::arg("boxes"), py::arg("scores"), py::arg("class_ids"),
               py::arg("iou_threshold") = 0.65, py::arg("max_detections") = 300,
               py::arg("class_agnostic") = false);
    module.def("mask_crops", &mask_crops_binding, py::arg("prototypes"), py::arg("coefficients"),
               py::arg("boxes"), py::arg("image_size"), py::arg("geometry"), py::arg("stride") = 4,
               py::arg("threads") = 1);
    module.def("widen_half", &widen_half_binding, py::arg("halves"));
    module.def("simd_level", [] { return simd_level_name(simd_level()); });
    module.def("simd_levels", &simd_levels);
    module.def("set_simd_level", &set_simd_level_binding, py::arg("name"));
    module.def("semantic_argmax", &semantic_argmax_binding, py::arg("logits"), py::arg("image_size"),
               py::arg("geometry"), py::arg("stride") = 8, py::arg("out") = py::none(),
               py::arg("threads") = 1);
    bind_masks(module);
    bind_captions(module);
    bind_tracking(module);
}
