#include "letterbox.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <utility>
#include <vector>

#include "cpu_features.hpp"
#include "letterbox_math.hpp"
#include "parallel.hpp"
#include "scratch.hpp"

#ifdef YOLOR_EDGE_X86
#include <immintrin.h>
#endif

namespace yolor_edge {
namespace {

void fill_taps(int64_t in, int64_t out, std::vector<Tap>* taps) {
    taps->resize(static_cast<size_t>(out));
    for (int64_t i = 0; i < out; ++i) {
        (*taps)[static_cast<size_t>(i)] = tap_of(i, in, out);
    }
}

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

/// Rows of an image as packed interleaved bytes: the image's own where they are packed, else a copy, of which
/// the last two are kept, in `scratch`.
class PackedRows {
  public:
    PackedRows(const ImageView& image, std::vector<uint8_t>* scratch)
        : image_(image),
          is_packed_(image.layout == PixelLayout::interleaved && image.pixel_stride == image.channels &&
                     (image.channels == 1 || image.channel_stride == 1)),
          scratch_(scratch) {
        if (!is_packed_) scratch->resize(static_cast<size_t>(2 * image.width * image.channels));
    }

    const uint8_t* operator[](int64_t y) {
        if (is_packed_) return image_.data + y * image_.row_stride;
        const auto slot = static_cast<size_t>(y % 2);
        uint8_t* packed = scratch_->data() + y % 2 * image_.width * image_.channels;
        if (held_[slot] != y) unpack(y, packed);
        held_[slot] = y;
        return packed;
    }

  private:
    void unpack(int64_t y, uint8_t* packed) const {
        const uint8_t* source = image_.data + y * image_.row_stride;
        switch (image_.layout) {
            case PixelLayout::interleaved:
                for (int64_t x = 0; x < image_.width; ++x) {
                    for (int64_t c = 0; c < image_.channels; ++c) {
                        packed[x * image_.channels + c] =
                            source[x * image_.pixel_stride + c * image_.channel_stride];
                    }
                }
                break;
            case PixelLayout::nv12:
                unpack_row<Nv12>(source, image_.data + (image_.height + y / 2) * image_.row_stride,
                                 image_.width, packed);
                break;
            case PixelLayout::yuyv:
                unpack_row<Yuyv>(source, source, image_.width, packed);
                break;
        }
    }

    const ImageView& image_;
    bool is_packed_;
    std::vector<uint8_t>* scratch_;
    std::array<int64_t, 2> held_{-1, -1};
};

/// Two rows of bytes, weighted; vertical comes before horizontal, since it runs along whole rows, and integer
/// sums do not depend on the order.
struct BlendRows {
    static YOLOR_EDGE_INLINE void run(const uint8_t* __restrict low, const uint8_t* __restrict high,
                                      int32_t low_weight, int32_t high_weight, int64_t n,
                                      int32_t* __restrict blended) {
        for (int64_t i = 0; i < n; ++i) blended[i] = blended_rows(low[i], high[i], low_weight, high_weight);
    }
};

/// Columns of the output: where the left one of each two source pixels begins in a row of int32, and the
/// weight of the right one, which follows it; 0 where there is none.
struct Columns {
    const int32_t* starts;
    const int32_t* weights;
    int64_t width;
};

/// Where a row of the output goes: a plane for each channel of the image.
struct Planes {
    float* at[3];
    float scale;
};

YOLOR_EDGE_INLINE int32_t resized_value(const int32_t* source, int64_t step, int32_t weight) noexcept {
    int32_t value;
    blend_columns(source[0], source[step], weight, &value);
    return value;
}

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

void resize_row3(const int32_t* blended, const Columns& columns, const Planes& planes) {
    int64_t done = 0;
#ifdef YOLOR_EDGE_X86
    if (simd_level() >= SimdLevel::avx2) done = resize_row3_avx2(blended, columns, planes);
#endif
    ResizeRow3::run(blended, columns, done, planes);
}

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

void halve_rows(const uint8_t* upper, const uint8_t* lower, int64_t width, const Planes& planes) {
    int64_t done = 0;
#ifdef YOLOR_EDGE_X86
    if (simd_level() >= SimdLevel::avx2) done = halve_rows_avx2(upper, lower, width, planes);
#endif
    halve_rows_portable(upper, lower, done, width, planes);
}

/// A row that keeps its size, to planes.
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

/// How rows and columns of the output lie in the image; computed once a call.
struct Axes {
    std::vector<Tap> vertical;
    std::vector<Tap> horizontal;
    std::vector<int32_t> starts;
    std::vector<int32_t> weights;

