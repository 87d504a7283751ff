#include "vision/heads.hpp"

#include <algorithm>
#include <type_traits>

#include "simd/cpu_features.hpp"

#ifdef YOLOR_EDGE_X86
#include <immintrin.h>
#endif

namespace yolor_edge {
namespace {

/// The same row of several channels, its elements side by side, as numbers; `apart` elements from channel to
/// channel, `values_apart` numbers from row to row.
template <class Elements>
struct WidenRows {
    using Element = typename Elements::Element;
    static YOLOR_EDGE_INLINE void run(const Element* first, int64_t apart, int64_t channels, int64_t n,
                                      int32_t zero_point, float scale, float* values, int64_t values_apart) {
        const HeadView head{nullptr, 0, 0, 1, HeadType::float32, scale, zero_point};
        for (int64_t k = 0; k < channels; ++k) {
            const Element* __restrict from = first + k * apart;
            float* __restrict to = values + k * values_apart;
            for (int64_t i = 0; i < n; ++i) to[i] = Elements::value(from[i], head);
        }
    }
};

#ifdef YOLOR_EDGE_X86

YOLOR_EDGE_AVX2 inline void widen_eight(const uint16_t* from, const __m256i&, const __m256&, float* to) {
    const __m128i packed = _mm_loadu_si128(reinterpret_cast<const __m128i*>(from));
    _mm256_storeu_ps(to, _mm256_cvtph_ps(packed));
}
YOLOR_EDGE_AVX2 inline void widen_eight(const int8_t* from, const __m256i& zero_point, const __m256& scale,
                                        float* to) {
    const __m128i packed = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(from));
    const __m256i whole = _mm256_sub_epi32(_mm256_cvtepi8_epi32(packed), zero_point);
    _mm256_storeu_ps(to, _mm256_mul_ps(_mm256_cvtepi32_ps(whole), scale));
}
YOLOR_EDGE_AVX2 inline void widen_eight(const uint8_t* from, const __m256i& zero_point, const __m256& scale,
                                        float* to) {
    const __m128i packed = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(from));
    const __m256i whole = _mm256_sub_epi32(_mm256_cvtepu8_epi32(packed), zero_point);
    _mm256_storeu_ps(to, _mm256_mul_ps(_mm256_cvtepi32_ps(whole), scale));
}

/// WidenRows of eight numbers or more, eight at a time: the last ones once more rather than one by one.
template <class Element>
YOLOR_EDGE_AVX2 void widen_rows_avx2(const Element* first, int64_t apart, int64_t channels, int64_t n,
                                     int32_t zero_point, float scale, float* values, int64_t values_apart) {
    const __m256i zero_points = _mm256_set1_epi32(zero_point);
    const __m256 scales = _mm256_set1_ps(scale);
    for (int64_t k = 0; k < channels; ++k) {
        const Element* from = first + k * apart;
        float* to = values + k * values_apart;
        for (int64_t i = 0; i + 8 <= n; i += 8) widen_eight(from + i, zero_points, scales, to + i);
        widen_eight(from + n - 8, zero_points, scales, to + n - 8);
    }
}

#endif

}  // namespace

void read_rows(const HeadView& head, int64_t channels, int64_t row, int64_t column, int64_t n, float* values,
               int64_t values_apart) {
    const int64_t first = head.at(0, row, column);
    with_elements(head.type, [&](auto elements) {
        using Elements = decltype(elements);
        const auto* source = static_cast<const typename Elements::Element*>(head.data) + first;
        if (head.column_stride == 1) {
#ifdef YOLOR_EDGE_X86
            if constexpr (!std::is_same_v<Elements, FloatElements>) {
                if (n >= 8 && simd_level() >= SimdLevel::avx2) {
                    widen_rows_avx2(source, head.channel_stride, channels, n, head.zero_point, head.scale,
                                    values, values_apart);
                    return;
                }
            }
#endif
            dispatch<WidenRows<Elements>>(source, head.channel_stride, channels, n, head.zero_point,
                                          head.scale, values, values_apart);
            return;
        }
        // Four channels side by side are four numbers of a line of memory.
        for (int64_t k = 0; k < channels; k += 4) {
            const int64_t end = std::min(k + 4, channels);
            for (int64_t i = 0; i < n; ++i) {
                for (int64_t c = k; c < end; ++c) {
                    values[c * values_apart + i] =
                        Elements::value(source[c * head.channel_stride + i * head.column_stride], head);
                }
            }
        }
    });
}

}  // namespace yolor_edge
