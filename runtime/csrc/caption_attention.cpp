/// The attention of the caption decoder: keys and values of the image once, then what every sentence looks
/// at.
#include <algorithm>
#include <cmath>
#include <cstring>

#include "caption_decoder.hpp"
#include "caption_state.hpp"

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
        float* row = normed + i * stride;
        float* key_row = key_input + i * stride;
        kernels_.layer_norm(memory + i * width, weights_.memory_norm.gain, weights_.memory_norm.shift, width,
                            epsilon, row);
        std::memcpy(key_row, row, static_cast<size_t>(width) * 4);
        kernels_.add_scaled(key_row, 1.0f, weights_.memory_positions + i * width, width);
        if (!weights_.is_int8) continue;
        state.memory_scales.get()[i] =
            kernels_.quantise(row, width, 0, state.memory_digits.get() + i * stride);
        state.key_input_scales.get()[i] =
            kernels_.quantise(key_row, width, 0, state.key_digits.get() + i * stride);
    }
    float* projected = state.projected.get();
    for (int64_t layer = 0; layer < dims_.layers; ++layer) {
        const DecoderLayerWeights& weights = weights_.layers[static_cast<size_t>(layer)];
        if (weights_.is_int8) {
            product(key_digits, weights.cross_key, projected, stride);
            pack_small_keys(state, layer);
            product(digits, weights.cross_value, projected, stride);
            pack_small_values(state, layer);
        } else {
            linear(state, weights.cross_key, key_input, dims_.memory, stride, projected, stride);
            pack_keys(state, layer);
            linear(state, weights.cross_value, normed, dims_.memory, stride, projected, stride);
            pack_values(state, layer);
        }
    }
}

/// To (memory / 16, head width, 16) of each head.
void CaptionDecoder::pack_keys(State& state, int64_t layer) const {
    const int64_t depth = dims_.width / dims_.heads, stride = row_stride(dims_.width);
    const int64_t size = whole_blocks(dims_.memory) * depth;
    for (int64_t head = 0; head < dims_.heads; ++head) {
        float* keys = state.cross_keys.get() + (layer * dims_.heads + head) * size;
        for (int64_t block = 0; block < dims_.memory; block += kBlock) {
            const int64_t count = std::min(kBlock, dims_.memory - block);
            const float* from = state.projected.get() + block * stride + head * depth;
            float* to = keys + block * depth;
            for (int64_t j = 0; j < depth; ++j) {
                for (int64_t i = 0; i < count; ++i) to[j * kBlock + i] = from[i * stride + j];
                for (int64_t i = count; i < kBlock; ++i) to[j * kBlock + i] = 0.0f;
            }
        }
    }
}

/// To (head width / 16, memory, 16) of each head.
void CaptionDecoder::pack_values(State& state, int64_t layer) const {
    const int64_t depth = dims_.width / dims_.heads, stride = row_stride(dims_.width);
    const int64_t size = whole_blocks(depth) * dims_.memory;
    for (int64_t head = 0; head < dims_.heads; ++head) {
        float* values = state.cross_values.get() + (layer * dims_.heads + head) * size;
        for (int64_t block = 0; block < depth; block += kBlock) {
            const int64_t count = std::min(kBlock, depth - block);
            const float* from = state.projected.get() + head * depth + block;
            float* to = values + block * dims_.memory;
            for (int64_t i = 0; i < dims_.memory; ++i) {
                for (int64_t j = 0; j < count; ++j) to[i * kBlock + j] = from[i * stride + j];
                for (int64_t j = count; j < kBlock; ++j) to[i * kBlock + j] = 0.0f;
            }
        }
    }
}

/// To int8 (memory / 16, head width / 4, 16, 4) of each head, with a factor for each vector of the memory.
/// What fills up the last block is never written, so it stays zero.
void CaptionDecoder::pack_small_keys(State& state, int64_t layer) const {
    const int64_t depth = dims_.width / dims_.heads, stride = row_stride(dims_.width);
    const int64_t vectors = whole_blocks(dims_.memory), groups = (depth + 3) / 4;
    int8_t* quantised = state.quantised.get();
    for (int64_t head = 0; head < dims_.heads; ++head) {
        const int64_t at = (layer * dims_.heads + head) * vectors;
        for (int64_t i = 0; i < dims_.memory; ++i) {
            state.key_scales.get()[at + i] =
                kernels_.quantise_signed(state.projected.get() + i * stride + head * depth, depth, quantised,
                                         state.key_sums.get() + at + i);
            int8_t* to = state.small_keys.get() + ((at + i) / kBlock * groups * kBlock + i % kBlock) * 4;
            for (int64_t group = 0; group < groups; ++group)
                std::memcpy(to + group * kBlock * 4, quantised + group * 4, 4);
        }
    }
}

