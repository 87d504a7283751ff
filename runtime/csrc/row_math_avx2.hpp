/// What row_math.hpp does lane by lane, in registers of 256 bits: the same sums in the same order. To be
/// included before the kernels of eight lanes are defined.
#pragma once

#include <immintrin.h>

#define YE_ROW_MATH_TARGET __attribute__((target("avx2")))
#include "row_math.hpp"

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

template <>
YE_LANES_INLINE float sum_of<8>(const Lanes<8>::Floats& lanes) {
    __m128 sums = _mm_add_ps(_mm256_castps256_ps128(lanes), _mm256_extractf128_ps(lanes, 1));
    sums = _mm_add_ps(sums, _mm_movehl_ps(sums, sums));
    return _mm_cvtss_f32(_mm_add_ss(sums, _mm_movehdup_ps(sums)));
}

template <>
YE_LANES_INLINE float max_of<8>(const Lanes<8>::Floats& lanes) {
    __m128 most = _mm_max_ps(_mm256_castps256_ps128(lanes), _mm256_extractf128_ps(lanes, 1));
    most = _mm_max_ps(most, _mm_movehl_ps(most, most));
    return _mm_cvtss_f32(_mm_max_ss(most, _mm_movehdup_ps(most)));
}

}  // namespace yolor_edge::row_math
