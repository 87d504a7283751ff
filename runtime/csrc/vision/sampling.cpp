#include "vision/sampling.hpp"

#include <algorithm>

namespace yolor_edge {

void fill_axis_table(const AxisFrame& frame, int64_t pixels, AxisTable* table) {
    const auto size = static_cast<size_t>(pixels + kTableSlack);
    table->low.resize(size);
    table->fraction.resize(size);
    table->rest.resize(size);
    table->step = frame.grid_length > 1 ? 1 : 0;
    for (size_t i = 0; i < size; ++i) {
        const AxisSample sample =
            sample_of_pixel(frame, std::min<int64_t>(static_cast<int64_t>(i), pixels - 1));
        table->low[i] = sample.low;
        table->fraction[i] = sample.fraction;
        table->rest[i] = sample.rest;
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
