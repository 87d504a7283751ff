/// The arithmetic of letterbox.hpp, shared with the GPU.
#pragma once

#include "shared/host_device.hpp"

namespace yolor_edge {

constexpr int32_t kWeightOne = 2048;  // 11 bits per axis, so that a weighted pixel of both axes fits 30 bits
constexpr int32_t kRoundingHalf = 1 << 21;
constexpr int32_t kWeightShift = 22;

/// The two source pixels of one output pixel along one axis.
struct Tap {
    int32_t low;
    int32_t high;
    int32_t low_weight;
    int32_t high_weight;
};

/// Those of pixel `i` of `out`, of an axis that had `in` pixels.
YOLOR_EDGE_HD Tap tap_of(int64_t i, int64_t in, int64_t out) {
    const double source =
        (static_cast<double>(i) + 0.5) * static_cast<double>(in) / static_cast<double>(out) - 0.5;
    const double below = floor(source);
    const auto high_weight = static_cast<int32_t>(floor((source - below) * kWeightOne + 0.5));
    const auto low = static_cast<int64_t>(below);
    return {static_cast<int32_t>(clamped<int64_t>(low, 0, in - 1)),
            static_cast<int32_t>(clamped<int64_t>(low + 1, 0, in - 1)), kWeightOne - high_weight,
            high_weight};
}

/// Two pixels of a column, still to be blended with the next column; at most 255 * 2048.
YOLOR_EDGE_HD int32_t blended_rows(int32_t low, int32_t high, int32_t low_weight, int32_t high_weight) {
    return low * low_weight + high * high_weight;
}

/// The pixel between two blended columns, one or a vector of them.
template <class Ints, class Weight>
YOLOR_EDGE_HD void blend_columns(const Ints& left, const Ints& right, const Weight& weight, Ints* value) {
    *value = (left * kWeightOne + (right - left) * weight + kRoundingHalf) >> kWeightShift;
}

YOLOR_EDGE_HD uint8_t saturated(int32_t value) {
    return static_cast<uint8_t>(clamped<int32_t>(value, 0, 255));
}

/// Narrow-range BT.601 to BGR in fixed point of 20 bits. Source: OpenCV,
/// modules/imgproc/src/color_yuv.simd.hpp
constexpr int32_t kLumaFactor = 1220542;
constexpr int32_t kBlueOfU = 2116026, kGreenOfU = -409993, kGreenOfV = -852492, kRedOfV = 1673527;

struct ChromaTerms {
    int32_t blue, green, red;  // what two neighbouring pixels have in common, with a half for rounding
};

YOLOR_EDGE_HD ChromaTerms chroma_terms(int32_t u, int32_t v) {
    constexpr int32_t kHalf = 1 << 19;
    u -= 128;
    v -= 128;
    return {kHalf + kBlueOfU * u, kHalf + kGreenOfV * v + kGreenOfU * u, kHalf + kRedOfV * v};
}

YOLOR_EDGE_HD int32_t luma_term(int32_t y) {
    return (y < 16 ? 0 : y - 16) * kLumaFactor;
}

YOLOR_EDGE_HD uint8_t colour_of(int32_t luma, int32_t chroma) {
    return saturated((luma + chroma) >> 20);
}

/// One pixel.
YOLOR_EDGE_HD void write_bgr(int32_t y, int32_t u, int32_t v, uint8_t* bgr) {
    const int32_t luma = luma_term(y);
    const ChromaTerms chroma = chroma_terms(u, v);
    bgr[0] = colour_of(luma, chroma.blue);
    bgr[1] = colour_of(luma, chroma.green);
    bgr[2] = colour_of(luma, chroma.red);
}

}  // namespace yolor_edge
