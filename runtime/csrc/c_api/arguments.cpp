#include "arguments.hpp"

#include <cmath>
#include <cstdio>

#include "host/parallel.hpp"

namespace yolor_edge::c_api {
namespace {

constexpr size_t kLongestError = 1024;
thread_local char last_error[kLongestError] = "";

void require_head(const char* name, const yolor_edge_head* head) {
    require_known(name, head);
    const std::string what(name);
    require_given((what + ".data").c_str(), head->data);
    int64_t elements = 1;
    for (const int64_t length : {head->channels, head->rows, head->columns}) {
        if (length < 1 || length > kMostElements / elements) {
            throw std::invalid_argument(
                what +
                " must have channels, rows and columns of at least 1 and at most 2^40 "
                "elements, got " +
                std::to_string(head->channels) + ", " + std::to_string(head->rows) + ", " +
                std::to_string(head->columns));
        }
        elements *= length;
    }
    require_between((what + ".dtype").c_str(), YOLOR_EDGE_FLOAT32, YOLOR_EDGE_INT8, head->dtype);
    if (head->dtype < YOLOR_EDGE_UINT8) return;
    require_between((what + ".zero_point").c_str(), -128, 255, head->zero_point);
    if (!(std::isfinite(head->scale) && head->scale > 0.0)) {
        throw std::invalid_argument(what + ".scale must be a number above 0, got " +
                                    std::to_string(head->scale));
    }
}

}  // namespace

yolor_edge_status fail(yolor_edge_status status, const char* what) noexcept {
    std::snprintf(last_error, sizeof last_error, "%s", what);
    return status;
}

HeadView view_of(const char* name, const yolor_edge_head* head) {
    require_head(name, head);
    static_assert(static_cast<int>(HeadType::float16) == YOLOR_EDGE_FLOAT16 &&
                  static_cast<int>(HeadType::uint8) == YOLOR_EDGE_UINT8 &&
                  static_cast<int>(HeadType::int8) == YOLOR_EDGE_INT8);
    return {head->data,
            head->channel_stride,
            head->row_stride,
            head->column_stride,
            static_cast<HeadType>(head->dtype),
            static_cast<float>(head->scale),
            static_cast<int32_t>(head->zero_point)};
}

int thread_count(const char* name, int64_t threads) {
    require_at_least(name, 1, threads);
    return static_cast<int>(std::min<int64_t>(threads, kMostThreads));
}

void require_frame(const yolor_edge_frame* frame) {
    require_given("frame", frame);
    const bool is_sound = frame->image_height >= 1 && frame->image_height <= kLargestSide &&
                          frame->image_width >= 1 && frame->image_width <= kLargestSide &&
                          std::isfinite(frame->scale_y) && std::isfinite(frame->scale_x) &&
                          frame->scale_y > 0.0 && frame->scale_x > 0.0 && frame->pad_top >= 0 &&
                          frame->pad_left >= 0;
    if (!is_sound) throw std::invalid_argument("frame must be filled by yolor_edge_frame_of first");
}

Axes axes_of(const yolor_edge_frame* frame, int64_t stride, const yolor_edge_head& grid) {
    require_frame(frame);
    require_at_least("stride", 1, stride);
    return {{frame->scale_y, frame->pad_top, stride, grid.rows},
            {frame->scale_x, frame->pad_left, stride, grid.columns}};
}

void give_text(const std::string& text, char* target, size_t capacity, size_t* length) {
    require_given("length", length);
    *length = text.size();
    if (capacity <= text.size()) {
        throw Failure(YOLOR_EDGE_TOO_SMALL, "capacity must be at least " + std::to_string(text.size() + 1) +
                                                ", got " + std::to_string(capacity));
    }
    require_given("text", target);
    std::memcpy(target, text.c_str(), text.size() + 1);
}

}  // namespace yolor_edge::c_api

const char* yolor_edge_last_error(void) {
    return yolor_edge::c_api::last_error;
}
