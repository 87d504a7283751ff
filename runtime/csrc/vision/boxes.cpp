#include "vision/boxes.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "host/parallel.hpp"
#include "host/scratch.hpp"
#include "shared/box_math.hpp"
#include "simd/cpu_features.hpp"
#include "vision/nms.hpp"

namespace yolor_edge {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

/// The smallest number of the score head that is a score above `threshold`, which lies strictly between 0
/// and 1.
float lowest_passing(double threshold, ScoreCoding coding) noexcept {
    const double limit = coding == ScoreCoding::logits ? std::log(threshold / (1.0 - threshold)) : threshold;
    const auto rounded = static_cast<float>(limit);
    return static_cast<double>(rounded) > limit ? rounded : std::nextafter(rounded, kInfinity);
}

/// A bound of scores, as the elements of their head are compared with it.
struct Bound {
    float number;   // of float32
    int32_t raw;    // of others: of float16 see HalfCompare
    bool is_above;  // whether no element reaches it
};

/// Which of `n` values are at least `bound`, NaN never: their numbers into `hits`, rising; returns how many.
template <class Lanes>
struct CollectFloats {
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

/// float16 compared as whole numbers: with the magnitude of negative ones turned over, they rise as the
/// numbers do, from 0x83ff, minus infinity, to 0x7c00; NaN lies outside.
struct HalfCompare {
    using Element = uint16_t;
    using Lane = int16_t;
    static constexpr int16_t kHighest = 0x7c00;
    static constexpr int32_t kLowest = -0x7c01;

    template <class Vector>
    static YOLOR_EDGE_INLINE void mark(const Vector& halves, const Vector& bound, Vector* marks) {
        const Vector rising = halves ^ ((halves >> 15) & (Vector{} + int16_t{0x7fff}));
        *marks = (rising >= bound) & (rising <= (Vector{} + kHighest));
    }
    static bool passes(uint16_t half, int32_t bound) noexcept {
        const int32_t rising = half & 0x8000 ? static_cast<int16_t>(half ^ 0x7fff) : half;
        return rising >= bound && rising <= kHighest;
    }
    static uint16_t half_at(int32_t rising) noexcept {
        return static_cast<uint16_t>(rising < 0 ? rising ^ 0x7fff : rising);
    }
};

template <class Byte>
struct ByteCompare {
    using Element = Byte;
    using Lane = Byte;
    template <class Vector, class Marks>
    static YOLOR_EDGE_INLINE void mark(const Vector& bytes, const Vector& bound, Marks* marks) {
        *marks = bytes >= bound;
    }
    static bool passes(Byte byte, int32_t bound) noexcept { return byte >= bound; }
};

/// CollectFloats for elements of one or two bytes.
template <class Compare>
struct CollectNarrow {
    template <class Lanes>
    struct In {
        using Element = typename Compare::Element;
        static YOLOR_EDGE_INLINE int64_t run(const Element* values, int64_t n, int32_t bound, int32_t* hits) {
            using Vector __attribute__((vector_size(sizeof(typename Lanes::Floats)))) =
                typename Compare::Lane;
            using Marks = decltype(Vector{} >= Vector{});
            constexpr int64_t kWidth = sizeof(Vector) / sizeof(Element);
            constexpr int64_t kGroup = 128 / sizeof(Element);  // elements a branch
            constexpr int64_t kWord = sizeof(uint64_t) / sizeof(Element);
            const Vector bounds = Vector{} + static_cast<typename Compare::Lane>(bound);
            int64_t count = 0;
            int64_t i = 0;
            for (; i + kGroup <= n; i += kGroup) {
                Marks any{};
                for (int64_t j = i; j < i + kGroup; j += kWidth) {
                    Vector lanes;
                    Marks marks;
                    load(values + j, &lanes);
                    Compare::mark(lanes, bounds, &marks);
                    any |= marks;
                }
                uint64_t parts[sizeof any / sizeof(uint64_t)];
                uint64_t is_any = 0;
                store(any, parts);
                for (const uint64_t part : parts) is_any |= part;
                if (is_any == 0) continue;
                for (int64_t j = i; j < i + kGroup; j += kWidth) {
                    Vector lanes;
                    Marks marks;
                    load(values + j, &lanes);
                    Compare::mark(lanes, bounds, &marks);
                    Element flags[kWidth];
                    store(marks, flags);
                    for (int64_t word = 0; word < kWidth; word += kWord) {
                        uint64_t left;
                        std::memcpy(&left, flags + word, sizeof left);
                        if (left == 0) continue;
                        for (int64_t k = word; k < word + kWord; ++k) {
                            hits[count] = static_cast<int32_t>(j + k);
                            count += flags[k] & 1;
                        }
                    }
                }
            }
            for (; i < n; ++i) {
                if (Compare::passes(values[i], bound)) hits[count++] = static_cast<int32_t>(i);
            }
            return count;
        }
    };
};

constexpr int64_t kBlock = 4096;  // scores looked through in one go

/// The score head in the order it is looked through: that of memory, as far as rows of it go.
class ScoreScan {
  public:
    ScoreScan(const HeadView& head, int64_t classes, int64_t cells)
        : head_(head), classes_(classes), cells_(cells) {
        is_class_inner_ = head.column_stride != 1 && head.channel_stride == 1;
        is_side_by_side_ = head.column_stride == 1 || is_class_inner_;
        rows_ = is_class_inner_ ? cells : classes;
        columns_ = is_class_inner_ ? classes : cells;
        row_stride_ = is_class_inner_ ? head.column_stride : head.channel_stride;
        if (is_side_by_side_ && row_stride_ == columns_) {
            columns_ *= rows_;
            rows_ = 1;
        }
        blocks_of_row_ = (columns_ + kBlock - 1) / kBlock;
    }

