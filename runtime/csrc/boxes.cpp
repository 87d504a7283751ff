#include "boxes.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "cpu_features.hpp"
#include "nms.hpp"

namespace yolor_edge {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

/// A candidate as one number whose rising order is: falling logit, then rising flat index (class * N + cell).
using Candidate = uint64_t;

Candidate make_candidate(float logit, int64_t flat_index) noexcept {
    const float ordinary_zero = logit + 0.0f;  // -0 and 0 are the same score
    uint32_t bits;
    std::memcpy(&bits, &ordinary_zero, sizeof bits);
    // Negative floats grow downwards as integers: turning them over makes integer order float order.
    const uint32_t rising = (bits & 0x80000000u) ? ~bits : bits | 0x80000000u;
    return (static_cast<uint64_t>(~rising) << 32) | static_cast<uint64_t>(flat_index);
}

int64_t flat_index_of(Candidate candidate) noexcept {
    return static_cast<int64_t>(candidate & 0xffffffffu);
}

/// The smallest logit whose sigmoid is above `threshold`, which lies strictly between 0 and 1.
float lowest_passing_logit(double threshold) noexcept {
    const double limit = std::log(threshold / (1.0 - threshold));
    const auto rounded = static_cast<float>(limit);
    return static_cast<double>(rounded) > limit ? rounded : std::nextafter(rounded, kInfinity);
}

constexpr int64_t kBlock = 4096;  // logits looked through in one go

/// Which of `n` values are at least `bound`, NaN never: their numbers into `hits`, rising; returns how many.
template <class Lanes>
struct CollectAtLeast {
    static YOLOR_EDGE_INLINE int64_t run(const float* values, int64_t n, float bound, int32_t* hits) {
        constexpr int64_t kGroup = 64;  // values a branch
        int64_t count = 0;
        int64_t i = 0;
        for (; i + kGroup <= n; i += kGroup) {
            typename Lanes::Ints any{};
            typename Lanes::Floats lanes;
            for (int64_t j = i; j < i + kGroup; j += Lanes::kWidth) {
                load(values + j, &lanes);
                any |= lanes >= bound;
            }
            int64_t parts[sizeof any / sizeof(int64_t)];
            int64_t is_any = 0;
            std::memcpy(parts, &any, sizeof any);
            for (const int64_t part : parts) is_any |= part;
            if (is_any == 0) continue;
            for (int64_t j = i; j < i + kGroup; j += 8) {
                uint8_t marks[8];
                for (int64_t k = 0; k < 8; k += Lanes::kWidth) {
                    load(values + j + k, &lanes);
                    const typename Lanes::Ints is_hit = lanes >= bound;
                    store_low_bytes(is_hit, marks + k);
                }
                uint64_t left;
                std::memcpy(&left, marks, sizeof left);
                if (left == 0) continue;
                for (int64_t k = 0; k < 8; ++k) {
                    hits[count] = static_cast<int32_t>(j + k);
                    count += marks[k] & 1;
                }
            }
        }
        for (; i < n; ++i) {
            if (values[i] >= bound) hits[count++] = static_cast<int32_t>(i);
        }
        return count;
    }
};

/// The best `max_candidates` pairs above the threshold, in no order.
std::vector<Candidate> find_candidates(const float* class_logits, int64_t classes, int64_t cells,
                                       const DecodeOptions& options) {
    std::vector<Candidate> candidates;
    if (options.score_threshold >= 1.0) return candidates;
    const float lowest =
        options.score_threshold <= 0.0 ? -kInfinity : lowest_passing_logit(options.score_threshold);
    const int64_t size = classes * cells;
    int32_t hits[kBlock + 1];  // one more, since a number is written before it is known to count
    for (int64_t begin = 0; begin < size; begin += kBlock) {
        const int64_t n = std::min(kBlock, size - begin);
        const int64_t count =
            dispatch_lanes<CollectAtLeast>(class_logits + begin, n, lowest, static_cast<int32_t*>(hits));
        for (int64_t i = 0; i < count; ++i) {
            const int64_t flat_index = begin + hits[i];
            candidates.push_back(make_candidate(class_logits[flat_index], flat_index));
        }
    }
    const auto limit = static_cast<size_t>(options.max_candidates);
    if (candidates.size() > limit) {
        std::nth_element(candidates.begin(), candidates.begin() + static_cast<std::ptrdiff_t>(limit),
                         candidates.end());
        candidates.resize(limit);
    }
    return candidates;
}

/// e^x for x of at most 0: Cephes' polynomial, within 2 units in the last place; 0 below -87, NaN for NaN.
template <class Lanes>
YOLOR_EDGE_INLINE void exp_of_negative(typename Lanes::Floats* x) {
    using Floats = typename Lanes::Floats;
    const Floats lowest = Floats{} - 87.0f;
    const typename Lanes::Ints is_below = *x < lowest;
    const Floats bounded = is_below ? lowest : *x;
    constexpr float kRounder =
        12582912.0f;  // 1.5 * 2^23: adding it leaves the nearest whole number in the low bits
    const Floats shifted = bounded * 1.44269504f + kRounder;
    const Floats n = shifted - kRounder;
    const Floats r = (bounded - n * 0.693359375f) - n * -2.12194440e-4f;
    Floats p = r * 1.9875691500e-4f + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * (r * r) + r + 1.0f;
    typename Lanes::Bits bits;
    std::memcpy(&bits, &shifted, sizeof bits);
    bits = (bits << 23) + 0x3f800000u;  // 2^n
    Floats power;
    std::memcpy(&power, &bits, sizeof power);
    *x = is_below ? Floats{} : p * power;
}

constexpr int64_t kLanes = 16;  // distances computed side by side: four cells of four sides

/// Expectations of the bin number under softmax: kLanes distances from `logits` (bins, kLanes).
template <class Lanes>
struct ExpectDistances {
    static YOLOR_EDGE_INLINE void run(const float* logits, int64_t bins, float* distances) {
        for (int64_t part = 0; part < kLanes; part += Lanes::kWidth) {
            typename Lanes::Floats highest, value;
            std::memcpy(&highest, logits + part, sizeof highest);
            for (int64_t bin = 1; bin < bins; ++bin) {
                std::memcpy(&value, logits + bin * kLanes + part, sizeof value);
                highest = highest < value ? value : highest;
            }
            typename Lanes::Floats total{}, weighted{};
            for (int64_t bin = 0; bin < bins; ++bin) {
                std::memcpy(&value, logits + bin * kLanes + part, sizeof value);
                typename Lanes::Floats weight = value - highest;
                exp_of_negative<Lanes>(&weight);
                total += weight;
                weighted += weight * static_cast<float>(bin);
            }
            const typename Lanes::Floats distance = weighted / total;
            std::memcpy(distances + part, &distance, sizeof distance);
        }
    }
};

/// Boxes of cells, each decoded when it is first asked for.
class CellBoxes {
  public:
    CellBoxes(const float* box_bins, int64_t bins, const HeadGrid& grid)
        : box_bins_(box_bins),
          bins_(bins),
          grid_(grid),
          cells_(grid.columns()),
          is_known_(static_cast<size_t>(cells_)),
          boxes_(4 * static_cast<size_t>(cells_)),
          logits_(static_cast<size_t>(bins * kLanes)) {}

