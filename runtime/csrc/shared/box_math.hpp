/// The arithmetic of boxes.hpp and nms.hpp, shared with the GPU.
#pragma once

#include "shared/host_device.hpp"

namespace yolor_edge {

/// What the numbers of the box head are; runtime/bundle/spec.py has the same by name, in this order.
enum class BoxCoding : int32_t {
    dfl,   // logits of distributions over distances in strides: left, top, right, bottom, some bins each
    ltrb,  // distances to left, top, right, bottom in strides
    xyxy,  // corners in pixels of the input, of any number of boxes
};

/// What those of the score head are.
enum class ScoreCoding : int32_t { logits, probabilities };

/// A candidate as one number whose rising order is: falling value of the score head, then rising flat index
/// (class * N + cell).
using Candidate = uint64_t;

YOLOR_EDGE_HD Candidate make_candidate(float value, int64_t flat_index) {
    const float ordinary_zero = value + 0.0f;  // -0 and 0 are the same score
    uint32_t bits;
    copy_bits(ordinary_zero, &bits);
    // Negative floats grow downwards as integers: turning them over makes integer order float order.
    const uint32_t rising = (bits & 0x80000000u) ? ~bits : bits | 0x80000000u;
    return (static_cast<uint64_t>(~rising) << 32) | static_cast<uint64_t>(flat_index);
}

YOLOR_EDGE_HD float value_of(Candidate candidate) {
    const uint32_t rising = ~static_cast<uint32_t>(candidate >> 32);
    const uint32_t bits = (rising & 0x80000000u) ? rising & 0x7fffffffu : ~rising;
    float value;
    copy_bits(bits, &value);
    return value;
}

YOLOR_EDGE_HD int64_t flat_index_of(Candidate candidate) {
    return static_cast<int64_t>(candidate & 0xffffffffu);
}

/// e^x for x of at most 0: Cephes' polynomial, within 2 units in the last place; 0 below -87, NaN for NaN.
/// `Floats` is float or a vector of them, `Bits` the unsigned integers of its size.
template <class Floats, class Bits>
YOLOR_EDGE_HD void exp_of_negative(Floats* x) {
    const Floats lowest = Floats{} - 87.0f;
    const auto is_below = *x < lowest;
    const Floats bounded = is_below ? lowest : *x;
    constexpr float kRounder =
        12582912.0f;  // 1.5 * 2^23: adding it leaves the nearest whole number in the low bits
    const Floats shifted = bounded * 1.44269504f + kRounder;
    const Floats n = shifted - kRounder;
    const Floats r = (bounded - n * 0.693359375f) - n * -2.12194440e-4f;
    Floats p = r * 1.9875691500e-4f + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * (r * r) + r + 1.0f;
    Bits bits;
    copy_bits(shifted, &bits);
    bits = (bits << 23) + 0x3f800000u;  // 2^n
    Floats power;
    copy_bits(bits, &power);
    *x = is_below ? Floats{} : p * power;
}

/// The expectation of the bin number under softmax. `read(bin, &logit)` gives a logit of each distance; it is
/// called twice a bin.
template <class Floats, class Bits, class Read>
YOLOR_EDGE_HD void expect_distance(int64_t bins, const Read& read, Floats* distance) {
    Floats highest, value;
    read(0, &highest);
    for (int64_t bin = 1; bin < bins; ++bin) {
        read(bin, &value);
        highest = highest < value ? value : highest;
    }
    Floats total{}, weighted{};
    for (int64_t bin = 0; bin < bins; ++bin) {
        read(bin, &value);
        Floats weight = value - highest;
        exp_of_negative<Floats, Bits>(&weight);
        total += weight;
        weighted += weight * static_cast<float>(bin);
    }
    *distance = weighted / total;
}

/// The box (xyxy) around the centre of a cell, in column `x` and row `y` of a level of that stride, from its
/// distances to left, top, right and bottom in units of the stride.
YOLOR_EDGE_HD void place_box(int64_t x, int64_t y, int64_t stride, const float* distances, float* box) {
    const auto step = static_cast<float>(stride);
    const float centre_x = (static_cast<float>(x) + 0.5f) * step;
    const float centre_y = (static_cast<float>(y) + 0.5f) * step;
    box[0] = centre_x - step * distances[0];
    box[1] = centre_y - step * distances[1];
    box[2] = centre_x + step * distances[2];
    box[3] = centre_y + step * distances[3];
}

/// Area of a box; 0 where it is turned over.
YOLOR_EDGE_HD float box_area(const float* box) {
    const float width = box[2] - box[0];
    const float height = box[3] - box[1];
    return (width > 0.0f ? width : 0.0f) * (height > 0.0f ? height : 0.0f);
}

/// Whether the IoU of two finite boxes, given with their areas, is above the threshold; 0 or 1.
YOLOR_EDGE_HD int32_t overlaps(float ax1, float ay1, float ax2, float ay2, float a_area, float bx1, float by1,
                               float bx2, float by2, float b_area, float threshold) {
    const float right = ax2 < bx2 ? ax2 : bx2;
    const float left = ax1 > bx1 ? ax1 : bx1;
    const float bottom = ay2 < by2 ? ay2 : by2;
    const float top = ay1 > by1 ? ay1 : by1;
    const float width = right - left;
    const float height = bottom - top;
    const float intersection = width * height;
    const float union_area = a_area + b_area - intersection;
    // A union without area divides to infinity, NaN or less than 0: the last condition rules it out.
    const float iou = intersection / union_area;
    return (width > 0.0f) & (height > 0.0f) & (iou > threshold) & (union_area > 0.0f);
}

/// e^x for x in [-708, 0] within two units in the last place, from its Taylor series around the nearest power
/// of 2.
YOLOR_EDGE_HD double exp_of_negative_double(double x) {
    constexpr double kRounder = 6755399441055744.0;  // 1.5 * 2^52
    const double shifted = x * 1.4426950408889634 + kRounder;
    const double n = shifted - kRounder;
    const double r = (x - n * 6.93147180369123816490e-01) - n * 1.90821492927058770002e-10;
    double sum = 1.0 / 6227020800.0;  // |r| is at most 0.35, so r^13 / 13! is the last that counts
    sum = sum * r + 1.0 / 479001600.0;
    sum = sum * r + 1.0 / 39916800.0;
    sum = sum * r + 1.0 / 3628800.0;
    sum = sum * r + 1.0 / 362880.0;
    sum = sum * r + 1.0 / 40320.0;
    sum = sum * r + 1.0 / 5040.0;
    sum = sum * r + 1.0 / 720.0;
    sum = sum * r + 1.0 / 120.0;
    sum = sum * r + 1.0 / 24.0;
    sum = sum * r + 1.0 / 6.0;
    sum = sum * r + 0.5;
    sum = sum * r + 1.0;
    sum = sum * r + 1.0;
    uint64_t bits;
    copy_bits(shifted, &bits);
    bits = (bits << 52) + 0x3ff0000000000000u;
    double scale;
    copy_bits(bits, &scale);
    return sum * scale;
}

/// 1 / (1 + e^-logit) rounded to the nearest float; 0 below -700, NaN for NaN.
YOLOR_EDGE_HD float sigmoid(float logit) {
    const auto x = static_cast<double>(logit);
    const double size = x < 0.0 ? x : -x;
    if (size < -700.0) return logit < 0.0f ? 0.0f : 1.0f;
    const double power = exp_of_negative_double(size);
    return static_cast<float>((logit < 0.0f ? power : 1.0) / (1.0 + power));
}

/// The score that a number of the score head means.
YOLOR_EDGE_HD float score_of(float value, ScoreCoding coding) {
    return coding == ScoreCoding::logits ? sigmoid(value) : value;
}

}  // namespace yolor_edge
