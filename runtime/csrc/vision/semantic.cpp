#include "vision/semantic.hpp"

#include <algorithm>
#include <array>
#include <cstring>
#include <utility>
#include <vector>

#include "host/parallel.hpp"
#include "host/scratch.hpp"
#include "simd/cpu_features.hpp"

#ifdef YOLOR_EDGE_X86
#include <immintrin.h>
#endif

namespace yolor_edge {
namespace {

YOLOR_EDGE_INLINE float limited(float value) noexcept {
    limit_logit(&value);
    return value;
}

constexpr int64_t kClassLanes = 16;  // classes of a grid point are padded to a multiple of this
constexpr float kNoClass = -2e30f;   // value of the padding: below every class

/// One row of the grid: the class that leads at every point, and the logits of each point side by side.
struct GridRow {
    std::vector<int32_t> leaders;  // (width,)
    std::vector<float> points;     // (width, padded classes), limited
    int64_t index = -1;            // which row is loaded
};

/// The class that leads at every point of a row; equal values go to the lowest class.
struct FindLeaders {
    static YOLOR_EDGE_INLINE void run(const float* __restrict logits, int64_t classes, int64_t plane_size,
                                      int64_t width, float* __restrict best, int32_t* __restrict leaders) {
        for (int64_t x = 0; x < width; ++x) {
            best[x] = limited(logits[x]);
            leaders[x] = 0;
        }
        for (int64_t c = 1; c < classes; ++c) {
            const float* __restrict row = logits + c * plane_size;
            const auto class_id = static_cast<int32_t>(c);
            for (int64_t x = 0; x < width; ++x) {
                const float value = limited(row[x]);
                const bool leads = value > best[x];
                best[x] = leads ? value : best[x];
                leaders[x] = leads ? class_id : leaders[x];
            }
        }
    }
};

YOLOR_EDGE_INLINE void load_limited(const float* source, Four* value) {
    std::memcpy(value, source, sizeof *value);
    limit_logit(value);
}

/// Turn (classes, width) of one row into (width, padded classes); blocks of four by four, the rest singly.
struct TransposeRow {
    static YOLOR_EDGE_INLINE void run(const float* logits, int64_t classes, int64_t plane_size, int64_t width,
                                      int64_t padded, float* points) {
        int64_t c = 0;
        for (; c + 4 <= classes; c += 4) {
            const float* plane = logits + c * plane_size;
            int64_t x = 0;
            for (; x + 4 <= width; x += 4) {
                Four r0, r1, r2, r3;
                load_limited(plane + x, &r0);
                load_limited(plane + plane_size + x, &r1);
                load_limited(plane + 2 * plane_size + x, &r2);
                load_limited(plane + 3 * plane_size + x, &r3);
                const Four a = YOLOR_EDGE_SHUFFLE(r0, r1, 0, 4, 1, 5),
                           b = YOLOR_EDGE_SHUFFLE(r2, r3, 0, 4, 1, 5);
                const Four d = YOLOR_EDGE_SHUFFLE(r0, r1, 2, 6, 3, 7),
                           e = YOLOR_EDGE_SHUFFLE(r2, r3, 2, 6, 3, 7);
                const Four t0 = YOLOR_EDGE_SHUFFLE(a, b, 0, 1, 4, 5),
                           t1 = YOLOR_EDGE_SHUFFLE(a, b, 2, 3, 6, 7);
                const Four t2 = YOLOR_EDGE_SHUFFLE(d, e, 0, 1, 4, 5),
                           t3 = YOLOR_EDGE_SHUFFLE(d, e, 2, 3, 6, 7);
                float* out = points + x * padded + c;
                std::memcpy(out, &t0, sizeof t0);
                std::memcpy(out + padded, &t1, sizeof t1);
                std::memcpy(out + 2 * padded, &t2, sizeof t2);
                std::memcpy(out + 3 * padded, &t3, sizeof t3);
            }
            for (; x < width; ++x) {
                for (int64_t i = 0; i < 4; ++i) {
                    points[x * padded + c + i] = limited(plane[i * plane_size + x]);
                }
            }
        }
        for (int64_t x = 0; x < width; ++x) {
            for (int64_t i = c; i < classes; ++i)
                points[x * padded + i] = limited(logits[i * plane_size + x]);
            for (int64_t i = classes; i < padded; ++i) points[x * padded + i] = kNoClass;
        }
    }
};

/// Logits of all classes at the four corners of one cell: top left, top right, bottom left, bottom right.
struct Corners {
    const float* at[4];
};

// What cannot win beside `leader`: lower classes that are below it at all four corners, and higher classes
// that are nowhere above it (a tie goes to the lower class, so a lower one must be strictly below).
// `ruled_out` holds 16 classes a word, the first one lowest; what is ruled out is added to it.

/// What is ruled out of a block of 16 classes: where the leader is in the block, those before it that it is
/// above, those after it that are not above it, and never itself.
inline uint16_t ruled_out_of_block(int64_t block, int64_t leader, unsigned not_above,
                                   unsigned below) noexcept {
    const int64_t leader_block = leader / kClassLanes;
    if (block != leader_block) return static_cast<uint16_t>(block < leader_block ? below : not_above);
    const auto lane = static_cast<unsigned>(leader % kClassLanes);
    const unsigned lower = (1u << lane) - 1;
    const unsigned higher = ~(lower | (1u << lane));
    return static_cast<uint16_t>((below & lower) | (not_above & higher));
}

#ifdef YOLOR_EDGE_X86

void rule_out_below_sse2(const Corners& corners, int64_t padded, int64_t leader, uint16_t* ruled_out) {
    __m128 lead[4];
    for (int k = 0; k < 4; ++k) lead[k] = _mm_set1_ps(corners.at[k][leader]);
    for (int64_t block = 0; block < padded / kClassLanes; ++block) {
        unsigned not_above = 0, below = 0;
        for (int part = 0; part < 16; part += 4) {
            const int64_t first = block * kClassLanes + part;
            __m128 is_not_above = _mm_cmpge_ps(lead[0], _mm_loadu_ps(corners.at[0] + first));
            __m128 is_below = _mm_cmpgt_ps(lead[0], _mm_loadu_ps(corners.at[0] + first));
            for (int k = 1; k < 4; ++k) {
                const __m128 values = _mm_loadu_ps(corners.at[k] + first);
                is_not_above = _mm_and_ps(is_not_above, _mm_cmpge_ps(lead[k], values));
                is_below = _mm_and_ps(is_below, _mm_cmpgt_ps(lead[k], values));
            }
            not_above |= static_cast<unsigned>(_mm_movemask_ps(is_not_above)) << part;
            below |= static_cast<unsigned>(_mm_movemask_ps(is_below)) << part;
        }
        ruled_out[block] =
            static_cast<uint16_t>(ruled_out[block] | ruled_out_of_block(block, leader, not_above, below));
    }
}

YOLOR_EDGE_AVX2 void rule_out_below_avx2(const Corners& corners, int64_t padded, int64_t leader,
                                         uint16_t* ruled_out) {
    __m256 lead[4];
    for (int k = 0; k < 4; ++k) lead[k] = _mm256_set1_ps(corners.at[k][leader]);
    for (int64_t block = 0; block < padded / kClassLanes; ++block) {
        unsigned not_above = 0, below = 0;
        for (int part = 0; part < 16; part += 8) {
            const int64_t first = block * kClassLanes + part;
            __m256 is_not_above = _mm256_cmp_ps(lead[0], _mm256_loadu_ps(corners.at[0] + first), _CMP_GE_OQ);
            __m256 is_below = _mm256_cmp_ps(lead[0], _mm256_loadu_ps(corners.at[0] + first), _CMP_GT_OQ);
            for (int k = 1; k < 4; ++k) {
                const __m256 values = _mm256_loadu_ps(corners.at[k] + first);
                is_not_above = _mm256_and_ps(is_not_above, _mm256_cmp_ps(lead[k], values, _CMP_GE_OQ));
                is_below = _mm256_and_ps(is_below, _mm256_cmp_ps(lead[k], values, _CMP_GT_OQ));
            }
            not_above |= static_cast<unsigned>(_mm256_movemask_ps(is_not_above)) << part;
            below |= static_cast<unsigned>(_mm256_movemask_ps(is_below)) << part;
        }
        ruled_out[block] =
            static_cast<uint16_t>(ruled_out[block] | ruled_out_of_block(block, leader, not_above, below));
    }
}

YOLOR_EDGE_AVX512 void rule_out_below_avx512(const Corners& corners, int64_t padded, int64_t leader,
                                             uint16_t* ruled_out) {
    __m512 lead[4];
    for (int k = 0; k < 4; ++k) lead[k] = _mm512_set1_ps(corners.at[k][leader]);
    for (int64_t block = 0; block < padded / kClassLanes; ++block) {
        __mmask16 not_above = 0xffff;
        __mmask16 below = 0xffff;
        for (int k = 0; k < 4; ++k) {
            const __m512 values = _mm512_loadu_ps(corners.at[k] + block * kClassLanes);
            not_above = _mm512_mask_cmp_ps_mask(not_above, lead[k], values, _CMP_GE_OQ);
            below = _mm512_mask_cmp_ps_mask(below, lead[k], values, _CMP_GT_OQ);
        }
        ruled_out[block] =
            static_cast<uint16_t>(ruled_out[block] | ruled_out_of_block(block, leader, not_above, below));
    }
}

void rule_out_below(const Corners& corners, int64_t padded, int64_t leader, uint16_t* ruled_out) {
    switch (simd_level()) {
        case SimdLevel::avx512:
            return rule_out_below_avx512(corners, padded, leader, ruled_out);
        case SimdLevel::avx2:
            return rule_out_below_avx2(corners, padded, leader, ruled_out);
        default:
            return rule_out_below_sse2(corners, padded, leader, ruled_out);
    }
}

#else

/// Which of eight bytes, each 0 or 255, are 255, the first one lowest.
unsigned bits_of(const uint8_t* marks) noexcept {
    uint64_t eight = 0;
    for (int i = 0; i < 8; ++i) eight |= uint64_t{marks[i]} << (8 * i);
    // Bit i of byte i is kept; all of them add up in the highest byte.
    return static_cast<unsigned>(((eight & 0x8040201008040201u) * 0x0101010101010101u) >> 56);
}

template <class Lanes>
struct RuleOutBelow {
    static YOLOR_EDGE_INLINE void run(Corners corners, int64_t padded, int64_t leader, uint16_t* ruled_out) {
        using Floats = typename Lanes::Floats;
        using Ints = typename Lanes::Ints;
        for (int64_t block = 0; block < padded / kClassLanes; ++block) {
            uint8_t not_above[kClassLanes], below[kClassLanes];
            for (int64_t part = 0; part < kClassLanes; part += Lanes::kWidth) {
                Ints is_not_above = Ints{} - 1;
                Ints is_below = is_not_above;
                for (int k = 0; k < 4; ++k) {
                    Floats values;
                    load(corners.at[k] + block * kClassLanes + part, &values);
                    const Floats lead = Floats{} + corners.at[k][leader];
                    is_not_above &= lead >= values;
                    is_below &= lead > values;
                }
                store_low_bytes(is_not_above, not_above + part);
                store_low_bytes(is_below, below + part);
            }
            ruled_out[block] = static_cast<uint16_t>(
                ruled_out[block] |
                ruled_out_of_block(block, leader, bits_of(not_above) | bits_of(not_above + 8) << 8,
                                   bits_of(below) | bits_of(below + 8) << 8));
        }
    }
};

void rule_out_below(const Corners& corners, int64_t padded, int64_t leader, uint16_t* ruled_out) {
    dispatch_lanes<RuleOutBelow>(corners, padded, leader, ruled_out);
}

#endif

/// The classes that can win somewhere inside a cell.
class Contenders {
  public:
    void restart(int64_t padded) {
        ruled_out_.resize(static_cast<size_t>(padded / kClassLanes));
        ids_.resize(static_cast<size_t>(padded));
    }