    /// Decode these cells; (4 * bins, N) bins are read for those not known yet alone.
    void decode(std::vector<int32_t>* cells) {
        size_t count = 0;
        for (const int32_t cell : *cells) {
            if (is_known_[static_cast<size_t>(cell)]) continue;
            is_known_[static_cast<size_t>(cell)] = 1;
            (*cells)[count++] = cell;
        }
        std::sort(cells->begin(), cells->begin() + static_cast<std::ptrdiff_t>(count));  // to read in order
        constexpr size_t kCells = kLanes / 4;
        for (size_t i = 0; i < count; i += kCells) {
            decode_few(cells->data() + i, std::min(kCells, count - i));
        }
    }

    const float* operator[](int64_t cell) const noexcept { return boxes_.data() + 4 * cell; }

  private:
    void decode_few(const int32_t* cells, size_t count) {
        for (size_t i = 0; i < static_cast<size_t>(kLanes / 4); ++i) {
            const int64_t cell = cells[std::min(i, count - 1)];
            for (int64_t side = 0; side < 4; ++side) {
                const float* source = box_bins_ + side * bins_ * cells_ + cell;
                float* logits = logits_.data() + 4 * i + static_cast<size_t>(side);
                for (int64_t bin = 0; bin < bins_; ++bin) logits[bin * kLanes] = source[bin * cells_];
            }
        }
        float distances[kLanes];
        dispatch_lanes<ExpectDistances>(static_cast<const float*>(logits_.data()), bins_,
                                        static_cast<float*>(distances));
        for (size_t i = 0; i < count; ++i) place(cells[i], distances + 4 * i);
    }

