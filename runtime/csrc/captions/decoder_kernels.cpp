#include "captions/decoder_kernels.hpp"

#include <cmath>
#include <cstring>
#include <limits>
#include <utility>

#include "captions/products.hpp"
#include "simd/cpu_features.hpp"

#if !defined(__GNUC__)
#error "the caption decoder's kernels need the vector extensions of GCC or Clang"
#endif

namespace yolor_edge {
namespace {

#define YE_TARGET
constexpr int kLanes = 4, kRegisters = 16;
#include "captions/vectors.hpp"

#include "captions/row_kernels.hpp"

void matmul_f32(const float* x, int64_t rows, int64_t x_stride, const float* weights, const float* bias,
                int64_t in, int64_t out, float* y, int64_t y_stride) {
    for (int64_t block = 0; block < whole_blocks(out); block += kBlock) {
        const float* matrix = weights + block * in;
        for (int64_t row = 0; row < rows; ++row) {
            float sums[kBlock] = {};
            if (bias != nullptr) std::memcpy(sums, bias + block, sizeof sums);
            for (int64_t i = 0; i < in; ++i) {
                const float value = x[row * x_stride + i];
                for (int64_t j = 0; j < kBlock; ++j) sums[j] += matrix[i * kBlock + j] * value;
            }
            std::memcpy(y + row * y_stride + block, sums, sizeof sums);
        }
    }
}

int32_t product_of(const int8_t* four, const uint8_t* values) {
    int32_t sum = 0;
    for (int64_t i = 0; i < 4; ++i) sum += four[i] * static_cast<int8_t>(values[i]);
    return sum;
}

void matmul_i8(const QuantisedRows& x, const int8_t* weights, const int32_t* sums, const float* weight_scales,
               const float* bias, int64_t in, int64_t out, float* y, int64_t y_stride) {
    const int64_t groups = (in + 3) / 4;
    for (int64_t block = 0; block < whole_blocks(out); block += kBlock) {
        const int8_t* matrix = weights + block * groups * 4;
        for (int64_t row = 0; row < x.rows; ++row) {
            int32_t high[kBlock] = {}, low[kBlock] = {};
            for (int64_t group = 0; group < groups; ++group) {
                const int64_t at = row * x.stride + group * 4;
                for (int64_t j = 0; j < kBlock; ++j) {
                    const int8_t* four = matrix + (group * kBlock + j) * 4;
                    high[j] += product_of(four, x.high + at);
                    if (x.low != nullptr) low[j] += product_of(four, x.low + at);
                }
            }
            for (int64_t j = 0; j < kBlock; ++j) {
                const int64_t sum = high[j] + x.shift * sums[block + j];
                const auto whole = static_cast<float>(x.low != nullptr ? 255 * sum + low[j] : sum);
                const float product = whole * (x.scales[row] * weight_scales[block + j]);
                y[row * y_stride + block + j] = product + (bias != nullptr ? bias[block + j] : 0.0f);
            }
        }
    }
}

constexpr DecoderKernels kPortable = table("portable", matmul_f32, matmul_i8);

}  // namespace

const char* const kDecoderKernelNames[] = {"portable", "neon",          "neondot",    "avx2", "avxvnni",
                                           "avx512",   "avx512vnni256", "avx512vnni", nullptr};

const DecoderKernels* decoder_kernels(const char* name) noexcept {
    if (std::strcmp(name, "portable") == 0) return &kPortable;
#if defined(__aarch64__)
    if (std::strcmp(name, "neon") == 0) return neon_decoder_kernels();
    if (std::strcmp(name, "neondot") == 0) return neon_dot_decoder_kernels();
#elif defined(__x86_64__)
    if (std::strcmp(name, "avx2") == 0) return avx2_decoder_kernels();
    if (std::strcmp(name, "avxvnni") == 0) return avxvnni_decoder_kernels();
    if (std::strcmp(name, "avx512") == 0) return avx512_decoder_kernels();
    if (std::strcmp(name, "avx512vnni256") == 0) return avx512vnni256_decoder_kernels();
    if (std::strcmp(name, "avx512vnni") == 0) return avx512vnni_decoder_kernels();
#endif
    return nullptr;
}

const DecoderKernels& best_decoder_kernels() noexcept {
    const DecoderKernels* best = &kPortable;
    for (const char* const* name = kDecoderKernelNames; *name != nullptr; ++name) {
        const SimdLevel least = std::strncmp(*name, "avx512", 6) == 0 ? SimdLevel::avx512
                                : std::strncmp(*name, "avx", 3) == 0  ? SimdLevel::avx2
                                                                      : SimdLevel::portable;
        const DecoderKernels* kernels = least <= simd_level() ? decoder_kernels(*name) : nullptr;
        if (kernels != nullptr) best = kernels;
    }
    return *best;
}

}  // namespace yolor_edge
