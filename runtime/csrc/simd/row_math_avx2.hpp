/// The ends of rows, which row_math.hpp moves lane by lane, by masks of 256 bits. To be included before the
/// kernels of eight lanes are defined.
#pragma once

#include <immintrin.h>

#define YE_ROW_MATH_TARGET __attribute__((target("avx2")))
#include "simd/row_math.hpp"

#define YE_LANES_INLINE YE_ROW_MATH_TARGET inline __attribute__((always_inline))

namespace yolor_edge::row_math {

YE_LANES_INLINE __m256i first_lanes(int64_t count) {
    const __m256i lanes = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    return _mm256_cmpgt_epi32(_mm256_set1_epi32(static_cast<int32_t>(count)), lanes);
}

template <>
YE_LANES_INLINE Lanes<8>::Floats load_part<8>(const float* from, int64_t count, float fill) {
    const __m256i mask = first_lanes(count);
    return _mm256_blendv_ps(_mm256_set1_ps(fill), _mm256_maskload_ps(from, mask), _mm256_castsi256_ps(mask));
}

template <>
YE_LANES_INLINE void store_part<8>(float* to, int64_t count, const Lanes<8>::Floats& lanes) {
    _mm256_maskstore_ps(to, first_lanes(count), lanes);
}

}  // namespace yolor_edge::row_math
