/// Products of int8 by VPDPBUSD in registers of 256 bits. No header of its own: decoder_kernels_avxvnni.cpp
/// includes it once for each coding of the instruction, within a namespace, with YE_NARROW_VNNI what the
/// compiler is to aim for and YE_NARROW_VPDPBUSD how the assembler writes the instruction.
///
/// Sums of some rows and halves of blocks stay in registers over all inputs, some twelve of them, as many as
/// the instruction takes until its result is there times how many begin meanwhile.

#define YE_NARROW __attribute__((target(YE_NARROW_VNNI)))
#define YE_NARROW_INLINE YE_NARROW inline __attribute__((always_inline))

// Halves of blocks that all numbers of rows go through together.
constexpr int64_t kHalvesAtOnce = 6;
// Rows of digits whose sums of one block fit the 16 registers together with what they are multiplied from.
constexpr int64_t kMostDigits = 6;

/// sums += the four products of each lane. Assembly, since GCC 12 moves the sums of its intrinsic from
/// register to register and into memory, which takes longer than the products.
YE_NARROW_INLINE void add_products(__m256i& sums, const __m256i& values, const __m256i& weights) {
    asm(YE_NARROW_VPDPBUSD " %2, %1, %0" : "+x"(sums) : "x"(values), "x"(weights));
}

YE_NARROW_INLINE __m256i four_bytes(const uint8_t* from) {
    int32_t four;
    std::memcpy(&four, from, 4);
    return _mm256_set1_epi32(four);
}

/// The sums over all inputs; that of digit row d and half h lies at d * kHalves + h. Unrolled by its template
/// arguments: sums that a loop counts through would lie in memory.
template <int kHalves, size_t... kAt>
YE_NARROW_INLINE void add_groups(const uint8_t* const* digits, const int8_t* const* weights, int64_t groups,
                                 int64_t ahead, __m256i* out, std::index_sequence<kAt...>) {
    constexpr size_t kDigits = sizeof...(kAt) / kHalves;
    __m256i sums[] = {(static_cast<void>(kAt), _mm256_setzero_si256())...};
    for (int64_t at = 0; at < groups * 4; at += 4) {
        // Half by half: the rows' values stay in registers.
        (add_products(
             sums[kAt % kDigits * kHalves + kAt / kDigits], four_bytes(digits[kAt % kDigits] + at),
             _mm256_loadu_si256(reinterpret_cast<const __m256i*>(weights[kAt / kDigits] + at * kBlock))),
         ...);
        for (int h = 0; h < kHalves; h += 2) __builtin_prefetch(weights[h] + at * kBlock + ahead, 0, 2);
    }
    (_mm256_storeu_si256(out + kAt, sums[kAt]), ...);
}

/// 255 * high + low, rounded once.
YE_NARROW_INLINE __m256 sum_of_digits(const __m256i& high, const __m256i& low, int64_t groups) {
    if (groups <= kExactGroups) {
        const __m256i most = _mm256_sub_epi32(_mm256_slli_epi32(high, 8), high);
        return _mm256_cvtepi32_ps(_mm256_add_epi32(most, low));
    }
    __m128 parts[2];
    for (int i = 0; i < 2; ++i) {
        const __m128i digit = i == 0 ? _mm256_castsi256_si128(high) : _mm256_extracti128_si256(high, 1);
        const __m128i rest = i == 0 ? _mm256_castsi256_si128(low) : _mm256_extracti128_si256(low, 1);
        const __m256d most = _mm256_mul_pd(_mm256_cvtepi32_pd(digit), _mm256_set1_pd(255.0));
        parts[i] = _mm256_cvtpd_ps(_mm256_add_pd(most, _mm256_cvtepi32_pd(rest)));
    }
    return _mm256_set_m128(parts[1], parts[0]);
}

