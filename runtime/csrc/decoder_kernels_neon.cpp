/// The caption decoder's kernels for 64-bit ARM, whose every processor has NEON.
#include "decoder_kernels.hpp"

#if defined(__aarch64__)

#include <arm_neon.h>

#include "row_math.hpp"

namespace yolor_edge {
namespace {

constexpr int kMostRows = 4;
constexpr int kQuarter = 4;

YE_QUANTISE_KERNELS(4, , 0)
YE_ROW_KERNELS(4, )

template <int kRows>
inline void tile_f32(const float* x, int64_t x_stride, const float* weights, const float* bias, int64_t in,
                     float* y, int64_t y_stride) {
    float32x4_t sums[kRows][4];
    for (int r = 0; r < kRows; ++r) {
        for (int p = 0; p < 4; ++p)
            sums[r][p] = bias != nullptr ? vld1q_f32(bias + p * kQuarter) : vdupq_n_f32(0.0f);
    }
    for (int64_t i = 0; i < in; ++i) {
        for (int p = 0; p < 4; ++p) {
            const float32x4_t matrix = vld1q_f32(weights + i * kBlock + p * kQuarter);
            for (int r = 0; r < kRows; ++r) sums[r][p] = vfmaq_n_f32(sums[r][p], matrix, x[r * x_stride + i]);
        }
    }
    for (int r = 0; r < kRows; ++r) {
        for (int p = 0; p < 4; ++p) vst1q_f32(y + r * y_stride + p * kQuarter, sums[r][p]);
    }
}

void matmul_f32(const float* x, int64_t rows, int64_t x_stride, const float* weights, const float* bias,
                int64_t in, int64_t out, float* y, int64_t y_stride) {
    for (int64_t block = 0; block < whole_blocks(out); block += kBlock) {
        const float* matrix = weights + block * in;
        const float* offset = bias != nullptr ? bias + block : nullptr;
        float* to = y + block;
        int64_t row = 0;
        for (; row + kMostRows <= rows; row += kMostRows)
            tile_f32<kMostRows>(x + row * x_stride, x_stride, matrix, offset, in, to + row * y_stride,
                                y_stride);
        for (; row < rows; ++row)
            tile_f32<1>(x + row * x_stride, x_stride, matrix, offset, in, to + row * y_stride, y_stride);
    }
}

/// Without the dot-product extension: products of 8 bits in 16, added in pairs to 32. Two outputs a register,
/// two sums an output.
inline void add_products(const int8_t* four, const int8_t* weights, int32x4_t (&sums)[8]) {
    const int8x8_t twice = {four[0], four[1], four[2], four[3], four[0], four[1], four[2], four[3]};
    for (int p = 0; p < 8; ++p) sums[p] = vpadalq_s16(sums[p], vmull_s8(vld1_s8(weights + p * 8), twice));
}

void matmul_i8(const QuantisedRows& x, const int8_t* weights, const int32_t* sums, const float* weight_scales,
               const float* bias, int64_t in, int64_t out, float* y, int64_t y_stride) {
    const int64_t groups = (in + 3) / 4;
    for (int64_t block = 0; block < whole_blocks(out); block += kBlock) {
        const int8_t* matrix = weights + block * groups * 4;
        for (int64_t row = 0; row < x.rows; ++row) {
            const auto* high = reinterpret_cast<const int8_t*>(x.high + row * x.stride);
            const auto* low =
                x.low != nullptr ? reinterpret_cast<const int8_t*>(x.low + row * x.stride) : nullptr;
            int32x4_t high_sums[8], low_sums[8];
            for (int p = 0; p < 8; ++p) high_sums[p] = low_sums[p] = vdupq_n_s32(0);
            for (int64_t group = 0; group < groups; ++group) {
                add_products(high + group * 4, matrix + group * 4 * kBlock, high_sums);
                if (low != nullptr) add_products(low + group * 4, matrix + group * 4 * kBlock, low_sums);
            }
            for (int p = 0; p < 4; ++p) {
                const int64_t j = block + p * kQuarter;
                const int32x4_t sum = vpaddq_s32(high_sums[2 * p], high_sums[2 * p + 1]);
                float32x4_t whole = vcvtq_f32_s32(vmlaq_n_s32(sum, vld1q_s32(sums + j), x.shift));
                if (low != nullptr) {
                    const int32x4_t rest = vpaddq_s32(low_sums[2 * p], low_sums[2 * p + 1]);
                    whole = vaddq_f32(vmulq_n_f32(whole, 255.0f), vcvtq_f32_s32(rest));
                }
                const float32x4_t scale = vmulq_n_f32(vld1q_f32(weight_scales + j), x.scales[row]);
                const float32x4_t offset = bias != nullptr ? vld1q_f32(bias + j) : vdupq_n_f32(0.0f);
                vst1q_f32(y + row * y_stride + j, vaddq_f32(vmulq_f32(whole, scale), offset));
            }
        }
    }
}

}  // namespace

const DecoderKernels* neon_decoder_kernels() noexcept {
    static constexpr DecoderKernels kernels{"neon",
                                            matmul_f32,
                                            matmul_i8,
                                            quantise_row,
                                            quantise_fine_row,
                                            quantise_signed_row,
                                            pack_columns_block,
                                            dot_row,
                                            add_scaled_row,
                                            scale_row,
                                            relu_row,
                                            layer_norm_row,
                                            softmax_row,
                                            log_sum_exp_row,
                                            peaks_row};
    return &kernels;
}

}  // namespace yolor_edge

#else

namespace yolor_edge {
const DecoderKernels* neon_decoder_kernels() noexcept {
    return nullptr;
}
}  // namespace yolor_edge

#endif
