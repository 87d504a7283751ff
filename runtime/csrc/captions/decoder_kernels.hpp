/// The arithmetic of the caption decoder, for each instruction set: products of a few rows with a packed
/// matrix, in float32 and in int8, and what is done to a row between them.
///
/// Packed matrices. A matrix (out, in) is cut into blocks of 16 outputs, the last one filled up with zeros:
///   float32  (out / 16, in, 16)          all 16 outputs of one input lie together
///   int8     (out / 16, in / 4, 16, 4)   the same for four inputs at a time, in filled up with zeros
/// Every weight is then read once, in order, for all rows, and sums need no turning of registers. It is the
/// order that VNNI, AVX2 and the dot products of ARM take alike.
#pragma once

#include <cstdint>

#include "captions/scan.hpp"

namespace yolor_edge {

constexpr int64_t kBlock = 16;

/// n rounded up to whole blocks: the stride that rows written by `matmul_*` need at least.
constexpr int64_t whole_blocks(int64_t n) {
    return (n + kBlock - 1) / kBlock * kBlock;
}

/// The most fours of inputs for which sums of products of int8 with two digits of base 255 fit int32.
constexpr int64_t kExactGroups = 128;

/// Rows of int8, or of two int8 digits each, the whole number 255 * high + low: a weight is read once for
/// both, so that where memory is the limit, the precision of 16 bits costs little.
struct QuantisedRows {
    const uint8_t* high;  // (rows, in)
    const uint8_t* low;   // (rows, in), or null for rows of one digit
    const float* scales;  // (rows,)
    int64_t rows;
    int64_t stride;  // bytes from row to row, of both
    int32_t shift;   // what `quantise` was given; 0 for rows of two digits

    /// `count` rows of these, of one digit, from row `first` on.
    QuantisedRows part(int64_t first, int64_t count) const {
        return {high + first * stride, nullptr, scales + first, count, stride, shift};
    }
};

struct DecoderKernels {
    const char* name;

    /// y = x W^T + bias.
    ///   x       (rows, in), `x_stride` floats from row to row
    ///   weights packed float32, 64-byte aligned or not
    ///   bias    (whole_blocks(out),) or null
    ///   y       (rows, whole_blocks(out)), `y_stride` floats from row to row; what exceeds `out` is
    ///   overwritten too
    /// Every sum runs over the inputs in order, so a row's result does not depend on the other rows.
    void (*matmul_f32)(const float* x, int64_t rows, int64_t x_stride, const float* weights,
                       const float* bias, int64_t in, int64_t out, float* y, int64_t y_stride);

    /// The same from rows quantised by this table. The sum of the whole numbers' products is exact, up to
    /// 65,000 inputs, and rounded to float once: all instruction sets give the same bits.
    ///   sums             (whole_blocks(out),) sum of each output's weights
    ///   weight_scales    (whole_blocks(out),) factor of each output
    void (*matmul_i8)(const QuantisedRows& x, const int8_t* weights, const int32_t* sums,
                      const float* weight_scales, const float* bias, int64_t in, int64_t out, float* y,
                      int64_t y_stride);

    /// One row to int8, in the form that `matmul_i8` takes; returns the row's factor. `shift` is 127 if no x
    /// is below 0, which then have 8 bits, or else 0.
    float (*quantise)(const float* x, int64_t n, int32_t shift, uint8_t* q);

    /// One row to two digits of base 255, nearly 16 bits.
    float (*quantise_fine)(const float* x, int64_t n, uint8_t* high, uint8_t* low);

    /// Packing activations that are multiplied like weights afterwards, see row_kernels.hpp: a row of a
    /// matrix to int8 with its sum, the whole numbers filled up with zeros to a multiple of four; returns its
    /// factor.
    float (*quantise_signed)(const float* x, int64_t n, int8_t* q, int32_t* sum);

    /// The same for 16 columns of (rows, 16), packed as inputs of 16 outputs.
    ///   packed  ((rows + 3) / 4, 16, 4)
    ///   scales  (16,) factor of each column
    ///   sums    (16,)
    void (*pack_columns)(const float* x, int64_t rows, int64_t stride, int8_t* packed, float* scales,
                         int32_t* sums);

    /// See row_kernels.hpp.
    float (*dot)(const float* a, const float* b, int64_t n);
    void (*head_dots)(const float* a, const float* b, int64_t heads, int64_t depth, float* out,
                      int64_t stride);
    void (*head_sums)(const float* factors, int64_t stride, const float* rows, const int64_t* where,
                      int64_t count, int64_t heads, int64_t depth, float* out);
    void (*add_scaled)(float* y, float factor, const float* x, int64_t n);
    void (*scale)(float* x, float factor, int64_t n);
    void (*relu)(float* x, int64_t n);
    void (*layer_norm)(const float* x, const float* gain, const float* shift, int64_t n, float epsilon,
                       float* out);
    void (*softmax)(float* x, int64_t n);
    float (*softmax_fine)(const float* x, int64_t n, int32_t offset, uint8_t* high, uint8_t* low);
    void (*add_gated)(float* y, const float* gates, const float* x, int64_t n);
    float (*log_sum_exp)(const float* x, int64_t n, float most);

    /// The largest of each kScanPart values, of the last part as many as there are; NaN does not count.
    ///   peaks  (scan_parts(n),)
    void (*peaks)(const float* x, int64_t n, float* peaks);

    /// See scan.hpp.
    PassingBits passing;
};

/// The kernels of an instruction set, or null where this processor lacks it (or the build has none for it).
/// Names, from the plainest on: "portable", "neon", "neondot", "avx2", "avxvnni", "avx512", "avx512vnni256"
/// (those of "avxvnni" in AVX-512's coding of the same instruction, for tests), "avx512vnni".
const DecoderKernels* decoder_kernels(const char* name) noexcept;

/// The fastest kernels that this processor runs, of no higher level than the one in use (cpu_features.hpp).
const DecoderKernels& best_decoder_kernels() noexcept;

/// All names, null at the end.
extern const char* const kDecoderKernelNames[];

/// Each null where the processor lacks it.
#if defined(__x86_64__)
const DecoderKernels* avx2_decoder_kernels() noexcept;
const DecoderKernels* avxvnni_decoder_kernels() noexcept;
const DecoderKernels* avx512_decoder_kernels() noexcept;
const DecoderKernels* avx512vnni256_decoder_kernels() noexcept;
const DecoderKernels* avx512vnni_decoder_kernels() noexcept;

/// For tests that emulate the instruction: those of "avxvnni" on any processor with AVX2.
const DecoderKernels* avxvnni_decoder_kernels_unchecked() noexcept;
#elif defined(__aarch64__)
const DecoderKernels* neon_decoder_kernels() noexcept;
const DecoderKernels* neon_dot_decoder_kernels() noexcept;
#endif

}  // namespace yolor_edge
