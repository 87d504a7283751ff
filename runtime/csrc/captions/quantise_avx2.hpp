/// Rows of floats to int8 in registers of 256 bits: the same bits as those of row_math.hpp, which the
/// compiler narrows to bytes one by one. For callers with the target attribute.
#pragma once

#include <immintrin.h>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <limits>

#define YE_QUANTISE_INLINE __attribute__((target("avx2"), always_inline)) static inline

namespace yolor_edge::quantise_avx2 {

constexpr int64_t kAtOnce = 32;

struct Floats {
    __m256 parts[4];
};
struct Integers {
    __m256i parts[4];
};

/// The first `count` of 32 floats, 0 in the others.
YE_QUANTISE_INLINE Floats load(const float* from, int64_t count) {
    Floats all;
    if (count >= kAtOnce) {
        for (int i = 0; i < 4; ++i) all.parts[i] = _mm256_loadu_ps(from + 8 * i);
        return all;
    }
    const __m256i lanes = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    for (int i = 0; i < 4; ++i) {
        const __m256i left = _mm256_set1_epi32(static_cast<int32_t>(count) - 8 * i);
        all.parts[i] = _mm256_maskload_ps(from + 8 * i, _mm256_cmpgt_epi32(left, lanes));
    }
    return all;
}

/// The largest |x|, or NaN if one is not finite. Floats without a sign are ordered as their bits are, and
/// what is not finite is above all others.
YE_QUANTISE_INLINE float peak_of(const float* x, int64_t n) {
    const __m256i no_sign = _mm256_set1_epi32(0x7FFFFFFF);
    __m256i most[4];
    for (int i = 0; i < 4; ++i) most[i] = _mm256_setzero_si256();
    for (int64_t at = 0; at < n; at += kAtOnce) {
        const Floats all = load(x + at, n - at);
        for (int i = 0; i < 4; ++i)
            most[i] = _mm256_max_epi32(most[i], _mm256_and_si256(_mm256_castps_si256(all.parts[i]), no_sign));
    }
    const __m256i eight =
        _mm256_max_epi32(_mm256_max_epi32(most[0], most[1]), _mm256_max_epi32(most[2], most[3]));
    __m128i four = _mm_max_epi32(_mm256_castsi256_si128(eight), _mm256_extracti128_si256(eight, 1));
    four = _mm_max_epi32(four, _mm_shuffle_epi32(four, 0x4E));
    four = _mm_max_epi32(four, _mm_shuffle_epi32(four, 0xB1));
    const int32_t bits = _mm_cvtsi128_si32(four);
    float peak;
    std::memcpy(&peak, &bits, sizeof peak);
    return bits < 0x7F800000 ? peak : std::numeric_limits<float>::quiet_NaN();
}

/// 32 whole numbers less `less`, each then in -128..127, as bytes; `flip` changes bits of them.
YE_QUANTISE_INLINE __m256i to_bytes(const Integers& whole, const __m256i& less, const __m256i& flip) {
    const __m256i low = _mm256_sub_epi16(_mm256_packs_epi32(whole.parts[0], whole.parts[1]), less);
    const __m256i high = _mm256_sub_epi16(_mm256_packs_epi32(whole.parts[2], whole.parts[3]), less);
    // Packing keeps to the halves of registers: fours of bytes are in the order 0 2 4 6 1 3 5 7.
    const __m256i order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
    return _mm256_xor_si256(_mm256_permutevar8x32_epi32(_mm256_packs_epi16(low, high), order), flip);
}

YE_QUANTISE_INLINE void store(const __m256i& bytes, int64_t count, uint8_t* to) {
    if (count >= kAtOnce) {
        _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), bytes);
        return;
    }
    uint8_t values[kAtOnce];
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(values), bytes);
    for (int64_t i = 0; i < count; i += 4) std::memcpy(to + i, values + i, 4);
}

