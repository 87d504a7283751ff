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

/// Bit i says whether x[i] is at least `bound`; n at most kScanPart.
using PassingBits = uint64_t (*)(const float* x, int64_t n, float bound);

inline uint64_t passing_bits(const float* x, int64_t n, float bound) {
    uint64_t bits = 0;
    for (int64_t i = 0; i < n; ++i) bits |= static_cast<uint64_t>(x[i] >= bound ? 1 : 0) << i;
    return bits;
}

/// Call `visit(index, value)` for every value of `row` (n,) that is at least `lowest`, by rising index; NaN
/// never is. `lowest` is called before every part, so that a visitor may raise it as it goes. `peaks`
/// (scan_parts(n),), or null, says what no value of each part exceeds.
template <class Lowest, class Visit>
void for_each_at_least(const float* row, int64_t n, const float* peaks, PassingBits passing, Lowest&& lowest,
                       Visit&& visit) {
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
        int64_t i = start;
        for (uint64_t bits = passing(row + start, end - start, bound); bits != 0; bits >>= 1, ++i) {
            const int skipped = __builtin_ctzll(bits);
            bits >>= skipped;
            i += skipped;
            visit(i, row[i]);
        }
    }
}

}  // namespace yolor_edge
