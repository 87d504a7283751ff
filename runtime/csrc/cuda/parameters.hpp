/// What each CUDA kernel takes, one structure by value; runtime/cuda/kernels/kernel_parameters.py mirrors
/// them field by field. Every pointer is to memory of the device.
#pragma once

#include "shared/box_math.hpp"
#include "shared/letterbox_math.hpp"
#include "shared/sampling_math.hpp"

namespace yolor_edge::cuda {

constexpr int32_t kMostLevels = 8;
constexpr int32_t kTileWidth = 64;  // pixels of a mask that one block fills in one go
constexpr int32_t kTileHeight = 32;
constexpr int32_t kMostChannels = 256;  // of prototypes
constexpr int32_t kMostClasses = 256;   // of the semantic map

/// What is known at the end: the first of what the host reads.
struct Summary {
    int64_t tile_bytes;   // of all masks together
    int32_t detections;   // boxes with something left of them inside the image
    int32_t candidates;   // pairs of cell and class above the threshold
    int32_t kept;         // boxes left by the suppression, those in the padding among them
    int32_t tile_blocks;  // portions that the masks are filled in
};

/// fill_taps, a thread a pixel of the output: what the letterbox reads along one axis.
struct TapsParameters {
    Tap* taps;  // (out,)
    int32_t in;
    int32_t out;
};

/// fill_axis, a thread a pixel: how pixels of an image fall on a grid.
struct AxisParameters {
    AxisFrame frame;
    AxisSample* samples;  // (pixels,)
    int32_t* begins;      // (grid_length,) first pixel between a point of the grid and the next; zeros before
    int32_t* ends;        // (grid_length,) one past the last; zeros before
    int32_t pixels;
};

/// fill_nearest, a thread a pixel: the pixel of the input that the centre of a pixel of the image falls into.
struct NearestParameters {
    double scale;
    int32_t* indices;  // (pixels,)
    int32_t pad;
    int32_t length;  // of the input
    int32_t pixels;
};

/// letterbox, a thread a pixel of the input.
struct LetterboxParameters {
    const uint8_t* image;
    void* output;        // (3, input_height, input_width) float32 or float16
    const Tap* rows;     // (resized_height,)
    const Tap* columns;  // (resized_width,)
    int64_t row_stride;  // bytes
    int32_t layout;      // 0 interleaved, 1 NV12, 2 YUYV
    int32_t channels;    // 1 or 3 where interleaved
    int32_t image_height;
    int32_t input_height;
    int32_t input_width;
    int32_t resized_height;
    int32_t resized_width;
    int32_t pad_top;
    int32_t pad_left;
    int32_t pad_value;
    int32_t swap_rb;
    int32_t is_half;
    float scale;
};

/// collect_candidates, kCollectItems scores a thread.
struct CollectParameters {
    const void* scores;       // (classes, columns) float32 or float16
    const int32_t* cells;     // (columns,) of a graph that chose some, or null
    Candidate* candidates;    // (classes * columns,) out, in no order
    uint32_t* count;          // out; zero before
    uint8_t* is_wanted;       // (columns,) out: has a candidate; zeros before
    int32_t* column_of_cell;  // (grid_cells,) out where there are `cells`
    int32_t classes;
    int32_t columns;
    int32_t grid_cells;
    int32_t is_half;
    float lowest;  // the smallest number of the head that passes; NaN for none
};

/// What the passes of rank_candidates find out; zeros before each image.
struct RankState {
    uint64_t prefix;   // the digits found so far
    uint64_t bound;    // the highest key that is let through, once it is found
    uint32_t below;    // candidates before those of the prefix
    uint32_t tickets;  // blocks of a pass that are done
    uint32_t count;    // candidates let through
    int32_t is_found;
};

/// rank_candidates, kRankItems candidates a thread; nothing where there are at most `capacity`.
struct RankParameters {
    const Candidate* candidates;
    const uint32_t* count;
    RankState* state;
    uint32_t* histogram;  // (kRankBins,) of this pass; zeros before
    int32_t rank;         // at least so many are let through
    int32_t capacity;     // and at most so many
    int32_t index_bits;   // of a flat index
    int32_t shift;        // of the pass's digit in the keys
    int32_t is_first;
};

/// compact_candidates, kRankItems candidates a thread; nothing where there are at most `capacity`.
struct CompactParameters {
    const Candidate* candidates;
    const uint32_t* count;
    RankState* state;
    Candidate* compacted;  // (capacity,) out, in no order: those up to the bound
    int32_t capacity;
    int32_t index_bits;
};

/// decode_cells, a thread a column and side.
struct DecodeParameters {
    const void* head;  // (4 * bins, columns) float32 or float16
    const int32_t* cells;
    const uint8_t* is_wanted;
    float* boxes;  // (columns, 4) out, those wanted
    BoxCoding coding;
    int32_t bins;  // 1 but for dfl
    int32_t columns;
    int32_t input_height;
    int32_t input_width;
    int32_t levels;
    int32_t strides[kMostLevels];
    int32_t is_half;
};

/// select_boxes, a single block: order, suppression, and what the masks need.
struct SelectParameters {
    const Candidate* candidates;
    const uint32_t* count;
    const Candidate*
        compacted;           // the best of them, looked through where there are more than `capacity` in all
    const RankState* ranks;  // how many those are; null where there cannot be more
    const float* boxes;      // (columns, 4)
    const int32_t* column_of_cell;  // or null
    float* kept_boxes;              // (max_detections, 5) working memory: box and area
    int32_t* kept_classes;          // (max_detections,)
    Candidate* kept;                // (max_detections,)
    Summary* summary;               // out
    float* image_boxes;             // (max_detections, 4) out: in pixels of the image, clipped
    float* scores;                  // (max_detections,) out
    int32_t* class_ids;             // (max_detections,) out
    int32_t* columns;               // (max_detections,) out: of the heads
    int32_t* regions;               // (max_detections, 4) out: y0, x0, height, width
    int64_t* tile_offsets;          // (max_detections,) out: where a mask begins in the tiles
    int32_t* block_offsets;         // (max_detections,) out: portions before those of a mask
    double scale_y;
    double scale_x;
    int32_t pad_top;
    int32_t pad_left;
    int32_t image_height;
    int32_t image_width;
    int32_t grid_cells;
    int32_t max_detections;
    int32_t max_candidates;
    int32_t class_agnostic;
    int32_t capacity;  // of `compacted`
    ScoreCoding score_coding;
    float iou_threshold;
};

/// fill_masks, any number of blocks.
struct MaskParameters {
    const Summary* summary;
    const void* prototypes;    // (channels, grid_height, grid_width)
    const void* coefficients;  // (channels, head_columns)
    const int32_t* columns;    // these five as select_boxes leaves them
    const int32_t* regions;
    const int64_t* tile_offsets;
    const int32_t* block_offsets;
    const AxisSample* rows;            // (image height,)
    const AxisSample* columns_of_row;  // (image width,)
    uint8_t* tiles;                    // (tile_capacity,) out: one mask after the other, 0 and 1
    int64_t tile_capacity;             // nothing is written where it is too small for all
    int32_t channels;
    int32_t grid_height;
    int32_t grid_width;
    int32_t head_columns;
    int32_t prototypes_are_half;
    int32_t coefficients_are_half;
};

/// find_leaders, a column of threads a point of the grid.
struct LeadersParameters {
    const void* logits;  // (classes, points)
    int32_t* leaders;    // (points,) out: the highest class, of equal ones the lowest
    int32_t classes;
    int32_t points;
    int32_t is_half;
};

/// fill_semantic, a block for each square between four points of the grid.
struct SemanticParameters {
    const void* logits;      // (classes, grid_height, grid_width)
    const int32_t* leaders;  // (grid_height, grid_width)
    const AxisSample* rows;
    const AxisSample* columns;
    const int32_t* row_begins;  // and so on: see AxisParameters
    const int32_t* row_ends;
    const int32_t* column_begins;
    const int32_t* column_ends;
    uint8_t* map;  // (image height, image_width) out
    int32_t classes;
    int32_t grid_height;
    int32_t grid_width;
    int32_t image_width;
    int32_t is_half;
};

/// resample_map, a thread a pixel of the image: a map that the graph made, cut and resized to the image.
struct ResampleParameters {
    const uint8_t* source;   // (input height, input_width)
    const int32_t* rows;     // (image_height,) see NearestParameters
    const int32_t* columns;  // (image_width,)
    uint8_t* map;            // (image_height, image_width) out
    int32_t input_width;
    int32_t image_height;
    int32_t image_width;
};

}  // namespace yolor_edge::cuda
