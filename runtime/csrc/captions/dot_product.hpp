/// Products of rows of int8 with packed weights by an instruction that adds the products of four bytes to
/// each lane (VPDPBUSD, SDOT), for one instruction set: see vectors.hpp. It also says
///   add_products(sums, values, weights)  that instruction
///   sum_of_digits(high, low, groups)     255 * high + low, rounded once
///   kOffset                              what was added to quantised values to make them unsigned, if so
///   kMostRows, kMostFineRows             rows of one digit and of two that one tile takes at most
///   parts_at_once(digits)                registers of outputs that so many rows of digits go through at a
///   time kPanel                               blocks that more rows than that go through together; they stay
///   in the
///                                        first cache meanwhile
///   kFetchAhead                          whether few rows fetch the weights of the next tile meanwhile
/// Sums stay in registers over all inputs. Few rows fetch weights as fast as memory gives them where some
/// twelve sums are under way, read from a few blocks side by side while the next ones are fetched; from some
/// three rows on, the limit is the instruction.

/// The sums over all inputs; that of digit row d and part p lies at d * kAcross + p. Unrolled by its template
/// arguments: sums that a loop counts through would lie in memory.
template <int kAcross, bool kFetch, size_t... kAt>
YE_INLINE void add_groups(const uint8_t* const* digits, const int8_t* const* weights, int64_t groups,
                          Integers* out, std::index_sequence<kAt...>) {
    constexpr int kDigits = sizeof...(kAt) / kAcross;
    const int64_t ahead = (kAcross + kParts - 1) / kParts * groups * 4 * kBlock;
    Integers sums[] = {(static_cast<void>(kAt), Integers{})...};
    for (int64_t at = 0; at < groups * 4; at += 4) {
        if constexpr (holds_weights(kDigits, kAcross)) {
            (add_products(sums[kAt], spread_four(digits[kAt / kAcross] + at),
                          load_integers(weights[kAt % kAcross] + at * kBlock)),
             ...);
        } else {
            (add_products(sums[kAt % kDigits * kAcross + kAt / kDigits],
                          spread_four(digits[kAt % kDigits] + at),
                          load_integers(weights[kAt / kDigits] + at * kBlock)),
             ...);
        }
        for (int p = 0; kFetch && p < kAcross; p += kParts)
            __builtin_prefetch(weights[p] + at * kBlock + ahead, 0, 2);
    }
    ((out[kAt] = sums[kAt]), ...);
}

/// kAcross registers of outputs, from the `first` of all on. A function of its own, so that no other
/// variables contend for its registers.
template <int kRows, int kAcross, bool kFine, bool kFetch>
YE_TARGET __attribute__((noinline)) void tile_i8(const Int8Product& whole, int64_t first) {
    constexpr int kDigits = kFine ? 2 * kRows : kRows;
    const uint8_t* digits[kDigits];
    const uint8_t* high = whole.x.high;
    const uint8_t* low = whole.x.low;
    for (int r = 0; r < kRows; ++r, high += whole.x.stride, low += kFine ? whole.x.stride : 0) {
        digits[r] = high;
        if (kFine) digits[kDigits - kRows + r] = low;
    }
    const int8_t* weights[kAcross];
    const int64_t block_bytes = whole.groups * 4 * kBlock;
    const int8_t* block = whole.weights + first / kParts * block_bytes;
    int64_t part = first % kParts;
    for (int p = 0; p < kAcross; ++p) {
        weights[p] = block + part * int64_t{sizeof(Integers)};
        if (++part < kParts) continue;
        part = 0;
        block += block_bytes;
    }
    Integers sums[kDigits * kAcross];
    add_groups<kAcross, kFetch>(digits, weights, whole.groups, sums,
                                std::make_index_sequence<kDigits * kAcross>{});
    const Int8Product a = whole;  // no store changes this one
    for (int p = 0; p < kAcross; ++p) {
        const int64_t at = (first + p) * kLanes;
        const Wrapping excess =
            (Wrapping)load_integers(a.sums + at) * static_cast<uint32_t>(kOffset - a.x.shift);
        const Outputs outputs(a, at);
        for (int r = 0; r < kRows; ++r) {
            const Integers high = (Integers)((Wrapping)sums[r * kAcross + p] - excess);
            if constexpr (kFine) {
                const Integers low = (Integers)((Wrapping)sums[(kRows + r) * kAcross + p] - excess);
                outputs.put(a, r, sum_of_digits(high, low, a.groups));
            } else {
                outputs.put(a, r, __builtin_convertvector(high, Floats));
            }
        }
    }
}

/// kRows rows and the registers of outputs from `part` up to `parts`.
template <int kRows, bool kFine, bool kFetch, int kAcross = parts_at_once(kFine ? 2 * kRows : kRows)>
YE_TARGET void rows_i8(const Int8Product& a, int64_t part, int64_t parts) {
    for (; part + kAcross <= parts; part += kAcross) tile_i8<kRows, kAcross, kFine, kFetch>(a, part);
    if constexpr (kAcross > 1)
        rows_i8<kRows, kFine, kFetch, (kAcross > 4 ? 4 : kAcross > 2 ? 2 : 1)>(a, part, parts);
}

template <bool kFine, bool kFetch, size_t... kAt>
YE_TARGET void some_rows_i8(const Int8Product& a, int64_t rows, int64_t blocks, std::index_sequence<kAt...>) {
    static constexpr void (*kOfRows[])(const Int8Product&, int64_t,
                                       int64_t) = {rows_i8<kAt + 1, kFine, kFetch>...};
    kOfRows[rows - 1](a, 0, blocks * kParts);
}

template <bool kFine>
YE_TARGET void all_rows_i8(const Int8Product& a, int64_t blocks) {
    constexpr int64_t kMost = kFine ? kMostFineRows : kMostRows;
    if (a.x.rows <= kMost)
        return some_rows_i8<kFine, kFetchAhead>(a, a.x.rows, blocks, std::make_index_sequence<kMost>{});
    for (int64_t block = 0; block < blocks; block += kPanel) {
        const Int8Product panel = a.from_block(block);
        for (int64_t row = 0; row < a.x.rows; row += kMost) {
            some_rows_i8<kFine, false>(panel.from_row(row), std::min(a.x.rows - row, kMost),
                                       std::min(blocks - block, kPanel), std::make_index_sequence<kMost>{});
        }
    }
}

YE_TARGET void matmul_i8(const QuantisedRows& x, const int8_t* weights, const int32_t* sums,
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
