#include "bindings_arguments.hpp"

#include <cmath>
#include <utility>

#include "host/parallel.hpp"

namespace yolor_edge {
namespace {

/// (values, scale, zero_point) of a head in bytes.
void take_quantisation(const char* name, const py::tuple& given, HeldHead* head) {
    const auto refuse = [&](const std::string& what) {
        throw std::invalid_argument(std::string(name) + " in bytes must be (array, scale, zero_point)" +
                                    what);
    };
    if (given.size() != 3) refuse(", got a tuple of " + std::to_string(given.size()));
    const auto scale = given[1].cast<double>();
    head->view.scale = static_cast<float>(scale);
    if (!std::isfinite(head->view.scale) || !(head->view.scale > 0.0f)) {
        refuse(" with a positive scale, got scale " + text_of(given[1]));
    }
    const bool is_signed = py::isinstance<py::array_t<int8_t>>(head->values);
    const auto zero_point = given[2].cast<int64_t>();
    const int64_t lowest = is_signed ? -128 : 0;
    if (zero_point < lowest || zero_point > lowest + 255) {
        refuse(" with a zero point that a byte can be, got " + text_of(given[2]));
    }
    head->view.zero_point = static_cast<int32_t>(zero_point);
}

}  // namespace

std::string text_of(const py::handle& value) {
    return py::str(value).cast<std::string>();
}

std::string shape_of(const py::array& array) {
    return text_of(array.attr("shape"));
}

void refuse_shape(const char* name, const std::string& expected, const py::array& array) {
    throw std::invalid_argument(std::string(name) + " must have shape " + expected + ", got " +
                                shape_of(array));
}

bool is_half(const py::array& array) {
    return array.dtype().kind() == 'f' && array.itemsize() == 2 && array.dtype().byteorder() != '>';
}

void require_at_least(const char* name, int64_t lowest, int64_t value) {
    if (value < lowest) {
        throw std::invalid_argument(std::string(name) + " must be at least " + std::to_string(lowest) +
                                    ", got " + std::to_string(value));
    }
}

void require_positive(const char* name, int64_t height, int64_t width) {
    constexpr int64_t kLargest = 1 << 20;
    if (height < 1 || width < 1 || height > kLargest || width > kLargest) {
        throw std::invalid_argument(std::string(name) + " must be (height, width), each 1 to 1048576, got (" +
                                    std::to_string(height) + ", " + std::to_string(width) + ")");
    }
}

int checked_threads(int64_t threads) {
    if (threads < 1 || threads > kMostThreads) {
        throw std::invalid_argument("threads must lie in 1.." + std::to_string(kMostThreads) + ", got " +
                                    std::to_string(threads));
    }
    return static_cast<int>(threads);
}

HeldHead held_head(const char* name, const py::object& given, py::ssize_t rank, const std::string& expected) {
    const bool is_pair = py::isinstance<py::tuple>(given);
    const auto pair = is_pair ? py::reinterpret_borrow<py::tuple>(given) : py::tuple();
    const py::object values = is_pair && !pair.empty() ? py::object(pair[0]) : given;
    if (!py::isinstance<py::array>(values)) {
        throw py::type_error(std::string(name) + " must be an array or (array, scale, zero_point), got " +
                             text_of(py::type::of(values).attr("__name__")));
    }
    HeldHead head{py::reinterpret_borrow<py::array>(values), {}};
    if (py::isinstance<py::array_t<uint8_t>>(values) || py::isinstance<py::array_t<int8_t>>(values)) {
        if (!is_pair) {
            throw std::invalid_argument(std::string(name) + " of dtype " + text_of(head.values.dtype()) +
                                        " must come as (array, scale, zero_point)");
        }
        head.view.type = py::isinstance<py::array_t<uint8_t>>(values) ? HeadType::uint8 : HeadType::int8;
        take_quantisation(name, pair, &head);
    } else if (is_pair) {
        throw std::invalid_argument(std::string(name) + " with a scale must have dtype uint8 or int8, got " +
                                    text_of(head.values.dtype()));
    } else if (is_half(head.values)) {
        head.view.type = HeadType::float16;
    } else {
        require_dtype<float>(name, head.values);
    }
    if (head.values.ndim() != rank) refuse_shape(name, expected, head.values);
    const py::ssize_t size = head.values.itemsize();
    bool is_askew = !is_aligned(head.values);
    for (py::ssize_t axis = 0; axis < rank; ++axis) is_askew |= head.values.strides(axis) % size != 0;
    if (is_askew) head.values = py::array(head.values.attr("copy")("C"));
    head.view.data = head.values.data();
    head.view.channel_stride = head.values.strides(0) / size;
    head.view.row_stride = rank == 3 ? head.values.strides(1) / size : 0;
    head.view.column_stride = head.values.strides(rank - 1) / size;
    return head;
}

}  // namespace yolor_edge