    int64_t blocks() const noexcept { return rows_ * blocks_of_row_; }

    /// What elements are compared with to find the numbers of at least `lowest`.
    Bound bound_of(float lowest) const noexcept {
        Bound bound{lowest, 0, false};
        if (head_.type == HeadType::float16) {
            bound.raw = HalfCompare::kHighest + 1;
            for (int32_t low = HalfCompare::kLowest; low < bound.raw;) {
                const int32_t middle = low + (bound.raw - low) / 2;
                if (half_to_float(HalfCompare::half_at(middle)) >= lowest) {
                    bound.raw = middle;
                } else {
                    low = middle + 1;
                }
            }
            bound.is_above = bound.raw > HalfCompare::kHighest;
        } else if (head_.type != HeadType::float32) {
            const int32_t first = head_.type == HeadType::int8 ? -128 : 0;
            const auto number = [&](int32_t byte) {
                return static_cast<float>(byte - head_.zero_point) * head_.scale;
            };
            bound.raw = first;
            while (bound.raw < first + 256 && !(number(bound.raw) >= lowest)) ++bound.raw;
            bound.is_above = bound.raw == first + 256;
        }
        return bound;
    }

    /// Add the candidates of a block.
    void collect(int64_t block, const Bound& bound, std::vector<Candidate>* candidates) const {
        const int64_t row = block / blocks_of_row_;
        const int64_t begin = block % blocks_of_row_ * kBlock;
        const int64_t n = std::min(kBlock, columns_ - begin);
        int32_t hits[kBlock + 1];  // one more, since a number is written before it is known to count
        with_elements(head_.type, [&](auto elements) {
            using Elements = decltype(elements);
            const auto* data = static_cast<const typename Elements::Element*>(head_.data);
            if (!is_side_by_side_) {
                float values[kBlock];
                read_row(head_, row, 0, begin, n, values);
                const int64_t count = dispatch_lanes<CollectFloats>(
                    static_cast<const float*>(values), n, bound.number, static_cast<int32_t*>(hits));
                for (int64_t i = 0; i < count; ++i) add(values[hits[i]], row, begin + hits[i], candidates);
                return;
            }
            const auto* values = data + row * row_stride_ + begin;
            const int64_t count = find(values, n, bound, static_cast<int32_t*>(hits));
            for (int64_t i = 0; i < count; ++i) {
                add(Elements::value(values[hits[i]], head_), row, begin + hits[i], candidates);
            }
        });
    }

