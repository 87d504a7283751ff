/// The caption decoder's kernels for AVX-512, with VNNI where the processor has it.
#include "decoder_kernels.hpp"

#if defined(__x86_64__)

#include <immintrin.h>

#include <algorithm>
#include <cstring>

#include "row_math.hpp"

#define YE_AVX512 __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")))
#define YE_VNNI __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma")))

namespace yolor_edge {
namespace {

// Added to a quantised value to make it unsigned, as VPDPBUSD wants one operand.
constexpr int32_t kOffset = 128;
// Rows and blocks whose sums fit the 32 registers together with what they are multiplied from.
constexpr int kMostRows = 6;
constexpr int kMostBlocks = 4;

YE_ROW_KERNELS(16, YE_AVX512, kOffset)

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

struct Product {
    QuantisedRows x;
    const int8_t* weights;
    const int32_t* sums;
    const float* weight_scales;
    const float* bias;
    int64_t groups;
    float* y;
    int64_t y_stride;

    Product from_row(int64_t row) const {
        Product rest = *this;
        rest.x.high += row * x.stride;
        if (x.low != nullptr) rest.x.low += row * x.stride;
        rest.x.scales += row;
        rest.y += row * y_stride;
        return rest;
    }

    Product from_block(int64_t block) const {
        Product rest = *this;
        rest.weights += block * groups * 4 * kBlock;
        rest.sums += block * kBlock;
        rest.weight_scales += block * kBlock;
        if (bias != nullptr) rest.bias += block * kBlock;
        rest.y += block * kBlock;
        return rest;
    }
};

YE_VNNI inline __m512i four_bytes(const uint8_t* from) {
    int32_t four;
    std::memcpy(&four, from, 4);
    return _mm512_set1_epi32(four);
}

template <int kRows, int kBlocks, bool kFine>
YE_VNNI inline void tile_i8(const Product& a) {
    __m512i sums[kRows][kBlocks], rests[kRows][kBlocks];
    for (int r = 0; r < kRows; ++r) {
        for (int b = 0; b < kBlocks; ++b) sums[r][b] = rests[r][b] = _mm512_setzero_si512();
    }
    for (int64_t group = 0; group < a.groups; ++group) {
        __m512i matrix[kBlocks];
        for (int b = 0; b < kBlocks; ++b)
            matrix[b] = _mm512_loadu_si512(a.weights + (b * a.groups + group) * 4 * kBlock);
        for (int r = 0; r < kRows; ++r) {
            const int64_t at = r * a.x.stride + group * 4;
            const __m512i high = four_bytes(a.x.high + at);
            for (int b = 0; b < kBlocks; ++b) sums[r][b] = _mm512_dpbusd_epi32(sums[r][b], high, matrix[b]);
            if (kFine) {
                const __m512i low = four_bytes(a.x.low + at);
                for (int b = 0; b < kBlocks; ++b)
                    rests[r][b] = _mm512_dpbusd_epi32(rests[r][b], low, matrix[b]);
            }
        }
    }
    for (int b = 0; b < kBlocks; ++b) {
        const __m512i excess =
            _mm512_mullo_epi32(_mm512_loadu_si512(a.sums + b * kBlock), _mm512_set1_epi32(kOffset));
        const __m512 scales = _mm512_loadu_ps(a.weight_scales + b * kBlock);
        const __m512 bias = a.bias != nullptr ? _mm512_loadu_ps(a.bias + b * kBlock) : _mm512_setzero_ps();
        for (int r = 0; r < kRows; ++r) {
            // Nothing here is fused, so that all instruction sets give the same floats. (The conversions are
            // masked because GCC 12 warns of its own undefined operand in the plain ones.)
            __m512 whole = _mm512_maskz_cvtepi32_ps(0xFFFF, _mm512_sub_epi32(sums[r][b], excess));
            if (kFine) {
                whole = _mm512_mul_ps(whole, _mm512_set1_ps(255.0f));
                const __m512i rest = _mm512_sub_epi32(rests[r][b], excess);
                whole = _mm512_add_ps(whole, _mm512_maskz_cvtepi32_ps(0xFFFF, rest));
            }
            const __m512 scale = _mm512_mul_ps(_mm512_set1_ps(a.x.scales[r]), scales);
            _mm512_storeu_ps(a.y + r * a.y_stride + b * kBlock,
                             _mm512_add_ps(_mm512_mul_ps(whole, scale), bias));
        }
    }
}

template <int kBlocks, bool kFine>
YE_VNNI inline void panel_i8(const Product& a) {
    int64_t row = 0;
    for (; row + kMostRows <= a.x.rows; row += kMostRows) tile_i8<kMostRows, kBlocks, kFine>(a.from_row(row));
    const Product rest = a.from_row(row);
    switch (a.x.rows - row) {
        case 1:
            return tile_i8<1, kBlocks, kFine>(rest);
        case 2:
            return tile_i8<2, kBlocks, kFine>(rest);
        case 3:
            return tile_i8<3, kBlocks, kFine>(rest);
        case 4:
            return tile_i8<4, kBlocks, kFine>(rest);
        case 5:
            return tile_i8<5, kBlocks, kFine>(rest);
        default:
            return;
    }
}

YE_VNNI void matmul_i8(const QuantisedRows& x, const int8_t* weights, const int32_t* sums,
                       const float* weight_scales, const float* bias, int64_t in, int64_t out, float* y,
                       int64_t y_stride) {
    const Product all{x, weights, sums, weight_scales, bias, (in + 3) / 4, y, y_stride};
    const int64_t blocks = whole_blocks(out) / kBlock;
    if (x.low != nullptr) {  // twice the sums, so half the blocks
        for (int64_t block = 0; block < blocks; block += 2) {
            const Product rest = all.from_block(block);
            if (blocks - block >= 2) {
                panel_i8<2, true>(rest);
            } else {
                panel_i8<1, true>(rest);
            }
        }
        return;
    }
    for (int64_t block = 0; block < blocks; block += kMostBlocks) {
        const Product rest = all.from_block(block);
        switch (std::min<int64_t>(blocks - block, kMostBlocks)) {
            case 1:
                panel_i8<1, false>(rest);
                break;
            case 2:
                panel_i8<2, false>(rest);
                break;
            case 3:
                panel_i8<3, false>(rest);
                break;
            default:
                panel_i8<4, false>(rest);
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
        return DecoderKernels{
            "avx512",    matmul_f32,     narrow->matmul_i8, narrow->quantise, narrow->quantise_fine,
            dot_row,     add_scaled_row, scale_row,         relu_row,         layer_norm_row,
            softmax_row, log_sum_exp_row};
    }();
    return &kernels;
}

const DecoderKernels* avx512vnni_decoder_kernels() noexcept {
    static constexpr DecoderKernels kernels{
        "avx512vnni",   matmul_f32, matmul_i8, quantise_row,   quantise_fine_row, dot_row,
        add_scaled_row, scale_row,  relu_row,  layer_norm_row, softmax_row,       log_sum_exp_row};
    return has_avx512() && __builtin_cpu_supports("avx512vnni") ? &kernels : nullptr;
}

}  // namespace yolor_edge

#else

namespace yolor_edge {
const DecoderKernels* avx512_decoder_kernels() noexcept {
    return nullptr;
}
const DecoderKernels* avx512vnni_decoder_kernels() noexcept {
    return nullptr;
}
}  // namespace yolor_edge

#endif
