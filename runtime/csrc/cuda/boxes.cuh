/// From the raw box heads to boxes; see boxes.hpp, whose answers these are to the bit.
///
/// Candidates are appended in whatever order blocks come to it, but as numbers that are all different and
/// sort by rank, so that nothing later depends on that order. The single block of `select_boxes` then goes
/// through them as the CPU does, best first, a portion at a time, until enough boxes are kept: what comes
/// after costs a look at its number. Where they are very many, the kernels of ranking.cuh have singled out
/// those that count before.
#pragma once

#include "heads.cuh"
#include "parameters.hpp"
#include "ranking.cuh"

namespace yolor_edge::cuda {

constexpr int32_t kCollectThreads = 256;
constexpr int32_t kCollectItems = 8;
constexpr int32_t kDecodeColumns = 64;  // of a block, four sides each
constexpr int32_t kSelectThreads = 512;
constexpr int32_t kPortion = 2048;  // candidates sorted in one go; a power of two
constexpr int32_t kChunk = 64;      // candidates compared in one go: bits of a word
constexpr int32_t kHelpers = kSelectThreads / kChunk;

/// Numbers of one side of a box: its bins, for `expect_distance`, or the only one.
struct BinReader {
    const void* head;
    int64_t first;
    int64_t step;
    int32_t is_half;
    __device__ __forceinline__ void operator()(int64_t bin, float* value) const {
        *value = head_value(head, first + bin * step, is_half);
    }
};

/// What the threads of `select_boxes` share.
struct Selection {
    Candidate portion[kPortion];
    uint32_t histogram[256];
    Candidate bound;  // of the portion, inclusive
    uint64_t prefix;
    int32_t below;  // candidates before those of the prefix
    int32_t is_found;
    uint32_t gathered;
    float boxes[kChunk][5];
    int32_t class_ids[kChunk];
    int32_t is_dead[kChunk];
    unsigned long long rivals[kChunk];  // earlier ones of the chunk that a candidate overlaps
    unsigned long long survivors;
    int64_t sums[kSelectThreads];
};

/// Find `bound` so that of the candidates above `last` those up to it are some, and at most a portion, though
/// there are more: from the top byte of their numbers down, until the part before a full bucket is large
/// enough.
__device__ inline void find_bound(const Candidate* candidates, int32_t total, Candidate last,
                                  Selection& shared) {
    const auto thread = static_cast<int32_t>(threadIdx.x);
    if (thread == 0) {
        shared.prefix = 0;
        shared.below = 0;
        shared.is_found = 0;
    }
    for (int32_t shift = 56; shift >= 0; shift -= 8) {
        if (thread < 256) shared.histogram[thread] = 0;
        __syncthreads();
        for (int32_t i = thread; i < total; i += kSelectThreads) {
            const Candidate candidate = candidates[i];
            if (candidate <= last) continue;
            if (shift < 56 && candidate >> (shift + 8) != shared.prefix) continue;
            atomicAdd(&shared.histogram[candidate >> shift & 255u], 1u);
        }
        __syncthreads();
        if (thread == 0) {
            int32_t before = shared.below;
            uint32_t bucket = 0;
            while (before + static_cast<int32_t>(shared.histogram[bucket]) <= kPortion) {
                before += static_cast<int32_t>(shared.histogram[bucket++]);
            }
            shared.prefix = shared.prefix << 8 | bucket;
            shared.below = before;
            shared.is_found = before >= kPortion / 4 ? 1 : 0;  // at the last byte `before` is a whole portion
            shared.bound = (shared.prefix << shift) - 1;
        }
        __syncthreads();
        if (shared.is_found != 0) return;
    }
}

/// Sort the first `n` of the portion; bitonic.
__device__ inline void sort_portion(int32_t n, Selection& shared) {
    const auto thread = static_cast<int32_t>(threadIdx.x);
    int32_t padded = 2;
    while (padded < n) padded *= 2;
    for (int32_t i = n + thread; i < padded; i += kSelectThreads) shared.portion[i] = ~Candidate{0};
    for (int32_t run = 2; run <= padded; run *= 2) {
        for (int32_t distance = run / 2; distance > 0; distance /= 2) {
            __syncthreads();
            for (int32_t pair = thread; pair < padded / 2; pair += kSelectThreads) {
                const int32_t i = pair / distance * 2 * distance + pair % distance;
                const Candidate a = shared.portion[i];
                const Candidate b = shared.portion[i + distance];
                const bool is_rising = (i & run) == 0;
                if ((a > b) == is_rising) {
                    shared.portion[i] = b;
                    shared.portion[i + distance] = a;
                }
            }
        }
    }
    __syncthreads();
}

__device__ inline int32_t column_of(const SelectParameters& p, Candidate candidate) {
    const auto cell = static_cast<int32_t>(flat_index_of(candidate) % p.grid_cells);
    return p.column_of_cell == nullptr ? cell : p.column_of_cell[cell];
}

/// Compare the candidates `begin` to `begin + n` of the portion with all kept and with each other; returns
/// how many are kept then.
__device__ inline int32_t compare_chunk(const SelectParameters& p, int32_t begin, int32_t n, int32_t kept,
                                        Selection& shared) {
    const auto thread = static_cast<int32_t>(threadIdx.x);
    if (thread < kChunk) {
        shared.rivals[thread] = 0;
        shared.is_dead[thread] = 1;
        if (thread < n) {
            const Candidate candidate = shared.portion[begin + thread];
            const float* box = p.boxes + 4 * static_cast<int64_t>(column_of(p, candidate));
            float* own = shared.boxes[thread];
            bool is_finite = true;
            for (int32_t i = 0; i < 4; ++i) {
                own[i] = box[i];
                is_finite = is_finite && is_finite_number(own[i]);
            }
            own[4] = box_area(own);
            shared.is_dead[thread] = is_finite ? 0 : 1;
            shared.class_ids[thread] =
                p.class_agnostic != 0 ? 0 : static_cast<int32_t>(flat_index_of(candidate) / p.grid_cells);
        }
    }
    __syncthreads();
    const int32_t own = thread / kHelpers;
    const float* b = shared.boxes[own];
    if (shared.is_dead[own] == 0) {
        const int32_t class_id = shared.class_ids[own];
        int32_t is_covered = 0;
        for (int32_t i = thread % kHelpers; i < kept && is_covered == 0; i += kHelpers) {
            if (p.kept_classes[i] != class_id) continue;
            const float* a = p.kept_boxes + 5 * i;
            is_covered =
                overlaps(a[0], a[1], a[2], a[3], a[4], b[0], b[1], b[2], b[3], b[4], p.iou_threshold);
        }
        unsigned long long rivals = 0;
        for (int32_t i = thread % kHelpers; i < own && is_covered == 0; i += kHelpers) {
            if (shared.class_ids[i] != class_id) continue;
            const float* a = shared.boxes[i];
            if (overlaps(a[0], a[1], a[2], a[3], a[4], b[0], b[1], b[2], b[3], b[4], p.iou_threshold) != 0) {
                rivals |= 1ull << i;
            }
        }
        // A candidate that a kept box covers is marked as its own rival.
        if (is_covered != 0) atomicOr(&shared.rivals[own], 1ull << own);
        if (rivals != 0) atomicOr(&shared.rivals[own], rivals);
    }
    __syncthreads();
    if (thread == 0) {
        unsigned long long survivors = 0;
        int32_t left = p.max_detections - kept;
        for (int32_t i = 0; i < n && left > 0; ++i) {
            if (shared.is_dead[i] != 0 || (shared.rivals[i] & (survivors | 1ull << i)) != 0) continue;
            survivors |= 1ull << i;
            --left;
        }
        shared.survivors = survivors;
    }
    __syncthreads();
    const unsigned long long survivors = shared.survivors;
    if (thread < n && (survivors >> thread & 1ull) != 0) {
        const int32_t to = kept + __popcll(survivors & ((1ull << thread) - 1));
        for (int32_t i = 0; i < 5; ++i) p.kept_boxes[5 * to + i] = shared.boxes[thread][i];
        p.kept_classes[to] = shared.class_ids[thread];
        p.kept[to] = shared.portion[begin + thread];
    }
    __syncthreads();
    return kept + __popcll(survivors);
}

/// From pixels of the input to those of the image, clipped.
__device__ inline float to_image(float value, int32_t pad, double scale, int32_t limit) {
    const double moved = (static_cast<double>(value) - static_cast<double>(pad)) / scale;
    return static_cast<float>(clamped(moved, 0.0, static_cast<double>(limit)));
}

/// Write what the host and the masks need of the kept boxes that lie inside the image.
__device__ inline void write_detections(const SelectParameters& p, int32_t candidates, int32_t kept,
                                        Selection& shared) {
    int64_t detections = 0, bytes = 0, blocks = 0;
    for (int32_t begin = 0; begin < kept; begin += kSelectThreads) {
        const int32_t i = begin + static_cast<int32_t>(threadIdx.x);
        float box[4] = {0.0f, 0.0f, 0.0f, 0.0f};
        PixelRegion region{0, 0, 0, 0};
        if (i < kept) {
            const float* source = p.kept_boxes + 5 * i;
            box[0] = to_image(source[0], p.pad_left, p.scale_x, p.image_width);
            box[1] = to_image(source[1], p.pad_top, p.scale_y, p.image_height);
            box[2] = to_image(source[2], p.pad_left, p.scale_x, p.image_width);
            box[3] = to_image(source[3], p.pad_top, p.scale_y, p.image_height);
            region = region_within(box, p.image_height, p.image_width);
        }
        const bool is_visible = box[2] > box[0] && box[3] > box[1];
        const int64_t own_bytes = is_visible ? region.height * region.width : 0;
        const int64_t own_blocks = is_visible ? (region.height + kTileHeight - 1) / kTileHeight *
                                                    ((region.width + kTileWidth - 1) / kTileWidth)
                                              : 0;
        const int64_t detections_with = running_sum<kSelectThreads, int64_t>(is_visible ? 1 : 0, shared.sums);
        const int64_t all_detections = shared.sums[kSelectThreads - 1];
        const int64_t bytes_with = running_sum<kSelectThreads>(own_bytes, shared.sums);
        const int64_t all_bytes = shared.sums[kSelectThreads - 1];
        const int64_t blocks_with = running_sum<kSelectThreads>(own_blocks, shared.sums);
        const int64_t all_blocks = shared.sums[kSelectThreads - 1];
        if (is_visible) {
            const int64_t to = detections + detections_with - 1;
            for (int32_t k = 0; k < 4; ++k) p.image_boxes[4 * to + k] = box[k];
            p.scores[to] = score_of(value_of(p.kept[i]), p.score_coding);
            p.class_ids[to] = static_cast<int32_t>(flat_index_of(p.kept[i]) / p.grid_cells);
            p.columns[to] = column_of(p, p.kept[i]);
            p.regions[4 * to] = static_cast<int32_t>(region.y0);
            p.regions[4 * to + 1] = static_cast<int32_t>(region.x0);
            p.regions[4 * to + 2] = static_cast<int32_t>(region.height);
            p.regions[4 * to + 3] = static_cast<int32_t>(region.width);
            p.tile_offsets[to] = bytes + bytes_with - own_bytes;
            p.block_offsets[to] = static_cast<int32_t>(blocks + blocks_with - own_blocks);
        }
        detections += all_detections;
        bytes += all_bytes;
        blocks += all_blocks;
    }
    if (threadIdx.x == 0) {
        *p.summary = {bytes, static_cast<int32_t>(detections), candidates, kept,
                      static_cast<int32_t>(blocks)};
    }
}

}  // namespace yolor_edge::cuda

