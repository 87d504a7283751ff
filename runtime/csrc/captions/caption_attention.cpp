/// The attention of the caption decoder: keys and values of the image once, then what every sentence looks
/// at.
#include <algorithm>
#include <cmath>
#include <cstring>

#include "captions/caption_decoder.hpp"
#include "captions/caption_state.hpp"

namespace yolor_edge {

/// Keys and values of the cross-attention of every layer, packed by head.
void CaptionDecoder::prefill(State& state, const float* memory) const {
    const int64_t width = dims_.width, stride = row_stride(width);
    const auto epsilon = static_cast<float>(dims_.norm_epsilon);
    float* normed = state.memory.get();
    float* key_input = state.key_input.get();
    QuantisedRows digits{
        state.memory_digits.get(), nullptr, state.memory_scales.get(), dims_.memory, stride, 0};
    QuantisedRows key_digits{state.key_digits.get(), nullptr, state.key_input_scales.get(),
                             dims_.memory,           stride,  0};
    for (int64_t i = 0; i < dims_.memory; ++i) {
        // Floats are not needed any more once there are digits of them.
        float* row = normed + (weights_.is_int8 ? 0 : i * stride);
        float* key_row = key_input + (weights_.is_int8 ? 0 : i * stride);
        if (is_gated()) {
            std::memcpy(row, memory + i * width, static_cast<size_t>(width) * 4);
        } else {
            kernels_.layer_norm(memory + i * width, weights_.memory_norm.gain, weights_.memory_norm.shift,
                                width, epsilon, row);
        }
        if (weights_.is_int8) {
            state.memory_scales.get()[i] =
                kernels_.quantise(row, width, 0, state.memory_digits.get() + i * stride);
        }
        if (!is_placed_) continue;
        std::memcpy(key_row, row, static_cast<size_t>(width) * 4);
        kernels_.add_scaled(key_row, 1.0f, weights_.memory_positions + i * width, width);
        if (!weights_.is_int8) continue;
        state.key_input_scales.get()[i] =
            kernels_.quantise(key_row, width, 0, state.key_digits.get() + i * stride);
    }
    float* projected = state.projected.get();
    for (int64_t layer = 0; layer < dims_.layers; ++layer) {
        for (int64_t look = 0; look < looks(); ++look) {
            const LookWeights& weights = weights_.layers[static_cast<size_t>(layer)].looks[look];
            const auto [first, count] = part(look);
            if (weights_.is_int8) {
                product((is_placed_ ? key_digits : digits).part(first, count), weights.key, projected,
                        stride);
                pack_small_keys(state, layer, look);
                product(digits.part(first, count), weights.value, projected, stride);
                pack_small_values(state, layer, look);
            } else {
                linear(state, weights.key, (is_placed_ ? key_input : normed) + first * stride, count, stride,
                       projected, stride);
                pack_keys(state, layer, look);
                linear(state, weights.value, normed + first * stride, count, stride, projected, stride);
                pack_values(state, layer, look);
            }
        }
    }
}

CaptionDecoder::Part CaptionDecoder::part(int64_t look) const noexcept {
    const int64_t grid = dims_.memory - dims_.regions;
    return look == 0 ? Part{0, grid} : Part{grid, dims_.regions};
}

/// Keys count in outputs and values in inputs, both filled up as packed matrices are.
CaptionDecoder::View CaptionDecoder::view(int64_t layer, int64_t look, int64_t head) const noexcept {
    const int64_t heads = dims_.heads, grid = part(0).count, regions = part(1).count;
    const int64_t keys[2] = {whole_blocks(grid), whole_blocks(regions)};
    const int64_t values[2] = {(grid + 3) / 4 * 4, (regions + 3) / 4 * 4};
    const auto start = [&](const int64_t* sizes) {
        return layer * heads * (sizes[0] + sizes[1]) +
               (look == 0 ? head * sizes[0] : heads * sizes[0] + head * sizes[1]);
    };
    return {start(keys), start(values),
            ((layer * looks() + look) * heads + head) * whole_blocks(dims_.width / heads)};
}

/// To (vectors / 16, head width, 16) of each head.
void CaptionDecoder::pack_keys(State& state, int64_t layer, int64_t look) const {
    const int64_t depth = dims_.width / dims_.heads, stride = row_stride(dims_.width);
    const int64_t vectors = part(look).count;
    for (int64_t head = 0; head < dims_.heads; ++head) {
        float* keys = state.cross_keys.get() + view(layer, look, head).keys * depth;
        for (int64_t block = 0; block < vectors; block += kBlock) {
            const int64_t count = std::min(kBlock, vectors - block);
            const float* from = state.projected.get() + block * stride + head * depth;
            float* to = keys + block * depth;
            for (int64_t j = 0; j < depth; ++j) {
                for (int64_t i = 0; i < count; ++i) to[j * kBlock + i] = from[i * stride + j];
                for (int64_t i = count; i < kBlock; ++i) to[j * kBlock + i] = 0.0f;
            }
        }
    }
}

/// To (head width / 16, vectors, 16) of each head.
void CaptionDecoder::pack_values(State& state, int64_t layer, int64_t look) const {
    const int64_t depth = dims_.width / dims_.heads, stride = row_stride(dims_.width);
    const int64_t vectors = part(look).count;
    for (int64_t head = 0; head < dims_.heads; ++head) {
        float* values = state.cross_values.get() + view(layer, look, head).values * whole_blocks(depth);
        for (int64_t block = 0; block < depth; block += kBlock) {
            const int64_t count = std::min(kBlock, depth - block);
            const float* from = state.projected.get() + head * depth + block;
            float* to = values + block * vectors;
            for (int64_t i = 0; i < vectors; ++i) {
                for (int64_t j = 0; j < count; ++j) to[i * kBlock + j] = from[i * stride + j];
                for (int64_t j = count; j < kBlock; ++j) to[i * kBlock + j] = 0.0f;
            }
        }
    }
}

/// To int8 (vectors / 16, head width / 4, 16, 4) of each head, with a factor for each vector. What fills up
/// the last block is never written, so it stays zero.
void CaptionDecoder::pack_small_keys(State& state, int64_t layer, int64_t look) const {
    const int64_t depth = dims_.width / dims_.heads, stride = row_stride(dims_.width);
    const int64_t groups = (depth + 3) / 4;
    int8_t* quantised = state.quantised.get();
    for (int64_t head = 0; head < dims_.heads; ++head) {
        const int64_t at = view(layer, look, head).keys;
        for (int64_t i = 0; i < part(look).count; ++i) {
            state.key_scales.get()[at + i] =
                kernels_.quantise_signed(state.projected.get() + i * stride + head * depth, depth, quantised,
                                         state.key_sums.get() + at + i);
            int8_t* to = state.small_keys.get() + ((at + i) / kBlock * groups * kBlock + i % kBlock) * 4;
            for (int64_t group = 0; group < groups; ++group)
                std::memcpy(to + group * kBlock * 4, quantised + group * 4, 4);
        }
    }
}

/// To int8 (head width / 16, vectors / 4, 16, 4) of each head, with a factor for each output. The outputs
/// that fill up the last block are of the next head; nobody reads what they give.
void CaptionDecoder::pack_small_values(State& state, int64_t layer, int64_t look) const {
    const int64_t depth = dims_.width / dims_.heads, stride = row_stride(dims_.width);
    const int64_t vectors = part(look).count, inputs = (vectors + 3) / 4 * 4;
    for (int64_t head = 0; head < dims_.heads; ++head) {
        const auto [keys, values, outputs] = view(layer, look, head);
        for (int64_t block = 0; block < depth; block += kBlock) {
            kernels_.pack_columns(state.projected.get() + head * depth + block, vectors, stride,
                                  state.small_values.get() + values * whole_blocks(depth) + block * inputs,
                                  state.value_scales.get() + outputs + block,
                                  state.value_sums.get() + outputs + block);
        }
    }
}

/// From queries, keys and values in `wide` to what each row attends to in `mixed`.
void CaptionDecoder::self_attention(State& state, int64_t layer, int64_t rows) const {
    const int64_t width = dims_.width, depth = width / dims_.heads, stride = row_stride(width);
    const int64_t wide = row_stride(3 * width), now = state.position;
    const float shrink = 1.0f / std::sqrt(static_cast<float>(depth));
    float* keys = state.keys.get() + layer * state.length * state.rows * width;
    float* values = state.values.get() + layer * state.length * state.rows * width;
    for (int64_t row = 0; row < rows; ++row) {
        const float* from = state.wide.get() + row * wide;
        std::memcpy(keys + (now * state.rows + row) * width, from + width, static_cast<size_t>(width) * 4);
        std::memcpy(values + (now * state.rows + row) * width, from + 2 * width,
                    static_cast<size_t>(width) * 4);
    }
    float* scores = state.scores.get();  // (heads, positions)
    int64_t* where = state.where.get();
    for (int64_t row = 0; row < rows; ++row) {
        float* query = state.wide.get() + row * wide;
        kernels_.scale(query, shrink, width);
        int64_t seen = 0;
        for (int64_t t = 0; t <= now; ++t) {
            const int64_t at = t * state.rows + state.rows_of[static_cast<size_t>(t * state.rows + row)];
            if (state.is_hidden[static_cast<size_t>(at)] == 0) where[seen++] = at * width;
        }
        if (seen == 0) {
            std::fill_n(state.mixed.get() + row * stride, width, 0.0f);
            continue;
        }
        for (int64_t t = 0; t < seen; ++t)
            kernels_.head_dots(query, keys + where[t], dims_.heads, depth, scores + t, seen);
        for (int64_t head = 0; head < dims_.heads; ++head) kernels_.softmax(scores + head * seen, seen);
        kernels_.head_sums(scores, seen, values, where, seen, dims_.heads, depth,
                           state.mixed.get() + row * stride);
    }
}

/// A plain layer's look at the image: x = norm(x + what its words attend to).
void CaptionDecoder::look(State& state, int64_t layer, int64_t rows) const {
    const LookWeights& weights = weights_.layers[static_cast<size_t>(layer)].looks[0];
    const int64_t stride = row_stride(dims_.width);
    linear(state, weights.query, state.x.get(), rows, stride, state.wide.get(), stride);
    look_at(state, layer, 0, state.wide.get(), rows);
    linear(state, weights.out, state.mixed.get(), rows, stride, state.y.get(), stride);
    add_and_norm(state, weights.norm, rows);
}

/// A gated layer's looks at the grid and at the regions: x = (sum of what each shows, times how far the gate
/// opens for it) / sqrt 2.
void CaptionDecoder::gated_look(State& state, int64_t layer, int64_t rows) const {
    const int64_t width = dims_.width, stride = row_stride(width), wide = row_stride(2 * width);
    float* x = state.x.get();
    float* gates = state.wide.get();
    for (int64_t look = 0; look < 2; ++look) {
        const LookWeights& weights = weights_.layers[static_cast<size_t>(layer)].looks[look];
        float* both = state.both.get() + look * rows * wide;
        linear(state, weights.query, x, rows, stride, state.wide.get(), stride);
        look_at(state, layer, look, state.wide.get(), rows);
        linear(state, weights.out, state.mixed.get(), rows, stride, state.y.get(), stride);
        for (int64_t row = 0; row < rows; ++row)
            std::memcpy(both + row * wide, x + row * stride, static_cast<size_t>(width) * 4);
        add_and_norm(state, weights.norm, rows, both + width, wide);
    }
    const float* both = state.both.get();
    linear(state, weights_.layers[static_cast<size_t>(layer)].gate, both, 2 * rows, wide, gates, stride);
    for (int64_t row = 0; row < rows; ++row) {
        float* sum = x + row * stride;
        std::fill_n(sum, width, 0.0f);
        for (const int64_t at : {row, rows + row})
            kernels_.add_gated(sum, gates + at * stride, both + at * wide + width, width);
        kernels_.scale(sum, std::sqrt(0.5f), width);
    }
}

/// From queries to what each row attends to of a part of the memory in `mixed`. Whole blocks may reach into
/// the next head's columns, which are written after, or past the row's width.
void CaptionDecoder::look_at(State& state, int64_t layer, int64_t look, float* queries, int64_t rows) const {
    const int64_t width = dims_.width, depth = width / dims_.heads, stride = row_stride(width);
    const int64_t vectors = part(look).count, outputs = whole_blocks(depth), groups = (depth + 3) / 4;
    const int64_t scores_stride = row_stride(dims_.memory);
    const float shrink = 1.0f / std::sqrt(static_cast<float>(depth));
    float* scores = state.scores.get();
    for (int64_t row = 0; row < rows; ++row) kernels_.scale(queries + row * stride, shrink, width);
    for (int64_t head = 0; head < dims_.heads; ++head) {
        const View at = view(layer, look, head);
        const float* query = queries + head * depth;
        float* mixed = state.mixed.get() + head * depth;
        if (weights_.is_int8) {
            // One digit is enough: keys have no more, and softmax sees their products only.
            const int64_t query_stride = row_stride(depth);
            for (int64_t row = 0; row < rows; ++row) {
                state.row_scales.get()[row] =
                    kernels_.quantise(query + row * stride, depth, 0, state.high.get() + row * query_stride);
            }
            kernels_.matmul_i8({state.high.get(), nullptr, state.row_scales.get(), rows, query_stride, 0},
                               state.small_keys.get() + at.keys * groups * 4, state.key_sums.get() + at.keys,
                               state.key_scales.get() + at.keys, nullptr, depth, vectors, scores,
                               scores_stride);
        } else {
            kernels_.matmul_f32(query, rows, stride, state.cross_keys.get() + at.keys * depth, nullptr, depth,
                                vectors, scores, scores_stride);
        }
        if (weights_.is_int8) {
            const int64_t digits_stride = row_stride(vectors);
            for (int64_t row = 0; row < rows; ++row) {
                state.row_scales.get()[row] = kernels_.softmax_fine(
                    scores + row * scores_stride, vectors, digit_offset_,
                    state.high.get() + row * digits_stride, state.low.get() + row * digits_stride);
            }
            kernels_.matmul_i8(
                {state.high.get(), state.low.get(), state.row_scales.get(), rows, digits_stride, 0},
                state.small_values.get() + at.values * outputs, state.value_sums.get() + at.outputs,
                state.value_scales.get() + at.outputs, nullptr, vectors, depth, mixed, stride);
        } else {
            for (int64_t row = 0; row < rows; ++row) kernels_.softmax(scores + row * scores_stride, vectors);
            kernels_.matmul_f32(scores, rows, scores_stride, state.cross_values.get() + at.values * outputs,
                                nullptr, vectors, depth, mixed, stride);
        }
    }
}

}  // namespace yolor_edge
