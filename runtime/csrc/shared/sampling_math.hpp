/// The arithmetic of sampling.hpp, masks.hpp and semantic.hpp, shared with the GPU.
#pragma once

#include "shared/host_device.hpp"

namespace yolor_edge {

/// One axis on its way from pixels of the image through the letterbox to a head's grid.
struct AxisFrame {
    double scale;         // input pixels per image pixel
    int64_t pad;          // input pixels before the image
    int64_t stride;       // input pixels per grid cell
    int64_t grid_length;  // cells along this axis, at least 1
};

/// Where a pixel lies on the grid: between points `low` and the next, as far as `fraction` says.
struct AxisSample {
    int32_t low;
    float fraction;
    float rest;
};

YOLOR_EDGE_HD AxisSample sample_of_pixel(const AxisFrame& frame, int64_t pixel) {
    const auto last = static_cast<double>(frame.grid_length - 1);
    const int64_t last_low = frame.grid_length > 2 ? frame.grid_length - 2 : 0;
    const double input = (static_cast<double>(pixel) + 0.5) * frame.scale + static_cast<double>(frame.pad);
    const double grid = clamped(input / static_cast<double>(frame.stride) - 0.5, 0.0, last);
    const auto floored = static_cast<int64_t>(grid);
    const int64_t low = floored < last_low ? floored : last_low;
    const auto fraction = static_cast<float>(grid - static_cast<double>(low));
    return {static_cast<int32_t>(low), fraction, 1.0f - fraction};
}

/// A value between two others, numbers or vectors of them; both are weighted, so that either end is met
/// exactly.
template <class Operand, class Weight, class Value>
YOLOR_EDGE_HD void blend(const Operand& low, const Weight& rest, const Operand& high, const Weight& fraction,
                         Value* value) {
    *value = low * rest + high * fraction;
}

constexpr float kLimit = 1e30f;  // far above any logit, far enough from overflow to be interpolated

/// A semantic logit, or a vector of them, within +-1e30; NaN counts as -1e30.
template <class Value>
YOLOR_EDGE_HD void limit_logit(Value* value) {
    const Value low = Value{} - kLimit;
    const Value above = *value > low ? *value : low;
    *value = above < -low ? above : -low;
}

/// A mask logit within +-1e30; NaN stays.
YOLOR_EDGE_HD float limited_mask_logit(float value) {
    const float above = value < -kLimit ? -kLimit : value;
    return above > kLimit ? kLimit : above;
}

/// Whether class `a` of a logit wins over class `b` of another: the higher one, of equals the lower class.
YOLOR_EDGE_HD bool wins_over(float logit_a, int32_t a, float logit_b, int32_t b) {
    return logit_a > logit_b || (logit_a == logit_b && a < b);
}

struct PixelSpan {
    int64_t begin;
    int64_t end;
};

/// Pixels of [0, length) whose centres lie in [low, high).
YOLOR_EDGE_HD PixelSpan span_of(double low, double high, int64_t length) {
    const auto limit = static_cast<double>(length);
    const auto first = static_cast<int64_t>(ceil(clamped(low, 0.0, limit) - 0.5));
    const auto last = static_cast<int64_t>(ceil(clamped(high, 0.0, limit) - 0.5));
    return {first > 0 ? first : 0, last};
}

/// A rectangle of whole pixels; `height` and `width` are both 0 where there is none.
struct PixelRegion {
    int64_t y0;
    int64_t x0;
    int64_t height;
    int64_t width;
};

/// The pixels of an image whose centres lie inside `box` (xyxy in pixels of the image): x1 <= centre < x2,
/// and so for y. The region is empty where the box is, lies outside the image or is not finite.
YOLOR_EDGE_HD PixelRegion region_within(const float* box, int64_t image_height, int64_t image_width) {
    for (int32_t i = 0; i < 4; ++i) {
        if (!is_finite_number(box[i])) return {0, 0, 0, 0};
    }
    const PixelSpan x = span_of(box[0], box[2], image_width);
    const PixelSpan y = span_of(box[1], box[3], image_height);
    if (x.end <= x.begin || y.end <= y.begin) return {0, 0, 0, 0};
    return {y.begin, x.begin, y.end - y.begin, x.end - x.begin};
}

}  // namespace yolor_edge
