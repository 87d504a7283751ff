/// Resize with padding, and the tables of an image's size; see letterbox.hpp and sampling.hpp.
#pragma once

#include "heads.cuh"
#include "parameters.hpp"

namespace yolor_edge::cuda {

__device__ __forceinline__ int32_t index_of_thread() {
    return static_cast<int32_t>(blockIdx.x * blockDim.x + threadIdx.x);
}

/// Pixel (x, y) of an image as BGR; grey counts three times.
__device__ __forceinline__ void read_pixel(const LetterboxParameters& p, int32_t x, int32_t y, uint8_t* bgr) {
    const uint8_t* row = p.image + y * p.row_stride;
    if (p.layout == 1) {
        const uint8_t* chroma = p.image + (p.image_height + y / 2) * p.row_stride;
        write_bgr(row[x], chroma[x / 2 * 2], chroma[x / 2 * 2 + 1], bgr);
    } else if (p.layout == 2) {
        const uint8_t* pair = row + x / 2 * 4;
        write_bgr(pair[x % 2 * 2], pair[1], pair[3], bgr);
    } else if (p.channels == 1) {
        bgr[0] = bgr[1] = bgr[2] = row[x];
    } else {
        bgr[0] = row[3 * x];
        bgr[1] = row[3 * x + 1];
        bgr[2] = row[3 * x + 2];
    }
}

}  // namespace yolor_edge::cuda

extern "C" __global__ void fill_taps(yolor_edge::cuda::TapsParameters p) {
    const int32_t i = yolor_edge::cuda::index_of_thread();
    if (i < p.out) p.taps[i] = yolor_edge::tap_of(i, p.in, p.out);
}

extern "C" __global__ void fill_axis(yolor_edge::cuda::AxisParameters p) {
    using namespace yolor_edge;
    const int32_t i = cuda::index_of_thread();
    if (i >= p.pixels) return;
    const AxisSample sample = sample_of_pixel(p.frame, i);
    p.samples[i] = sample;
    if (i == 0 || sample_of_pixel(p.frame, i - 1).low != sample.low) p.begins[sample.low] = i;
    if (i + 1 == p.pixels || sample_of_pixel(p.frame, i + 1).low != sample.low) p.ends[sample.low] = i + 1;
}

extern "C" __global__ void fill_nearest(yolor_edge::cuda::NearestParameters p) {
    const int32_t i = yolor_edge::cuda::index_of_thread();
    if (i >= p.pixels) return;
    const double position = (static_cast<double>(i) + 0.5) * p.scale + static_cast<double>(p.pad);
    p.indices[i] = yolor_edge::clamped<int32_t>(static_cast<int32_t>(position), 0, p.length - 1);
}

extern "C" __global__ void letterbox(yolor_edge::cuda::LetterboxParameters p) {
    using namespace yolor_edge;
    const auto x = static_cast<int32_t>(blockIdx.x * blockDim.x + threadIdx.x);
    const auto y = static_cast<int32_t>(blockIdx.y * blockDim.y + threadIdx.y);
    if (x >= p.input_width || y >= p.input_height) return;
    const int32_t column = x - p.pad_left;
    const int32_t row = y - p.pad_top;
    int32_t values[3] = {p.pad_value, p.pad_value, p.pad_value};
    if (column >= 0 && column < p.resized_width && row >= 0 && row < p.resized_height) {
        const Tap across = p.columns[column];
        const Tap down = p.rows[row];
        uint8_t pixels[4][3];
        cuda::read_pixel(p, across.low, down.low, pixels[0]);
        cuda::read_pixel(p, across.high, down.low, pixels[1]);
        cuda::read_pixel(p, across.low, down.high, pixels[2]);
        cuda::read_pixel(p, across.high, down.high, pixels[3]);
        for (int32_t c = 0; c < 3; ++c) {
            const int32_t left = blended_rows(pixels[0][c], pixels[2][c], down.low_weight, down.high_weight);
            const int32_t right = blended_rows(pixels[1][c], pixels[3][c], down.low_weight, down.high_weight);
            blend_columns(left, right, across.high_weight, &values[c]);
        }
    }
    const int64_t plane = static_cast<int64_t>(p.input_height) * p.input_width;
    const int64_t pixel = static_cast<int64_t>(y) * p.input_width + x;
    for (int32_t c = 0; c < 3; ++c) {
        const float value = static_cast<float>(values[p.swap_rb != 0 ? 2 - c : c]) * p.scale;
        if (p.is_half != 0) {
            static_cast<uint16_t*>(p.output)[c * plane + pixel] = cuda::half_of_float(value);
        } else {
            static_cast<float*>(p.output)[c * plane + pixel] = value;
        }
    }
}

extern "C" __global__ void resample_map(yolor_edge::cuda::ResampleParameters p) {
    const auto x = static_cast<int32_t>(blockIdx.x * blockDim.x + threadIdx.x);
    const auto y = static_cast<int32_t>(blockIdx.y * blockDim.y + threadIdx.y);
    if (x >= p.image_width || y >= p.image_height) return;
    p.map[static_cast<int64_t>(y) * p.image_width + x] =
        p.source[static_cast<int64_t>(p.rows[y]) * p.input_width + p.columns[x]];
}
