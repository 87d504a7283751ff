/// What one call of the caption decoder works in: memory that is kept for the next call.
#pragma once

#include <cstdint>
#include <cstring>
#include <memory>
#include <new>
#include <utility>
#include <vector>

#include "captions/caption_decoder.hpp"

namespace yolor_edge {

constexpr size_t kBufferAlignment = 64;

/// Memory aligned for the widest loads, which grows and never shrinks; what was in it is lost when it grows.
template <class Value>
class Buffer {
  public:
    Value* take(int64_t count) {
        if (count > capacity_) {
            data_.reset();
            capacity_ = 0;
            const auto bytes = static_cast<size_t>(count) * sizeof(Value);
            data_.reset(static_cast<Value*>(::operator new(bytes, std::align_val_t{kBufferAlignment})));
            std::memset(data_.get(), 0, bytes);
            capacity_ = count;
        }
        return data_.get();
    }
    Value* get() const noexcept { return data_.get(); }

  private:
    struct Free {
        void operator()(Value* data) const { ::operator delete(data, std::align_val_t{kBufferAlignment}); }
    };
    std::unique_ptr<Value, Free> data_;
    int64_t capacity_ = 0;
};

/// Stride of rows that are read one below the other: off the powers of two, which would share few cache sets.
inline int64_t row_stride(int64_t n) {
    return whole_blocks(n) + kBlock;
}

/// What one call works in.
struct CaptionDecoder::State {
    int64_t rows = 0;    // sentences there is room for
    int64_t length = 0;  // tokens there is room for
    int64_t position = 0;

    // Of the image, for each layer, part of the memory and head a matrix packed as weights are: keys with an
    // output for each vector of the part, values with an input for each. In float32 or in int8, as the
    // weights.
    Buffer<float> cross_keys, cross_values;
    Buffer<int8_t> small_keys, small_values;
    Buffer<float> key_scales, value_scales;
    Buffer<int32_t> key_sums, value_sums;
    // (layers, length, rows, width), written once. What position t of sentence r attends to lies in row
    // rows_of[t * rows + r].
    Buffer<float> keys, values;
    std::vector<int32_t> rows_of, moved;
    std::vector<uint8_t> is_hidden;  // (length, rows), whether the word that was written there is masked
    Buffer<int64_t> where;           // of the sentence in hand, by position

    Buffer<float> x, y, mixed, wide, scores, logits;  // rows of the strides below
    Buffer<float> both;                               // (2, rows), a word before and after each look
    Buffer<uint8_t> high, low;                        // digits of quantised rows
    Buffer<int8_t> quantised;
    Buffer<float> rest;   // what the second digits of weights add
    Buffer<float> peaks;  // of the parts of each row's logits
    Buffer<float> row_scales, normalisers;
    std::vector<std::pair<float, int64_t>> shortlist;  // (logit, word)
    Buffer<float> memory, key_input, projected;
    Buffer<uint8_t> memory_digits, key_digits;
    Buffer<float> memory_scales, key_input_scales;
};

}  // namespace yolor_edge
