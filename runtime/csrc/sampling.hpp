/// Where the pixels of an image fall on the coarse grid of a head.
#pragma once

#include <cstdint>
#include <vector>

namespace yolor_edge {

/// One axis on its way from pixels of the image through the letterbox to a head's grid.
struct AxisFrame {
    double scale;         // input pixels per image pixel
    int64_t pad;          // input pixels before the image
    int64_t stride;       // input pixels per grid cell
    int64_t grid_length;  // cells along this axis, at least 1
};

/// The two grid points one pixel lies between: value = grid[low] * (1 - fraction) + grid[high] * fraction.
struct GridSample {
    int64_t low;
    int64_t high;    // low + 1, or low where the grid has a single point
    float fraction;  // 0 to 1
};

/// Consecutive pixels [begin, end) between the same two grid points, counted from the first pixel sampled.
struct GridRun {
    int64_t begin;
    int64_t end;
    int64_t low;
    int64_t high;
};

/// Samples of pixels [begin, end), at their centres: g = ((i + 0.5) * scale + pad) / stride - 0.5, clamped to
/// the grid.
std::vector<GridSample> sample_axis(const AxisFrame& frame, int64_t begin, int64_t end);

/// The runs of equal neighbours in `samples`, covering all of them in order.
std::vector<GridRun> runs_of(const std::vector<GridSample>& samples);

/// From `low` (fraction 0) to `high` (fraction 1). Both are weighted, so that either end is met exactly
/// whatever the other is, short of infinity.
inline float interpolate(float low, float high, float fraction) noexcept {
    return low * (1.0f - fraction) + high * fraction;
}

}  // namespace yolor_edge