  private:
    static int64_t find(const float* values, int64_t n, const Bound& bound, int32_t* hits) {
        return dispatch_lanes<CollectFloats>(values, n, bound.number, hits);
    }
    static int64_t find(const uint16_t* values, int64_t n, const Bound& bound, int32_t* hits) {
        return dispatch_lanes<CollectNarrow<HalfCompare>::In>(values, n, bound.raw, hits);
    }
    template <class Byte>
    static int64_t find(const Byte* values, int64_t n, const Bound& bound, int32_t* hits) {
        return dispatch_lanes<CollectNarrow<ByteCompare<Byte>>::template In>(values, n, bound.raw, hits);
    }

    void add(float value, int64_t row, int64_t column, std::vector<Candidate>* candidates) const {
        const int64_t position = row * columns_ + column;
        const int64_t flat_index =
            is_class_inner_ ? position % classes_ * cells_ + position / classes_ : position;
        candidates->push_back(make_candidate(value, flat_index));
    }

    HeadView head_;
    int64_t classes_, cells_;
    bool is_class_inner_, is_side_by_side_;
    int64_t rows_, columns_, row_stride_, blocks_of_row_;
};

/// Leave the best `limit` candidates, in no order but that the worst of them is the last; whether any went.
bool keep_best(size_t limit, std::vector<Candidate>* candidates) {
    if (candidates->size() <= limit) return false;
    std::nth_element(candidates->begin(), candidates->begin() + static_cast<std::ptrdiff_t>(limit) - 1,
                     candidates->end());
    candidates->resize(limit);
    return true;
}

/// The best `max_candidates` pairs above the threshold, in no order, into the first of `found`.
void find_candidates(const ScoreScan& scan, ScoreCoding coding, const DecodeOptions& options, int threads,
                     std::vector<std::vector<Candidate>>* found) {
    for (std::vector<Candidate>& part : *found) part.clear();
    if (options.score_threshold >= 1.0 || options.max_candidates == 0 || scan.blocks() == 0) return;
    const float lowest =
        options.score_threshold <= 0.0 ? -kInfinity : lowest_passing(options.score_threshold, coding);
    const Bound first_bound = scan.bound_of(lowest);
    if (first_bound.is_above) return;
    const auto limit = static_cast<size_t>(options.max_candidates);
    const int64_t blocks = scan.blocks();
    const int64_t tasks = std::min<int64_t>(threads, blocks);
    run_parallel(threads, tasks, [&](int64_t task) {
        std::vector<Candidate>& candidates = (*found)[static_cast<size_t>(task)];
        Bound bound = first_bound;
        for (int64_t block = blocks * task / tasks; block < blocks * (task + 1) / tasks; ++block) {
            scan.collect(block, bound, &candidates);
            // Where many more pass than are wanted, what is worse than the best so far need not be kept.
            if (candidates.size() >= limit + std::max<size_t>(limit, 4 * kBlock) &&
                keep_best(limit, &candidates)) {
                bound = scan.bound_of(value_of(candidates.back()));
            }
        }
    });
    std::vector<Candidate>& all = found->front();
    for (size_t task = 1; task < static_cast<size_t>(tasks); ++task) {
        all.insert(all.end(), (*found)[task].begin(), (*found)[task].end());
    }
    keep_best(limit, &all);
}

constexpr int64_t kLanes = 16;  // distances computed side by side: four cells of four sides

/// Expectations of the bin number under softmax: kLanes distances from `logits` (bins, kLanes).
template <class Lanes>
struct ExpectDistances {
    static YOLOR_EDGE_INLINE void run(const float* logits, int64_t bins, float* distances) {
        for (int64_t part = 0; part < kLanes; part += Lanes::kWidth) {
            const auto read = [&](int64_t bin, typename Lanes::Floats* value) {
                std::memcpy(value, logits + bin * kLanes + part, sizeof *value);
            };
            typename Lanes::Floats distance;
            expect_distance<typename Lanes::Floats, typename Lanes::Bits>(bins, read, &distance);
            std::memcpy(distances + part, &distance, sizeof distance);
        }
    }
};

/// Boxes of cells, each decoded when it is first asked for.
class CellBoxes {
  public:
    /// Forget all boxes; `grid` is looked at until the next time.
    void restart(const BoxHeads& heads, const HeadGrid& grid) {
        head_ = heads.boxes;
        bins_ = heads.bins;
        coding_ = heads.box_coding;
        grid_ = &grid;
        const auto cells = static_cast<size_t>(grid.columns());
        is_known_.assign(cells, 0);
        boxes_.resize(4 * cells);
    }

