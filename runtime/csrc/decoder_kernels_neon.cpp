/// The caption decoder's kernels for 64-bit ARM, whose every processor has NEON.
#include "decoder_kernels.hpp"

#if defined(__aarch64__)

#include <arm_neon.h>

#include "row_math.hpp"

namespace yolor_edge {
namespace {

constexpr int kMostRows = 4;
constexpr int kQuarter = 4;

YE_ROW_KERNELS(4, , 0)

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

/// Without the dot-product extension: products of 8 bits in 16, added in pairs to 32.
void matmul_i8(const uint8_t* q, const float* q_scales, int64_t rows, int64_t q_stride, const int8_t* weights,
               const int32_t* /*sums*/, const float* weight_scales, const float* bias, int64_t in,
               int64_t out, float* y, int64_t y_stride) {
    const int64_t groups = (in + 3) / 4;
    for (int64_t block = 0; block < whole_blocks(out); block += kBlock) {
        const int8_t* matrix = weights + block * groups * 4;
        for (int64_t row = 0; row < rows; ++row) {
            const auto* values = reinterpret_cast<const int8_t*>(q + row * q_stride);
            int32x4_t halves[8];  // two outputs each, two sums an output
            for (int32x4_t& half : halves) half = vdupq_n_s32(0);
            for (int64_t group = 0; group < groups; ++group) {
                const int8_t* four = values + group * 4;
                const int8x8_t twice = {four[0], four[1], four[2], four[3],
                                        four[0], four[1], four[2], four[3]};
                for (int p = 0; p < 8; ++p) {
                    const int8x8_t two = vld1_s8(matrix + group * 4 * kBlock + p * 8);
                    halves[p] = vpadalq_s16(halves[p], vmull_s8(two, twice));
                }
            }
            for (int p = 0; p < 4; ++p) {
                const int64_t j = block + p * kQuarter;
                const float32x4_t whole = vcvtq_f32_s32(vpaddq_s32(halves[2 * p], halves[2 * p + 1]));
                const float32x4_t scale = vmulq_n_f32(vld1q_f32(weight_scales + j), q_scales[row]);
                const float32x4_t offset = bias != nullptr ? vld1q_f32(bias + j) : vdupq_n_f32(0.0f);
                vst1q_f32(y + row * y_stride + j, vaddq_f32(vmulq_f32(whole, scale), offset));
            }
        }
    }
}

}  // namespace

const DecoderKernels* neon_decoder_kernels() noexcept {
    static constexpr DecoderKernels kernels{"neon",         matmul_f32,     matmul_i8,      quantise_row,
                                            dot_row,        add_scaled_row, scale_row,      relu_row,
                                            layer_norm_row, softmax_row,    log_sum_exp_row};
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
