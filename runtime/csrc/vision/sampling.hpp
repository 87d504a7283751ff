/// Where the pixels of an image fall on the coarse grid of a head.
#pragma once

#include <cstdint>
#include <vector>

#include "shared/sampling_math.hpp"

namespace yolor_edge {

/// Consecutive pixels [begin, end) between the same two grid points, counted from the first pixel sampled.
struct GridRun {
    int64_t begin;
    int64_t end;
    int64_t low;
    int64_t high;
};

/// The two grid points each pixel lies between: value = grid[low] * rest + grid[low + step] * fraction, with
/// rest = 1 - fraction. Both are weighted, so that either end is met exactly whatever the other is, short of
/// infinity. Tables hold kTableSlack entries more than pixels, which repeat the last one, so that vector
/// loops may read past the end.
struct AxisTable {
    std::vector<int32_t> low;
    std::vector<float> fraction;
    std::vector<float> rest;
    int32_t step;  // from `low` to its neighbour: 1, or 0 where the grid has a single point
};

constexpr int64_t kTableSlack = 64;

/// Samples of pixels [0, pixels), at their centres: g = ((i + 0.5) * scale + pad) / stride - 0.5, clamped to
/// the grid.
void fill_axis_table(const AxisFrame& frame, int64_t pixels, AxisTable* table);

/// The runs of equal neighbours among the first `pixels` of a table, covering all of them in order.
void fill_runs(const AxisTable& table, int64_t pixels, std::vector<GridRun>* runs);

}  // namespace yolor_edge
