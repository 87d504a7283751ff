/// The caption decoder's kernels for AVX2 with AVX-VNNI: int8 products; the rest is AVX2's.
///
/// Desktop processors have the instruction in the coding of AVX (VEX), servers in that of AVX-512 (EVEX). The
/// kernels are compiled for both, so that a processor of either kind runs the same code; those in the second
/// coding are there for tests, since registers of 512 bits are faster wherever it is known.
#include "captions/decoder_kernels.hpp"

#if defined(__x86_64__)

#include <cpuid.h>
#include <immintrin.h>

#include <algorithm>
#include <cstring>
#include <utility>

#include "captions/int8_product.hpp"
#include "captions/quantise_avx2.hpp"

#if (defined(__clang__) && __clang_major__ >= 12) || (!defined(__clang__) && __GNUC__ >= 11)
#define YE_HAS_AVXVNNI 1
#else
#define YE_HAS_AVXVNNI 0
#endif

namespace yolor_edge {
namespace {

// Added to a quantised value to make it unsigned, as VPDPBUSD wants one operand.
constexpr int32_t kOffset = 128;
constexpr int64_t kHalf = 8;

__attribute__((target("avx2"))) float quantise_row(const float* x, int64_t n, int32_t shift, uint8_t* q) {
    return quantise_avx2::quantise<kOffset>(x, n, shift, q);
}

__attribute__((target("avx2"))) float quantise_fine_row(const float* x, int64_t n, uint8_t* high,
                                                        uint8_t* low) {
    return quantise_avx2::quantise_fine<kOffset>(x, n, high, low);
}

#if YE_HAS_AVXVNNI
namespace vex {
#define YE_NARROW_VNNI "avx2,avxvnni"
#define YE_NARROW_VPDPBUSD "%{vex%} vpdpbusd"
#include "captions/decoder_kernels_narrow_vnni.hpp"
}  // namespace vex
#endif

namespace evex {
#define YE_NARROW_VNNI "avx2,avx512f,avx512vl,avx512vnni"
#define YE_NARROW_VPDPBUSD "%{evex%} vpdpbusd"
#include "captions/decoder_kernels_narrow_vnni.hpp"
}  // namespace evex

DecoderKernels with_products(const char* name, decltype(DecoderKernels::matmul_i8) matmul_i8) {
    DecoderKernels kernels = *avx2_decoder_kernels();
    kernels.name = name;
    kernels.matmul_i8 = matmul_i8;
    kernels.quantise = quantise_row;
    kernels.quantise_fine = quantise_fine_row;
    return kernels;
}

/// CPUID leaf 7, subleaf 1: bit 4 of EAX. That the system saves the registers is known from AVX2.
bool has_avxvnni() noexcept {
    unsigned int eax = 0, ebx = 0, ecx = 0, edx = 0;
    return __get_cpuid_count(7, 0, &eax, &ebx, &ecx, &edx) != 0 && eax >= 1 &&
           __get_cpuid_count(7, 1, &eax, &ebx, &ecx, &edx) != 0 && (eax & 1u << 4) != 0;
}

}  // namespace

const DecoderKernels* avxvnni_decoder_kernels() noexcept {
    return has_avxvnni() ? avxvnni_decoder_kernels_unchecked() : nullptr;
}

const DecoderKernels* avxvnni_decoder_kernels_unchecked() noexcept {
#if YE_HAS_AVXVNNI
    if (avx2_decoder_kernels() == nullptr) return nullptr;
    static const DecoderKernels kernels = with_products("avxvnni", vex::matmul_i8);
    return &kernels;
#else
    return nullptr;
#endif
}

const DecoderKernels* avx512vnni256_decoder_kernels() noexcept {
    if (avx512vnni_decoder_kernels() == nullptr) return nullptr;
    static const DecoderKernels kernels = with_products("avx512vnni256", evex::matmul_i8);
    return &kernels;
}

}  // namespace yolor_edge

#else

namespace yolor_edge {
const DecoderKernels* avxvnni_decoder_kernels() noexcept {
    return nullptr;
}
const DecoderKernels* avxvnni_decoder_kernels_unchecked() noexcept {
    return nullptr;
}
const DecoderKernels* avx512vnni256_decoder_kernels() noexcept {
    return nullptr;
}
}  // namespace yolor_edge

#endif
