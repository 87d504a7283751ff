/// Instance masks inside their boxes; see masks.hpp, whose answers these are to the bit.
#pragma once

#include "heads.cuh"
#include "parameters.hpp"

namespace yolor_edge::cuda {

constexpr int32_t kMaskThreads = 256;
constexpr int32_t kWindow = 2048;  // points of the grid that lie under a portion, where they are that few

/// The mask logit at a point of the grid: channels in order.
__device__ inline float mask_logit(const MaskParameters& p, const float* coefficients, int32_t y, int32_t x) {
    const int64_t plane = static_cast<int64_t>(p.grid_height) * p.grid_width;
    int64_t at = static_cast<int64_t>(y) * p.grid_width + x;
    float sum = 0.0f;
#pragma unroll 4
    for (int32_t k = 0; k < p.channels; ++k, at += plane) {
        sum = sum + coefficients[k] * head_value(p.prototypes, at, p.prototypes_are_half);
    }
    return limited_mask_logit(sum);
}

/// The last detection whose portions begin at `block` or before, and that has some.
__device__ inline int32_t detection_of(const MaskParameters& p, int32_t block) {
    int32_t low = 0;
    int32_t high = p.summary->detections;
    while (high - low > 1) {
        const int32_t middle = (low + high) / 2;
        if (p.block_offsets[middle] <= block) {
            low = middle;
        } else {
            high = middle;
        }
    }
    return low;
}

}  // namespace yolor_edge::cuda

extern "C" __global__ void __launch_bounds__(yolor_edge::cuda::kMaskThreads)
    fill_masks(yolor_edge::cuda::MaskParameters p) {
    using namespace yolor_edge;
    using namespace yolor_edge::cuda;
    __shared__ float coefficients[kMostChannels];
    __shared__ float window[kWindow];
    if (p.summary->tile_bytes > p.tile_capacity) return;
    const auto thread = static_cast<int32_t>(threadIdx.x);
    const int32_t step_y = p.grid_height > 1 ? 1 : 0;
    const int32_t step_x = p.grid_width > 1 ? 1 : 0;
    const int32_t blocks = p.summary->tile_blocks;
    for (auto block = static_cast<int32_t>(blockIdx.x); block < blocks;
         block += static_cast<int32_t>(gridDim.x)) {
        const int32_t i = detection_of(p, block);
        const int32_t* region = p.regions + 4 * static_cast<int64_t>(i);
        const int32_t height = region[2];
        const int32_t width = region[3];
        const int32_t across = (width + kTileWidth - 1) / kTileWidth;
        const int32_t number = block - p.block_offsets[i];
        const int32_t y_begin = number / across * kTileHeight;
        const int32_t x_begin = number % across * kTileWidth;
        const int32_t y_end = y_begin + kTileHeight < height ? y_begin + kTileHeight : height;
        const int32_t x_end = x_begin + kTileWidth < width ? x_begin + kTileWidth : width;
        const AxisSample* rows = p.rows + region[0];
        const AxisSample* columns = p.columns_of_row + region[1];
        for (int32_t k = thread; k < p.channels; k += kMaskThreads) {
            coefficients[k] =
                head_value(p.coefficients, static_cast<int64_t>(k) * p.head_columns + p.columns[i],
                           p.coefficients_are_half);
        }
        __syncthreads();
        const int32_t y0 = rows[y_begin].low;
        const int32_t x0 = columns[x_begin].low;
        const int32_t window_height = rows[y_end - 1].low + step_y - y0 + 1;
        const int32_t window_width = columns[x_end - 1].low + step_x - x0 + 1;
        // In an image smaller than the input, pixels lie far apart on the grid, and few points serve two.
        const bool fits = static_cast<int64_t>(window_height) * window_width <= kWindow;
        if (fits) {
            for (int32_t k = thread; k < window_height * window_width; k += kMaskThreads) {
                window[k] = mask_logit(p, coefficients, y0 + k / window_width, x0 + k % window_width);
            }
        }
        __syncthreads();
        uint8_t* tile = p.tiles + p.tile_offsets[i];
        for (int32_t k = thread; k < kTileHeight * kTileWidth; k += kMaskThreads) {
            const int32_t y = y_begin + k / kTileWidth;
            const int32_t x = x_begin + k % kTileWidth;
            if (y >= y_end || x >= x_end) continue;
            const AxisSample down = rows[y];
            const AxisSample right = columns[x];
            float corners[4];
            if (fits) {
                const float* upper = window + (down.low - y0) * window_width + (right.low - x0);
                const float* lower = upper + step_y * window_width;
                corners[0] = upper[0];
                corners[1] = upper[step_x];
                corners[2] = lower[0];
                corners[3] = lower[step_x];
            } else {
                corners[0] = mask_logit(p, coefficients, down.low, right.low);
                corners[1] = mask_logit(p, coefficients, down.low, right.low + step_x);
                corners[2] = mask_logit(p, coefficients, down.low + step_y, right.low);
                corners[3] = mask_logit(p, coefficients, down.low + step_y, right.low + step_x);
            }
            float above, below, value;
            blend(corners[0], right.rest, corners[1], right.fraction, &above);
            blend(corners[2], right.rest, corners[3], right.fraction, &below);
            blend(above, down.rest, below, down.fraction, &value);
            tile[static_cast<int64_t>(y) * width + x] = value > 0.0f ? 1 : 0;
        }
        __syncthreads();
    }
}
