/// From the raw box heads to boxes: threshold, distribution expectation, order, suppression.
#pragma once

#include <cstdint>
#include <vector>

#include "vision/heads.hpp"

namespace yolor_edge {

/// Shape of the grids the heads predict on. Cells are numbered level by level in the order of `strides`, row
/// by row.
struct HeadGrid {
    std::vector<int64_t> strides;
    int64_t input_height;
    int64_t input_width;
    /// The cell that each column of the heads is of; empty where the columns are all cells in their order.
    std::vector<int32_t> chosen = {};

    /// Number of cells over all levels.
    int64_t cells() const noexcept;
    /// Number of columns of the heads.
    int64_t columns() const noexcept {
        return chosen.empty() ? cells() : static_cast<int64_t>(chosen.size());
    }
};

struct DecodeOptions {
    double score_threshold;  // strictly above; at or below 0 everything but NaN passes, at or above 1 nothing
                             // does
    float iou_threshold;     // see nms
    int64_t max_detections;  // boxes returned at most
    int64_t max_candidates;  // pairs considered at most, the best ones
    bool class_agnostic;     // whether boxes of different classes suppress each other
};

/// Boxes by falling score. `boxes` holds 4 floats per detection: xyxy in pixels of the network's input, not
/// clipped.
struct Detections {
    std::vector<float> boxes;
    std::vector<float> scores;
    std::vector<int32_t> class_ids;
    std::vector<int32_t> cells;  // the column each box came from, to find its mask coefficients by
};

/// Decode one image's box heads into `found`, whose memory is used again.
///   class_logits  (classes, 1, N), N = grid.columns(); classes * N below 2^31. Read where it lies; fastest
///                 where classes or cells lie side by side
///   box_bins      (4 * bins, 1, N): sides left, top, right, bottom, `bins` rows each. A distance is the
///                 expectation of the bin number under softmax, in units of the stride, from the cell's
///                 centre
///   threads       at most; the answer does not depend on it
/// Every (cell, class) pair whose sigmoid(logit) is above the threshold is a candidate: a cell may give
/// several. The threshold is applied to the logits, for float16 and bytes to the elements as they are, and
/// candidates are ordered by logit: highest first, then lower class, then lower cell. Pairs whose box is not
/// finite (NaN or infinity among its bins) are left out.
/// One pass over the class logits. Candidates are sorted, decoded and compared a portion at a time, so that
/// what comes after the last detection costs nothing; bins are read once for each cell that is reached.
/// Memory goes with max_candidates, however many pairs pass.
void decode_boxes(const HeadView& class_logits, int64_t classes, const HeadView& box_bins, int64_t bins,
                  const HeadGrid& grid, const DecodeOptions& options, int threads, Detections* found);

}  // namespace yolor_edge
