/// The rows of a letterbox: two rows of an image blended, resized, halved or spread into planes.
#pragma once

#include <cstdint>

#include "shared/letterbox_math.hpp"
#include "simd/cpu_features.hpp"

namespace yolor_edge {

/// Columns of the output: where the left one of each two source pixels begins in a row of int32, and the
/// weight of the right one, which follows it; 0 where there is none.
struct Columns {
    const int32_t* starts;
    const int32_t* weights;
    int64_t width;
};

/// Where a row of the output goes: a plane for each channel of the image.
struct Planes {
    float* at[3];
    float scale;
};

YOLOR_EDGE_INLINE int32_t resized_value(const int32_t* source, int64_t step, int32_t weight) noexcept {
    int32_t value;
    blend_columns(source[0], source[step], weight, &value);
    return value;
}

/// Two rows of `n` bytes, weighted, in 1/2048 of a byte. Vertical comes before horizontal, since it runs
/// along whole rows, and integer sums do not depend on the order.
void blend_rows(const uint8_t* low, const uint8_t* high, int32_t low_weight, int32_t high_weight, int64_t n,
                int32_t* blended);

/// A blended row of three channels, resized; a vector of four starts at every pixel, so four numbers more
/// than the row has are read.
void resize_row3(const int32_t* blended, const Columns& columns, const Planes& planes);

/// A blended row of one channel, resized.
void resize_row1(const int32_t* blended, const Columns& columns, float scale, float* plane);

/// Two rows of an image of three channels, halved both ways, to `width` pixels: (a + b + c + d + 2) >> 2.
void halve_rows(const uint8_t* upper, const uint8_t* lower, int64_t width, const Planes& planes);

/// A row of three channels that keeps its size.
void spread_row3(const uint8_t* row, int64_t width, const Planes& planes);

/// A row of one channel that keeps its size.
void spread_row1(const uint8_t* row, int64_t width, float scale, float* plane);

}  // namespace yolor_edge