/// kHalves of eight outputs, from half `first` on. A function of its own, so that no other variables contend
/// for its registers.
template <int kRows, int kHalves, bool kFine>
YE_NARROW __attribute__((noinline)) void tile_i8(const Int8Product& a, int64_t first) {
    constexpr int kDigits = kFine ? 2 * kRows : kRows;
    const uint8_t* digits[kDigits];
    for (int r = 0; r < kRows; ++r) {
        digits[r] = a.x.high + r * a.x.stride;
        if (kFine) digits[kDigits - kRows + r] = a.x.low + r * a.x.stride;
    }
    const int8_t* weights[kHalves];
    for (int h = 0; h < kHalves; ++h)
        weights[h] = a.weights + (first + h) / 2 * a.groups * 4 * kBlock + (first + h) % 2 * 32;
    __m256i sums[kDigits * kHalves];
    add_groups<kHalves>(digits, weights, a.groups, (kHalves + 1) / 2 * a.groups * 4 * kBlock, sums,
                        std::make_index_sequence<kDigits * kHalves>{});
    for (int h = 0; h < kHalves; ++h) {
        const int64_t at = (first + h) * kHalf;
        const __m256i excess =
            _mm256_mullo_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(a.sums + at)),
                               _mm256_set1_epi32(kOffset - a.x.shift));
        const __m256 scales = _mm256_loadu_ps(a.weight_scales + at);
        const __m256 bias = a.bias != nullptr ? _mm256_loadu_ps(a.bias + at) : _mm256_setzero_ps();
        for (int r = 0; r < kRows; ++r) {
            // Nothing here is fused, so that all instruction sets give the same floats.
            const __m256i high = _mm256_sub_epi32(sums[r * kHalves + h], excess);
            __m256 whole;
            if (kFine) {
                const __m256i low = _mm256_sub_epi32(sums[(kDigits - kRows + r) * kHalves + h], excess);
                whole = sum_of_digits(high, low, a.groups);
            } else {
                whole = _mm256_cvtepi32_ps(high);
            }
            const __m256 scale = _mm256_mul_ps(_mm256_set1_ps(a.x.scales[r]), scales);
            _mm256_storeu_ps(a.y + r * a.y_stride + at, _mm256_add_ps(_mm256_mul_ps(whole, scale), bias));
        }
    }
}

/// `halves` of them, a whole number of blocks.
template <int kRows, bool kFine>
YE_NARROW void rows_i8(const Int8Product& a, int64_t halves) {
    constexpr int kDigits = kFine ? 2 * kRows : kRows;
    constexpr int kHalves = kDigits <= 2 ? 6 : kDigits <= 4 ? 3 : 2;
    int64_t half = 0;
    for (; half + kHalves <= halves; half += kHalves) tile_i8<kRows, kHalves, kFine>(a, half);
    if constexpr (kHalves > 4) {
        for (; half + 4 <= halves; half += 4) tile_i8<kRows, 4, kFine>(a, half);
    }
    for (; half + 2 <= halves; half += 2) tile_i8<kRows, 2, kFine>(a, half);
    for (; half < halves; ++half) tile_i8<kRows, 1, kFine>(a, half);
}

template <bool kFine>
YE_NARROW void some_rows_i8(const Int8Product& a, int64_t rows, int64_t halves) {
    switch (rows) {
        case 1:
            return rows_i8<1, kFine>(a, halves);
        case 2:
            return rows_i8<2, kFine>(a, halves);
        case 3:
            return rows_i8<3, kFine>(a, halves);
        default:
            break;
    }
    if constexpr (!kFine) {
        switch (rows) {
            case 4:
                return rows_i8<4, kFine>(a, halves);
            case 5:
                return rows_i8<5, kFine>(a, halves);
            default:
                return rows_i8<6, kFine>(a, halves);
        }
    }
}

/// More rows than there are registers for read a few blocks in turn, which stay in the first cache meanwhile.
template <bool kFine>
YE_NARROW void all_rows_i8(const Int8Product& a, int64_t blocks) {
    constexpr int64_t kMostRows = kFine ? kMostDigits / 2 : kMostDigits;
    if (a.x.rows <= kMostRows) return some_rows_i8<kFine>(a, a.x.rows, 2 * blocks);
    constexpr int64_t kBlocksAtOnce = kHalvesAtOnce / 2;
    for (int64_t block = 0; block < blocks; block += kBlocksAtOnce) {
        const Int8Product panel = a.from_block(block);
        const int64_t halves = 2 * std::min(blocks - block, kBlocksAtOnce);
        for (int64_t row = 0; row < a.x.rows; row += kMostRows)
            some_rows_i8<kFine>(panel.from_row(row), std::min(a.x.rows - row, kMostRows), halves);
    }
}

YE_NARROW void matmul_i8(const QuantisedRows& x, const int8_t* weights, const int32_t* sums,
                         const float* weight_scales, const float* bias, int64_t in, int64_t out, float* y,
                         int64_t y_stride) {
    const Int8Product all{x, weights, sums, weight_scales, bias, (in + 3) / 4, y, y_stride};
    const int64_t blocks = whole_blocks(out) / kBlock;
    if (x.low != nullptr) {
        all_rows_i8<true>(all, blocks);
    } else {
        all_rows_i8<false>(all, blocks);
    }
}

#undef YE_NARROW
#undef YE_NARROW_INLINE
#undef YE_NARROW_VNNI
#undef YE_NARROW_VPDPBUSD
