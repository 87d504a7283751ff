/// The caption decoder's kernels for x86-64: AVX2 with FMA, AVX-512, and either with VNNI.
///
/// Desktop processors have VPDPBUSD in the coding of AVX (VEX), servers in that of AVX-512 (EVEX). Products
/// in registers of 256 bits are compiled for both, so that a processor of either kind runs the same code;
/// those in the second coding are there for tests, since registers of 512 bits are faster wherever it is
/// known. VPDPBUSD and VPMADDWD are assembly, since GCC 12 moves the sums of its intrinsics from register to
/// register and into memory, which takes longer than the products.
#if defined(__x86_64__)

#include <cpuid.h>
#include <immintrin.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <utility>
#include <vector>

#include "captions/decoder_kernels.hpp"
#include "captions/products.hpp"
#include "captions/quantise_avx2.hpp"
#include "host/scratch.hpp"

#if (defined(__clang__) && __clang_major__ >= 12) || (!defined(__clang__) && __GNUC__ >= 11)
#define YE_HAS_AVXVNNI 1
#else
#define YE_HAS_AVXVNNI 0
#endif
#if !defined(__clang__)
#pragma GCC diagnostic ignored "-Wpsabi"  // vectors are returned, but never from a call that is not inlined
#endif

namespace yolor_edge {
namespace {

// Added to a quantised value to make it unsigned, as VPDPBUSD wants one operand.
constexpr int32_t kUnsigned = 128;

namespace avx2 {

#define YE_TARGET __attribute__((target("avx2,fma")))
constexpr int kLanes = 8, kRegisters = 16;
constexpr int kFloatRows = 6, kFloatSums = 12, kFloatPanel = 2;
constexpr bool kFloatFetch = true;
#include "captions/vectors.hpp"

YE_INLINE Floats fused(const Floats& a, const Floats& b, const Floats& sum) {
    return _mm256_fmadd_ps(a, b, sum);
}

YE_INLINE __m256i first_lanes(int64_t count) {
    const __m256i lanes = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    return _mm256_cmpgt_epi32(_mm256_set1_epi32(static_cast<int32_t>(count)), lanes);
}

/// The ends of rows, by masks.
YE_INLINE Floats load_part(const float* from, int64_t count, float fill) {
    const __m256i mask = first_lanes(count);
    return _mm256_blendv_ps(_mm256_set1_ps(fill), _mm256_maskload_ps(from, mask), _mm256_castsi256_ps(mask));
}

YE_INLINE void store_part(float* to, int64_t count, const Floats& lanes) {
    _mm256_maskstore_ps(to, first_lanes(count), lanes);
}

#include "captions/float_product.hpp"
#include "captions/madd_product.hpp"
#include "captions/row_kernels.hpp"
#undef YE_TARGET

DecoderKernels quantising(const char* name, decltype(DecoderKernels::matmul_i8) matmul_i8,
                          decltype(DecoderKernels::quantise) quantise,
                          decltype(DecoderKernels::quantise_fine) quantise_fine) {
    DecoderKernels kernels = table(name, matmul_f32, matmul_i8);
    kernels.quantise = quantise;
    kernels.quantise_fine = quantise_fine;
    kernels.quantise_signed = quantise_avx2::quantise_signed;
    return kernels;
}

}  // namespace avx2

#if YE_HAS_AVXVNNI
namespace vex {
#define YE_TARGET __attribute__((target("avx2,avxvnni")))
#define YE_VPDPBUSD "%{vex%} vpdpbusd"
#include "captions/narrow_vnni.hpp"
#undef YE_TARGET
#undef YE_VPDPBUSD
}  // namespace vex
#endif

namespace evex {
#define YE_TARGET __attribute__((target("avx2,avx512f,avx512vl,avx512vnni")))
#define YE_VPDPBUSD "%{evex%} vpdpbusd"
#include "captions/narrow_vnni.hpp"
#undef YE_TARGET
#undef YE_VPDPBUSD
}  // namespace evex

namespace avx512 {

#define YE_TARGET __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")))
constexpr int kLanes = 16, kRegisters = 32;
constexpr int kFloatRows = 6, kFloatSums = 24, kFloatPanel = 4;
constexpr bool kFloatFetch = false;
#include "captions/vectors.hpp"

YE_INLINE Floats fused(const Floats& a, const Floats& b, const Floats& sum) {
    return _mm512_fmadd_ps(a, b, sum);
}

#include "captions/float_product.hpp"
#include "captions/row_kernels.hpp"
#include "captions/row_kernels_avx512.hpp"
#undef YE_TARGET

#define YE_TARGET __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma")))
constexpr int32_t kOffset = kUnsigned;
constexpr int64_t kMostRows = 6, kMostFineRows = 6, kPanel = 4;
constexpr bool kFetchAhead = true;

constexpr int parts_at_once(int digits) {
    return digits <= 3 ? 6 : digits == 4 || digits == 6 ? 4 : 2;
}

YE_INLINE void add_products(Integers& sums, const Integers& values, const Integers& weights) {
    asm("vpdpbusd %2, %1, %0" : "+v"(sums) : "v"(values), "v"(weights));
}

YE_INLINE __m256 long_sum_of_half(const __m256i& high, const __m256i& low) {
    const __m512d most = _mm512_maskz_cvtepi32_pd(0xFF, high) * 255.0;
    return _mm512_maskz_cvtpd_ps(0xFF, most + _mm512_maskz_cvtepi32_pd(0xFF, low));
}

YE_INLINE Floats sum_of_digits(const Integers& high, const Integers& low, int64_t groups) {
    if (groups <= kExactGroups) {
        const Wrapping digits = ((Wrapping)high << 8) - (Wrapping)high + (Wrapping)low;
        return __builtin_convertvector((Integers)digits, Floats);
    }
    const auto digits = (__m512i)high, rests = (__m512i)low;
    const __m256 first = long_sum_of_half(_mm512_maskz_extracti64x4_epi64(0xF, digits, 0),
                                          _mm512_maskz_extracti64x4_epi64(0xF, rests, 0));
    const __m256 second = long_sum_of_half(_mm512_maskz_extracti64x4_epi64(0xF, digits, 1),
                                           _mm512_maskz_extracti64x4_epi64(0xF, rests, 1));
    return _mm512_maskz_insertf32x8(0xFFFF, _mm512_castps256_ps512(first), second, 1);
}

#include "captions/dot_product.hpp"
#undef YE_TARGET

}  // namespace avx512

bool has_avx512() noexcept {
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
           avx2_decoder_kernels() != nullptr;
}

/// CPUID leaf 7, subleaf 1: bit 4 of EAX. That the system saves the registers is known from AVX2.
bool has_avxvnni() noexcept {
    unsigned int eax = 0, ebx = 0, ecx = 0, edx = 0;
    return __get_cpuid_count(7, 0, &eax, &ebx, &ecx, &edx) != 0 && eax >= 1 &&
           __get_cpuid_count(7, 1, &eax, &ebx, &ecx, &edx) != 0 && (eax & 1u << 4) != 0;
}

}  // namespace

const DecoderKernels* avx2_decoder_kernels() noexcept {
    static const DecoderKernels kernels = avx2::quantising(
        "avx2", avx2::matmul_i8, quantise_avx2::quantise<0>, quantise_avx2::quantise_fine<0>);
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") ? &kernels : nullptr;
}

const DecoderKernels* avxvnni_decoder_kernels() noexcept {
    return has_avxvnni() ? avxvnni_decoder_kernels_unchecked() : nullptr;
}

const DecoderKernels* avxvnni_decoder_kernels_unchecked() noexcept {
#if YE_HAS_AVXVNNI
    static const DecoderKernels kernels =
        avx2::quantising("avxvnni", vex::matmul_i8, quantise_avx2::quantise<kUnsigned>,
                         quantise_avx2::quantise_fine<kUnsigned>);
    return avx2_decoder_kernels() != nullptr ? &kernels : nullptr;
#else
    return nullptr;
#endif
}

const DecoderKernels* avx512_decoder_kernels() noexcept {
    static const DecoderKernels kernels = [] {
        // Without VNNI, 512 bits multiply int8 no faster than 256 do.
        DecoderKernels wide = avx512::table("avx512", avx512::matmul_f32, avx2::matmul_i8);
        wide.quantise = quantise_avx2::quantise<0>;
        wide.quantise_fine = quantise_avx2::quantise_fine<0>;
        wide.quantise_signed = avx512::own::quantise_signed;
        wide.softmax = avx512::own::softmax;
        wide.softmax_fine = avx512::own::softmax_fine;
        wide.log_sum_exp = avx512::own::log_sum_exp;
        wide.passing = avx512::own::passing;
        return wide;
    }();
    return has_avx512() ? &kernels : nullptr;
}

const DecoderKernels* avx512vnni256_decoder_kernels() noexcept {
    static const DecoderKernels kernels =
        avx2::quantising("avx512vnni256", evex::matmul_i8, quantise_avx2::quantise<kUnsigned>,
                         quantise_avx2::quantise_fine<kUnsigned>);
    return avx512vnni_decoder_kernels() != nullptr ? &kernels : nullptr;
}

const DecoderKernels* avx512vnni_decoder_kernels() noexcept {
    if (avx512_decoder_kernels() == nullptr || !__builtin_cpu_supports("avx512vnni")) return nullptr;
    static const DecoderKernels kernels = [] {
        DecoderKernels made = *avx512_decoder_kernels();
        made.name = "avx512vnni";
        made.matmul_i8 = avx512::matmul_i8;
        made.quantise = avx512::own::quantise<kUnsigned>;
        made.quantise_fine = avx512::own::quantise_fine<kUnsigned>;
        return made;
    }();
    return &kernels;
}

}  // namespace yolor_edge

#endif
