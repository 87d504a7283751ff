/// The caption decoder's kernels for AVX-512 without VNNI: those in int8 are AVX2's.
#include "captions/decoder_kernels.hpp"

#if defined(__x86_64__)

#include <immintrin.h>

#include <algorithm>
#include <cstring>

#include "simd/row_math.hpp"
#include "simd/rows_avx512.hpp"

#define YE_AVX512 __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")))

namespace yolor_edge {
namespace {

// Rows and blocks whose sums fit the 32 registers together with what they are multiplied from.
constexpr int kMostRows = 6;
constexpr int kMostBlocks = 4;

YE_ROW_KERNELS(16, YE_AVX512)

template <int kRows, int kBlocks>
YE_AVX512 inline void tile_f32(const float* x, int64_t x_stride, const float* weights, const float* bias,
                               int64_t in, float* y, int64_t y_stride) {
    __m512 sums[kRows][kBlocks];
    for (int r = 0; r < kRows; ++r) {
        for (int b = 0; b < kBlocks; ++b)
            sums[r][b] = bias != nullptr ? _mm512_loadu_ps(bias + b * kBlock) : _mm512_setzero_ps();
    }
    for (int64_t i = 0; i < in; ++i) {
        __m512 matrix[kBlocks];
        for (int b = 0; b < kBlocks; ++b) matrix[b] = _mm512_loadu_ps(weights + (b * in + i) * kBlock);
        for (int r = 0; r < kRows; ++r) {
            const __m512 value = _mm512_set1_ps(x[r * x_stride + i]);
            for (int b = 0; b < kBlocks; ++b) sums[r][b] = _mm512_fmadd_ps(matrix[b], value, sums[r][b]);
        }
    }
    for (int r = 0; r < kRows; ++r) {
        for (int b = 0; b < kBlocks; ++b) _mm512_storeu_ps(y + r * y_stride + b * kBlock, sums[r][b]);
    }
}

template <int kBlocks>
YE_AVX512 inline void panel_f32(const float* x, int64_t rows, int64_t x_stride, const float* weights,
                                const float* bias, int64_t in, float* y, int64_t y_stride) {
    int64_t row = 0;
    for (; row + kMostRows <= rows; row += kMostRows) {
        tile_f32<kMostRows, kBlocks>(x + row * x_stride, x_stride, weights, bias, in, y + row * y_stride,
                                     y_stride);
    }
    x += row * x_stride;
    y += row * y_stride;
    switch (rows - row) {
        case 1:
            return tile_f32<1, kBlocks>(x, x_stride, weights, bias, in, y, y_stride);
        case 2:
            return tile_f32<2, kBlocks>(x, x_stride, weights, bias, in, y, y_stride);
        case 3:
            return tile_f32<3, kBlocks>(x, x_stride, weights, bias, in, y, y_stride);
        case 4:
            return tile_f32<4, kBlocks>(x, x_stride, weights, bias, in, y, y_stride);
        case 5:
            return tile_f32<5, kBlocks>(x, x_stride, weights, bias, in, y, y_stride);
        default:
            return;
    }
}

YE_AVX512 void matmul_f32(const float* x, int64_t rows, int64_t x_stride, const float* weights,
                          const float* bias, int64_t in, int64_t out, float* y, int64_t y_stride) {
    const int64_t blocks = whole_blocks(out) / kBlock;
    for (int64_t block = 0; block < blocks; block += kMostBlocks) {
        const float* matrix = weights + block * in * kBlock;
        const float* offset = bias != nullptr ? bias + block * kBlock : nullptr;
        float* to = y + block * kBlock;
        switch (std::min<int64_t>(blocks - block, kMostBlocks)) {
            case 1:
                panel_f32<1>(x, rows, x_stride, matrix, offset, in, to, y_stride);
                break;
            case 2:
                panel_f32<2>(x, rows, x_stride, matrix, offset, in, to, y_stride);
                break;
            case 3:
                panel_f32<3>(x, rows, x_stride, matrix, offset, in, to, y_stride);
                break;
            default:
                panel_f32<4>(x, rows, x_stride, matrix, offset, in, to, y_stride);
                break;
        }
    }
}

bool has_avx512() noexcept {
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
           avx2_decoder_kernels() != nullptr;
}

}  // namespace

const DecoderKernels* avx512_decoder_kernels() noexcept {
    if (!has_avx512()) return nullptr;
    static const DecoderKernels kernels = [] {
        // Without VNNI, 512 bits multiply int8 no faster than 256 do.
        const DecoderKernels* narrow = avx2_decoder_kernels();
        DecoderKernels wide{
            "avx512", matmul_f32, narrow->matmul_i8, narrow->quantise, narrow->quantise_fine, YE_ROW_ENTRIES};
        wide.softmax = rows_avx512::softmax;
        wide.softmax_fine = rows_avx512::softmax_fine;
        wide.log_sum_exp = rows_avx512::log_sum_exp;
        wide.quantise_signed = rows_avx512::quantise_signed;
        wide.passing = rows_avx512::passing;
        return wide;
    }();
    return &kernels;
}

}  // namespace yolor_edge

#else

namespace yolor_edge {
const DecoderKernels* avx512_decoder_kernels() noexcept {
    return nullptr;
}
}  // namespace yolor_edge

#endif
