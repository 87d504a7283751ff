#include "vision/bits.hpp"

#include <cstring>

namespace yolor_edge {
namespace {

/// Eight pixels of 0 and 1 as the bits of a byte, the first one highest.
uint8_t packed(const uint8_t* pixels) noexcept {
#if defined(__BYTE_ORDER__) && __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
    uint64_t eight;
    std::memcpy(&eight, pixels, sizeof eight);
    // Pixel i, at bit 8 i, is wanted at bit 63 - i; no two of the products meet.
    return static_cast<uint8_t>((eight * 0x8040201008040201u) >> 56);
#else
    uint8_t bits = 0;
    for (int i = 0; i < 8; ++i) bits = static_cast<uint8_t>(bits | (pixels[i] << (7 - i)));
    return bits;
#endif
}

}  // namespace

void set_bits(const uint8_t* pixels, int64_t n, int64_t first, uint8_t* row) {
    int64_t i = 0;
    for (; i < n && (first + i) % 8 != 0; ++i) {
        row[(first + i) / 8] =
            static_cast<uint8_t>(row[(first + i) / 8] | (pixels[i] << (7 - (first + i) % 8)));
    }
    uint8_t* byte = row + (first + i) / 8;
    for (; i + 8 <= n; i += 8, ++byte) *byte = static_cast<uint8_t>(*byte | packed(pixels + i));
    for (int bit = 7; i < n; ++i, --bit) *byte = static_cast<uint8_t>(*byte | (pixels[i] << bit));
}

}  // namespace yolor_edge