    /// Decode these cells; the head is read for those not known yet alone.
    void decode(int threads, std::vector<int32_t>* cells) {
        size_t count = 0;
        for (const int32_t cell : *cells) {
            if (is_known_[static_cast<size_t>(cell)]) continue;
            is_known_[static_cast<size_t>(cell)] = 1;
            (*cells)[count++] = cell;
        }
        std::sort(cells->begin(), cells->begin() + static_cast<std::ptrdiff_t>(count));  // to read in order
        constexpr size_t kCells = kLanes / 4;
        constexpr size_t kCellsOfTask = 16 * kCells;
        run_parallel(threads, static_cast<int64_t>((count + kCellsOfTask - 1) / kCellsOfTask),
                     [&](int64_t task) {
                         const size_t begin = static_cast<size_t>(task) * kCellsOfTask;
                         const size_t end = std::min(begin + kCellsOfTask, count);
                         for (size_t i = begin; i < end; i += kCells) {
                             const size_t few = std::min(kCells, end - i);
                             if (coding_ == BoxCoding::dfl) {
                                 decode_bins(cells->data() + i, few);
                             } else {
                                 decode_sides(cells->data() + i, few);
                             }
                         }
                     });
    }

    const float* operator[](int64_t cell) const noexcept { return boxes_.data() + 4 * cell; }

    void finish() { trim(&is_known_, &boxes_); }

  private:
    void decode_bins(const int32_t* cells, size_t count) {
        thread_local std::vector<float> logits;
        logits.resize(static_cast<size_t>(bins_ * kLanes));
        with_elements(head_.type, [&](auto elements) {
            using Elements = decltype(elements);
            const auto* data = static_cast<const typename Elements::Element*>(head_.data);
            for (size_t i = 0; i < static_cast<size_t>(kLanes / 4); ++i) {
                const int64_t cell = cells[std::min(i, count - 1)];
                for (int64_t side = 0; side < 4; ++side) {
                    const auto* source = data + head_.at(side * bins_, 0, cell);
                    float* of_distance = logits.data() + 4 * i + static_cast<size_t>(side);
                    for (int64_t bin = 0; bin < bins_; ++bin) {
                        of_distance[bin * kLanes] =
                            Elements::value(source[bin * head_.channel_stride], head_);
                    }
                }
            }
        });
        float distances[kLanes];
        dispatch_lanes<ExpectDistances>(static_cast<const float*>(logits.data()), bins_,
                                        static_cast<float*>(distances));
        for (size_t i = 0; i < count; ++i) place(cells[i], distances + 4 * i);
        trim(&logits);
    }