/// To int8 (head width / 16, memory / 4, 16, 4) of each head, with a factor for each output. The outputs that
/// fill up the last block are of the next head; nobody reads what they give.
void CaptionDecoder::pack_small_values(State& state, int64_t layer) const {
    const int64_t depth = dims_.width / dims_.heads, stride = row_stride(dims_.width);
    const int64_t outputs = whole_blocks(depth), inputs = (dims_.memory + 3) / 4 * 4;
    for (int64_t head = 0; head < dims_.heads; ++head) {
        for (int64_t block = 0; block < depth; block += kBlock) {
            const int64_t at = (layer * dims_.heads + head) * outputs + block;
            kernels_.pack_columns(state.projected.get() + head * depth + block, dims_.memory, stride,
                                  state.small_values.get() + at * inputs, state.value_scales.get() + at,
                                  state.value_sums.get() + at);
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
    float* scores = state.scores.get();
    for (int64_t row = 0; row < rows; ++row) {
        float* query = state.wide.get() + row * wide;
        kernels_.scale(query, shrink, width);
        float* mixed = state.mixed.get() + row * stride;
        std::fill_n(mixed, width, 0.0f);
        const auto where = [&](int64_t t) {
            const int64_t slot = state.slots[static_cast<size_t>(t * state.rows + row)];
            return (t * state.rows + slot) * width;
        };
        for (int64_t head = 0; head < dims_.heads; ++head) {
            const int64_t offset = head * depth;
            for (int64_t t = 0; t <= now; ++t)
                scores[t] = kernels_.dot(query + offset, keys + where(t) + offset, depth);
            kernels_.softmax(scores, now + 1);
            for (int64_t t = 0; t <= now; ++t)
                kernels_.add_scaled(mixed + offset, scores[t], values + where(t) + offset, depth);
        }
    }
}

/// From the queries in `wide` to what each row attends to of the image in `mixed`. Whole blocks may reach
/// into the next head's columns, which are written after, or past the row's width.
void CaptionDecoder::cross_attention(State& state, int64_t layer, int64_t rows) const {
    const int64_t width = dims_.width, depth = width / dims_.heads, stride = row_stride(width);
    const int64_t vectors = whole_blocks(dims_.memory), outputs = whole_blocks(depth);
    const int64_t inputs = (dims_.memory + 3) / 4 * 4, groups = (depth + 3) / 4;
    const int64_t scores_stride = row_stride(dims_.memory);
    const float shrink = 1.0f / std::sqrt(static_cast<float>(depth));
    float* scores = state.scores.get();
    for (int64_t row = 0; row < rows; ++row) kernels_.scale(state.wide.get() + row * stride, shrink, width);
    for (int64_t head = 0; head < dims_.heads; ++head) {
        const int64_t at = layer * dims_.heads + head;
        const float* queries = state.wide.get() + head * depth;
        float* mixed = state.mixed.get() + head * depth;
        if (weights_.is_int8) {
            kernels_.matmul_i8(fine_rows(state, queries, rows, stride, depth),
                               state.small_keys.get() + at * vectors * groups * 4,
                               state.key_sums.get() + at * vectors, state.key_scales.get() + at * vectors,
                               nullptr, depth, dims_.memory, scores, scores_stride);
        } else {
            kernels_.matmul_f32(queries, rows, stride, state.cross_keys.get() + at * vectors * depth, nullptr,
                                depth, dims_.memory, scores, scores_stride);
        }
        for (int64_t row = 0; row < rows; ++row) kernels_.softmax(scores + row * scores_stride, dims_.memory);
        if (weights_.is_int8) {
            kernels_.matmul_i8(fine_rows(state, scores, rows, scores_stride, dims_.memory),
                               state.small_values.get() + at * outputs * inputs,
                               state.value_sums.get() + at * outputs, state.value_scales.get() + at * outputs,
                               nullptr, dims_.memory, depth, mixed, stride);
        } else {
            kernels_.matmul_f32(scores, rows, scores_stride,
                                state.cross_values.get() + at * outputs * dims_.memory, nullptr, dims_.memory,
                                depth, mixed, stride);
        }
    }
}

}  // namespace yolor_edge
