#include "simd/half.hpp"

#include "simd/cpu_features.hpp"

#ifdef YOLOR_EDGE_X86
#include <immintrin.h>
#endif

namespace yolor_edge {
namespace {

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
    for (; i < n; ++i) values[i] = half_to_float(halves[i]);
}

}  // namespace yolor_edge