extern "C" __global__ void __launch_bounds__(yolor_edge::cuda::kCollectThreads)
    collect_candidates(yolor_edge::cuda::CollectParameters p) {
    using namespace yolor_edge;
    using namespace yolor_edge::cuda;
    __shared__ uint32_t found;
    __shared__ uint32_t first;
    const auto thread = static_cast<int32_t>(threadIdx.x);
    const int64_t size = static_cast<int64_t>(p.classes) * p.columns;
    const int64_t begin = static_cast<int64_t>(blockIdx.x) * (kCollectThreads * kCollectItems) + thread;
    if (thread == 0) found = 0;
    __syncthreads();
    float scores[kCollectItems];
    uint32_t hits = 0;
    uint32_t count = 0;
#pragma unroll
    for (int32_t k = 0; k < kCollectItems; ++k) {
        const int64_t i = begin + k * kCollectThreads;
        scores[k] = i < size ? head_value(p.scores, i, p.is_half) : 0.0f;
        bool is_hit = i < size && scores[k] >= p.lowest;
        if (p.cells != nullptr && i < size) {
            const int32_t cell = p.cells[i % p.columns];
            if (cell < 0 || cell >= p.grid_cells) {
                is_hit = false;  // no cell of the grid, so there is no box
            } else if (i < p.columns) {
                p.column_of_cell[cell] = static_cast<int32_t>(i);
            }
        }
        if (is_hit) {
            hits |= 1u << k;
            ++count;
        }
    }
    const uint32_t before = count != 0 ? atomicAdd(&found, count) : 0;
    __syncthreads();
    if (thread == 0) first = found != 0 ? atomicAdd(p.count, found) : 0;
    __syncthreads();
    uint32_t to = first + before;
#pragma unroll
    for (int32_t k = 0; k < kCollectItems; ++k) {
        if ((hits >> k & 1u) == 0) continue;
        const int64_t i = begin + k * kCollectThreads;
        const int64_t column = i % p.columns;
        const int64_t cell = p.cells != nullptr ? p.cells[column] : column;
        p.candidates[to++] = make_candidate(scores[k], i / p.columns * p.grid_cells + cell);
        p.is_wanted[column] = 1;
    }
}

