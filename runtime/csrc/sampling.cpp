#include "sampling.hpp"

#include <algorithm>
#include <cmath>

namespace yolor_edge {

void fill_axis_table(const AxisFrame& frame, int64_t pixels, AxisTable* table) {
    const auto size = static_cast<size_t>(pixels + kTableSlack);
    table->low.resize(size);
    table->fraction.resize(size);
    table->rest.resize(size);
    table->step = frame.grid_length > 1 ? 1 : 0;
    const auto last = static_cast<double>(frame.grid_length - 1);
    const int64_t last_low = std::max<int64_t>(frame.grid_length - 2, 0);
    for (size_t i = 0; i < size; ++i) {
        const auto pixel = static_cast<double>(std::min<int64_t>(static_cast<int64_t>(i), pixels - 1));
        const double input = (pixel + 0.5) * frame.scale + static_cast<double>(frame.pad);
        const double grid = std::clamp(input / static_cast<double>(frame.stride) - 0.5, 0.0, last);
        const int64_t low = std::min(static_cast<int64_t>(grid), last_low);
        const auto fraction = static_cast<float>(grid - static_cast<double>(low));
        table->low[i] = static_cast<int32_t>(low);
        table->fraction[i] = fraction;
        table->rest[i] = 1.0f - fraction;
    }
}

void fill_runs(const AxisTable& table, int64_t pixels, std::vector<GridRun>* runs) {
    runs->clear();
    for (int64_t i = 0; i < pixels; ++i) {
        const int64_t low = table.low[static_cast<size_t>(i)];
        if (runs->empty() || runs->back().low != low) runs->push_back({i, i, low, low + table.step});
        runs->back().end = i + 1;
    }
}

}  // namespace yolor_edge
