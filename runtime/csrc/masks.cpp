#include "masks.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <vector>

namespace yolor_edge {
namespace {

struct PixelSpan {
    int64_t begin;
    int64_t end;
};

/// Pixels of [0, length) whose centres lie in [low, high).
PixelSpan span_of(double low, double high, int64_t length) noexcept {
    const auto limit = static_cast<double>(length);
    const auto first = static_cast<int64_t>(std::ceil(std::clamp(low, 0.0, limit) - 0.5));
    const auto last = static_cast<int64_t>(std::ceil(std::clamp(high, 0.0, limit) - 0.5));
    return {std::max<int64_t>(first, 0), last};
}

/// Mask logits of the prototype points [y0, y1] x [x0, x1], row-major, into `logits`.
void compute_logits(const float* prototypes, int64_t channels, const float* coefficients, int64_t grid_height,
                    int64_t grid_width, int64_t y0, int64_t y1, int64_t x0, int64_t x1, float* logits) {
    const int64_t width = x1 - x0 + 1;
    std::fill(logits, logits + (y1 - y0 + 1) * width, 0.0f);
    for (int64_t y = y0; y <= y1; ++y) {
        float* row = logits + (y - y0) * width;
        for (int64_t k = 0; k < channels; ++k) {
            const float* prototype = prototypes + (k * grid_height + y) * grid_width + x0;
            const float coefficient = coefficients[k];
            for (int64_t x = 0; x < width; ++x) row[x] += coefficient * prototype[x];
        }
    }
}

/// One row of a crop from one row of logits; `first` is the grid column of logits[0].
void fill_row(const float* logits, int64_t first, const std::vector<GridRun>& runs,
              const std::vector<GridSample>& samples, uint8_t* row) {
    for (const GridRun& run : runs) {
        const float low = logits[run.low - first];
        const float high = logits[run.high - first];
        const bool low_inside = low > 0.0f;
        if (low_inside == (high > 0.0f)) {
            std::memset(row + run.begin, low_inside ? 1 : 0, static_cast<size_t>(run.end - run.begin));
            continue;
        }
        for (int64_t x = run.begin; x < run.end; ++x) {
            row[x] = interpolate(low, high, samples[static_cast<size_t>(x)].fraction) > 0.0f ? 1 : 0;
        }
    }
}

}  // namespace

PixelRegion region_of_box(const float* box, int64_t image_height, int64_t image_width) noexcept {
    for (int i = 0; i < 4; ++i) {
        if (!std::isfinite(box[i])) return {0, 0, 0, 0};
    }
    const PixelSpan x = span_of(box[0], box[2], image_width);
    const PixelSpan y = span_of(box[1], box[3], image_height);
    if (x.end <= x.begin || y.end <= y.begin) return {0, 0, 0, 0};
    return {y.begin, x.begin, y.end - y.begin, x.end - x.begin};
}

void fill_mask_crops(const float* prototypes, int64_t channels, const float* coefficients,
                     const AxisFrame& vertical, const AxisFrame& horizontal, size_t n,
                     const PixelRegion* regions, uint8_t* const* crops) {
    std::vector<float> logits;
    std::vector<float> blended;
    for (size_t i = 0; i < n; ++i) {
        const PixelRegion& region = regions[i];
        if (region.height == 0) continue;
        const std::vector<GridSample> rows = sample_axis(vertical, region.y0, region.y0 + region.height);
        const std::vector<GridSample> columns = sample_axis(horizontal, region.x0, region.x0 + region.width);
        const std::vector<GridRun> runs = runs_of(columns);
        const int64_t y0 = rows.front().low;
        const int64_t x0 = columns.front().low;
        const int64_t y1 = rows.back().high;
        const int64_t x1 = columns.back().high;
        const int64_t width = x1 - x0 + 1;
        logits.resize(static_cast<size_t>((y1 - y0 + 1) * width));
        blended.resize(static_cast<size_t>(width));
        compute_logits(prototypes, channels, coefficients + static_cast<int64_t>(i) * channels,
                       vertical.grid_length, horizontal.grid_length, y0, y1, x0, x1, logits.data());
        for (int64_t y = 0; y < region.height; ++y) {
            const GridSample& sample = rows[static_cast<size_t>(y)];
            const float* low = logits.data() + (sample.low - y0) * width;
            const float* high = logits.data() + (sample.high - y0) * width;
            const float fraction = sample.fraction;
            for (int64_t x = 0; x < width; ++x) {
                blended[static_cast<size_t>(x)] = interpolate(low[x], high[x], fraction);
            }
            fill_row(blended.data(), x0, runs, columns, crops[i] + y * region.width);
        }
    }
}

}  // namespace yolor_edge