extern "C" __global__ void __launch_bounds__(4 * yolor_edge::cuda::kDecodeColumns)
    decode_cells(yolor_edge::cuda::DecodeParameters p) {
    using namespace yolor_edge;
    using namespace yolor_edge::cuda;
    __shared__ float distances[kDecodeColumns][4];
    const auto lane = static_cast<int32_t>(threadIdx.x);
    const auto side = static_cast<int32_t>(threadIdx.y);
    const int32_t column = static_cast<int32_t>(blockIdx.x) * kDecodeColumns + lane;
    const bool is_wanted = column < p.columns && p.is_wanted[column] != 0;
    if (is_wanted) {
        const BinReader read{p.head, static_cast<int64_t>(side) * p.bins * p.columns + column, p.columns,
                             p.is_half};
        if (p.coding == BoxCoding::dfl) {
            expect_distance<float, uint32_t>(p.bins, read, &distances[lane][side]);
        } else {
            read(0, &distances[lane][side]);
        }
    }
    __syncthreads();
    if (!is_wanted || side != 0) return;
    if (p.coding == BoxCoding::xyxy) {
        for (int32_t i = 0; i < 4; ++i) p.boxes[4 * static_cast<int64_t>(column) + i] = distances[lane][i];
        return;
    }
    int32_t index = p.cells != nullptr ? p.cells[column] : column;
    if (index < 0) return;
    for (int32_t level = 0; level < p.levels; ++level) {
        const int32_t stride = p.strides[level];
        const int32_t width = p.input_width / stride;
        const int32_t cells = p.input_height / stride * width;
        if (index < cells) {
            place_box(index % width, index / width, stride, distances[lane],
                      p.boxes + 4 * static_cast<int64_t>(column));
            return;
        }
        index -= cells;
    }
}

