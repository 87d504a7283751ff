#include "vision/packed_rows.hpp"

#include "shared/letterbox_math.hpp"
#include "simd/cpu_features.hpp"

#ifdef YOLOR_EDGE_X86
#include <immintrin.h>
#endif

namespace yolor_edge {
namespace {

/// How a row of YUV lies in memory, two pixels of which share their U and V: pair i's pixels are at luma[i *
/// kPair] and kNext bytes on, its U and V at chroma[i * kChromaPair + kU] and + kV.
struct Nv12 {
    static constexpr int kPair = 2, kNext = 1, kChromaPair = 2, kU = 0, kV = 1;
};
struct Yuyv {
    static constexpr int kPair = 4, kNext = 2, kChromaPair = 4, kU = 1, kV = 3;
};

/// Pairs from `begin` of such a row as interleaved BGR; plane after plane, since that is what vectors do
/// well.
template <class Layout>
struct UnpackPairs {
    static YOLOR_EDGE_INLINE void run(const uint8_t* __restrict luma, const uint8_t* __restrict chroma,
                                      int64_t begin, int64_t pairs, uint8_t* __restrict packed) {
        constexpr int kPairs = 32;
        for (; begin + kPairs <= pairs; begin += kPairs) {
            int32_t terms[3][kPairs];
            uint8_t planes[3][2 * kPairs];
            for (int i = 0; i < kPairs; ++i) {
                const uint8_t* source = chroma + (begin + i) * Layout::kChromaPair;
                const ChromaTerms of_pair = chroma_terms(source[Layout::kU], source[Layout::kV]);
                terms[0][i] = of_pair.blue;
                terms[1][i] = of_pair.green;
                terms[2][i] = of_pair.red;
            }
            for (int c = 0; c < 3; ++c) {
                for (int i = 0; i < kPairs; ++i) {
                    const uint8_t* source = luma + (begin + i) * Layout::kPair;
                    planes[c][2 * i] = colour_of(luma_term(source[0]), terms[c][i]);
                    planes[c][2 * i + 1] = colour_of(luma_term(source[Layout::kNext]), terms[c][i]);
                }
            }
            uint8_t* to = packed + 6 * begin;
            for (int i = 0; i < 2 * kPairs; ++i) {
                for (int c = 0; c < 3; ++c) to[3 * i + c] = planes[c][i];
            }
        }
        for (; begin < pairs; ++begin) {
            const uint8_t* source = luma + begin * Layout::kPair;
            const uint8_t* shared = chroma + begin * Layout::kChromaPair;
            write_bgr(source[0], shared[Layout::kU], shared[Layout::kV], packed + 6 * begin);
            write_bgr(source[Layout::kNext], shared[Layout::kU], shared[Layout::kV], packed + 6 * begin + 3);
        }
    }
};

#ifdef YOLOR_EDGE_X86

/// The same, eight pairs at a time; returns how many were unpacked.
template <class Layout>
YOLOR_EDGE_AVX2 int64_t unpack_pairs_avx2(const uint8_t* luma, const uint8_t* chroma, int64_t pairs,
                                          uint8_t* packed) {
    const __m256i low_bytes = _mm256_set1_epi16(0xff);
    const __m256i zero = _mm256_setzero_si256();
    const __m256i luma_factor = _mm256_set1_epi32(kLumaFactor), blue_of_u = _mm256_set1_epi32(kBlueOfU);
    const __m256i green_of_u = _mm256_set1_epi32(kGreenOfU), green_of_v = _mm256_set1_epi32(kGreenOfV);
    const __m256i red_of_v = _mm256_set1_epi32(kRedOfV);
    // Of the even pixels of a lane, then its odd ones, blue, then green: to pixels, red left out.
    const __m256i place_blue_green =
        _mm256_broadcastsi128_si256(_mm_setr_epi8(0, 8, -1, 4, 12, -1, 1, 9, -1, 5, 13, -1, 2, 10, -1, 6));
    const __m256i place_blue_green_rest = _mm256_broadcastsi128_si256(
        _mm_setr_epi8(14, -1, 3, 11, -1, 7, 15, -1, -1, -1, -1, -1, -1, -1, -1, -1));
    const __m256i place_red =
        _mm256_broadcastsi128_si256(_mm_setr_epi8(-1, -1, 0, -1, -1, 4, -1, -1, 1, -1, -1, 5, -1, -1, 2, -1));
    const __m256i place_red_rest = _mm256_broadcastsi128_si256(
        _mm_setr_epi8(-1, 6, -1, -1, 3, -1, -1, 7, -1, -1, -1, -1, -1, -1, -1, -1));
    int64_t i = 0;
    for (; i + 8 <= pairs; i += 8) {
        __m128i ys, uvs;
        if constexpr (Layout::kPair == 2) {
            ys = _mm_loadu_si128(reinterpret_cast<const __m128i*>(luma + 2 * i));
            uvs = _mm_loadu_si128(reinterpret_cast<const __m128i*>(chroma + 2 * i));
        } else {
            const __m256i all = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(luma + 4 * i));
            const __m256i parted = _mm256_permute4x64_epi64(
                _mm256_packus_epi16(_mm256_and_si256(all, low_bytes), _mm256_srli_epi16(all, 8)),
                _MM_SHUFFLE(3, 1, 2, 0));
            ys = _mm256_castsi256_si128(parted);
            uvs = _mm256_extracti128_si256(parted, 1);
        }
        const __m256i y_pairs = _mm256_cvtepu16_epi32(ys), uv_pairs = _mm256_cvtepu16_epi32(uvs);
        const __m256i low = _mm256_set1_epi32(0xff), sixteen = _mm256_set1_epi32(16);
        const __m256i middle = _mm256_set1_epi32(128), half = _mm256_set1_epi32(1 << 19);
        const __m256i u = _mm256_sub_epi32(_mm256_and_si256(uv_pairs, low), middle);
        const __m256i v = _mm256_sub_epi32(_mm256_srli_epi32(uv_pairs, 8), middle);
        const __m256i even = _mm256_mullo_epi32(
            _mm256_max_epi32(_mm256_sub_epi32(_mm256_and_si256(y_pairs, low), sixteen), zero), luma_factor);
        const __m256i odd = _mm256_mullo_epi32(
            _mm256_max_epi32(_mm256_sub_epi32(_mm256_srli_epi32(y_pairs, 8), sixteen), zero), luma_factor);
        const __m256i terms[3] = {_mm256_add_epi32(half, _mm256_mullo_epi32(u, blue_of_u)),
                                  _mm256_add_epi32(half, _mm256_add_epi32(_mm256_mullo_epi32(v, green_of_v),
                                                                          _mm256_mullo_epi32(u, green_of_u))),
                                  _mm256_add_epi32(half, _mm256_mullo_epi32(v, red_of_v))};
        __m256i words[3];
        for (int c = 0; c < 3; ++c) {
            words[c] = _mm256_packs_epi32(_mm256_srai_epi32(_mm256_add_epi32(even, terms[c]), 20),
                                          _mm256_srai_epi32(_mm256_add_epi32(odd, terms[c]), 20));
        }
        const __m256i blue_green = _mm256_packus_epi16(words[0], words[1]);
        const __m256i red = _mm256_packus_epi16(words[2], zero);
        const __m256i first = _mm256_or_si256(_mm256_shuffle_epi8(blue_green, place_blue_green),
                                              _mm256_shuffle_epi8(red, place_red));
        const __m256i rest = _mm256_or_si256(_mm256_shuffle_epi8(blue_green, place_blue_green_rest),
                                             _mm256_shuffle_epi8(red, place_red_rest));
        auto* to = packed + 6 * i;
        _mm_storeu_si128(reinterpret_cast<__m128i*>(to), _mm256_castsi256_si128(first));
        _mm_storel_epi64(reinterpret_cast<__m128i*>(to + 16), _mm256_castsi256_si128(rest));
        _mm_storeu_si128(reinterpret_cast<__m128i*>(to + 24), _mm256_extracti128_si256(first, 1));
        _mm_storel_epi64(reinterpret_cast<__m128i*>(to + 40), _mm256_extracti128_si256(rest, 1));
    }
    return i;
}

#endif

template <class Layout>
void unpack_row(const uint8_t* luma, const uint8_t* chroma, int64_t width, uint8_t* packed) {
    int64_t done = 0;
#ifdef YOLOR_EDGE_X86
    if (simd_level() >= SimdLevel::avx2) done = unpack_pairs_avx2<Layout>(luma, chroma, width / 2, packed);
#endif
    dispatch<UnpackPairs<Layout>>(luma, chroma, done, width / 2, packed);
}

/// Pixels from `begin` of a row of four bytes a pixel, such as BGRA, without their fourth.
struct DropFourth {
    static YOLOR_EDGE_INLINE void run(const uint8_t* __restrict row, int64_t begin, int64_t width,
                                      uint8_t* __restrict packed) {
        for (int64_t x = begin; x < width; ++x) {
            for (int c = 0; c < 3; ++c) packed[3 * x + c] = row[4 * x + c];
        }
    }
};

#ifdef YOLOR_EDGE_X86

/// The same, four pixels at a time; returns how many were taken. What is written past them is written over
/// with the pixels that follow, so the last ones are left.
YOLOR_EDGE_AVX2 int64_t drop_fourth_avx2(const uint8_t* row, int64_t width, uint8_t* packed) {
    const __m128i place = _mm_setr_epi8(0, 1, 2, 4, 5, 6, 8, 9, 10, 12, 13, 14, -1, -1, -1, -1);
    int64_t x = 0;
    for (; x + 6 <= width; x += 4) {
        const __m128i pixels = _mm_loadu_si128(reinterpret_cast<const __m128i*>(row + 4 * x));
        _mm_storeu_si128(reinterpret_cast<__m128i*>(packed + 3 * x), _mm_shuffle_epi8(pixels, place));
    }
    return x;
}

#endif

void drop_fourth(const uint8_t* row, int64_t width, uint8_t* packed) {
    int64_t done = 0;
#ifdef YOLOR_EDGE_X86
    if (simd_level() >= SimdLevel::avx2) done = drop_fourth_avx2(row, width, packed);
#endif
    dispatch<DropFourth>(row, done, width, packed);
}

}  // namespace

void PackedRows::unpack(int64_t y, uint8_t* packed) const {
    const uint8_t* source = image_.data + y * image_.row_stride;
    switch (image_.layout) {
        case PixelLayout::interleaved:
            if (image_.channels == 3 && image_.pixel_stride == 4 && image_.channel_stride == 1) {
                drop_fourth(source, image_.width, packed);
                break;
            }
            for (int64_t x = 0; x < image_.width; ++x) {
                for (int64_t c = 0; c < image_.channels; ++c) {
                    packed[x * image_.channels + c] =
                        source[x * image_.pixel_stride + c * image_.channel_stride];
                }
            }
            break;
        case PixelLayout::nv12:
            unpack_row<Nv12>(source, image_.data + (image_.height + y / 2) * image_.row_stride, image_.width,
                             packed);
            break;
        case PixelLayout::yuyv:
            unpack_row<Yuyv>(source, source, image_.width, packed);
            break;
    }
}

}  // namespace yolor_edge
