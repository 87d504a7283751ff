/// Non-maximum suppression: of boxes that overlap much, the best one stays.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace yolor_edge {

/// Greedy suppression, one box at a time by falling score: `offer` says whether a box stays.
///   iou_threshold   a box goes when its IoU with a kept one is strictly above it, so exactly equal survives
///   class_agnostic  whether boxes of different classes suppress each other
/// IoU is computed in float; a pair whose union has no area has IoU 0. A box is compared with the kept boxes
/// of its class alone, a vector of them at a time. O(kept) memory.
class Suppressor {
  public:
    /// Forget all boxes, but keep the memory that they took.
    void restart(float iou_threshold, bool class_agnostic);

    /// Keep `box` (xyxy, finite; with x2 < x1 or y2 < y1 it has no area) unless a kept one overlaps it.
    bool offer(const float* box, int32_t class_id);

    size_t kept() const noexcept { return kept_; }

    static constexpr int kLanes = 16;

    /// Kept boxes of one class, as vectors read them; unused lanes hold boxes that overlap nothing.
    struct Block {
        float x1[kLanes], y1[kLanes], x2[kLanes], y2[kLanes], area[kLanes];
        int32_t count;
        int32_t class_id;
        int32_t next;  // an older block of the same bucket
    };

  private:
    float iou_threshold_ = 0.0f;
    bool class_agnostic_ = false;
    size_t kept_ = 0;
    std::vector<int32_t> newest_;  // block by bucket of class ids
    std::vector<Block> blocks_;
};

/// Greedy suppression over boxes already sorted by falling score.
///   boxes           (n, 4) xyxy, same unit throughout; finite
///   class_ids       (n,)   boxes of different classes never suppress each other, unless `class_agnostic`
///   iou_threshold, class_agnostic  see Suppressor
///   max_detections  the search ends when this many are kept
///   keep            (min(n, max_detections),) out: indices kept, rising; the return value says how many
/// Equal scores: the caller's sort is stable, so the lower index wins. O(n * kept of a class) time.
size_t nms(const float* boxes, const int32_t* class_ids, size_t n, float iou_threshold, size_t max_detections,
           bool class_agnostic, int32_t* keep);

/// Indices that put `scores` (n,) in falling order, equal scores by rising index, without the rows that
/// cannot be ranked or compared: those whose score is NaN or whose box is not finite.
///   order  (n,) out; the return value says how many were written
size_t order_by_score(const float* boxes, const float* scores, size_t n, int32_t* order);

}  // namespace yolor_edge
