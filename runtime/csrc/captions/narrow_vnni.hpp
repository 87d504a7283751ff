/// Products by VPDPBUSD in registers of 256 bits, for one coding of the instruction: see dot_product.hpp.
/// YE_VPDPBUSD is how the assembler writes it.

constexpr int kLanes = 8, kRegisters = 16;
constexpr int32_t kOffset = kUnsigned;
constexpr int64_t kMostRows = 6, kMostFineRows = 3, kPanel = 3;
constexpr bool kFetchAhead = true;
#include "captions/vectors.hpp"

constexpr int parts_at_once(int digits) {
    return digits <= 2 ? 6 : digits <= 4 ? 3 : 2;
}

YE_INLINE void add_products(Integers& sums, const Integers& values, const Integers& weights) {
    asm(YE_VPDPBUSD " %2, %1, %0" : "+v"(sums) : "v"(values), "v"(weights));
}

YE_INLINE __m256d long_sum_of_half(const __m128i& high, const __m128i& low) {
    return _mm256_cvtepi32_pd(high) * 255.0 + _mm256_cvtepi32_pd(low);
}

YE_INLINE Floats sum_of_digits(const Integers& high, const Integers& low, int64_t groups) {
    if (groups <= kExactGroups) {
        const Wrapping digits = ((Wrapping)high << 8) - (Wrapping)high + (Wrapping)low;
        return __builtin_convertvector((Integers)digits, Floats);
    }
    const auto digits = (__m256i)high, rests = (__m256i)low;
    const __m256d first = long_sum_of_half(_mm256_castsi256_si128(digits), _mm256_castsi256_si128(rests));
    const __m256d second =
        long_sum_of_half(_mm256_extracti128_si256(digits, 1), _mm256_extracti128_si256(rests, 1));
    return _mm256_set_m128(_mm256_cvtpd_ps(second), _mm256_cvtpd_ps(first));
}

#include "captions/dot_product.hpp"
