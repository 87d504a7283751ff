/// The caption decoder's kernels for 64-bit ARM, whose every processor has NEON; with the dot products of
/// ARMv8.2 where the processor has them.
#include "captions/decoder_kernels.hpp"

#if defined(__aarch64__)

#include <arm_neon.h>
#if defined(__linux__)
#include <asm/hwcap.h>
#include <sys/auxv.h>
#endif

#include <cstring>

#include "simd/row_math.hpp"

#define YE_DOT __attribute__((target("arch=armv8.2-a+dotprod")))

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

/// What int8 products come to, four outputs at a time. Nothing here is fused, so that all instruction sets
/// give the same floats.
YE_INLINE void store_products(int32x4_t whole, int32x4_t rest, bool is_fine, int64_t groups, float scale,
                              const float* weight_scales, const float* bias, float* y) {
    float32x4_t product;
    if (is_fine && groups > kExactGroups) {
        const int64x2_t low = vaddw_s32(vmull_n_s32(vget_low_s32(whole), 255), vget_low_s32(rest));
        const int64x2_t high = vaddw_s32(vmull_n_s32(vget_high_s32(whole), 255), vget_high_s32(rest));
        product = vcombine_f32(vcvt_f32_f64(vcvtq_f64_s64(low)), vcvt_f32_f64(vcvtq_f64_s64(high)));
    } else {
        product = vcvtq_f32_s32(is_fine ? vmlaq_n_s32(rest, whole, 255) : whole);
    }
    const float32x4_t factor = vmulq_n_f32(vld1q_f32(weight_scales), scale);
    const float32x4_t offset = bias != nullptr ? vld1q_f32(bias) : vdupq_n_f32(0.0f);
    vst1q_f32(y, vaddq_f32(vmulq_f32(product, factor), offset));
}

YE_INLINE int8x16_t four_bytes(const int8_t* from) {
    int32_t four;
    std::memcpy(&four, from, sizeof four);
    return vreinterpretq_s8_s32(vdupq_n_s32(four));
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
                const int32x4_t whole = vmlaq_n_s32(sum, vld1q_s32(sums + j), x.shift);
                const int32x4_t rest = vpaddq_s32(low_sums[2 * p], low_sums[2 * p + 1]);
                store_products(whole, rest, low != nullptr, groups, x.scales[row], weight_scales + j,
                               bias != nullptr ? bias + j : nullptr, y + row * y_stride + j);
            }
        }
    }
}

/// With it: four products of 8 bits a lane, added to 32, so four outputs a register.
template <int kRows, bool kFine>
YE_DOT inline void tile_i8(const QuantisedRows& x, int64_t row, const int8_t* weights,
                           const int32_t* weight_sums, const float* weight_scales, const float* bias,
                           int64_t groups, float* y, int64_t y_stride) {
    const auto* high = reinterpret_cast<const int8_t*>(x.high + row * x.stride);
    const auto* low = kFine ? reinterpret_cast<const int8_t*>(x.low + row * x.stride) : nullptr;
    int32x4_t sums[kRows][4], rests[kRows][4];
    for (int r = 0; r < kRows; ++r) {
        for (int p = 0; p < 4; ++p) sums[r][p] = rests[r][p] = vdupq_n_s32(0);
    }
    for (int64_t group = 0; group < groups; ++group) {
        int8x16_t matrix[4];
        for (int p = 0; p < 4; ++p) matrix[p] = vld1q_s8(weights + (group * 4 + p) * 16);
        for (int r = 0; r < kRows; ++r) {
            const int64_t at = r * x.stride + group * 4;
            const int8x16_t values = four_bytes(high + at);
            for (int p = 0; p < 4; ++p) sums[r][p] = vdotq_s32(sums[r][p], matrix[p], values);
            if (kFine) {
                const int8x16_t digits = four_bytes(low + at);
                for (int p = 0; p < 4; ++p) rests[r][p] = vdotq_s32(rests[r][p], matrix[p], digits);
            }
        }
    }
    for (int r = 0; r < kRows; ++r) {
        for (int p = 0; p < 4; ++p) {
            const int j = p * kQuarter;
            const int32x4_t whole = vmlaq_n_s32(sums[r][p], vld1q_s32(weight_sums + j), x.shift);
            store_products(whole, rests[r][p], kFine, groups, x.scales[row + r], weight_scales + j,
                           bias != nullptr ? bias + j : nullptr, y + (row + r) * y_stride + j);
        }
    }
}

template <bool kFine>
YE_DOT void matmul_rows_i8(const QuantisedRows& x, const int8_t* weights, const int32_t* sums,
                           const float* weight_scales, const float* bias, int64_t in, int64_t out, float* y,
                           int64_t y_stride) {
    constexpr int kMost = kFine ? 2 : 4;  // sums take half of the 32 registers
    const int64_t groups = (in + 3) / 4;
    for (int64_t block = 0; block < whole_blocks(out); block += kBlock) {
        const int8_t* matrix = weights + block * groups * 4;
        const float* scales = weight_scales + block;
        const float* offset = bias != nullptr ? bias + block : nullptr;
        int64_t row = 0;
        for (; row + kMost <= x.rows; row += kMost)
            tile_i8<kMost, kFine>(x, row, matrix, sums + block, scales, offset, groups, y + block, y_stride);
        for (; row < x.rows; ++row)
            tile_i8<1, kFine>(x, row, matrix, sums + block, scales, offset, groups, y + block, y_stride);
    }
}

YE_DOT void matmul_dot_i8(const QuantisedRows& x, const int8_t* weights, const int32_t* sums,
                          const float* weight_scales, const float* bias, int64_t in, int64_t out, float* y,
                          int64_t y_stride) {
    if (x.low != nullptr) {
        matmul_rows_i8<true>(x, weights, sums, weight_scales, bias, in, out, y, y_stride);
    } else {
        matmul_rows_i8<false>(x, weights, sums, weight_scales, bias, in, out, y, y_stride);
    }
}

bool has_dot_products() noexcept {
#if defined(__linux__)
    return (getauxval(AT_HWCAP) & HWCAP_ASIMDDP) != 0;
#elif defined(__ARM_FEATURE_DOTPROD)
    return true;
#else
    return false;
#endif
}

}  // namespace

const DecoderKernels* neon_decoder_kernels() noexcept {
    static constexpr DecoderKernels kernels{"neon",       matmul_f32,        matmul_i8,
                                            quantise_row, quantise_fine_row, YE_ROW_ENTRIES};
    return &kernels;
}

const DecoderKernels* neon_dot_decoder_kernels() noexcept {
    static const DecoderKernels kernels = [] {
        DecoderKernels made = *neon_decoder_kernels();
        made.name = "neondot";
        made.matmul_i8 = matmul_dot_i8;
        return made;
    }();
    return has_dot_products() ? &kernels : nullptr;
}

}  // namespace yolor_edge

#else

namespace yolor_edge {
const DecoderKernels* neon_decoder_kernels() noexcept {
    return nullptr;
}
const DecoderKernels* neon_dot_decoder_kernels() noexcept {
    return nullptr;
}
}  // namespace yolor_edge

#endif