/// See row_math.hpp; `offset` is 0 or 128.
template <int32_t kOffset>
YE_QUANTISE_INLINE float quantise(const float* x, int64_t n, int32_t shift, uint8_t* q) {
    static_assert(kOffset == 0 || kOffset == 128, "an offset is added by flipping the sign");
    const float peak = peak_of(x, n);
    const bool is_usable = peak > 1e-30f;
    const auto steps = static_cast<float>(127 + shift);
    const __m256 factor = _mm256_set1_ps(is_usable ? steps / peak : 0.0f);
    const __m256i less = _mm256_set1_epi16(static_cast<int16_t>(shift));
    const __m256i flip = _mm256_set1_epi8(static_cast<char>(kOffset));
    const int64_t padded = (n + 3) / 4 * 4;
    for (int64_t at = 0; at < n; at += kAtOnce) {
        const Floats all = load(x + at, n - at);
        Integers whole;
        for (int i = 0; i < 4; ++i) {
            whole.parts[i] =
                is_usable ? _mm256_cvtps_epi32(_mm256_mul_ps(all.parts[i], factor)) : _mm256_setzero_si256();
        }
        store(to_bytes(whole, less, flip), padded - at, q + at);
    }
    return is_usable ? peak / steps : peak * 0.0f;
}

/// See row_math.hpp.
template <int32_t kOffset>
YE_QUANTISE_INLINE float quantise_fine(const float* x, int64_t n, uint8_t* high, uint8_t* low) {
    const float peak = peak_of(x, n);
    const bool is_usable = peak > 1e-30f;
    const __m256 factor = _mm256_set1_ps(is_usable ? 32512.0f / peak : 0.0f);
    const __m256 part = _mm256_set1_ps(1.0f / 255.0f);
    const __m256i nothing = _mm256_setzero_si256();
    const __m256i flip = _mm256_set1_epi8(static_cast<char>(kOffset));
    const int64_t padded = (n + 3) / 4 * 4;
    for (int64_t at = 0; at < n; at += kAtOnce) {
        const Floats all = load(x + at, n - at);
        Integers digits, rests;
        for (int i = 0; i < 4; ++i) {
            const __m256i whole =
                is_usable ? _mm256_cvtps_epi32(_mm256_mul_ps(all.parts[i], factor)) : nothing;
            const __m256i digit = _mm256_cvtps_epi32(_mm256_mul_ps(_mm256_cvtepi32_ps(whole), part));
            digits.parts[i] = digit;
            rests.parts[i] = _mm256_add_epi32(whole, _mm256_sub_epi32(digit, _mm256_slli_epi32(digit, 8)));
        }
        store(to_bytes(digits, nothing, flip), padded - at, high + at);
        store(to_bytes(rests, nothing, flip), padded - at, low + at);
    }
    return is_usable ? peak / 32512.0f : peak * 0.0f;
}

/// See row_math.hpp.
YE_QUANTISE_INLINE float quantise_signed(const float* x, int64_t n, int8_t* q, int32_t* sum) {
    const float scale = quantise<0>(x, n, 0, reinterpret_cast<uint8_t*>(q));
    const __m256i ones = _mm256_set1_epi8(1);
    __m256i totals = _mm256_setzero_si256();
    int64_t i = 0;
    for (; i + kAtOnce <= n; i += kAtOnce) {
        const __m256i bytes = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(q + i));
        const __m256i pairs = _mm256_maddubs_epi16(ones, bytes);
        totals = _mm256_add_epi32(totals, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
    }
    __m128i four = _mm_add_epi32(_mm256_castsi256_si128(totals), _mm256_extracti128_si256(totals, 1));
    four = _mm_add_epi32(four, _mm_shuffle_epi32(four, 0x4E));
    four = _mm_add_epi32(four, _mm_shuffle_epi32(four, 0xB1));
    int32_t total = _mm_cvtsi128_si32(four);
    for (; i < n; ++i) total += q[i];
    *sum = total;
    return scale;
}

}  // namespace yolor_edge::quantise_avx2
