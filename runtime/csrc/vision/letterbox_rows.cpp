#include "vision/letterbox_rows.hpp"

#include <cstring>

#ifdef YOLOR_EDGE_X86
#include <immintrin.h>
#endif

namespace yolor_edge {
namespace {

struct BlendRows {
    static YOLOR_EDGE_INLINE void run(const uint8_t* __restrict low, const uint8_t* __restrict high,
                                      int32_t low_weight, int32_t high_weight, int64_t n,
                                      int32_t* __restrict blended) {
        for (int64_t i = 0; i < n; ++i) blended[i] = blended_rows(low[i], high[i], low_weight, high_weight);
    }
};

/// One row of three planes: four pixels at a time, a vector of (channels, one more) each, then turned.
struct ResizeRow3 {
    static YOLOR_EDGE_INLINE void run(const int32_t* blended, Columns columns, int64_t begin, Planes planes) {
        int64_t x = begin;
        for (; x + 4 <= columns.width; x += 4) {
            FourInts pixels[4];
            for (int i = 0; i < 4; ++i) {
                FourInts left, right;
                load(blended + columns.starts[x + i], &left);
                load(blended + columns.starts[x + i] + 3, &right);
                blend_columns(left, right, columns.weights[x + i], &pixels[i]);
            }
            const FourInts a = YOLOR_EDGE_SHUFFLE(pixels[0], pixels[1], 0, 4, 1, 5);
            const FourInts b = YOLOR_EDGE_SHUFFLE(pixels[2], pixels[3], 0, 4, 1, 5);
            const FourInts c = YOLOR_EDGE_SHUFFLE(pixels[0], pixels[1], 2, 6, 3, 7);
            const FourInts d = YOLOR_EDGE_SHUFFLE(pixels[2], pixels[3], 2, 6, 3, 7);
            const FourInts channels[3] = {YOLOR_EDGE_SHUFFLE(a, b, 0, 1, 4, 5),
                                          YOLOR_EDGE_SHUFFLE(a, b, 2, 3, 6, 7),
                                          YOLOR_EDGE_SHUFFLE(c, d, 0, 1, 4, 5)};
            for (int channel = 0; channel < 3; ++channel) {
                const Four values = __builtin_convertvector(channels[channel], Four) * planes.scale;
                std::memcpy(planes.at[channel] + x, &values, sizeof values);
            }
        }
        for (; x < columns.width; ++x) {
            for (int channel = 0; channel < 3; ++channel) {
                const int32_t value =
                    resized_value(blended + columns.starts[x] + channel, 3, columns.weights[x]);
                planes.at[channel][x] = static_cast<float>(value) * planes.scale;
            }
        }
    }
};

struct ResizeRow1 {
    static YOLOR_EDGE_INLINE void run(const int32_t* blended, Columns columns, float scale,
                                      float* __restrict plane) {
        for (int64_t x = 0; x < columns.width; ++x) {
            plane[x] =
                static_cast<float>(resized_value(blended + columns.starts[x], 1, columns.weights[x])) * scale;
        }
    }
};

#ifdef YOLOR_EDGE_X86

/// Eight pixels at a time: pixels i and i + 4 share a vector.
YOLOR_EDGE_AVX2 int64_t resize_row3_avx2(const int32_t* blended, const Columns& columns,
                                         const Planes& planes) {
    const __m256i half = _mm256_set1_epi32(kRoundingHalf);
    const __m256 scale = _mm256_set1_ps(planes.scale);
    int64_t x = 0;
    for (; x + 8 <= columns.width; x += 8) {
        __m256i pixels[4];
        for (int i = 0; i < 4; ++i) {
            const int32_t* first = blended + columns.starts[x + i];
            const int32_t* second = blended + columns.starts[x + i + 4];
            const __m256i left = _mm256_loadu2_m128i(reinterpret_cast<const __m128i*>(second),
                                                     reinterpret_cast<const __m128i*>(first));
            const __m256i right = _mm256_loadu2_m128i(reinterpret_cast<const __m128i*>(second + 3),
                                                      reinterpret_cast<const __m128i*>(first + 3));
            const __m256i weight =
                _mm256_inserti128_si256(_mm256_castsi128_si256(_mm_set1_epi32(columns.weights[x + i])),
                                        _mm_set1_epi32(columns.weights[x + i + 4]), 1);
            const __m256i sum = _mm256_add_epi32(_mm256_slli_epi32(left, 11),
                                                 _mm256_mullo_epi32(_mm256_sub_epi32(right, left), weight));
            pixels[i] = _mm256_srai_epi32(_mm256_add_epi32(sum, half), kWeightShift);
        }
        const __m256i a = _mm256_unpacklo_epi32(pixels[0], pixels[1]);
        const __m256i b = _mm256_unpacklo_epi32(pixels[2], pixels[3]);
        const __m256i c = _mm256_unpackhi_epi32(pixels[0], pixels[1]);
        const __m256i d = _mm256_unpackhi_epi32(pixels[2], pixels[3]);
        const __m256i channels[3] = {_mm256_unpacklo_epi64(a, b), _mm256_unpackhi_epi64(a, b),
                                     _mm256_unpacklo_epi64(c, d)};
        for (int channel = 0; channel < 3; ++channel) {
            _mm256_storeu_ps(planes.at[channel] + x,
                             _mm256_mul_ps(_mm256_cvtepi32_ps(channels[channel]), scale));
        }
    }
    return x;
}

#endif

/// Pixels from `begin` of an image halved both ways, whose weights are all 2^20: (a + b + c + d + 2) >> 2.
void halve_rows_portable(const uint8_t* upper, const uint8_t* lower, int64_t begin, int64_t width,
                         const Planes& planes) {
    for (int64_t x = begin; x < width; ++x) {
        for (int channel = 0; channel < 3; ++channel) {
            const int64_t i = 6 * x + channel;
            const int32_t sum = upper[i] + upper[i + 3] + lower[i] + lower[i + 3];
            planes.at[channel][x] = static_cast<float>((sum + 2) >> 2) * planes.scale;
        }
    }
}

#ifdef YOLOR_EDGE_X86

/// Sums of neighbouring pixels as 16-bit numbers, four a pixel: two of them from `source`, two from `source`
/// + 24.
YOLOR_EDGE_AVX2 inline __m256i neighbour_sums(const uint8_t* source) {
    const __m256i bytes = _mm256_loadu2_m128i(reinterpret_cast<const __m128i*>(source + 24),
                                              reinterpret_cast<const __m128i*>(source));
    const __m256i order =
        _mm256_broadcastsi128_si256(_mm_setr_epi8(0, 3, 1, 4, 2, 5, -1, -1, 6, 9, 7, 10, 8, 11, -1, -1));
    return _mm256_maddubs_epi16(_mm256_shuffle_epi8(bytes, order), _mm256_set1_epi8(1));
}

/// Eight pixels at a time; returns how many were written, short of the last ones, past which it would read.
YOLOR_EDGE_AVX2 int64_t halve_rows_avx2(const uint8_t* upper, const uint8_t* lower, int64_t width,
                                        const Planes& planes) {
    const __m256 scale = _mm256_set1_ps(planes.scale);
    const __m256i two = _mm256_set1_epi16(2);
    const __m256i zero = _mm256_setzero_si256();
    int64_t x = 0;
    for (; x + 8 < width; x += 8) {
        __m256i pairs[2];  // pixels 0, 1, 4, 5 and 2, 3, 6, 7
        for (int i = 0; i < 2; ++i) {
            const int64_t offset = 6 * x + 12 * i;
            const __m256i sum =
                _mm256_add_epi16(neighbour_sums(upper + offset), neighbour_sums(lower + offset));
            pairs[i] = _mm256_srli_epi16(_mm256_add_epi16(sum, two), 2);
        }
        const __m256i even = _mm256_unpacklo_epi16(pairs[0], pairs[1]);
        const __m256i odd = _mm256_unpackhi_epi16(pairs[0], pairs[1]);
        const __m256i first_two = _mm256_unpacklo_epi16(even, odd);  // channels 0 and 1, four pixels each
        const __m256i third = _mm256_unpackhi_epi16(even, odd);
        const __m256i channels[3] = {_mm256_unpacklo_epi16(first_two, zero),
                                     _mm256_unpackhi_epi16(first_two, zero),
                                     _mm256_unpacklo_epi16(third, zero)};
        for (int channel = 0; channel < 3; ++channel) {
            _mm256_storeu_ps(planes.at[channel] + x,
                             _mm256_mul_ps(_mm256_cvtepi32_ps(channels[channel]), scale));
        }
    }
    return x;
}

#endif

struct SpreadRow3 {
    static YOLOR_EDGE_INLINE void run(const uint8_t* __restrict row, int64_t width, float scale,
                                      float* __restrict first, float* __restrict second,
                                      float* __restrict third) {
        for (int64_t x = 0; x < width; ++x) {
            first[x] = static_cast<float>(row[3 * x]) * scale;
            second[x] = static_cast<float>(row[3 * x + 1]) * scale;
            third[x] = static_cast<float>(row[3 * x + 2]) * scale;
        }
    }
};

struct SpreadRow1 {
    static YOLOR_EDGE_INLINE void run(const uint8_t* __restrict row, int64_t width, float scale,
                                      float* __restrict plane) {
        for (int64_t x = 0; x < width; ++x) plane[x] = static_cast<float>(row[x]) * scale;
    }
};

}  // namespace

void blend_rows(const uint8_t* low, const uint8_t* high, int32_t low_weight, int32_t high_weight, int64_t n,
                int32_t* blended) {
    dispatch<BlendRows>(low, high, low_weight, high_weight, n, blended);
}

void resize_row3(const int32_t* blended, const Columns& columns, const Planes& planes) {
    int64_t done = 0;
#ifdef YOLOR_EDGE_X86
    if (simd_level() >= SimdLevel::avx2) done = resize_row3_avx2(blended, columns, planes);
#endif
    ResizeRow3::run(blended, columns, done, planes);
}

void resize_row1(const int32_t* blended, const Columns& columns, float scale, float* plane) {
    dispatch<ResizeRow1>(blended, columns, scale, plane);
}

void halve_rows(const uint8_t* upper, const uint8_t* lower, int64_t width, const Planes& planes) {
    int64_t done = 0;
#ifdef YOLOR_EDGE_X86
    if (simd_level() >= SimdLevel::avx2) done = halve_rows_avx2(upper, lower, width, planes);
#endif
    halve_rows_portable(upper, lower, done, width, planes);
}

void spread_row3(const uint8_t* row, int64_t width, const Planes& planes) {
    dispatch<SpreadRow3>(row, width, planes.scale, planes.at[0], planes.at[1], planes.at[2]);
}

void spread_row1(const uint8_t* row, int64_t width, float scale, float* plane) {
    dispatch<SpreadRow1>(row, width, scale, plane);
}

}  // namespace yolor_edge
