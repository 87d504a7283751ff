/// Products of rows of int8 with packed weights where the processor multiplies 16 bits at best (VPMADDWD),
/// for registers of 256 bits: see vectors.hpp. Two digits are multiplied as one number.

constexpr int64_t kRowsPerTile = 5;
constexpr int64_t kRowsAtOnce = 20;
constexpr int64_t kBlocksAtOnce = 2;
// Weights so many bytes ahead are fetched into the second cache: memory gives them faster than on its own.
constexpr int64_t kAhead = 8192;

/// Of each two bytes with a sign, the lower one and the higher one in 16 bits.
YE_INLINE __m256i even_bytes(__m256i bytes) {
    return _mm256_srai_epi16(_mm256_slli_epi16(bytes, 8), 8);
}

YE_INLINE __m256i odd_bytes(__m256i bytes) {
    return _mm256_srai_epi16(bytes, 8);
}

/// Whether sums of so many rows leave registers for twice as many of them, each of half the inputs: weights
/// are then widened by one instruction instead of three to two.
constexpr bool is_few(int64_t rows) {
    return rows <= 2;
}

/// A row's whole numbers in 16 bits; two digits are one number of at most 255 * 127 + 127. Every `rows`-th
/// four of `fours` is this row's, in the order of the inputs for few rows, or else those of inputs 0, 2, 1
/// and 3.
YE_TARGET void widen_row(const uint8_t* high, const uint8_t* low, int64_t groups, int64_t rows,
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
YE_INLINE void add_products(__m256i& sums, const __m256i& values, const __m256i& weights) {
    __m256i products;
    asm("vpmaddwd %3, %2, %1\n\tvpaddd %1, %0, %0" : "+x"(sums), "=&x"(products) : "x"(values), "x"(weights));
}

YE_INLINE __m256i two_values(const int64_t* four, int half) {
    int32_t two;
    std::memcpy(&two, reinterpret_cast<const char*>(four) + 4 * half, sizeof two);
    return _mm256_set1_epi32(two);
}

/// The sums of 16 outputs over `groups` fours of inputs; those of row r and half h lie at 2 * r + h. Unrolled
/// by its template arguments: sums that a loop counts through would lie in memory.
template <size_t... kAt>
YE_INLINE void add_groups(const int64_t* fours, const int8_t* weights, int64_t groups, __m256i* out,
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
YE_INLINE void add_few_groups(const int64_t* fours, const int8_t* weights, int64_t groups, __m256i* out,
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
YE_INLINE void add_all(const int64_t* fours, const int8_t* weights, int64_t groups, __m256i* out) {
    if constexpr (is_few(kRows)) {
        add_few_groups(fours, weights, groups, out, std::make_index_sequence<4 * kRows>{});
    } else {
        add_groups(fours, weights, groups, out, std::make_index_sequence<2 * kRows>{});
    }
}

/// One block whose sums are over more inputs than int32 has room for.
template <int kRows>
YE_INLINE void add_many_groups(const Int8Product& a, const int64_t* fours, const int8_t* weights,
                               int64_t at) {
    double totals[kRows * kBlock] = {};
    for (int64_t from = 0; from < a.groups; from += kExactGroups) {
        __m256i sums[kRows * 2];
        add_all<kRows>(fours + from * kRows, weights + from * 4 * kBlock,
                       std::min(a.groups - from, kExactGroups), sums);
        int32_t part[kRows * kBlock];
        std::memcpy(part, sums, sizeof part);
        for (int i = 0; i < kRows * kBlock; ++i) totals[i] += part[i];
    }
    float wholes[kRows * kBlock];
    for (int i = 0; i < kRows * kBlock; ++i) wholes[i] = static_cast<float>(totals[i]);
    for (int h = 0; h < kParts; ++h) {
        const Outputs outputs(a, at + h * kLanes);
        for (int r = 0; r < kRows; ++r) outputs.put(a, r, load(wholes + r * kBlock + h * kLanes));
    }
}

/// Some blocks of outputs. A function of its own, so that no other variables contend for its registers.
template <int kRows, bool kFine>
YE_TARGET __attribute__((noinline)) void tile_i8(const Int8Product& whole, const int64_t* fours,
                                                 int64_t blocks) {
    const Int8Product a = whole;  // no store changes this one
    for (int64_t at = 0; at < blocks * kBlock; at += kBlock) {
        const int8_t* weights = a.weights + at * a.groups * 4;
        if (kFine && a.groups > kExactGroups) {
            add_many_groups<kRows>(a, fours, weights, at);
            continue;
        }
        __m256i sums[kRows * 2];
        add_all<kRows>(fours, weights, a.groups, sums);
        for (int h = 0; h < kParts; ++h) {
            const int64_t from = at + h * kLanes;
            const Wrapping shifted =
                (Wrapping)load_integers(a.sums + from) * static_cast<uint32_t>(a.x.shift);
            const Outputs outputs(a, from);
            for (int r = 0; r < kRows; ++r) {
                const Integers sum = load_integers(sums + kParts * r + h);
                outputs.put(
                    a, r, __builtin_convertvector(kFine ? sum : (Integers)((Wrapping)sum + shifted), Floats));
            }
        }
    }
}

template <bool kFine, size_t... kAt>
YE_TARGET void some_rows_i8(const Int8Product& a, int64_t rows, const int64_t* fours, int64_t blocks,
                            std::index_sequence<kAt...>) {
    static constexpr void (*kOfRows[])(const Int8Product&, const int64_t*,
                                       int64_t) = {tile_i8<kAt + 1, kFine>...};
    kOfRows[rows - 1](a, fours, blocks);
}

/// Rows are widened once for all blocks, and as many at a time as the first cache has room for; a few blocks
/// are then read for all of them.
template <bool kFine>
YE_TARGET void matmul_rows_i8(const Int8Product& all, int64_t out) {
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
                some_rows_i8<kFine>(panel.from_row(row), std::min(rows - row, kRowsPerTile),
                                    widened.data() + row * groups, std::min(blocks - block, step),
                                    std::make_index_sequence<kRowsPerTile>{});
            }
        }
    }
    trim(&widened);
}

YE_TARGET void matmul_i8(const QuantisedRows& x, const int8_t* weights, const int32_t* sums,
                         const float* weight_scales, const float* bias, int64_t in, int64_t out, float* y,
                         int64_t y_stride) {
    const Int8Product all{x, weights, sums, weight_scales, bias, (in + 3) / 4, y, y_stride};
    if (x.low != nullptr) {
        matmul_rows_i8<true>(all, out);
    } else {
        matmul_rows_i8<false>(all, out);
    }
}
