/// The caption decoder's kernels for AVX2 with FMA.
#include "captions/decoder_kernels.hpp"

#if defined(__x86_64__)

#include <immintrin.h>

#include <algorithm>
#include <cstring>
#include <utility>
#include <vector>

#include "captions/int8_product.hpp"
#include "captions/quantise_avx2.hpp"
#include "host/scratch.hpp"
#include "simd/row_math_avx2.hpp"

#define YE_AVX2 __attribute__((target("avx2,fma")))
#define YE_AVX2_INLINE YE_AVX2 inline __attribute__((always_inline))

namespace yolor_edge {
namespace {

constexpr int64_t kHalf = 8;
// Rows whose sums of one block fit the 16 registers together with what they are multiplied from.
constexpr int64_t kMostRows = 6;

constexpr int64_t kRowsPerTile = 5;
constexpr int64_t kRowsAtOnce = 20;
constexpr int64_t kBlocksAtOnce = 2;
// Weights so many bytes ahead are fetched into the second cache: memory gives them faster than on its own.
constexpr int64_t kAhead = 8192;

YE_ROW_KERNELS(8, YE_AVX2)

YE_AVX2 float quantise_signed_fast(const float* x, int64_t n, int8_t* q, int32_t* sum) {
    return quantise_avx2::quantise_signed(x, n, q, sum);
}

YE_AVX2 float quantise_row(const float* x, int64_t n, int32_t shift, uint8_t* q) {
    return quantise_avx2::quantise<0>(x, n, shift, q);
}

YE_AVX2 float quantise_fine_row(const float* x, int64_t n, uint8_t* high, uint8_t* low) {
    return quantise_avx2::quantise_fine<0>(x, n, high, low);
}

/// Of each two bytes with a sign, the lower one and the higher one in 16 bits.
YE_AVX2_INLINE __m256i even_bytes(__m256i bytes) {
    return _mm256_srai_epi16(_mm256_slli_epi16(bytes, 8), 8);
}

YE_AVX2_INLINE __m256i odd_bytes(__m256i bytes) {
    return _mm256_srai_epi16(bytes, 8);
}

/// Sums of kRows rows and kBlocks blocks; those of row r, block b and half h lie at (r * kBlocks + b) * 2 +
/// h. Unrolled by its template arguments: sums that a loop counts through would lie in memory.
template <int kRows, int kBlocks, size_t... kAt>
YE_AVX2_INLINE void add_inputs(const float* x, int64_t x_stride, const float* weights, const float* bias,
                               int64_t in, float* y, int64_t y_stride, std::index_sequence<kAt...>) {
    constexpr size_t kHalves = 2 * kBlocks;
    __m256 sums[] = {
        (bias != nullptr ? _mm256_loadu_ps(bias + kAt % kHalves * kHalf) : _mm256_setzero_ps())...};
    const auto half_of = [&](int64_t i, size_t h) {
        return weights + (static_cast<int64_t>(h / 2) * in + i) * kBlock +
               static_cast<int64_t>(h % 2) * kHalf;
    };
    for (int64_t i = 0; i < in; ++i) {
        // The blocks after these are fetched into the second cache meanwhile.
        for (size_t b = 0; b < kBlocks; ++b) __builtin_prefetch(half_of(i, kHalves + 2 * b), 0, 2);
        // Whichever there are fewer of stay in registers meanwhile.
        if constexpr (kRows > kHalves) {
            const __m256 matrix[] = {_mm256_loadu_ps(half_of(i, 0)), _mm256_loadu_ps(half_of(i, 1))};
            ((sums[kAt] = _mm256_fmadd_ps(matrix[kAt % kHalves],
                                          _mm256_broadcast_ss(x + kAt / kHalves * x_stride + i), sums[kAt])),
             ...);
        } else {
            ((sums[kAt % kRows * kHalves + kAt / kRows] =
                  _mm256_fmadd_ps(_mm256_loadu_ps(half_of(i, kAt / kRows)),
                                  _mm256_broadcast_ss(x + kAt % kRows * x_stride + i),
                                  sums[kAt % kRows * kHalves + kAt / kRows])),
             ...);
        }
    }
    (_mm256_storeu_ps(y + kAt / kHalves * y_stride + kAt % kHalves * kHalf, sums[kAt]), ...);
}

template <int kRows, int kBlocks>
YE_AVX2 __attribute__((noinline)) void tile_f32(const float* x, int64_t x_stride, const float* weights,
                                                const float* bias, int64_t in, float* y, int64_t y_stride) {
    add_inputs<kRows, kBlocks>(x, x_stride, weights, bias, in, y, y_stride,
                               std::make_index_sequence<2 * kRows * kBlocks>{});
}

/// As many blocks side by side as there are registers for their sums.
template <int kRows>
YE_AVX2 void rows_f32(const float* x, int64_t x_stride, const float* weights, const float* bias, int64_t in,
                      int64_t blocks, float* y, int64_t y_stride) {
    constexpr int kBlocks = std::max(1, std::min(4, 6 / kRows));
    const auto offset = [&](int64_t block) { return bias != nullptr ? bias + block * kBlock : nullptr; };
    int64_t block = 0;
    for (; block + kBlocks <= blocks; block += kBlocks) {
        tile_f32<kRows, kBlocks>(x, x_stride, weights + block * in * kBlock, offset(block), in,
                                 y + block * kBlock, y_stride);
    }
    if constexpr (kBlocks > 2) {
        if (block + 2 <= blocks) {
            tile_f32<kRows, 2>(x, x_stride, weights + block * in * kBlock, offset(block), in,
                               y + block * kBlock, y_stride);
            block += 2;
        }
    }
    for (; block < blocks; ++block) {
        tile_f32<kRows, 1>(x, x_stride, weights + block * in * kBlock, offset(block), in, y + block * kBlock,
                           y_stride);
    }
}

YE_AVX2 void some_rows_f32(const float* x, int64_t rows, int64_t x_stride, const float* weights,
                           const float* bias, int64_t in, int64_t blocks, float* y, int64_t y_stride) {
    switch (rows) {
        case 1:
            return rows_f32<1>(x, x_stride, weights, bias, in, blocks, y, y_stride);
        case 2:
            return rows_f32<2>(x, x_stride, weights, bias, in, blocks, y, y_stride);
        case 3:
            return rows_f32<3>(x, x_stride, weights, bias, in, blocks, y, y_stride);
        case 4:
            return rows_f32<4>(x, x_stride, weights, bias, in, blocks, y, y_stride);
        case 5:
            return rows_f32<5>(x, x_stride, weights, bias, in, blocks, y, y_stride);
        default:
            return rows_f32<6>(x, x_stride, weights, bias, in, blocks, y, y_stride);
    }
}

YE_AVX2 void matmul_f32(const float* x, int64_t rows, int64_t x_stride, const float* weights,
                        const float* bias, int64_t in, int64_t out, float* y, int64_t y_stride) {
    const int64_t blocks = whole_blocks(out) / kBlock;
    const int64_t step = rows <= kMostRows ? blocks : kBlocksAtOnce;
    for (int64_t block = 0; block < blocks; block += step) {
        for (int64_t row = 0; row < rows; row += kMostRows) {
            some_rows_f32(x + row * x_stride, std::min(rows - row, kMostRows), x_stride,
                          weights + block * in * kBlock, bias != nullptr ? bias + block * kBlock : nullptr,
                          in, std::min(blocks - block, step), y + row * y_stride + block * kBlock, y_stride);
        }
    }
}

/// Whether sums of so many rows leave registers for twice as many of them, each of half the inputs: weights
/// are then widened by one instruction instead of three to two.
constexpr bool is_few(int64_t rows) {
    return rows <= 2;
}

/// A row's whole numbers in 16 bits; two digits are one number of at most 255 * 127 + 127. Every `rows`-th
/// four of `fours` is this row's, in the order of the inputs for few rows, or else those of inputs 0, 2, 1
/// and 3.
YE_AVX2 void widen_row(const uint8_t* high, const uint8_t* low, int64_t groups, int64_t rows,
                       int64_t* fours) {
    const auto* digits = reinterpret_cast<const int8_t*>(high);
    const auto* rests = reinterpret_cast<const int8_t*>(low);
    const __m256i order = _mm256_setr_epi8(0, 1, 4, 5, 2, 3, 6, 7, 8, 9, 12, 13, 10, 11, 14, 15, 0, 1, 4, 5,
                                           2, 3, 6, 7, 8, 9, 12, 13, 10, 11, 14, 15);
    int64_t group = 0;
    for (; group + 4 <= groups; group += 4) {
        __m256i whole =
            _mm256_cvtepi8_epi16(_mm_loadu_si128(reinterpret_cast<const __m128i*>(digits + group * 4)));
        if (rests != nullptr) {
            const __m256i rest =
                _mm256_cvtepi8_epi16(_mm_loadu_si128(reinterpret_cast<const __m128i*>(rests + group * 4)));
            whole = _mm256_add_epi16(_mm256_sub_epi16(_mm256_slli_epi16(whole, 8), whole), rest);
        }
        if (!is_few(rows)) whole = _mm256_shuffle_epi8(whole, order);
        int64_t four[4];
        _mm256_storeu_si256(reinterpret_cast<__m256i*>(four), whole);
        for (int64_t i = 0; i < 4; ++i) fours[(group + i) * rows] = four[i];
    }
    for (; group < groups; ++group) {
        int16_t four[4];
        for (int64_t i = 0; i < 4; ++i) {
            const int64_t at = group * 4 + i;
            const int whole = rests != nullptr ? 255 * digits[at] + rests[at] : digits[at];
            four[is_few(rows) ? i : i / 2 + i % 2 * 2] = static_cast<int16_t>(whole);
        }
        std::memcpy(fours + group * rows, four, sizeof four);
    }
}

/// sums += the two products of each lane. Assembly, since GCC 12 adds products to each other first, for which
/// registers do not suffice, and then keeps sums in memory.
YE_AVX2_INLINE void add_products(__m256i& sums, const __m256i& values, const __m256i& weights) {
    __m256i products;
    asm("vpmaddwd %3, %2, %1\n\tvpaddd %1, %0, %0" : "+x"(sums), "=&x"(products) : "x"(values), "x"(weights));
}

YE_AVX2_INLINE __m256i two_values(const int64_t* four, int half) {
    int32_t two;
    std::memcpy(&two, reinterpret_cast<const char*>(four) + 4 * half, sizeof two);
    return _mm256_set1_epi32(two);
}

/// The sums of 16 outputs over `groups` fours of inputs; those of row r and half h lie at 2 * r + h. Unrolled
/// by its template arguments: sums that a loop counts through would lie in memory.
template <size_t... kAt>
YE_AVX2_INLINE void add_groups(const int64_t* fours, const int8_t* weights, int64_t groups, __m256i* out,
                               std::index_sequence<kAt...>) {
    constexpr size_t kRows = sizeof...(kAt) / 2;
    __m256i sums[] = {(static_cast<void>(kAt), _mm256_setzero_si256())...};
    for (int64_t group = 0; group < groups; ++group, fours += kRows, weights += 4 * kBlock) {
        __builtin_prefetch(weights + kAhead, 0, 2);
        const auto* from = reinterpret_cast<const __m256i*>(weights);
        const __m256i halves[] = {_mm256_loadu_si256(from), _mm256_loadu_si256(from + 1)};
        const __m256i even[] = {even_bytes(halves[0]), even_bytes(halves[1])};
        const __m256i odd[] = {odd_bytes(halves[0]), odd_bytes(halves[1])};
        (add_products(sums[kAt], two_values(fours + kAt / 2, 0), even[kAt % 2]), ...);
        (add_products(sums[kAt], two_values(fours + kAt / 2, 1), odd[kAt % 2]), ...);
    }
    (_mm256_storeu_si256(out + kAt, sums[kAt]), ...);
}

/// The same for few rows: inputs 0 and 1 of an output are in a lane, 2 and 3 in the next.
template <size_t... kAt>
YE_AVX2_INLINE void add_few_groups(const int64_t* fours, const int8_t* weights, int64_t groups, __m256i* out,
                                   std::index_sequence<kAt...>) {
    constexpr size_t kRows = sizeof...(kAt) / 4;
    __m256i sums[] = {(static_cast<void>(kAt), _mm256_setzero_si256())...};
    for (int64_t group = 0; group < groups; ++group, fours += kRows, weights += 4 * kBlock) {
        __builtin_prefetch(weights + kAhead, 0, 2);
        (add_products(sums[kAt], _mm256_set1_epi64x(fours[kAt % kRows]),
                      _mm256_cvtepi8_epi16(
                          _mm_loadu_si128(reinterpret_cast<const __m128i*>(weights + kAt / kRows * 16)))),
         ...);
    }
    for (size_t r = 0; r < kRows; ++r) {
        for (size_t h = 0; h < 2; ++h) {
            const __m256i pairs = _mm256_hadd_epi32(sums[2 * h * kRows + r], sums[(2 * h + 1) * kRows + r]);
            _mm256_storeu_si256(out + 2 * r + h, _mm256_permute4x64_epi64(pairs, 0xD8));
        }
    }
}

template <int kRows>
YE_AVX2_INLINE void add_all(const int64_t* fours, const int8_t* weights, int64_t groups, __m256i* out) {
    if constexpr (is_few(kRows)) {
        add_few_groups(fours, weights, groups, out, std::make_index_sequence<4 * kRows>{});
    } else {
        add_groups(fours, weights, groups, out, std::make_index_sequence<2 * kRows>{});
    }
}

/// What sums over more inputs than int32 has room for come to.
template <int kRows>
YE_AVX2_INLINE void add_many_groups(const int64_t* fours, const int8_t* weights, int64_t groups,
                                    __m256* wholes) {
    double totals[kRows * kBlock] = {};
    for (int64_t from = 0; from < groups; from += kExactGroups) {
        __m256i sums[kRows * 2];
        add_all<kRows>(fours + from * kRows, weights + from * 4 * kBlock,
                       std::min(groups - from, kExactGroups), sums);
        int32_t part[kRows * kBlock];
        std::memcpy(part, sums, sizeof part);
        for (int i = 0; i < kRows * kBlock; ++i) totals[i] += part[i];
    }
    for (int i = 0; i < kRows * 2; ++i) {
        const double* total = totals + i * kHalf;
        wholes[i] = _mm256_set_m128(_mm256_cvtpd_ps(_mm256_loadu_pd(total + 4)),
                                    _mm256_cvtpd_ps(_mm256_loadu_pd(total)));
    }
}

/// Some blocks of outputs. A function of its own, so that no other variables contend for its registers.
template <int kRows, bool kFine>
YE_AVX2 __attribute__((noinline)) void tile_i8(const Int8Product& a, const int64_t* fours, int64_t blocks) {
    for (int64_t at = 0; at < blocks * kBlock; at += kBlock) {
        const int8_t* weights = a.weights + at * a.groups * 4;
        __m256 wholes[kRows * 2];
        if (!kFine || a.groups <= kExactGroups) {
            __m256i sums[kRows * 2];
            add_all<kRows>(fours, weights, a.groups, sums);
            for (int i = 0; i < kRows * 2; ++i) {
                if (!kFine) {
                    const auto* weight_sums = reinterpret_cast<const __m256i*>(a.sums + at + i % 2 * kHalf);
                    sums[i] = _mm256_add_epi32(sums[i], _mm256_mullo_epi32(_mm256_loadu_si256(weight_sums),
                                                                           _mm256_set1_epi32(a.x.shift)));
                }
                wholes[i] = _mm256_cvtepi32_ps(sums[i]);
            }
        } else {
            add_many_groups<kRows>(fours, weights, a.groups, wholes);
        }
        for (int h = 0; h < 2; ++h) {
            // Nothing here is fused, so that all instruction sets give the same floats.
            const int64_t from = at + h * kHalf;
            const __m256 scales = _mm256_loadu_ps(a.weight_scales + from);
            const __m256 bias = a.bias != nullptr ? _mm256_loadu_ps(a.bias + from) : _mm256_setzero_ps();
            for (int r = 0; r < kRows; ++r) {
                const __m256 scale = _mm256_mul_ps(_mm256_set1_ps(a.x.scales[r]), scales);
                _mm256_storeu_ps(a.y + r * a.y_stride + from,
                                 _mm256_add_ps(_mm256_mul_ps(wholes[2 * r + h], scale), bias));
            }
        }
    }
}

template <bool kFine>
YE_AVX2 void rows_i8(const Int8Product& a, int64_t rows, const int64_t* fours, int64_t blocks) {
    switch (rows) {
        case 1:
            return tile_i8<1, kFine>(a, fours, blocks);
        case 2:
            return tile_i8<2, kFine>(a, fours, blocks);
        case 3:
            return tile_i8<3, kFine>(a, fours, blocks);
        case 4:
            return tile_i8<4, kFine>(a, fours, blocks);
        default:
            return tile_i8<5, kFine>(a, fours, blocks);
    }
}

/// Rows are widened once for all blocks, and as many at a time as the first cache has room for; a few blocks
/// are then read for all of them.
template <bool kFine>
YE_AVX2 void matmul_rows_i8(const Int8Product& all, int64_t out) {
    thread_local std::vector<int64_t> widened;
    const int64_t groups = all.groups, blocks = whole_blocks(out) / kBlock;
    widened.resize(static_cast<size_t>(std::min(all.x.rows, kRowsAtOnce) * groups));
    for (int64_t start = 0; start < all.x.rows; start += kRowsAtOnce) {
        const Int8Product part = all.from_row(start);
        const int64_t rows = std::min(part.x.rows, kRowsAtOnce);
        for (int64_t row = 0; row < rows; ++row) {
            const int64_t first = row / kRowsPerTile * kRowsPerTile;
            const int64_t at = row * part.x.stride;
            widen_row(part.x.high + at, kFine ? part.x.low + at : nullptr, groups,
                      std::min(rows - first, kRowsPerTile), widened.data() + first * groups + (row - first));
        }
        const int64_t step = rows <= kRowsPerTile ? blocks : kBlocksAtOnce;
        for (int64_t block = 0; block < blocks; block += step) {
            const Int8Product panel = part.from_block(block);
            for (int64_t row = 0; row < rows; row += kRowsPerTile) {
                rows_i8<kFine>(panel.from_row(row), std::min(rows - row, kRowsPerTile),
                               widened.data() + row * groups, std::min(blocks - block, step));
            }
        }
    }
    give_back(&widened);
}

YE_AVX2 void matmul_i8(const QuantisedRows& x, const int8_t* weights, const int32_t* sums,
                       const float* weight_scales, const float* bias, int64_t in, int64_t out, float* y,
                       int64_t y_stride) {
    const Int8Product all{x, weights, sums, weight_scales, bias, (in + 3) / 4, y, y_stride};
    if (x.low != nullptr) {
        matmul_rows_i8<true>(all, out);
    } else {
        matmul_rows_i8<false>(all, out);
    }
}

}  // namespace

const DecoderKernels* avx2_decoder_kernels() noexcept {
    static constexpr DecoderKernels kernels = [] {
        DecoderKernels made{"avx2", matmul_f32, matmul_i8, quantise_row, quantise_fine_row, YE_ROW_ENTRIES};
        made.quantise_signed = quantise_signed_fast;
        return made;
    }();
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") ? &kernels : nullptr;
}

}  // namespace yolor_edge

#else

namespace yolor_edge {
const DecoderKernels* avx2_decoder_kernels() noexcept {
    return nullptr;
}
}  // namespace yolor_edge

#endif