// A single block: it may have the registers of two, rather than spill for the sake of more of them.
extern "C" __global__ void __launch_bounds__(yolor_edge::cuda::kSelectThreads, 2)
    select_boxes(yolor_edge::cuda::SelectParameters p) {
    using namespace yolor_edge;
    using namespace yolor_edge::cuda;
    __shared__ Selection shared;
    const auto thread = static_cast<int32_t>(threadIdx.x);
    const auto found = static_cast<int32_t>(*p.count);
    const bool is_compacted = p.ranks != nullptr && found > p.capacity;
    const Candidate* candidates = is_compacted ? p.compacted : p.candidates;
    const int32_t total = is_compacted ? static_cast<int32_t>(p.ranks->count) : found;
    const int32_t limit = total < p.max_candidates ? total : p.max_candidates;
    Candidate last = 0;  // no candidate is 0
    int32_t kept = 0;
    for (int32_t taken = 0; taken < limit && kept < p.max_detections;) {
        if (total - taken > kPortion) {
            find_bound(candidates, total, last, shared);
        } else if (thread == 0) {
            shared.bound = ~Candidate{0};
        }
        if (thread == 0) shared.gathered = 0;
        __syncthreads();
        const Candidate bound = shared.bound;
        for (int32_t i = thread; i < total; i += kSelectThreads) {
            const Candidate candidate = candidates[i];
            if (candidate > last && candidate <= bound) {
                shared.portion[atomicAdd(&shared.gathered, 1u)] = candidate;
            }
        }
        __syncthreads();
        const auto n = static_cast<int32_t>(shared.gathered);
        if (n == 0) break;
        sort_portion(n, shared);
        last = shared.portion[n - 1];
        const int32_t usable = n < limit - taken ? n : limit - taken;
        for (int32_t begin = 0; begin < usable && kept < p.max_detections; begin += kChunk) {
            const int32_t left = usable - begin;
            kept = compare_chunk(p, begin, left < kChunk ? left : kChunk, kept, shared);
        }
        taken += n;
    }
    write_detections(p, found, kept, shared);
}
