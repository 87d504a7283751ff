#include "boxes.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "nms.hpp"
#include "scan.hpp"

namespace yolor_edge {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr int32_t kNoSlot = -1;

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

/// The best `max_candidates` pairs above the threshold, best first.
std::vector<Candidate> find_candidates(const float* class_logits, int64_t classes, int64_t cells,
                                       const DecodeOptions& options) {
    std::vector<Candidate> candidates;
    if (options.score_threshold >= 1.0) return candidates;
    const float lowest =
        options.score_threshold <= 0.0 ? -kInfinity : lowest_passing_logit(options.score_threshold);
    for_each_at_least(
        class_logits, classes * cells, [lowest] { return lowest; },
        [&candidates](int64_t flat_index, float logit) {
            candidates.push_back(make_candidate(logit, flat_index));
        });
    const auto limit = static_cast<size_t>(options.max_candidates);
    if (candidates.size() > limit) {
        std::nth_element(candidates.begin(), candidates.begin() + static_cast<std::ptrdiff_t>(limit),
                         candidates.end());
        candidates.resize(limit);
    }
    std::sort(candidates.begin(), candidates.end());
    return candidates;
}

/// Expectation of the bin number under softmax over `bins` logits that lie `step` floats apart.
float expected_distance(const float* logits, int64_t bins, int64_t step) noexcept {
    float highest = logits[0];
    for (int64_t bin = 1; bin < bins; ++bin) highest = std::max(highest, logits[bin * step]);
    float total = 0.0f;
    float weighted = 0.0f;
    for (int64_t bin = 0; bin < bins; ++bin) {
        const float weight = std::exp(logits[bin * step] - highest);
        total += weight;
        weighted += weight * static_cast<float>(bin);
    }
    return weighted / total;
}

/// Boxes (slots, 4) of the cells that `slot_of_cell` gives a slot, by rising cell.
void decode_cells(const float* box_bins, int64_t bins, const HeadGrid& grid,
                  const std::vector<int32_t>& slot_of_cell, float* boxes) {
    const auto cells = static_cast<int64_t>(slot_of_cell.size());
    int64_t cell = 0;
    for (const int64_t stride : grid.strides) {
        const auto step = static_cast<float>(stride);
        for (int64_t y = 0; y < grid.input_height / stride; ++y) {
            for (int64_t x = 0; x < grid.input_width / stride; ++x, ++cell) {
                const int32_t slot = slot_of_cell[static_cast<size_t>(cell)];
                if (slot == kNoSlot) continue;
                float distance[4];
                for (int64_t side = 0; side < 4; ++side) {
                    distance[side] =
                        step * expected_distance(box_bins + side * bins * cells + cell, bins, cells);
                }
                const float centre_x = (static_cast<float>(x) + 0.5f) * step;
                const float centre_y = (static_cast<float>(y) + 0.5f) * step;
                float* box = boxes + 4 * static_cast<int64_t>(slot);
                box[0] = centre_x - distance[0];
                box[1] = centre_y - distance[1];
                box[2] = centre_x + distance[2];
                box[3] = centre_y + distance[3];
            }
        }
    }
}

/// `decode_cells` where the columns of the heads are those of `grid.chosen` only; `slot_of_column` by column.
void decode_chosen(const float* box_bins, int64_t bins, const HeadGrid& grid,
                   const std::vector<int32_t>& slot_of_column, float* boxes) {
    const auto columns = static_cast<int64_t>(slot_of_column.size());
    for (int64_t column = 0; column < columns; ++column) {
        const int32_t slot = slot_of_column[static_cast<size_t>(column)];
        if (slot == kNoSlot) continue;
        int64_t place = grid.chosen[static_cast<size_t>(column)];
        size_t level = 0;
        const auto level_cells = [&grid](int64_t stride) {
            return (grid.input_height / stride) * (grid.input_width / stride);
        };
        while (place >= level_cells(grid.strides[level])) place -= level_cells(grid.strides[level++]);
        const int64_t stride = grid.strides[level];
        const int64_t row_cells = grid.input_width / stride;
        const auto step = static_cast<float>(stride);
        const float centre[2] = {(static_cast<float>(place % row_cells) + 0.5f) * step,
                                 (static_cast<float>(place / row_cells) + 0.5f) * step};
        float* box = boxes + 4 * static_cast<int64_t>(slot);
        for (int64_t side = 0; side < 4; ++side) {
            const float distance =
                step * expected_distance(box_bins + side * bins * columns + column, bins, columns);
            box[side] = side < 2 ? centre[side] - distance : centre[side - 2] + distance;
        }
    }
}

}  // namespace

int64_t HeadGrid::cells() const noexcept {
    int64_t total = 0;
    for (const int64_t stride : strides) total += (input_height / stride) * (input_width / stride);
    return total;
}

Detections decode_boxes(const float* class_logits, int64_t classes, const float* box_bins, int64_t bins,
                        const HeadGrid& grid, const DecodeOptions& options) {
    const int64_t cells = grid.columns();
    const std::vector<Candidate> candidates = find_candidates(class_logits, classes, cells, options);

    // Which cells have a candidate; a cell's slot is where its box goes. Rising cells, so that bins are read
    // in order.
    std::vector<int32_t> slot_of_cell(static_cast<size_t>(cells), kNoSlot);
    for (const Candidate candidate : candidates)
        slot_of_cell[static_cast<size_t>(flat_index_of(candidate) % cells)] = 0;
    int32_t slots = 0;
    for (int32_t& slot : slot_of_cell) {
        if (slot != kNoSlot) slot = slots++;
    }
    std::vector<float> cell_boxes(4 * static_cast<size_t>(slots));
    const auto decode = grid.chosen.empty() ? decode_cells : decode_chosen;
    decode(box_bins, bins, grid, slot_of_cell, cell_boxes.data());

    std::vector<float> boxes(4 * candidates.size());
    std::vector<int32_t> class_ids(candidates.size());
    std::vector<int32_t> flat_indices(candidates.size());
    size_t count = 0;
    for (const Candidate candidate : candidates) {
        const int64_t flat_index = flat_index_of(candidate);
        const int64_t cell = flat_index % cells;
        const float* box =
            cell_boxes.data() + 4 * static_cast<int64_t>(slot_of_cell[static_cast<size_t>(cell)]);
        if (!std::all_of(box, box + 4, [](float v) { return std::isfinite(v); })) continue;
        std::copy(box, box + 4, boxes.data() + 4 * count);
        class_ids[count] = static_cast<int32_t>(flat_index / cells);
        flat_indices[count] = static_cast<int32_t>(flat_index);
        ++count;
    }

    const auto limit = static_cast<size_t>(options.max_detections);
    std::vector<int32_t> keep(std::min(count, limit));
    keep.resize(nms(boxes.data(), class_ids.data(), count, options.iou_threshold, limit,
                    options.class_agnostic, keep.data()));

    Detections detections;
    detections.boxes.reserve(4 * keep.size());
    for (const int32_t index : keep) {
        const auto i = static_cast<size_t>(index);
        const float logit = class_logits[flat_indices[i]];
        detections.boxes.insert(detections.boxes.end(), boxes.begin() + 4 * index,
                                boxes.begin() + 4 * index + 4);
        detections.scores.push_back(1.0f / (1.0f + std::exp(-logit)));
        detections.class_ids.push_back(class_ids[i]);
        detections.cells.push_back(static_cast<int32_t>(flat_indices[i] % cells));
    }
    return detections;
}

}  // namespace yolor_edge
