/// Products of rows of float32 with packed weights, for one instruction set: see vectors.hpp. It also says
///   fused(a, b, sum)  a * b + sum, rounded once
///   kFloatRows        rows that one tile takes at most
///   kFloatSums        registers that sums may take
///   kFloatPanel       blocks that more rows than that go through together; they stay in the first cache
///                     meanwhile
///   kFloatFetch       whether the weights of the next tile are fetched meanwhile

/// Blocks side by side, as many as there are registers for their sums.
constexpr int float_blocks(int rows) {
    return std::max(1, std::min(4, kFloatSums / (kParts * rows)));
}

/// One tile. Unrolled by its template arguments: sums that a loop counts through would lie in memory.
template <int kRows, int kBlocks, size_t... kAt>
YE_INLINE void add_inputs(const FloatProduct a, std::index_sequence<kAt...>) {
    constexpr int kAcross = kBlocks * kParts;
    const auto part_of = [&a](int64_t i, int64_t part) {
        return a.weights + (part / kParts * a.in + i) * kBlock + part % kParts * kLanes;
    };
    // What is written in the end is fetched while the sums are made.
    for (int at = 0; at < kRows * kBlocks; ++at)
        __builtin_prefetch(a.y + at / kBlocks * a.y_stride + at % kBlocks * kBlock, 1);
    Floats sums[] = {(a.bias != nullptr ? load(a.bias + kAt % kAcross * kLanes) : Floats{})...};
    for (int64_t i = 0; i < a.in; ++i) {
        // The blocks after these are fetched into the second cache meanwhile.
        for (int b = 0; kFloatFetch && b < kBlocks; ++b)
            __builtin_prefetch(part_of(i, kAcross + b * kParts), 0, 2);
        if constexpr (holds_weights(kRows, kAcross)) {
            Floats matrix[kAcross];
            for (int p = 0; p < kAcross; ++p) matrix[p] = load(part_of(i, p));
            ((sums[kAt] =
                  fused(matrix[kAt % kAcross], spread(*(a.x + kAt / kAcross * a.x_stride + i)), sums[kAt])),
             ...);
        } else {
            ((sums[kAt % kRows * kAcross + kAt / kRows] =
                  fused(load(part_of(i, kAt / kRows)), spread(*(a.x + kAt % kRows * a.x_stride + i)),
                        sums[kAt % kRows * kAcross + kAt / kRows])),
             ...);
        }
    }
    (store(a.y + kAt / kAcross * a.y_stride + kAt % kAcross * kLanes, sums[kAt]), ...);
}

/// A function of its own, so that no other variables contend for its registers.
template <int kRows, int kBlocks>
YE_TARGET __attribute__((noinline)) void tile_f32(const FloatProduct& a) {
    add_inputs<kRows, kBlocks>(a, std::make_index_sequence<kRows * kBlocks * kParts>{});
}

/// kRows rows and some blocks, from `block` on.
template <int kRows, int kBlocks = float_blocks(kRows)>
YE_TARGET void rows_f32(const FloatProduct& a, int64_t block, int64_t blocks) {
    for (; block + kBlocks <= blocks; block += kBlocks) tile_f32<kRows, kBlocks>(a.from_block(block));
    if constexpr (kBlocks > 1) rows_f32<kRows, kBlocks == 2 ? 1 : 2>(a, block, blocks);
}

template <size_t... kAt>
YE_TARGET void some_rows_f32(const FloatProduct& a, int64_t rows, int64_t blocks,
                             std::index_sequence<kAt...>) {
    static constexpr void (*kOfRows[])(const FloatProduct&, int64_t, int64_t) = {rows_f32<kAt + 1>...};
    kOfRows[rows - 1](a, 0, blocks);
}

YE_TARGET void matmul_f32(const float* x, int64_t rows, int64_t x_stride, const float* weights,
                          const float* bias, int64_t in, int64_t out, float* y, int64_t y_stride) {
    const FloatProduct all{x, x_stride, weights, bias, in, y, y_stride};
    const int64_t blocks = whole_blocks(out) / kBlock;
    const int64_t step = rows <= kFloatRows ? blocks : kFloatPanel;
    for (int64_t block = 0; block < blocks; block += step) {
        for (int64_t row = 0; row < rows; row += kFloatRows) {
            some_rows_f32(all.from_block(block).from_row(row), std::min<int64_t>(rows - row, kFloatRows),
                          std::min(blocks - block, step), std::make_index_sequence<kFloatRows>{});
        }
    }
}
