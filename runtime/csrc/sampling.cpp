#include "sampling.hpp"

#include <algorithm>
#include <cmath>

namespace yolor_edge {

std::vector<GridSample> sample_axis(const AxisFrame& frame, int64_t begin, int64_t end) {
    std::vector<GridSample> samples;
    samples.reserve(static_cast<size_t>(end - begin));
    const auto last = static_cast<double>(frame.grid_length - 1);
    const int64_t last_low = std::max<int64_t>(frame.grid_length - 2, 0);
    for (int64_t i = begin; i < end; ++i) {
        const double input = (static_cast<double>(i) + 0.5) * frame.scale + static_cast<double>(frame.pad);
        const double grid = std::clamp(input / static_cast<double>(frame.stride) - 0.5, 0.0, last);
        const int64_t low = std::min(static_cast<int64_t>(std::floor(grid)), last_low);
        const int64_t high = std::min(low + 1, frame.grid_length - 1);
        samples.push_back({low, high, static_cast<float>(grid - static_cast<double>(low))});
    }
    return samples;
}

std::vector<GridRun> runs_of(const std::vector<GridSample>& samples) {
    std::vector<GridRun> runs;
    const auto count = static_cast<int64_t>(samples.size());
    for (int64_t i = 0; i < count; ++i) {
        const GridSample& sample = samples[static_cast<size_t>(i)];
        if (runs.empty() || runs.back().low != sample.low) {
            runs.push_back({i, i + 1, sample.low, sample.high});
        } else {
            runs.back().end = i + 1;
        }
    }
    return runs;
}

}  // namespace yolor_edge