    void decode_sides(const int32_t* cells, size_t count) {
        with_elements(head_.type, [&](auto elements) {
            using Elements = decltype(elements);
            const auto* data = static_cast<const typename Elements::Element*>(head_.data);
            for (size_t i = 0; i < count; ++i) {
                float sides[4];
                for (int64_t side = 0; side < 4; ++side) {
                    sides[side] = Elements::value(data[head_.at(side, 0, cells[i])], head_);
                }
                if (coding_ == BoxCoding::ltrb) {
                    place(cells[i], sides);
                } else {
                    std::copy(sides, sides + 4, boxes_.data() + 4 * static_cast<int64_t>(cells[i]));
                }
            }
        });
    }

    void place(int64_t cell, const float* distances) {
        int64_t index = grid_->chosen.empty() ? cell : grid_->chosen[static_cast<size_t>(cell)];
        for (const int64_t stride : grid_->strides) {
            const int64_t width = grid_->input_width / stride;
            const int64_t level = (grid_->input_height / stride) * width;
            if (index >= level) {
                index -= level;
                continue;
            }
            place_box(index % width, index / width, stride, distances, boxes_.data() + 4 * cell);
            return;
        }
    }

    HeadView head_{};
    int64_t bins_ = 0;
    BoxCoding coding_ = BoxCoding::dfl;
    const HeadGrid* grid_ = nullptr;
    std::vector<uint8_t> is_known_;
    std::vector<float> boxes_;
};

/// Working memory of one call, kept by its thread for the next.
struct Scratch {
    std::vector<std::vector<Candidate>> found;
    CellBoxes boxes;
    Suppressor suppressor;
    std::vector<int32_t> portion_cells;
};

}  // namespace

int64_t HeadGrid::cells() const noexcept {
    if (box_count != 0) return box_count;
    int64_t total = 0;
    for (const int64_t stride : strides) total += (input_height / stride) * (input_width / stride);
    return total;
}

void decode_boxes(const BoxHeads& heads, const HeadGrid& grid, const DecodeOptions& options, int threads,
                  Detections* found) {
    found->boxes.clear();
    found->scores.clear();
    found->class_ids.clear();
    found->cells.clear();
    const auto limit = static_cast<size_t>(options.max_detections);
    const int64_t cells = grid.columns();
    if (limit == 0) return;
    threads = std::clamp(threads, 1, kMostThreads);
    thread_local Scratch scratch;
    if (scratch.found.size() < static_cast<size_t>(threads))
        scratch.found.resize(static_cast<size_t>(threads));
    find_candidates(ScoreScan(heads.scores, heads.classes, cells), heads.score_coding, options, threads,
                    &scratch.found);
    std::vector<Candidate>& candidates = scratch.found.front();

    // The search mostly ends long before the last candidate: sort, decode and compare a portion at a time.
    CellBoxes& boxes = scratch.boxes;
    Suppressor& suppressor = scratch.suppressor;
    std::vector<int32_t>& portion_cells = scratch.portion_cells;
    if (!candidates.empty()) {
        boxes.restart(heads, grid);
        suppressor.restart(options.iou_threshold, options.class_agnostic);
    }
    size_t portion = std::max<size_t>(256, 2 * std::min(limit, candidates.size()));
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
        boxes.decode(threads, &portion_cells);
        for (size_t i = begin; i < end && suppressor.kept() < limit; ++i) {
            const int64_t flat_index = flat_index_of(candidates[i]);
            const int64_t cell = flat_index % cells;
            const auto class_id = static_cast<int32_t>(flat_index / cells);
            const float* box = boxes[cell];
            if (!std::all_of(box, box + 4, is_finite_number)) continue;
            if (!suppressor.offer(box, class_id)) continue;
            found->boxes.insert(found->boxes.end(), box, box + 4);
            found->scores.push_back(score_of(value_of(candidates[i]), heads.score_coding));
            found->class_ids.push_back(class_id);
            found->cells.push_back(static_cast<int32_t>(cell));
        }
        begin = end;
    }
    boxes.finish();
    trim(&portion_cells);
    for (std::vector<Candidate>& part : scratch.found) trim(&part);
}

}  // namespace yolor_edge