    void place(int64_t cell, const float* distances) {
        int64_t index = grid_.chosen.empty() ? cell : grid_.chosen[static_cast<size_t>(cell)];
        for (const int64_t stride : grid_.strides) {
            const int64_t width = grid_.input_width / stride;
            const int64_t level = (grid_.input_height / stride) * width;
            if (index >= level) {
                index -= level;
                continue;
            }
            const auto step = static_cast<float>(stride);
            const float centre_x = (static_cast<float>(index % width) + 0.5f) * step;
            const float centre_y = (static_cast<float>(index / width) + 0.5f) * step;
            float* box = boxes_.data() + 4 * cell;
            box[0] = centre_x - step * distances[0];
            box[1] = centre_y - step * distances[1];
            box[2] = centre_x + step * distances[2];
            box[3] = centre_y + step * distances[3];
            return;
        }
    }

    const float* box_bins_;
    int64_t bins_;
    const HeadGrid& grid_;
    int64_t cells_;
    std::vector<uint8_t> is_known_;
    std::vector<float> boxes_;
    std::vector<float> logits_;
};

}  // namespace

int64_t HeadGrid::cells() const noexcept {
    int64_t total = 0;
    for (const int64_t stride : strides) total += (input_height / stride) * (input_width / stride);
    return total;
}

Detections decode_boxes(const float* class_logits, int64_t classes, const float* box_bins, int64_t bins,
                        const HeadGrid& grid, const DecodeOptions& options) {
    Detections detections;
    const auto limit = static_cast<size_t>(options.max_detections);
    const int64_t cells = grid.columns();
    std::vector<Candidate> candidates = find_candidates(class_logits, classes, cells, options);
    if (candidates.empty() || limit == 0) return detections;

    // The search mostly ends long before the last candidate: sort, decode and compare a portion at a time.
    CellBoxes boxes(box_bins, bins, grid);
    Suppressor suppressor(options.iou_threshold, options.class_agnostic);
    std::vector<int32_t> portion_cells;
    size_t portion = std::max<size_t>(256, 2 * limit);
    for (size_t begin = 0; begin < candidates.size() && suppressor.kept() < limit; portion *= 2) {
        const size_t end = begin + std::min(portion, candidates.size() - begin);
        const auto first = candidates.begin() + static_cast<std::ptrdiff_t>(begin);
        const auto last = candidates.begin() + static_cast<std::ptrdiff_t>(end);
        if (end < candidates.size()) std::nth_element(first, last, candidates.end());
        std::sort(first, last);
        portion_cells.clear();
        for (size_t i = begin; i < end; ++i) {
            portion_cells.push_back(static_cast<int32_t>(flat_index_of(candidates[i]) % cells));
        }
        boxes.decode(&portion_cells);
        for (size_t i = begin; i < end && suppressor.kept() < limit; ++i) {
            const int64_t flat_index = flat_index_of(candidates[i]);
            const int64_t cell = flat_index % cells;
            const auto class_id = static_cast<int32_t>(flat_index / cells);
            const float* box = boxes[cell];
            if (!std::all_of(box, box + 4, [](float v) { return std::isfinite(v); })) continue;
            if (!suppressor.offer(box, class_id)) continue;
            detections.boxes.insert(detections.boxes.end(), box, box + 4);
            detections.scores.push_back(1.0f / (1.0f + std::exp(-class_logits[flat_index])));
            detections.class_ids.push_back(class_id);
            detections.cells.push_back(static_cast<int32_t>(cell));
        }
        begin = end;
    }
    return detections;
}

}  // namespace yolor_edge
