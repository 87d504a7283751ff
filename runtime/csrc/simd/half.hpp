/// Half-precision heads, widened to the float32 the kernels work in; every float16 is one exactly.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

namespace yolor_edge {

/// One IEEE 754 half-precision number; NaN becomes a quiet one.
inline float half_to_float(uint16_t half) noexcept {
    // Exponent and mantissa in the places of a float, then 2^112 to make up for the difference of the biases;
    // that also puts subnormal numbers right.
    uint32_t bits = static_cast<uint32_t>(half & 0x7fffu) << 13;
    float value;
    std::memcpy(&value, &bits, sizeof value);
    value *= 0x1p112f;
    std::memcpy(&bits, &value, sizeof bits);
    if ((half & 0x7c00u) == 0x7c00u) {
        const uint32_t payload = half & 0x3ffu;
        bits = 0x7f800000u | (payload << 13) | (payload != 0 ? 0x00400000u : 0u);
    }
    bits |= static_cast<uint32_t>(half & 0x8000u) << 16;
    std::memcpy(&value, &bits, sizeof value);
    return value;
}

/// The same of `n` numbers.
void widen_half(const uint16_t* halves, size_t n, float* values);

}  // namespace yolor_edge
