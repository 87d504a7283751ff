/// Looking through long rows of floats for the few that pass a threshold.
#pragma once

#include <algorithm>
#include <cstdint>

namespace yolor_edge {

/// Call `visit(index, value)` for every value of `row` (n,) that is at least `lowest`, by rising index; NaN
/// never is. `lowest` is called before every block, so that a visitor may raise it as it goes.
template <class Lowest, class Visit>
void for_each_at_least(const float* row, int64_t n, Lowest&& lowest, Visit&& visit) {
    constexpr int64_t kBlock = 64;
    for (int64_t start = 0; start < n; start += kBlock) {
        const int64_t end = std::min(start + kBlock, n);
        const float bound = lowest();
        int any = 0;  // one branch per block, so that the comparison itself runs vectorised
        if (end - start == kBlock) {
            for (int64_t i = 0; i < kBlock; ++i) any |= row[start + i] >= bound ? 1 : 0;
        } else {
            for (int64_t i = start; i < end; ++i) any |= row[i] >= bound ? 1 : 0;
        }
        if (any == 0) continue;
        for (int64_t i = start; i < end; ++i) {
            if (row[i] >= bound) visit(i, row[i]);
        }
    }
}

}  // namespace yolor_edge
