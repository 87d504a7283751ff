/// The semantic map; see semantic.hpp, whose answers these are to the bit: the same classes are ruled out,
/// and of the others a tie goes to the lowest, in whatever order they are looked at.
#pragma once

#include "heads.cuh"
#include "parameters.hpp"

namespace yolor_edge::cuda {

constexpr int32_t kLeaderPoints = 32;
constexpr int32_t kLeaderGroups = 8;  // of classes
constexpr int32_t kSemanticThreads = 64;

__device__ inline float semantic_logit(const void* logits, int64_t index, int32_t is_half) {
    float value = head_value(logits, index, is_half);
    limit_logit(&value);
    return value;
}

/// A class that can win somewhere between four points, and its logits there.
struct Contender {
    float at[4];
    int32_t class_id;
};

}  // namespace yolor_edge::cuda

extern "C" __global__ void __launch_bounds__(yolor_edge::cuda::kLeaderPoints* yolor_edge::cuda::kLeaderGroups)
    find_leaders(yolor_edge::cuda::LeadersParameters p) {
    using namespace yolor_edge;
    using namespace yolor_edge::cuda;
    __shared__ float best[kLeaderGroups][kLeaderPoints];
    __shared__ int32_t leaders[kLeaderGroups][kLeaderPoints];
    const auto lane = static_cast<int32_t>(threadIdx.x);
    const auto group = static_cast<int32_t>(threadIdx.y);
    const int32_t point = static_cast<int32_t>(blockIdx.x) * kLeaderPoints + lane;
    float highest = -2.0f * kLimit;  // below every class
    int32_t leader = kMostClasses;
    if (point < p.points) {
#pragma unroll 4
        for (int32_t c = group; c < p.classes; c += kLeaderGroups) {
            const float value =
                semantic_logit(p.logits, static_cast<int64_t>(c) * p.points + point, p.is_half);
            if (value > highest) {
                highest = value;
                leader = c;
            }
        }
    }
    best[group][lane] = highest;
    leaders[group][lane] = leader;
    __syncthreads();
    if (group != 0 || point >= p.points) return;
    for (int32_t other = 1; other < kLeaderGroups; ++other) {
        if (wins_over(best[other][lane], leaders[other][lane], highest, leader)) {
            highest = best[other][lane];
            leader = leaders[other][lane];
        }
    }
    p.leaders[point] = leader;
}

extern "C" __global__ void __launch_bounds__(yolor_edge::cuda::kSemanticThreads)
    fill_semantic(yolor_edge::cuda::SemanticParameters p) {
    using namespace yolor_edge;
    using namespace yolor_edge::cuda;
    __shared__ Contender contenders[kMostClasses];
    __shared__ uint32_t count;
    const auto thread = static_cast<int32_t>(threadIdx.x);
    const auto cell_x = static_cast<int32_t>(blockIdx.x);
    const auto cell_y = static_cast<int32_t>(blockIdx.y);
    const int32_t y_begin = p.row_begins[cell_y];
    const int32_t height = p.row_ends[cell_y] - y_begin;
    const int32_t x_begin = p.column_begins[cell_x];
    const int32_t width = p.column_ends[cell_x] - x_begin;
    const int32_t pixels = height * width;
    if (pixels == 0) return;
    const int64_t plane = static_cast<int64_t>(p.grid_height) * p.grid_width;
    const int32_t step_y = p.grid_height > 1 ? p.grid_width : 0;
    const int32_t step_x = p.grid_width > 1 ? 1 : 0;
    const int64_t first = static_cast<int64_t>(cell_y) * p.grid_width + cell_x;
    const int64_t corners[4] = {first, first + step_x, first + step_y, first + step_y + step_x};
    int32_t leaders[4];
    bool is_settled = true;
    for (int32_t k = 0; k < 4; ++k) {
        leaders[k] = p.leaders[corners[k]];
        is_settled = is_settled && leaders[k] == leaders[0];
    }
    uint8_t* map = p.map + static_cast<int64_t>(y_begin) * p.image_width + x_begin;
    if (is_settled) {
        for (int32_t i = thread; i < pixels; i += kSemanticThreads) {
            map[static_cast<int64_t>(i / width) * p.image_width + i % width] =
                static_cast<uint8_t>(leaders[0]);
        }
        return;
    }
    if (thread == 0) count = 0;
    __syncthreads();
    float lead[4][4];  // of each leader at each corner
    for (int32_t l = 0; l < 4; ++l) {
        for (int32_t k = 0; k < 4; ++k) {
            lead[l][k] = semantic_logit(p.logits, leaders[l] * plane + corners[k], p.is_half);
        }
    }
    for (int32_t c = thread; c < p.classes; c += kSemanticThreads) {
        Contender own;
        own.class_id = c;
        for (int32_t k = 0; k < 4; ++k)
            own.at[k] = semantic_logit(p.logits, c * plane + corners[k], p.is_half);
        bool is_ruled_out = false;
        for (int32_t l = 0; l < 4; ++l) {
            bool is_below = true, is_not_above = true;
            for (int32_t k = 0; k < 4; ++k) {
                is_below = is_below && lead[l][k] > own.at[k];
                is_not_above = is_not_above && lead[l][k] >= own.at[k];
            }
            is_ruled_out = is_ruled_out || (c < leaders[l] && is_below) || (c > leaders[l] && is_not_above);
        }
        if (!is_ruled_out) contenders[atomicAdd(&count, 1u)] = own;
    }
    __syncthreads();
    const auto n = static_cast<int32_t>(count);
    for (int32_t i = thread; i < pixels; i += kSemanticThreads) {
        const int32_t y = i / width;
        const int32_t x = i % width;
        const AxisSample down = p.rows[y_begin + y];
        const AxisSample right = p.columns[x_begin + x];
        float highest = -2.0f * kLimit;
        int32_t winner = kMostClasses;
        for (int32_t k = 0; k < n; ++k) {
            const Contender& own = contenders[k];
            float left_edge, right_edge, value;
            blend(own.at[0], down.rest, own.at[2], down.fraction, &left_edge);
            blend(own.at[1], down.rest, own.at[3], down.fraction, &right_edge);
            blend(left_edge, right.rest, right_edge, right.fraction, &value);
            if (wins_over(value, own.class_id, highest, winner)) {
                highest = value;
                winner = own.class_id;
            }
        }
        map[static_cast<int64_t>(y) * p.image_width + x] = static_cast<uint8_t>(winner);
    }
}
