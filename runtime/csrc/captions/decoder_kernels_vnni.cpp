/// The caption decoder's kernels for AVX-512 with VNNI: int8 products; the rest is AVX-512's.
///
/// Sums of a few rows and blocks stay in registers over all inputs. One row fetches weights as fast as memory
/// gives them; from some three rows on, the limit is one VPDPBUSD a cycle.
#include "captions/decoder_kernels.hpp"

#if defined(__x86_64__)

#include <immintrin.h>

#include <algorithm>
#include <cstring>
#include <utility>

#include "captions/int8_product.hpp"
#include "simd/rows_avx512.hpp"

#define YE_VNNI __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma")))
#define YE_VNNI_INLINE YE_VNNI inline __attribute__((always_inline))

namespace yolor_edge {
namespace {

// Added to a quantised value to make it unsigned, as VPDPBUSD wants one operand.
constexpr int32_t kOffset = 128;
// Rows of digits and blocks whose sums fit the 32 registers together with what they are multiplied from.
constexpr int kMostRows = 6;
constexpr int kMostSums = 24;

YE_VNNI_INLINE __m512i four_bytes(const uint8_t* from) {
    int32_t four;
    std::memcpy(&four, from, 4);
    return _mm512_set1_epi32(four);
}

/// sums += the four products of each lane. Assembly, since GCC 12 moves the sums of its intrinsic from
/// register to register and into memory, which takes longer than the products.
YE_VNNI_INLINE void add_products(__m512i& sums, const __m512i& values, const __m512i& weights) {
    asm("vpdpbusd %2, %1, %0" : "+v"(sums) : "v"(values), "v"(weights));
}

/// The sums over all inputs; that of digit row d and block b lies at d * kBlocks + b. Unrolled by its
/// template arguments: sums that a loop counts through would lie in memory. kFetch: get the blocks after
/// these into the second cache meanwhile.
template <int kBlocks, bool kFetch, size_t... kAt>
YE_VNNI_INLINE void add_groups(const Int8Product& a, const uint8_t* const* digits, __m512i* out,
                               std::index_sequence<kAt...>) {
    __m512i sums[] = {(static_cast<void>(kAt), _mm512_setzero_si512())...};
    const int8_t* weights = a.weights;
    const int64_t block_bytes = a.groups * 4 * kBlock;
    for (int64_t at = 0; at < a.groups * 4; at += 4, weights += 4 * kBlock) {
        (add_products(sums[kAt], four_bytes(digits[kAt / kBlocks] + at),
                      _mm512_loadu_si512(weights + (kAt % kBlocks) * block_bytes)),
         ...);
        if (kFetch) {
            for (int b = kBlocks; b < 2 * kBlocks; ++b) __builtin_prefetch(weights + b * block_bytes, 0, 2);
        }
    }
    (_mm512_store_si512(out + kAt, sums[kAt]), ...);
}

/// 255 * high + low, which fits int32.
YE_VNNI_INLINE __m512 sum_of_digits(const __m512i& high, const __m512i& low) {
    const __m512i most = _mm512_sub_epi32(_mm512_maskz_slli_epi32(0xFFFF, high, 8), high);
    return _mm512_maskz_cvtepi32_ps(0xFFFF, _mm512_add_epi32(most, low));
}

/// The same where it only fits a double.
YE_VNNI_INLINE __m512 long_sum_of_digits(const __m512i& high, const __m512i& low) {
    const __m512d base = _mm512_set1_pd(255.0);
    const auto half = [&](const __m256i& digits, const __m256i& rest) __attribute__((target("avx512f"))) {
        return _mm512_maskz_cvtpd_ps(0xFF, _mm512_fmadd_pd(_mm512_maskz_cvtepi32_pd(0xFF, digits), base,
                                                           _mm512_maskz_cvtepi32_pd(0xFF, rest)));
    };
    const __m256 first =
        half(_mm512_maskz_extracti64x4_epi64(0xF, high, 0), _mm512_maskz_extracti64x4_epi64(0xF, low, 0));
    const __m256 second =
        half(_mm512_maskz_extracti64x4_epi64(0xF, high, 1), _mm512_maskz_extracti64x4_epi64(0xF, low, 1));
    return _mm512_maskz_insertf32x8(0xFFFF, _mm512_castps256_ps512(first), second, 1);
}

template <int kRows, int kBlocks, bool kFine, bool kFetch>
YE_VNNI void tile_i8(const Int8Product& a) {
    constexpr int kDigits = kFine ? 2 * kRows : kRows;
    const uint8_t* digits[kDigits];
    for (int r = 0; r < kRows; ++r) {
        digits[r] = a.x.high + r * a.x.stride;
        if (kFine) digits[kDigits - kRows + r] = a.x.low + r * a.x.stride;
    }
    __m512i sums[kDigits * kBlocks];
    add_groups<kBlocks, kFetch>(a, digits, sums, std::make_index_sequence<kDigits * kBlocks>{});
    for (int b = 0; b < kBlocks; ++b) {
        const __m512i excess = _mm512_mullo_epi32(_mm512_loadu_si512(a.sums + b * kBlock),
                                                  _mm512_set1_epi32(kOffset - a.x.shift));
        const __m512 scales = _mm512_loadu_ps(a.weight_scales + b * kBlock);
        const __m512 bias = a.bias != nullptr ? _mm512_loadu_ps(a.bias + b * kBlock) : _mm512_setzero_ps();
        for (int r = 0; r < kRows; ++r) {
            // Nothing here is fused, so that all instruction sets give the same floats. (The conversions are
            // masked because GCC 12 warns of its own undefined operand in the plain ones.)
            const __m512i high = _mm512_sub_epi32(sums[r * kBlocks + b], excess);
            __m512 whole;
            if (kFine) {
                const __m512i low = _mm512_sub_epi32(sums[(kDigits - kRows + r) * kBlocks + b], excess);
                whole = a.groups <= kExactGroups ? sum_of_digits(high, low) : long_sum_of_digits(high, low);
            } else {
                whole = _mm512_maskz_cvtepi32_ps(0xFFFF, high);
            }
            const __m512 scale = _mm512_mul_ps(_mm512_set1_ps(a.x.scales[r]), scales);
            _mm512_storeu_ps(a.y + r * a.y_stride + b * kBlock,
                             _mm512_add_ps(_mm512_mul_ps(whole, scale), bias));
        }
    }
}

/// Few rows read every weight once. Memory gives them fastest where some twelve sums are under way, read from
/// a few blocks side by side, while the next blocks are fetched.
template <int kRows, bool kFine>
YE_VNNI void few_rows_i8(const Int8Product& a, int64_t blocks) {
    constexpr int kDigits = kFine ? 2 * kRows : kRows;
    constexpr int kBlocks = kDigits == 3 ? 6 : std::max(2, std::min(6, 12 / kDigits));
    int64_t block = 0;
    for (; block + kBlocks <= blocks; block += kBlocks)
        tile_i8<kRows, kBlocks, kFine, true>(a.from_block(block));
    for (; block < blocks; ++block) tile_i8<kRows, 1, kFine, true>(a.from_block(block));
}

template <bool kFine>
YE_VNNI void some_rows_i8(const Int8Product& a, int64_t blocks) {
    switch (a.x.rows) {
        case 1:
            return few_rows_i8<1, kFine>(a, blocks);
        case 2:
            return few_rows_i8<2, kFine>(a, blocks);
        case 3:
            return few_rows_i8<3, kFine>(a, blocks);
        case 4:
            return few_rows_i8<4, kFine>(a, blocks);
        case 5:
            return few_rows_i8<5, kFine>(a, blocks);
        case 6:
            return few_rows_i8<6, kFine>(a, blocks);
        default:
            return;
    }
}

/// Many rows share a panel of weights that stays in the first cache meanwhile.
template <bool kFine>
YE_VNNI void rows_i8(const Int8Product& a, int64_t blocks) {
    if (a.x.rows <= kMostRows) return some_rows_i8<kFine>(a, blocks);
    constexpr int kBlocks = kMostSums / (kFine ? 2 * kMostRows : kMostRows);
    for (int64_t block = 0; block < blocks; block += kBlocks) {
        const Int8Product panel = a.from_block(block);
        const int64_t count = std::min<int64_t>(blocks - block, kBlocks);
        int64_t row = 0;
        for (; row + kMostRows <= a.x.rows; row += kMostRows) {
            const Int8Product part = panel.from_row(row);
            if (count == kBlocks) {
                tile_i8<kMostRows, kBlocks, kFine, false>(part);
            } else {
                for (int64_t b = 0; b < count; ++b) tile_i8<kMostRows, 1, kFine, false>(part.from_block(b));
            }
        }
        some_rows_i8<kFine>(panel.from_row(row), count);
    }
}

YE_VNNI void matmul_i8(const QuantisedRows& x, const int8_t* weights, const int32_t* sums,
                       const float* weight_scales, const float* bias, int64_t in, int64_t out, float* y,
                       int64_t y_stride) {
    const Int8Product all{x, weights, sums, weight_scales, bias, (in + 3) / 4, y, y_stride};
    const int64_t blocks = whole_blocks(out) / kBlock;
    if (x.low != nullptr) {
        rows_i8<true>(all, blocks);
    } else {
        rows_i8<false>(all, blocks);
    }
}

}  // namespace

const DecoderKernels* avx512vnni_decoder_kernels() noexcept {
    const DecoderKernels* plain = avx512_decoder_kernels();
    if (plain == nullptr || !__builtin_cpu_supports("avx512vnni")) return nullptr;
    static const DecoderKernels kernels = [plain] {
        DecoderKernels with_vnni = *plain;
        with_vnni.name = "avx512vnni";
        with_vnni.matmul_i8 = matmul_i8;
        with_vnni.quantise = rows_avx512::quantise<kOffset>;
        with_vnni.quantise_fine = rows_avx512::quantise_fine<kOffset>;
        return with_vnni;
    }();
    return &kernels;
}

}  // namespace yolor_edge

#else

namespace yolor_edge {
const DecoderKernels* avx512vnni_decoder_kernels() noexcept {
    return nullptr;
}
}  // namespace yolor_edge

#endif
