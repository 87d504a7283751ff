#include "nms.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <vector>

namespace yolor_edge {
namespace {

constexpr int32_t kNone = -1;
constexpr size_t kBuckets = 1024;  // above the class count of the usual data sets; more classes share buckets

struct KeptBox {
    float x1, y1, x2, y2, area;
    int32_t class_id;
    int32_t next;  // the kept box before this one in the same bucket
};

float intersection_over_union(const KeptBox& a, const KeptBox& b) noexcept {
    const float width = std::min(a.x2, b.x2) - std::max(a.x1, b.x1);
    const float height = std::min(a.y2, b.y2) - std::max(a.y1, b.y1);
    if (!(width > 0.0f && height > 0.0f)) return 0.0f;
    const float intersection = width * height;
    const float union_area = a.area + b.area - intersection;
    return union_area > 0.0f ? intersection / union_area : 0.0f;
}

}  // namespace

size_t nms(const float* boxes, const int32_t* class_ids, size_t n, float iou_threshold, size_t max_detections,
           bool class_agnostic, int32_t* keep) {
    std::array<int32_t, kBuckets> newest;
    newest.fill(kNone);
    std::vector<KeptBox> kept;
    kept.reserve(std::min(n, max_detections));
    for (size_t i = 0; i < n && kept.size() < max_detections; ++i) {
        const float* box = boxes + 4 * i;
        const int32_t class_id = class_agnostic ? 0 : class_ids[i];
        KeptBox candidate{box[0], box[1], box[2], box[3], 0.0f, class_id, kNone};
        candidate.area = std::max(0.0f, box[2] - box[0]) * std::max(0.0f, box[3] - box[1]);
        int32_t& bucket = newest[static_cast<uint32_t>(class_id) % kBuckets];
        bool is_suppressed = false;
        for (int32_t k = bucket; k != kNone && !is_suppressed; k = kept[static_cast<size_t>(k)].next) {
            const KeptBox& other = kept[static_cast<size_t>(k)];
            is_suppressed =
                other.class_id == class_id && intersection_over_union(other, candidate) > iou_threshold;
        }
        if (is_suppressed) continue;
        candidate.next = bucket;
        bucket = static_cast<int32_t>(kept.size());
        keep[kept.size()] = static_cast<int32_t>(i);
        kept.push_back(candidate);
    }
    return kept.size();
}

size_t order_by_score(const float* boxes, const float* scores, size_t n, int32_t* order) {
    size_t count = 0;
    for (size_t i = 0; i < n; ++i) {
        const float* box = boxes + 4 * i;
        const bool is_finite =
            std::isfinite(box[0]) && std::isfinite(box[1]) && std::isfinite(box[2]) && std::isfinite(box[3]);
        if (is_finite && !std::isnan(scores[i])) order[count++] = static_cast<int32_t>(i);
    }
    std::stable_sort(order, order + count, [scores](int32_t a, int32_t b) { return scores[a] > scores[b]; });
    return count;
}

}  // namespace yolor_edge
