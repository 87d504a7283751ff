/// What of row_kernels.hpp is much faster in AVX-512's own instructions: powers, since there are instructions
/// that take a number's fraction and scale by a power of two, and whatever becomes bytes or bits. Quantised
/// rows are the same to the bit. Included as row_kernels.hpp is, after it. Conversions and the like are
/// masked, because GCC 12 warns of its own undefined operand in the plain ones.

namespace own {

constexpr __mmask16 kAll = 0xFFFF;

/// e^x within two units in the last place for x in [-87, 0]; 0 for -infinity, and NaN stays. The polynomial
/// is that of 2^r, r in [-0.5, 0.5], with the least relative error (1e-7), by Lawson's iteration.
YE_INLINE __m512 exp_of(const __m512& x) {
    const __m512 powers = _mm512_mul_ps(x, _mm512_set1_ps(1.44269504f));
    const __m512 rest = _mm512_maskz_reduce_ps(kAll, powers, 0);
    __m512 sum = _mm512_set1_ps(0.0013264727f);
    sum = _mm512_fmadd_ps(sum, rest, _mm512_set1_ps(0.009671513f));
    sum = _mm512_fmadd_ps(sum, rest, _mm512_set1_ps(0.055507336f));
    sum = _mm512_fmadd_ps(sum, rest, _mm512_set1_ps(0.24022242f));
    sum = _mm512_fmadd_ps(sum, rest, _mm512_set1_ps(0.693147f));
    sum = _mm512_fmadd_ps(sum, rest, _mm512_set1_ps(1.0f));
    return _mm512_maskz_scalef_ps(kAll, sum, _mm512_sub_ps(powers, rest));
}

YE_INLINE __mmask16 first_lanes(int64_t count) {
    return count >= kLanes ? kAll : static_cast<__mmask16>((1 << count) - 1);
}

/// The lanes that there are; -infinity, whose power is 0, in the others.
YE_INLINE __m512 load(const float* x, __mmask16 lanes) {
    return _mm512_mask_loadu_ps(_mm512_set1_ps(-std::numeric_limits<float>::infinity()), lanes, x);
}

/// The largest that is a number.
YE_INLINE float largest(const float* x, int64_t n) {
    __m512 most = _mm512_set1_ps(-std::numeric_limits<float>::infinity());
    for (int64_t i = 0; i < n; i += kLanes)
        most = _mm512_maskz_max_ps(kAll, load(x + i, first_lanes(n - i)), most);  // of NaN, the second
    return max_of(most);
}

/// See row_kernels.hpp, and so below.
YE_INLINE void softmax(float* x, int64_t n) {
    const __m512 most = _mm512_set1_ps(largest(x, n));
    __m512 sum = _mm512_setzero_ps();
    for (int64_t i = 0; i < n; i += kLanes) {
        const __mmask16 lanes = first_lanes(n - i);
        const __m512 power = exp_of(_mm512_sub_ps(load(x + i, lanes), most));
        _mm512_mask_storeu_ps(x + i, lanes, power);
        sum = _mm512_add_ps(sum, power);
    }
    const __m512 factor = _mm512_set1_ps(1.0f / sum_of(sum));
    for (int64_t i = 0; i < n; i += kLanes) {
        const __mmask16 lanes = first_lanes(n - i);
        _mm512_mask_storeu_ps(x + i, lanes, _mm512_mul_ps(_mm512_maskz_loadu_ps(lanes, x + i), factor));
    }
}

YE_INLINE void store_digits(const __m512& digits, const __m512i& offset, __mmask16 lanes, uint8_t* to) {
    const __m512i whole = _mm512_add_epi32(_mm512_maskz_cvtps_epi32(kAll, digits), offset);
    _mm_mask_storeu_epi8(to, lanes, _mm512_maskz_cvtepi32_epi8(kAll, whole));
}

YE_INLINE void store_two_digits(const __m512& whole, const __m512i& offset, __mmask16 lanes, uint8_t* high,
                                uint8_t* low) {
    const __m512 digit =
        _mm512_maskz_roundscale_ps(kAll, _mm512_mul_ps(whole, _mm512_set1_ps(1.0f / 255.0f)), 0);
    store_digits(digit, offset, lanes, high);
    store_digits(_mm512_fnmadd_ps(digit, _mm512_set1_ps(255.0f), whole), offset, lanes, low);
}

YE_INLINE float softmax_fine(const float* x, int64_t n, int32_t offset, uint8_t* high, uint8_t* low) {
    const __m512 most = _mm512_set1_ps(largest(x, n));
    const __m512i added = _mm512_set1_epi32(offset);
    const int64_t padded = (n + 3) / 4 * 4;
    __m512 sum = _mm512_setzero_ps();
    for (int64_t i = 0; i < padded; i += kLanes) {
        const __m512 power = exp_of(_mm512_sub_ps(load(x + i, first_lanes(n - i)), most));
        sum = _mm512_add_ps(sum, power);
        const __m512 whole =
            _mm512_maskz_roundscale_ps(kAll, _mm512_mul_ps(power, _mm512_set1_ps(32512.0f)), 0);
        store_two_digits(whole, added, first_lanes(padded - i), high + i, low + i);
    }
    return 1.0f / (32512.0f * sum_of(sum));
}

/// The largest |x|, or NaN if one is not finite: floats without a sign are ordered as their bits are.
YE_INLINE float peak_of(const float* x, int64_t n) {
    const __m512i no_sign = _mm512_set1_epi32(0x7FFFFFFF);
    __m512i most = _mm512_setzero_si512();
    for (int64_t i = 0; i < n; i += kLanes) {
        const __m512i bits = _mm512_maskz_loadu_epi32(first_lanes(n - i), x + i);
        most = _mm512_maskz_max_epi32(kAll, _mm512_and_si512(bits, no_sign), most);
    }
    float peaks[kLanes];
    std::memcpy(peaks, &most, sizeof peaks);
    const float peak = max_of(avx512::load(peaks));
    const bool is_finite = _mm512_cmpgt_epi32_mask(most, _mm512_set1_epi32(0x7F7FFFFF)) == 0;
    return is_finite ? peak : std::numeric_limits<float>::quiet_NaN();
}

/// x * factor, rounded to the nearest even.
YE_INLINE __m512 whole_of(const float* x, __mmask16 lanes, const __m512& factor) {
    return _mm512_maskz_roundscale_ps(kAll, _mm512_mul_ps(_mm512_maskz_loadu_ps(lanes, x), factor), 0);
}

template <int32_t kOffset>
YE_INLINE float quantise(const float* x, int64_t n, int32_t shift, uint8_t* q) {
    const float peak = peak_of(x, n);
    const bool is_usable = peak > 1e-30f;
    const auto steps = static_cast<float>(127 + shift);
    const __m512 factor = _mm512_set1_ps(is_usable ? steps / peak : 0.0f);
    const __m512i added = _mm512_set1_epi32(kOffset - shift);
    const int64_t padded = (n + 3) / 4 * 4;
    for (int64_t i = 0; i < padded; i += kLanes)
        store_digits(whole_of(x + i, first_lanes(n - i), factor), added, first_lanes(padded - i), q + i);
    return is_usable ? peak / steps : peak * 0.0f;
}

template <int32_t kOffset>
YE_INLINE float quantise_fine(const float* x, int64_t n, uint8_t* high, uint8_t* low) {
    const float peak = peak_of(x, n);
    const bool is_usable = peak > 1e-30f;
    const __m512 factor = _mm512_set1_ps(is_usable ? 32512.0f / peak : 0.0f);
    const __m512i added = _mm512_set1_epi32(kOffset);
    const int64_t padded = (n + 3) / 4 * 4;
    for (int64_t i = 0; i < padded; i += kLanes) {
        store_two_digits(whole_of(x + i, first_lanes(n - i), factor), added, first_lanes(padded - i),
                         high + i, low + i);
    }
    return is_usable ? peak / 32512.0f : peak * 0.0f;
}

YE_INLINE float quantise_signed(const float* x, int64_t n, int8_t* q, int32_t* sum) {
    const float peak = peak_of(x, n);
    const bool is_usable = peak > 1e-30f;
    const __m512 factor = _mm512_set1_ps(is_usable ? 127.0f / peak : 0.0f);
    const int64_t padded = (n + 3) / 4 * 4;
    __m512 total = _mm512_setzero_ps();
    for (int64_t i = 0; i < padded; i += kLanes) {
        const __m512 whole = whole_of(x + i, first_lanes(n - i), factor);
        total = _mm512_add_ps(total, whole);
        store_digits(whole, _mm512_setzero_si512(), first_lanes(padded - i),
                     reinterpret_cast<uint8_t*>(q) + i);
    }
    *sum = static_cast<int32_t>(sum_of(total));
    return is_usable ? peak / 127.0f : peak * 0.0f;
}

YE_INLINE uint64_t passing(const float* x, int64_t n, float bound) {
    const __m512 least = _mm512_set1_ps(bound);
    uint64_t bits = 0;
    for (int64_t i = 0; i < n; i += kLanes) {
        const __mmask16 lanes = first_lanes(n - i);
        const uint64_t some =
            _mm512_mask_cmp_ps_mask(lanes, _mm512_maskz_loadu_ps(lanes, x + i), least, _CMP_GE_OQ);
        bits |= some << i;
    }
    return bits;
}

YE_INLINE float log_sum_exp(const float* x, int64_t n, float most) {
    if (!(std::abs(most) <= std::numeric_limits<float>::max()))
        return std::numeric_limits<float>::quiet_NaN();
    const __m512 highest = _mm512_set1_ps(most);
    __m512 sum = _mm512_setzero_ps();
    for (int64_t i = 0; i < n; i += kLanes)
        sum = _mm512_add_ps(sum, exp_of(_mm512_sub_ps(load(x + i, first_lanes(n - i)), highest)));
    return static_cast<float>(most + std::log(static_cast<double>(sum_of(sum))));
}

}  // namespace own
