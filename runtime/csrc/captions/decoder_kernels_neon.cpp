/// The caption decoder's kernels for 64-bit ARM, whose every processor has NEON; with the dot products of
/// ARMv8.2 where the processor has them.
#if defined(__aarch64__)

#include <arm_neon.h>
#if defined(__linux__)
#include <asm/hwcap.h>
#include <sys/auxv.h>
#endif

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <utility>

#include "captions/decoder_kernels.hpp"
#include "captions/products.hpp"

namespace yolor_edge {
namespace {

constexpr int kLanes = 4, kRegisters = 32;

#define YE_TARGET
constexpr int kFloatRows = 4, kFloatSums = 16, kFloatPanel = 1;
constexpr bool kFloatFetch = false;
#include "captions/vectors.hpp"

YE_INLINE Floats fused(const Floats& a, const Floats& b, const Floats& sum) {
    return vfmaq_f32(sum, a, b);
}

YE_INLINE Floats sum_of_digits(const Integers& high, const Integers& low, int64_t groups) {
    if (groups <= kExactGroups) {
        const Wrapping digits = ((Wrapping)high << 8) - (Wrapping)high + (Wrapping)low;
        return __builtin_convertvector((Integers)digits, Floats);
    }
    const int64x2_t first = vaddw_s32(vmull_n_s32(vget_low_s32(high), 255), vget_low_s32(low));
    const int64x2_t second = vaddw_s32(vmull_n_s32(vget_high_s32(high), 255), vget_high_s32(low));
    return vcombine_f32(vcvt_f32_f64(vcvtq_f64_s64(first)), vcvt_f32_f64(vcvtq_f64_s64(second)));
}

#include "captions/float_product.hpp"
#include "captions/row_kernels.hpp"

/// Without the dot-product extension: products of 8 bits in 16, added in pairs to 32. Two outputs a register,
/// two sums an output.
inline void add_pairs(const int8_t* four, const int8_t* weights, int32x4_t (&sums)[8]) {
    const int8x8_t twice = {four[0], four[1], four[2], four[3], four[0], four[1], four[2], four[3]};
    for (int p = 0; p < 8; ++p) sums[p] = vpadalq_s16(sums[p], vmull_s8(vld1_s8(weights + p * 8), twice));
}

void matmul_pairs_i8(const QuantisedRows& x, const int8_t* weights, const int32_t* sums,
                     const float* weight_scales, const float* bias, int64_t in, int64_t out, float* y,
                     int64_t y_stride) {
    const int64_t groups = (in + 3) / 4;
    const Int8Product all{x, weights, sums, weight_scales, bias, groups, y, y_stride};
    for (int64_t block = 0; block < whole_blocks(out); block += kBlock) {
        const int8_t* matrix = weights + block * groups * 4;
        for (int64_t row = 0; row < x.rows; ++row) {
            const auto* high = reinterpret_cast<const int8_t*>(x.high + row * x.stride);
            const auto* low =
                x.low != nullptr ? reinterpret_cast<const int8_t*>(x.low + row * x.stride) : nullptr;
            int32x4_t high_sums[8], low_sums[8];
            for (int p = 0; p < 8; ++p) high_sums[p] = low_sums[p] = vdupq_n_s32(0);
            for (int64_t group = 0; group < groups; ++group) {
                add_pairs(high + group * 4, matrix + group * 4 * kBlock, high_sums);
                if (low != nullptr) add_pairs(low + group * 4, matrix + group * 4 * kBlock, low_sums);
            }
            for (int p = 0; p < 4; ++p) {
                const int64_t j = block + p * kLanes;
                const int32x4_t sum = vpaddq_s32(high_sums[2 * p], high_sums[2 * p + 1]);
                const int32x4_t whole = vmlaq_n_s32(sum, vld1q_s32(sums + j), x.shift);
                const int32x4_t rest = vpaddq_s32(low_sums[2 * p], low_sums[2 * p + 1]);
                const Outputs outputs(all, j);
                outputs.put(all, row,
                            low != nullptr ? sum_of_digits(whole, rest, groups)
                                           : __builtin_convertvector(whole, Floats));
            }
        }
    }
}

#undef YE_TARGET
#define YE_TARGET __attribute__((target("arch=armv8.2-a+dotprod")))
constexpr int32_t kOffset = 0;
constexpr int64_t kMostRows = 4, kMostFineRows = 2, kPanel = 1;
constexpr bool kFetchAhead = false;

constexpr int parts_at_once(int) {
    return kParts;
}

/// Four products of 8 bits a lane, added to 32.
YE_INLINE void add_products(Integers& sums, const Integers& values, const Integers& weights) {
    sums = vdotq_s32(sums, vreinterpretq_s8_s32(weights), vreinterpretq_s8_s32(values));
}

#include "captions/dot_product.hpp"
#undef YE_TARGET

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
    static constexpr DecoderKernels kernels = table("neon", matmul_f32, matmul_pairs_i8);
    return &kernels;
}

const DecoderKernels* neon_dot_decoder_kernels() noexcept {
    static constexpr DecoderKernels kernels = table("neondot", matmul_f32, matmul_i8);
    return has_dot_products() ? &kernels : nullptr;
}

}  // namespace yolor_edge

#endif
