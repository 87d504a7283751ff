#include "vision/masks.hpp"

#include <algorithm>
#include <cmath>
#include <vector>

#include "host/parallel.hpp"
#include "host/scratch.hpp"
#include "simd/cpu_features.hpp"

#ifdef YOLOR_EDGE_X86
#include <immintrin.h>
#endif

namespace yolor_edge {
namespace {

/// Points of the prototypes under one box, `height` rows of `width` points.
struct GridWindow {
    const float* first;  // of channel 0
    int64_t plane_size;  // from channel to channel
    int64_t grid_width;  // from row to row of the prototypes
    int64_t height;
    int64_t width;
    int64_t row_stride;  // from row to row of the logits
};

/// Mask logits of a window: channels in order, four at a time, so that the sums are those of one at a time.
struct ComputeLogits {
    static YOLOR_EDGE_INLINE void run(GridWindow window, int64_t channels, const float* coefficients,
                                      float* logits) {
        for (int64_t y = 0; y < window.height; ++y) {
            float* row = logits + y * window.row_stride;
            for (int64_t x = 0; x < window.row_stride; ++x) row[x] = 0.0f;
        }
        int64_t k = 0;
        for (; k + 4 <= channels; k += 4) {
            const float c0 = coefficients[k], c1 = coefficients[k + 1], c2 = coefficients[k + 2],
                        c3 = coefficients[k + 3];
            for (int64_t y = 0; y < window.height; ++y) {
                const float* p0 = window.first + k * window.plane_size + y * window.grid_width;
                const float* p1 = p0 + window.plane_size;
                const float* p2 = p1 + window.plane_size;
                const float* p3 = p2 + window.plane_size;
                float* __restrict row = logits + y * window.row_stride;
                for (int64_t x = 0; x < window.width; ++x) {
                    row[x] = (((row[x] + c0 * p0[x]) + c1 * p1[x]) + c2 * p2[x]) + c3 * p3[x];
                }
            }
        }
        for (; k < channels; ++k) {
            const float c0 = coefficients[k];
            for (int64_t y = 0; y < window.height; ++y) {
                const float* p0 = window.first + k * window.plane_size + y * window.grid_width;
                float* __restrict row = logits + y * window.row_stride;
                for (int64_t x = 0; x < window.width; ++x) row[x] += c0 * p0[x];
            }
        }
        for (int64_t y = 0; y < window.height; ++y) {
            float* row = logits + y * window.row_stride;
            for (int64_t x = 0; x < window.width; ++x) row[x] = limited_mask_logit(row[x]);
        }
    }
};

/// Pixels of one row of an image that a crop covers, and the grid row they are sampled from.
struct RowSamples {
    const int32_t* low;
    const float* fraction;
    const float* rest;
    int32_t step;
    int32_t first;  // grid column of row[0]
    int64_t width;
};

/// Widen a row of grid points to pixels. `row` and `pixels` have room for 16 values beyond their ends.
void widen_row_portable(const RowSamples& samples, const float* row, int64_t begin, int64_t end,
                        float* pixels) {
    for (int64_t x = begin; x < end; ++x) {
        const float* point = row + (samples.low[x] - samples.first);
        blend(point[0], samples.rest[x], point[samples.step], samples.fraction[x], &pixels[x]);
    }
}

/// One row of a crop from the widened grid rows above and below it.
struct FillRow {
    static YOLOR_EDGE_INLINE void run(const float* __restrict above, const float* __restrict below,
                                      float fraction, int64_t width, uint8_t* __restrict out) {
        const float rest = 1.0f - fraction;
        for (int64_t x = 0; x < width; ++x) {
            float value;
            blend(above[x], rest, below[x], fraction, &value);
            out[x] = value > 0.0f ? 1 : 0;
        }
    }
};

#ifdef YOLOR_EDGE_X86

YOLOR_EDGE_AVX2 void widen_row_avx2(const RowSamples& samples, const float* row, float* pixels) {
    const __m256i step = _mm256_set1_epi32(samples.step);
    for (int64_t x = 0; x < samples.width; x += 8) {
        const int64_t end = std::min(x + 8, samples.width);
        const int32_t base = samples.low[x];
        if (samples.low[end - 1] + samples.step - base >= 8) {  // one vector does not hold all points
            widen_row_portable(samples, row, x, end, pixels);
            continue;
        }
        const __m256 points = _mm256_loadu_ps(row + (base - samples.first));
        const __m256i low = _mm256_sub_epi32(
            _mm256_loadu_si256(reinterpret_cast<const __m256i*>(samples.low + x)), _mm256_set1_epi32(base));
        const __m256 left = _mm256_permutevar8x32_ps(points, low);
        const __m256 right = _mm256_permutevar8x32_ps(points, _mm256_add_epi32(low, step));
        _mm256_storeu_ps(pixels + x,
                         _mm256_add_ps(_mm256_mul_ps(left, _mm256_loadu_ps(samples.rest + x)),
                                       _mm256_mul_ps(right, _mm256_loadu_ps(samples.fraction + x))));
    }
}

YOLOR_EDGE_AVX512 void widen_row_avx512(const RowSamples& samples, const float* row, float* pixels) {
    constexpr __mmask16 kAll = 0xffff;  // the masked form, since GCC 12 warns of the plain one
    const __m512i step = _mm512_set1_epi32(samples.step);
    for (int64_t x = 0; x < samples.width; x += 16) {
        const int64_t end = std::min(x + 16, samples.width);
        const int32_t base = samples.low[x];
        if (samples.low[end - 1] + samples.step - base >= 16) {
            widen_row_portable(samples, row, x, end, pixels);
            continue;
        }
        const __m512 points = _mm512_loadu_ps(row + (base - samples.first));
        const __m512i low = _mm512_sub_epi32(_mm512_loadu_si512(samples.low + x), _mm512_set1_epi32(base));
        const __m512 left = _mm512_maskz_permutexvar_ps(kAll, low, points);
        const __m512 right = _mm512_maskz_permutexvar_ps(kAll, _mm512_add_epi32(low, step), points);
        _mm512_storeu_ps(pixels + x,
                         _mm512_add_ps(_mm512_mul_ps(left, _mm512_loadu_ps(samples.rest + x)),
                                       _mm512_mul_ps(right, _mm512_loadu_ps(samples.fraction + x))));
    }
}

YOLOR_EDGE_AVX2 void fill_row_avx2(const float* above, const float* below, float fraction, int64_t width,
                                   uint8_t* out) {
    const __m256 weight = _mm256_set1_ps(fraction), rest = _mm256_set1_ps(1.0f - fraction);
    const __m256 zero = _mm256_setzero_ps();
    const __m256i order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
    const __m256i one = _mm256_set1_epi8(1);
    int64_t x = 0;
    for (; x + 32 <= width; x += 32) {
        __m256i inside[4];
        for (int i = 0; i < 4; ++i) {
            const __m256 value = _mm256_add_ps(_mm256_mul_ps(_mm256_loadu_ps(above + x + 8 * i), rest),
                                               _mm256_mul_ps(_mm256_loadu_ps(below + x + 8 * i), weight));
            inside[i] = _mm256_castps_si256(_mm256_cmp_ps(value, zero, _CMP_GT_OQ));
        }
        const __m256i bytes = _mm256_packs_epi16(_mm256_packs_epi32(inside[0], inside[1]),
                                                 _mm256_packs_epi32(inside[2], inside[3]));
        _mm256_storeu_si256(reinterpret_cast<__m256i*>(out + x),
                            _mm256_and_si256(_mm256_permutevar8x32_epi32(bytes, order), one));
    }
    FillRow::run(above + x, below + x, fraction, width - x, out + x);
}

YOLOR_EDGE_AVX512 void fill_row_avx512(const float* above, const float* below, float fraction, int64_t width,
                                       uint8_t* out) {
    const __m512 weight = _mm512_set1_ps(fraction), rest = _mm512_set1_ps(1.0f - fraction);
    const __m512 zero = _mm512_setzero_ps();
    for (int64_t x = 0; x < width; x += 64) {
        uint64_t inside = 0;
        for (int64_t i = 0; i < 64 && x + i < width; i += 16) {
            const __m512 value = _mm512_add_ps(_mm512_mul_ps(_mm512_loadu_ps(above + x + i), rest),
                                               _mm512_mul_ps(_mm512_loadu_ps(below + x + i), weight));
            inside |= static_cast<uint64_t>(_mm512_cmp_ps_mask(value, zero, _CMP_GT_OQ)) << i;
        }
        const __m512i bytes = _mm512_maskz_set1_epi8(inside, 1);
        const int64_t left = width - x;
        if (left >= 64) {
            _mm512_storeu_si512(out + x, bytes);
        } else {
            _mm512_mask_storeu_epi8(out + x, (uint64_t{1} << left) - 1, bytes);
        }
    }
}

#endif

void widen_row(const RowSamples& samples, const float* row, float* pixels) {
#ifdef YOLOR_EDGE_X86
    if (simd_level() == SimdLevel::avx512) return widen_row_avx512(samples, row, pixels);
    if (simd_level() == SimdLevel::avx2) return widen_row_avx2(samples, row, pixels);
#endif
    widen_row_portable(samples, row, 0, samples.width, pixels);
}

void fill_row(const float* above, const float* below, float fraction, int64_t width, uint8_t* out) {
#ifdef YOLOR_EDGE_X86
    if (simd_level() == SimdLevel::avx512) return fill_row_avx512(above, below, fraction, width, out);
    if (simd_level() == SimdLevel::avx2) return fill_row_avx2(above, below, fraction, width, out);
#endif
    FillRow::run(above, below, fraction, width, out);
}

/// What all masks of a call have in common.
struct Frames {
    HeadView prototypes;
    int64_t channels;
    HeadView coefficients;
    const AxisTable* rows;
    const AxisTable* columns;
};

/// Working memory of one thread, for one mask after the other.
struct Scratch {
    std::vector<float> coefficients;
    std::vector<float> logits;
    std::vector<float> points;  // of one row of a box, channel after channel, where they have to be widened
    std::vector<float> above;
    std::vector<float> below;
};

constexpr int64_t kSlack = 16;  // vectors reach that far past the end of a row

/// Mask logits of the points [y0, y1] x [x0, x1], rows `row_stride` apart.
void compute_logits(const Frames& frames, int64_t y0, int64_t y1, int64_t x0, int64_t x1, int64_t row_stride,
                    Scratch* scratch) {
    const int64_t width = x1 - x0 + 1;
    const HeadView& prototypes = frames.prototypes;
    const float* coefficients = scratch->coefficients.data();
    if (prototypes.is_plain()) {
        const GridWindow window{static_cast<const float*>(prototypes.data) + prototypes.at(0, y0, x0),
                                prototypes.channel_stride,
                                prototypes.row_stride,
                                y1 - y0 + 1,
                                width,
                                row_stride};
        dispatch<ComputeLogits>(window, frames.channels, coefficients, scratch->logits.data());
        return;
    }
    scratch->points.resize(static_cast<size_t>(frames.channels * row_stride));
    for (int64_t y = y0; y <= y1; ++y) {
        read_rows(prototypes, frames.channels, y, x0, width, scratch->points.data(), row_stride);
        const GridWindow window{scratch->points.data(), row_stride, 0, 1, width, row_stride};
        dispatch<ComputeLogits>(window, frames.channels, coefficients,
                                scratch->logits.data() + (y - y0) * row_stride);
    }
}

void fill_mask(const Frames& frames, int64_t number, const PixelRegion& region, const MaskTarget& target) {
    if (region.height == 0 || region.width == 0) return;
    thread_local Scratch scratch;
    const AxisTable& rows = *frames.rows;
    const AxisTable& columns = *frames.columns;
    const int64_t y0 = rows.low[static_cast<size_t>(region.y0)];
    const int64_t x0 = columns.low[static_cast<size_t>(region.x0)];
    const int64_t y1 = rows.low[static_cast<size_t>(region.y0 + region.height - 1)] + rows.step;
    const int64_t x1 = columns.low[static_cast<size_t>(region.x0 + region.width - 1)] + columns.step;
    const int64_t row_stride = (x1 - x0 + kSlack) / kSlack * kSlack;
    scratch.coefficients.resize(static_cast<size_t>(frames.channels));
    read_row(frames.coefficients, number, 0, 0, frames.channels, scratch.coefficients.data());
    scratch.logits.resize(static_cast<size_t>((y1 - y0 + 1) * row_stride + 2 * kSlack));
    scratch.above.resize(static_cast<size_t>(region.width + 4 * kSlack));
    scratch.below.resize(static_cast<size_t>(region.width + 4 * kSlack));
    compute_logits(frames, y0, y1, x0, x1, row_stride, &scratch);

    const RowSamples samples{columns.low.data() + region.x0,  columns.fraction.data() + region.x0,
                             columns.rest.data() + region.x0, columns.step,
                             static_cast<int32_t>(x0),        region.width};
    float* above = scratch.above.data();
    float* below = scratch.below.data();
    int64_t row_above = -1;
    int64_t row_below = -1;
    for (int64_t y = 0; y < region.height; ++y) {
        const auto pixel = static_cast<size_t>(region.y0 + y);
        const int64_t low = rows.low[pixel];
        const int64_t high = low + rows.step;
        if (row_above != low) {
            if (row_below == low) {
                std::swap(above, below);
                std::swap(row_above, row_below);
            } else {
                widen_row(samples, scratch.logits.data() + (low - y0) * row_stride, above);
                row_above = low;
            }
        }
        if (row_below != high) {
            widen_row(samples, scratch.logits.data() + (high - y0) * row_stride, below);
            row_below = high;
        }
        fill_row(above, below, rows.fraction[pixel], region.width, target.data + y * target.row_stride);
    }
    trim(&scratch.coefficients, &scratch.logits, &scratch.points, &scratch.above, &scratch.below);
}

}  // namespace

PixelRegion region_of_box(const float* box, int64_t image_height, int64_t image_width) noexcept {
    return region_within(box, image_height, image_width);
}

void fill_masks(const HeadView& prototypes, int64_t channels, const HeadView& coefficients,
                const AxisFrame& vertical, const AxisFrame& horizontal, int64_t image_height,
                int64_t image_width, size_t n, const PixelRegion* regions, const MaskTarget* targets,
                int threads) {
    if (n == 0) return;
    thread_local AxisTable rows, columns;
    fill_axis_table(vertical, image_height, &rows);
    fill_axis_table(horizontal, image_width, &columns);
    const Frames frames{prototypes, channels, coefficients, &rows, &columns};
    run_parallel(threads, static_cast<int64_t>(n),
                 [&](int64_t i) { fill_mask(frames, i, regions[i], targets[i]); });
    trim(&rows.low, &rows.fraction, &rows.rest, &columns.low, &columns.fraction, &columns.rest);
}

}  // namespace yolor_edge
