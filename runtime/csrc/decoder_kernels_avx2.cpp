/// The caption decoder's kernels for AVX2 with FMA.
#include "decoder_kernels.hpp"

#if defined(__x86_64__)

#include <immintrin.h>

#include <cstring>

#include "row_math.hpp"

#define YE_AVX2 __attribute__((target("avx2,fma")))

namespace yolor_edge {
namespace {

// Sums of one block of three rows take 6 of the 16 registers, of two blocks 12.
constexpr int kMostRows = 3;
constexpr int kMostBlocks = 2;
constexpr int kHalf = 8;

YE_QUANTISE_KERNELS(8, YE_AVX2, 0)
YE_ROW_KERNELS(8, YE_AVX2)

template <int kRows, int kBlocks>
YE_AVX2 inline void tile_f32(const float* x, int64_t x_stride, const float* weights, const float* bias,
                             int64_t in, float* y, int64_t y_stride) {
    constexpr int kHalves = 2 * kBlocks;
    __m256 sums[kRows][kHalves];
    for (int r = 0; r < kRows; ++r) {
        for (int h = 0; h < kHalves; ++h)
            sums[r][h] = bias != nullptr ? _mm256_loadu_ps(bias + h * kHalf) : _mm256_setzero_ps();
    }
    for (int64_t i = 0; i < in; ++i) {
        __m256 values[kRows];
        for (int r = 0; r < kRows; ++r) values[r] = _mm256_broadcast_ss(x + r * x_stride + i);
        for (int h = 0; h < kHalves; ++h) {
            const __m256 matrix = _mm256_loadu_ps(weights + ((h / 2) * in + i) * kBlock + (h % 2) * kHalf);
            for (int r = 0; r < kRows; ++r) sums[r][h] = _mm256_fmadd_ps(matrix, values[r], sums[r][h]);
        }
    }
    for (int r = 0; r < kRows; ++r) {
        for (int h = 0; h < kHalves; ++h) _mm256_storeu_ps(y + r * y_stride + h * kHalf, sums[r][h]);
    }
}

template <int kBlocks>
YE_AVX2 inline void panel_f32(const float* x, int64_t rows, int64_t x_stride, const float* weights,
                              const float* bias, int64_t in, float* y, int64_t y_stride) {
    int64_t row = 0;
    for (; row + kMostRows <= rows; row += kMostRows) {
        tile_f32<kMostRows, kBlocks>(x + row * x_stride, x_stride, weights, bias, in, y + row * y_stride,
                                     y_stride);
    }
    x += row * x_stride;
    y += row * y_stride;
    if (rows - row == 2) return tile_f32<2, kBlocks>(x, x_stride, weights, bias, in, y, y_stride);
    if (rows - row == 1) return tile_f32<1, kBlocks>(x, x_stride, weights, bias, in, y, y_stride);
}

YE_AVX2 void matmul_f32(const float* x, int64_t rows, int64_t x_stride, const float* weights,
                        const float* bias, int64_t in, int64_t out, float* y, int64_t y_stride) {
    const int64_t blocks = whole_blocks(out) / kBlock;
    for (int64_t block = 0; block < blocks; block += kMostBlocks) {
        const float* matrix = weights + block * in * kBlock;
        const float* offset = bias != nullptr ? bias + block * kBlock : nullptr;
        float* to = y + block * kBlock;
        if (blocks - block >= kMostBlocks) {
            panel_f32<kMostBlocks>(x, rows, x_stride, matrix, offset, in, to, y_stride);
        } else {
            panel_f32<1>(x, rows, x_stride, matrix, offset, in, to, y_stride);
        }
    }
}

/// Products of signed bytes through VPMADDUBSW: |w| times q with the sign of w. Two of them are at most 2 *
/// 127 * 127, which fits int16, so nothing saturates.
YE_AVX2 inline __m256i products(const uint8_t* four, __m256i weights, __m256i sizes) {
    int32_t bits;
    std::memcpy(&bits, four, 4);
    const __m256i pairs = _mm256_maddubs_epi16(sizes, _mm256_sign_epi8(_mm256_set1_epi32(bits), weights));
    return _mm256_madd_epi16(pairs, _mm256_set1_epi16(1));
}

template <int kRows, bool kFine>
YE_AVX2 inline void tile_i8(const QuantisedRows& x, int64_t row, const int8_t* weights,
                            const int32_t* weight_sums, const float* weight_scales, const float* bias,
                            int64_t groups, float* y, int64_t y_stride) {
    const uint8_t* high = x.high + row * x.stride;
    const uint8_t* low = kFine ? x.low + row * x.stride : nullptr;
    __m256i sums[kRows][2], rests[kRows][2];
    for (int r = 0; r < kRows; ++r) {
        for (int h = 0; h < 2; ++h) sums[r][h] = rests[r][h] = _mm256_setzero_si256();
    }
    for (int64_t group = 0; group < groups; ++group) {
        for (int h = 0; h < 2; ++h) {
            const __m256i matrix =
                _mm256_loadu_si256(reinterpret_cast<const __m256i*>(weights + (group * 2 + h) * 32));
            const __m256i sizes = _mm256_abs_epi8(matrix);
            for (int r = 0; r < kRows; ++r) {
                const int64_t at = r * x.stride + group * 4;
                sums[r][h] = _mm256_add_epi32(sums[r][h], products(high + at, matrix, sizes));
                if (kFine) rests[r][h] = _mm256_add_epi32(rests[r][h], products(low + at, matrix, sizes));
            }
        }
    }
    for (int r = 0; r < kRows; ++r) {
        for (int h = 0; h < 2; ++h) {
            // Nothing here is fused, so that all instruction sets give the same floats.
            const __m256i shift = _mm256_mullo_epi32(
                _mm256_loadu_si256(reinterpret_cast<const __m256i*>(weight_sums + h * kHalf)),
                _mm256_set1_epi32(x.shift));
            __m256 whole = _mm256_cvtepi32_ps(_mm256_add_epi32(sums[r][h], shift));
            if (kFine) {
                whole = _mm256_mul_ps(whole, _mm256_set1_ps(255.0f));
                whole = _mm256_add_ps(whole, _mm256_cvtepi32_ps(rests[r][h]));
            }
            const __m256 scale =
                _mm256_mul_ps(_mm256_set1_ps(x.scales[row + r]), _mm256_loadu_ps(weight_scales + h * kHalf));
            const __m256 offset = bias != nullptr ? _mm256_loadu_ps(bias + h * kHalf) : _mm256_setzero_ps();
            _mm256_storeu_ps(y + (row + r) * y_stride + h * kHalf,
                             _mm256_add_ps(_mm256_mul_ps(whole, scale), offset));
        }
    }
}

template <bool kFine>
YE_AVX2 void matmul_rows_i8(const QuantisedRows& x, const int8_t* weights, const int32_t* weight_sums,
                            const float* weight_scales, const float* bias, int64_t in, int64_t out, float* y,
                            int64_t y_stride) {
    constexpr int kMost = kFine ? 2 : 3;  // sums take half of the registers
    const int64_t groups = (in + 3) / 4;
    for (int64_t block = 0; block < whole_blocks(out); block += kBlock) {
        const int8_t* matrix = weights + block * groups * 4;
        const float* scales = weight_scales + block;
        const float* offset = bias != nullptr ? bias + block : nullptr;
        int64_t row = 0;
        for (; row + kMost <= x.rows; row += kMost)
            tile_i8<kMost, kFine>(x, row, matrix, weight_sums + block, scales, offset, groups, y + block,
                                  y_stride);
        for (; row < x.rows; ++row)
            tile_i8<1, kFine>(x, row, matrix, weight_sums + block, scales, offset, groups, y + block,
                              y_stride);
    }
}

YE_AVX2 void matmul_i8(const QuantisedRows& x, const int8_t* weights, const int32_t* weight_sums,
                       const float* weight_scales, const float* bias, int64_t in, int64_t out, float* y,
                       int64_t y_stride) {
    if (x.low != nullptr) {
        matmul_rows_i8<true>(x, weights, weight_sums, weight_scales, bias, in, out, y, y_stride);
    } else {
        matmul_rows_i8<false>(x, weights, weight_sums, weight_scales, bias, in, out, y, y_stride);
    }
}

}  // namespace

const DecoderKernels* avx2_decoder_kernels() noexcept {
    static constexpr DecoderKernels kernels{"avx2",       matmul_f32,        matmul_i8,
                                            quantise_row, quantise_fine_row, YE_ROW_ENTRIES};
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") ? &kernels : nullptr;
}

}  // namespace yolor_edge

#else

namespace yolor_edge {
const DecoderKernels* avx2_decoder_kernels() noexcept {
    return nullptr;
}
}  // namespace yolor_edge

#endif
