#include "vision/nms.hpp"

#include <algorithm>
#include <cmath>
#include <limits>

#include "host/scratch.hpp"
#include "shared/box_math.hpp"
#include "simd/cpu_features.hpp"

namespace yolor_edge {
namespace {

constexpr int32_t kNone = -1;
constexpr size_t kBuckets = 1024;  // above the class count of the usual data sets; more classes share buckets

/// Whether a block holds a box whose IoU with the given one is above the threshold.
struct OverlapsAny {
    static YOLOR_EDGE_INLINE bool run(const Suppressor::Block* block, const float* box, float area,
                                      float threshold) {
        const float x1 = box[0], y1 = box[1], x2 = box[2], y2 = box[3];
        int any = 0;
        for (int i = 0; i < Suppressor::kLanes; ++i) {
            any |= overlaps(block->x1[i], block->y1[i], block->x2[i], block->y2[i], block->area[i], x1, y1,
                            x2, y2, area, threshold);
        }
        return any != 0;
    }
};

Suppressor::Block empty_block(int32_t class_id, int32_t next) noexcept {
    constexpr float kFar = std::numeric_limits<float>::max();
    Suppressor::Block block;
    for (int i = 0; i < Suppressor::kLanes; ++i) {
        block.x1[i] = block.y1[i] = kFar;
        block.x2[i] = block.y2[i] = -kFar;
        block.area[i] = 0.0f;
    }
    block.count = 0;
    block.class_id = class_id;
    block.next = next;
    return block;
}

}  // namespace

void Suppressor::restart(float iou_threshold, bool class_agnostic) {
    iou_threshold_ = iou_threshold;
    class_agnostic_ = class_agnostic;
    kept_ = 0;
    newest_.assign(kBuckets, kNone);
    trim(&blocks_);
    blocks_.clear();
}

bool Suppressor::offer(const float* box, int32_t class_id) {
    if (class_agnostic_) class_id = 0;
    const float area = box_area(box);
    int32_t& bucket = newest_[static_cast<uint32_t>(class_id) % kBuckets];
    int32_t open = kNone;  // the block of this class with a lane free: the newest one, if any
    for (int32_t b = bucket; b != kNone; b = blocks_[static_cast<size_t>(b)].next) {
        const Block& block = blocks_[static_cast<size_t>(b)];
        if (block.class_id != class_id) continue;
        if (dispatch<OverlapsAny>(&block, box, area, iou_threshold_)) return false;
        if (block.count < kLanes) open = b;
    }
    if (open == kNone) {
        open = static_cast<int32_t>(blocks_.size());
        blocks_.push_back(empty_block(class_id, bucket));
        bucket = open;
    }
    Block& block = blocks_[static_cast<size_t>(open)];
    const int32_t lane = block.count++;
    block.x1[lane] = box[0];
    block.y1[lane] = box[1];
    block.x2[lane] = box[2];
    block.y2[lane] = box[3];
    block.area[lane] = area;
    ++kept_;
    return true;
}

size_t nms(const float* boxes, const int32_t* class_ids, size_t n, float iou_threshold, size_t max_detections,
           bool class_agnostic, int32_t* keep) {
    thread_local Suppressor suppressor;
    suppressor.restart(iou_threshold, class_agnostic);
    for (size_t i = 0; i < n && suppressor.kept() < max_detections; ++i) {
        if (suppressor.offer(boxes + 4 * i, class_ids[i]))
            keep[suppressor.kept() - 1] = static_cast<int32_t>(i);
    }
    return suppressor.kept();
}

size_t order_by_score(const float* boxes, const float* scores, size_t n, int32_t* order) {
    size_t count = 0;
    for (size_t i = 0; i < n; ++i) {
        const float* box = boxes + 4 * i;
        const bool is_finite =
            std::isfinite(box[0]) && std::isfinite(box[1]) && std::isfinite(box[2]) && std::isfinite(box[3]);
        if (is_finite && !std::isnan(scores[i])) order[count++] = static_cast<int32_t>(i);
    }
    // Not std::stable_sort, which fetches memory in every call.
    std::sort(order, order + count, [scores](int32_t a, int32_t b) {
        return scores[a] > scores[b] || (scores[a] == scores[b] && a < b);
    });
    return count;
}

}  // namespace yolor_edge