    void fill(const ImageView& image, const LetterboxGeometry& geometry) {
        fill_taps(image.height, geometry.resized_height, &vertical);
        fill_taps(image.width, geometry.resized_width, &horizontal);
        starts.clear();
        weights.clear();
        for (const Tap& tap : horizontal) {
            starts.push_back(static_cast<int32_t>(tap.low * image.channels));
            weights.push_back(tap.high == tap.low ? 0 : tap.high_weight);
        }
    }
};

/// Working memory of one thread, for one strip after the other.
struct Scratch {
    std::vector<uint8_t> packed;
    std::vector<int32_t> blended;
};

Scratch& scratch_of_thread() {
    thread_local Scratch scratch;
    return scratch;
}

bool keeps_size(const ImageView& image, const LetterboxGeometry& geometry) noexcept {
    return geometry.resized_height == image.height && geometry.resized_width == image.width;
}

/// Rows [begin, end) of `image` resized to the size of `geometry`: `take_row(y, row)` gets rows that keep
/// their size as bytes, and `take_blended(y, row, columns)` gets the others blended vertically, still to be
/// resized horizontally.
template <class TakeRow, class TakeBlended>
void resize(const ImageView& image, const LetterboxGeometry& geometry, const Axes& axes, int64_t begin,
            int64_t end, TakeRow&& take_row, TakeBlended&& take_blended) {
    Scratch& scratch = scratch_of_thread();
    PackedRows rows(image, &scratch.packed);
    if (keeps_size(image, geometry)) {
        for (int64_t y = begin; y < end; ++y) take_row(y, rows[y]);
        return;
    }
    const Columns columns{axes.starts.data(), axes.weights.data(), geometry.resized_width};
    const int64_t row_values = image.width * image.channels;
    // A vector of four starts at the last pixel's right neighbour at most, which counts for nothing.
    scratch.blended.resize(static_cast<size_t>(row_values + 8));
    for (int64_t y = begin; y < end; ++y) {
        const Tap& tap = axes.vertical[static_cast<size_t>(y)];
        const uint8_t* low = rows[tap.low];
        const uint8_t* high = rows[tap.high];
        dispatch<BlendRows>(low, high, tap.low_weight, tap.high_weight, row_values, scratch.blended.data());
        take_blended(y, static_cast<const int32_t*>(scratch.blended.data()), columns);
    }
}

int64_t resized_length(int64_t length, double scale, int64_t limit) noexcept {
    const double rounded = std::floor(static_cast<double>(length) * scale + 0.5);
    return std::clamp<int64_t>(static_cast<int64_t>(rounded), 1, limit);
}

/// Fill what the image does not cover of one (input_height, input_width) plane of `per_pixel` values a pixel:
/// beside the rows [begin, end) of the image, above the first and below the last.
template <class Value>
void fill_padding(const LetterboxGeometry& geometry, int64_t input_height, int64_t input_width,
                  int64_t per_pixel, Value value, int64_t begin, int64_t end, Value* plane) {
    const int64_t row_values = input_width * per_pixel;
    const int64_t bottom = geometry.pad_top + geometry.resized_height;
    if (begin == 0) std::fill(plane, plane + geometry.pad_top * row_values, value);
    if (end == geometry.resized_height) {
        std::fill(plane + bottom * row_values, plane + input_height * row_values, value);
    }
    for (int64_t y = geometry.pad_top + begin; y < geometry.pad_top + end; ++y) {
        Value* row = plane + y * row_values;
        std::fill(row, row + geometry.pad_left * per_pixel, value);
        std::fill(row + (geometry.pad_left + geometry.resized_width) * per_pixel, row + row_values, value);
    }
}

}  // namespace

LetterboxGeometry letterbox_geometry(int64_t height, int64_t width, int64_t input_height,
                                     int64_t input_width) noexcept {
    const double scale = std::min(static_cast<double>(input_height) / static_cast<double>(height),
                                  static_cast<double>(input_width) / static_cast<double>(width));
    const int64_t resized_height = resized_length(height, scale, input_height);
    const int64_t resized_width = resized_length(width, scale, input_width);
    return {resized_height, resized_width, (input_height - resized_height) / 2,
            (input_width - resized_width) / 2};
}

void letterbox(const ImageView& image, int64_t input_height, int64_t input_width, uint8_t pad_value,
               bool swap_rb, float scale, float* output, int threads) {
    const LetterboxGeometry geometry =
        letterbox_geometry(image.height, image.width, input_height, input_width);
    const int64_t plane_size = input_height * input_width;
    const auto planes_of = [&](int64_t y) {
        float* row = output + (geometry.pad_top + y) * input_width + geometry.pad_left;
        Planes planes{{row, row + plane_size, row + 2 * plane_size}, scale};
        if (swap_rb) std::swap(planes.at[0], planes.at[2]);
        return planes;
    };
    const auto repeat_grey = [&](const Planes& planes) {
        const auto bytes = static_cast<size_t>(geometry.resized_width) * sizeof(float);
        std::memcpy(planes.at[1], planes.at[0], bytes);
        std::memcpy(planes.at[2], planes.at[0], bytes);
    };
    // What cameras of 1280 x 720 and 1280 x 960 need at 640.
    const bool is_halved = image.channels == 3 && image.height == 2 * geometry.resized_height &&
                           image.width == 2 * geometry.resized_width;
    thread_local Axes axes_of_thread;
    Axes& axes = axes_of_thread;  // the workers' too, who would have their own under the other name
    if (!is_halved && !keeps_size(image, geometry)) axes.fill(image, geometry);
    constexpr int64_t kLeastRows = 16;  // a strip
    const int64_t height = geometry.resized_height;
    const int64_t strips =
        threads <= 1 ? 1 : std::min<int64_t>(2 * int64_t{threads}, (height + kLeastRows - 1) / kLeastRows);
    run_parallel(threads, strips, [&](int64_t strip) {
        const int64_t begin = height * strip / strips;
        const int64_t end = height * (strip + 1) / strips;
        for (int64_t c = 0; c < 3; ++c) {
            fill_padding(geometry, input_height, input_width, 1, static_cast<float>(pad_value) * scale, begin,
                         end, output + c * plane_size);
        }
        if (is_halved) {
            PackedRows rows(image, &scratch_of_thread().packed);
            for (int64_t y = begin; y < end; ++y) {
                const uint8_t* upper = rows[2 * y];
                halve_rows(upper, rows[2 * y + 1], geometry.resized_width, planes_of(y));
            }
        } else {
            resize(
                image, geometry, axes, begin, end,
                [&](int64_t y, const uint8_t* row) {
                    const Planes planes = planes_of(y);
                    if (image.channels == 3) {
                        dispatch<SpreadRow3>(row, image.width, scale, planes.at[0], planes.at[1],
                                             planes.at[2]);
                    } else {
                        dispatch<SpreadRow1>(row, image.width, scale, planes.at[0]);
                        repeat_grey(planes);
                    }
                },
                [&](int64_t y, const int32_t* blended, const Columns& columns) {
                    const Planes planes = planes_of(y);
                    if (image.channels == 3) {
                        resize_row3(blended, columns, planes);
                    } else {
                        dispatch<ResizeRow1>(blended, columns, scale, planes.at[0]);
                        repeat_grey(planes);
                    }
                });
        }
        give_back(&scratch_of_thread().packed, &scratch_of_thread().blended);
    });
    give_back(&axes.vertical, &axes.horizontal, &axes.starts, &axes.weights);
}

void letterbox_u8(const ImageView& image, int64_t input_height, int64_t input_width, uint8_t pad_value,
                  bool swap_rb, uint8_t* output) {
    const LetterboxGeometry geometry =
        letterbox_geometry(image.height, image.width, input_height, input_width);
    const int64_t height = geometry.resized_height;
    fill_padding(geometry, input_height, input_width, 3, pad_value, 0, height, output);
    const int64_t last = image.channels - 1;
    const auto source_channel = [&](int64_t c) { return std::min(swap_rb ? 2 - c : c, last); };
    const auto row_at = [&](int64_t y) {
        return output + ((geometry.pad_top + y) * input_width + geometry.pad_left) * 3;
    };
    thread_local Axes axes;
    if (!keeps_size(image, geometry)) axes.fill(image, geometry);
    resize(
        image, geometry, axes, 0, height,
        [&](int64_t y, const uint8_t* source) {
            uint8_t* row = row_at(y);
            for (int64_t x = 0; x < image.width; ++x) {
                for (int64_t c = 0; c < 3; ++c)
                    row[3 * x + c] = source[x * image.channels + source_channel(c)];
            }
        },
        [&](int64_t y, const int32_t* blended, const Columns& columns) {
            uint8_t* row = row_at(y);
            for (int64_t x = 0; x < columns.width; ++x) {
                for (int64_t c = 0; c < 3; ++c) {
                    row[3 * x + c] = static_cast<uint8_t>(resized_value(
                        blended + columns.starts[x] + source_channel(c), image.channels, columns.weights[x]));
                }
            }
        });
    give_back(&axes.vertical, &axes.horizontal, &axes.starts, &axes.weights, &scratch_of_thread().packed,
              &scratch_of_thread().blended);
}

}  // namespace yolor_edge
