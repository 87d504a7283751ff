#include "half.hpp"

#include <cstring>

#include "cpu_features.hpp"

#ifdef YOLOR_EDGE_X86
#include <immintrin.h>
#endif

namespace yolor_edge {
namespace {

float widened(uint16_t half) noexcept {
    // Exponent and mantissa in the places of a float, then 2^112 to make up for the difference of the biases;
    // that also puts subnormal numbers right.
    uint32_t bits = static_cast<uint32_t>(half & 0x7fffu) << 13;
    float value;
    std::memcpy(&value, &bits, sizeof value);
    value *= 0x1p112f;
    std::memcpy(&bits, &value, sizeof bits);
    if ((half & 0x7c00u) == 0x7c00u) {
        const uint32_t payload = half & 0x3ffu;
        bits = 0x7f800000u | (payload << 13) | (payload != 0 ? 0x00400000u : 0u);  // NaN becomes a quiet one
    }
    bits |= static_cast<uint32_t>(half & 0x8000u) << 16;
    std::memcpy(&value, &bits, sizeof value);
    return value;
}

#ifdef YOLOR_EDGE_X86
YOLOR_EDGE_AVX2 size_t widen_half_avx2(const uint16_t* halves, size_t n, float* values) {
    size_t i = 0;
    for (; i + 8 <= n; i += 8) {
        const __m128i packed = _mm_loadu_si128(reinterpret_cast<const __m128i*>(halves + i));
        _mm256_storeu_ps(values + i, _mm256_cvtph_ps(packed));
    }
    return i;
}
#endif

}  // namespace

void widen_half(const uint16_t* halves, size_t n, float* values) {
    size_t i = 0;
#ifdef YOLOR_EDGE_X86
    if (simd_level() >= SimdLevel::avx2) i = widen_half_avx2(halves, n, values);
#endif
    for (; i < n; ++i) values[i] = widened(halves[i]);
}

}  // namespace yolor_edge