    /// Find them, given the leaders at the corners; by rising number.
    void find(const Corners& corners, const std::array<int32_t, 4>& leaders) {
        std::fill(ruled_out_.begin(), ruled_out_.end(), uint16_t{0});
        const auto padded = static_cast<int64_t>(ids_.size());
        for (auto leader = leaders.begin(); leader != leaders.end(); ++leader) {
            if (std::find(leaders.begin(), leader, *leader) == leader) {
                rule_out_below(corners, padded, *leader, ruled_out_.data());
            }
        }
        count_ = 0;
        for (size_t block = 0; block < ruled_out_.size(); ++block) {
            auto left = static_cast<unsigned>(static_cast<uint16_t>(~ruled_out_[block]));
            for (; left != 0; left &= left - 1) {
                ids_[count_++] = static_cast<int32_t>(block * kClassLanes) + __builtin_ctz(left);
            }
        }
    }

    const int32_t* ids() const noexcept { return ids_.data(); }
    int64_t count() const noexcept { return static_cast<int64_t>(count_); }

  private:
    std::vector<uint16_t> ruled_out_;  // 16 classes a word
    std::vector<int32_t> ids_;         // one for every class and what pads them, `count_` of them in use
    size_t count_ = 0;
};

/// A cell of the grid in the map: its pixels, and where they lie between the corners.
struct CellPixels {
    uint8_t* first;
    int64_t row_stride;
    int64_t height;
    int64_t width;
    const float* fraction_y;
    const float* rest_y;
    const float* fraction_x;  // tables go on beyond the cell, so that eight pixels can always be read
    const float* rest_x;
};

/// Working memory for the contenders of a cell, each array a multiple of eight long: their logits at the four
/// corners, then on the left and right edge at one row of pixels.
struct Edges {
    float* at[4];
    float* left;
    float* right;
};

/// Winners of a cell among its contenders.
template <class Lanes>
struct FillCell {
    static YOLOR_EDGE_INLINE void run(CellPixels pixels, Corners corners, const int32_t* ids, int64_t count,
                                      Edges edges) {
        using Floats = typename Lanes::Floats;
        using Ints = typename Lanes::Ints;
        constexpr int64_t kWidth = Lanes::kWidth;
        for (int k = 0; k < 4; ++k) {
            for (int64_t i = 0; i < count; ++i) edges.at[k][i] = corners.at[k][ids[i]];
        }
        for (int64_t y = 0; y < pixels.height; ++y) {
            const float down = pixels.fraction_y[y];
            const float up = pixels.rest_y[y];
            for (int64_t i = 0; i < count; i += kWidth) {
                Floats a, b, c, d;
                std::memcpy(&a, edges.at[0] + i, sizeof a);
                std::memcpy(&b, edges.at[1] + i, sizeof b);
                std::memcpy(&c, edges.at[2] + i, sizeof c);
                std::memcpy(&d, edges.at[3] + i, sizeof d);
                Floats left, right;
                blend(a, up, c, down, &left);
                blend(b, up, d, down, &right);
                std::memcpy(edges.left + i, &left, sizeof left);
                std::memcpy(edges.right + i, &right, sizeof right);
            }
            uint8_t* row = pixels.first + y * pixels.row_stride;
            for (int64_t x = 0; x < pixels.width; x += kWidth) {
                Floats to_right, to_left;
                std::memcpy(&to_right, pixels.fraction_x + x, sizeof to_right);
                std::memcpy(&to_left, pixels.rest_x + x, sizeof to_left);
                Floats best;
                blend(edges.left[0], to_left, edges.right[0], to_right, &best);
                Ints winners = Ints{} + ids[0];
                for (int64_t i = 1; i < count; ++i) {
                    Floats value;
                    blend(edges.left[i], to_left, edges.right[i], to_right, &value);
                    const Ints wins = value > best;
                    best = wins ? value : best;
                    winners = wins ? Ints{} + ids[i] : winners;
                }
                if (x + kWidth <= pixels.width) {
                    store_low_bytes(winners, row + x);
                } else {
                    uint8_t last[kWidth];
                    store_low_bytes(winners, last);
                    for (int64_t i = 0; x + i < pixels.width; ++i) row[x + i] = last[i];
                }
            }
        }
    }
};

/// Working memory of one thread, for one strip after the other.
struct Scratch {
    GridRow upper, lower;
    Contenders contenders;
    std::vector<float> best;
    std::vector<float> edges;
    std::vector<float> widened;  // a row of the grid, class after class
};

/// What all strips of a call have in common.
struct Frames {
    HeadView logits;
    int64_t classes;
    int64_t grid_width;
    const AxisTable* rows;
    const AxisTable* columns;
    const std::vector<GridRun>* row_runs;
    const std::vector<GridRun>* column_runs;
    int64_t image_width;
    uint8_t* map;
};

/// Bring a row of the grid into `row`.
void load_row(const Frames& frames, int64_t padded, int64_t index, Scratch* scratch, GridRow* row) {
    if (row->index == index) return;
    const float* source = nullptr;
    int64_t plane_size = frames.logits.channel_stride;
    if (frames.logits.is_plain()) {
        source = static_cast<const float*>(frames.logits.data) + frames.logits.at(0, index, 0);
    } else {
        plane_size = frames.grid_width;
        scratch->widened.resize(static_cast<size_t>(frames.classes * plane_size));
        read_rows(frames.logits, frames.classes, index, 0, plane_size, scratch->widened.data(), plane_size);
        source = scratch->widened.data();
    }
    dispatch<FindLeaders>(source, frames.classes, plane_size, frames.grid_width, scratch->best.data(),
                          row->leaders.data());
    dispatch<TransposeRow>(source, frames.classes, plane_size, frames.grid_width, padded, row->points.data());
    row->index = index;
}

/// Fill the rows of the map that the runs [begin, end) cover.
void fill_strip(const Frames& frames, size_t begin, size_t end) {
    thread_local Scratch scratch;
    const int64_t padded = (frames.classes + kClassLanes - 1) / kClassLanes * kClassLanes;
    GridRow& upper = scratch.upper;
    GridRow& lower = scratch.lower;
    for (GridRow* row : {&upper, &lower}) {
        row->leaders.resize(static_cast<size_t>(frames.grid_width));
        row->points.resize(static_cast<size_t>(frames.grid_width * padded));
        row->index = -1;
    }
    scratch.contenders.restart(padded);
    scratch.best.resize(static_cast<size_t>(frames.grid_width));
    scratch.edges.resize(6 * static_cast<size_t>(padded));
    float* edge = scratch.edges.data();
    const Edges edges{
        {edge, edge + padded, edge + 2 * padded, edge + 3 * padded}, edge + 4 * padded, edge + 5 * padded};
    const int64_t image_width = frames.image_width;
    for (size_t i = begin; i < end; ++i) {
        const GridRun& row_run = (*frames.row_runs)[i];
        if (lower.index == row_run.low) std::swap(upper, lower);
        load_row(frames, padded, row_run.low, &scratch, &upper);
        load_row(frames, padded, row_run.high, &scratch, &lower);
        const int64_t run_height = row_run.end - row_run.begin;
        for (const GridRun& run : *frames.column_runs) {
            const auto low = static_cast<size_t>(run.low);
            const auto high = static_cast<size_t>(run.high);
            const std::array<int32_t, 4> leaders{upper.leaders[low], upper.leaders[high], lower.leaders[low],
                                                 lower.leaders[high]};
            uint8_t* first = frames.map + row_run.begin * image_width + run.begin;
            const int64_t run_width = run.end - run.begin;
            if (leaders[0] == leaders[1] && leaders[0] == leaders[2] && leaders[0] == leaders[3]) {
                for (int64_t y = 0; y < run_height; ++y) {
                    std::memset(first + y * image_width, leaders[0], static_cast<size_t>(run_width));
                }
                continue;
            }
            const Corners corners{
                {upper.points.data() + run.low * padded, upper.points.data() + run.high * padded,
                 lower.points.data() + run.low * padded, lower.points.data() + run.high * padded}};
            scratch.contenders.find(corners, leaders);
            const CellPixels pixels{first,
                                    image_width,
                                    run_height,
                                    run_width,
                                    frames.rows->fraction.data() + row_run.begin,
                                    frames.rows->rest.data() + row_run.begin,
                                    frames.columns->fraction.data() + run.begin,
                                    frames.columns->rest.data() + run.begin};
            dispatch_lanes<FillCell>(pixels, corners, scratch.contenders.ids(), scratch.contenders.count(),
                                     edges);
        }
    }
    trim(&upper.points, &lower.points, &upper.leaders, &lower.leaders, &scratch.best, &scratch.widened);
}

}  // namespace

void semantic_argmax(const HeadView& logits, int64_t classes, const AxisFrame& vertical,
                     const AxisFrame& horizontal, int64_t image_height, int64_t image_width, int threads,
                     uint8_t* map) {
    thread_local AxisTable rows, columns;
    thread_local std::vector<GridRun> row_runs, column_runs;
    fill_axis_table(vertical, image_height, &rows);
    fill_axis_table(horizontal, image_width, &columns);
    fill_runs(rows, image_height, &row_runs);
    fill_runs(columns, image_width, &column_runs);
    const Frames frames{
        logits, classes, horizontal.grid_length, &rows, &columns, &row_runs, &column_runs, image_width, map};
    // Neighbouring strips read one row of the grid each anew; a few more strips than threads even out the
    // work.
    const auto runs = static_cast<int64_t>(row_runs.size());
    const int64_t strips = threads <= 1 ? 1 : std::min<int64_t>(2 * int64_t{threads}, runs);
    run_parallel(threads, strips, [&](int64_t strip) {
        fill_strip(frames, static_cast<size_t>(runs * strip / strips),
                   static_cast<size_t>(runs * (strip + 1) / strips));
    });
    trim(&rows.low, &rows.fraction, &rows.rest, &columns.low, &columns.fraction, &columns.rest, &row_runs,
         &column_runs);
}

}  // namespace yolor_edge
