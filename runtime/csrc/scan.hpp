/// Looking through long rows of floats for the few that pass a threshold.
#pragma once

#include <algorithm>
#include <cstdint>

namespace yolor_edge {

/// Rows are looked through in parts of so many values.
constexpr int64_t kScanPart = 64;

constexpr int64_t scan_parts(int64_t n) {
    return (n + kScanPart - 1) / kScanPart;
}

/// Call `visit(index, value)` for every value of `row` (n,) that is at least `lowest`, by rising index; NaN
/// never is. `lowest` is called before every part, so that a visitor may raise it as it goes. `peaks`
/// (scan_parts(n),), or null, says what no value of each part exceeds.
template <class Lowest, class Visit>
void for_each_at_least(const float* row, int64_t n, const float* peaks, Lowest&& lowest, Visit&& visit) {
    for (int64_t start = 0; start < n; start += kScanPart) {
        const int64_t end = std::min(start + kScanPart, n);
        const float bound = lowest();
        int any = 0;  // one branch per part, so that the comparison itself runs vectorised
        if (peaks != nullptr) {
            any = peaks[start / kScanPart] >= bound ? 1 : 0;
        } else if (end - start == kScanPart) {
            for (int64_t i = 0; i < kScanPart; ++i) any |= row[start + i] >= bound ? 1 : 0;
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
