/// Non-maximum suppression: of boxes that overlap much, the best one stays.
#pragma once

#include <cstddef>
#include <cstdint>

namespace yolor_edge {

/// Greedy suppression over boxes already sorted by falling score.
///   boxes           (n, 4) xyxy, same unit throughout; finite. A box with x2 < x1 or y2 < y1 has no area
///   class_ids       (n,)   boxes of different classes never suppress each other, unless `class_agnostic`
///   iou_threshold   a box goes when its IoU with a kept one is strictly above it, so exactly equal survives
///   max_detections  the search ends when this many are kept
///   keep            (min(n, max_detections),) out: indices kept, rising; the return value says how many
/// IoU is computed in float; a pair whose union has no area has IoU 0. Equal scores: the caller's sort is
/// stable, so the lower index wins. O(n * kept) time, O(kept) memory.
size_t nms(const float* boxes, const int32_t* class_ids, size_t n, float iou_threshold, size_t max_detections,
           bool class_agnostic, int32_t* keep);

/// Indices that put `scores` (n,) in falling order, equal scores by rising index, without the rows that
/// cannot be ranked or compared: those whose score is NaN or whose box is not finite.
///   order  (n,) out; the return value says how many were written
size_t order_by_score(const float* boxes, const float* scores, size_t n, int32_t* order);

}  // namespace yolor_edge
