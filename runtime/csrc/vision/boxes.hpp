/// From the raw box heads to boxes: threshold, distribution expectation, order, suppression.
#pragma once

#include <cstdint>
#include <vector>

#include "shared/box_math.hpp"
#include "vision/heads.hpp"

namespace yolor_edge {

/// Shape of the grids the heads predict on. Cells are numbered level by level in the order of `strides`, row
/// by row; corners need no grid, and have their number alone.
struct HeadGrid {
    std::vector<int64_t> strides;
    int64_t input_height;
    int64_t input_width;
    /// The cell that each column of the heads is of; empty where the columns are all cells in their order.
    std::vector<int32_t> chosen = {};
    int64_t box_count = 0;  // boxes of an image where they are coded as xyxy, else 0

    /// Number of cells over all levels, or of boxes where there are no cells.
    int64_t cells() const noexcept;
    /// Number of columns of the heads.
    int64_t columns() const noexcept {
        return chosen.empty() ? cells() : static_cast<int64_t>(chosen.size());
    }
};

/// The heads that the boxes of one image are made of, N = grid.columns() columns each.
struct BoxHeads {
    HeadView scores;  // (classes, 1, N); classes * N below 2^31. Read where it lies; fastest where classes or
                      // cells lie side by side
    int64_t classes;
    HeadView boxes;  // (4 * bins, 1, N): of "dfl" the bins of left, of top, of right, of bottom; of others 4
    int64_t bins;    // 1 but for "dfl"
    ScoreCoding score_coding = ScoreCoding::logits;
    BoxCoding box_coding = BoxCoding::dfl;
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
///   heads    by "dfl" a distance is the expectation of the bin number under softmax; distances are in units
///   of
///            the stride, from the cell's centre
///   threads  at most; the answer does not depend on it
/// Every (cell, class) pair whose score is above the threshold is a candidate: a cell may give several. The
/// threshold is applied to the numbers of the score head, be they logits or probabilities, for float16 and
/// bytes to the elements as they are, and candidates are ordered by them: highest first, then lower class,
/// then lower cell. Probabilities come out as they are. Pairs whose box is not finite (NaN or infinity among
/// its bins, distances or corners) are left out; one that is turned over suppresses nothing.
/// One pass over the scores. Candidates are sorted, decoded and compared a portion at a time, so that what
/// comes after the last detection costs nothing; the box head is read once for each cell that is reached.
/// Memory goes with max_candidates, however many pairs pass.
void decode_boxes(const BoxHeads& heads, const HeadGrid& grid, const DecodeOptions& options, int threads,
                  Detections* found);

}  // namespace yolor_edge
