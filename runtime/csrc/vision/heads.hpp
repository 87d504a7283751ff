/// Heads as a backend hands them over: any strides, in float32, float16 or bytes with a scale.
#pragma once

#include <cstdint>

#include "simd/cpu_features.hpp"
#include "simd/half.hpp"

namespace yolor_edge {

enum class HeadType : int { float32, float16, uint8, int8 };

/// One head of one image, (channels, rows, columns); a head without rows has one. Every kernel works on the
/// numbers in float32: float16 widened, which is exact; bytes as float(byte - zero_point) * scale.
struct HeadView {
    const void* data;
    int64_t channel_stride;  // in elements, any of them negative or 0 too
    int64_t row_stride;
    int64_t column_stride;
    HeadType type = HeadType::float32;
    float scale = 1.0f;  // of bytes: finite, above 0
    int32_t zero_point = 0;

    /// (channels, rows, columns) of float32, contiguous.
    static HeadView of(const float* data, int64_t rows, int64_t columns) noexcept {
        return {data, rows * columns, columns, 1};
    }

    /// Whether rows can be read where they lie.
    bool is_plain() const noexcept { return type == HeadType::float32 && column_stride == 1; }

    int64_t at(int64_t channel, int64_t row, int64_t column) const noexcept {
        return channel * channel_stride + row * row_stride + column * column_stride;
    }
};

/// How the elements of a head become numbers, for code written once for all types.
struct FloatElements {
    using Element = float;
    static YOLOR_EDGE_INLINE float value(float element, const HeadView&) noexcept { return element; }
};
struct HalfElements {
    using Element = uint16_t;
    static YOLOR_EDGE_INLINE float value(uint16_t element, const HeadView&) noexcept {
        return half_to_float(element);
    }
};
template <class Byte>
struct ByteElements {
    using Element = Byte;
    static YOLOR_EDGE_INLINE float value(Byte element, const HeadView& head) noexcept {
        return static_cast<float>(static_cast<int32_t>(element) - head.zero_point) * head.scale;
    }
};

/// `visit(Elements{})` with the elements of a type.
template <class Visit>
decltype(auto) with_elements(HeadType type, Visit&& visit) {
    switch (type) {
        case HeadType::float16:
            return visit(HalfElements{});
        case HeadType::uint8:
            return visit(ByteElements<uint8_t>{});
        case HeadType::int8:
            return visit(ByteElements<int8_t>{});
        default:
            return visit(FloatElements{});
    }
}

/// `n` numbers of a row, from `column` on, of each of the first `channels`; channel k's begin at values[k *
/// values_apart].
void read_rows(const HeadView& head, int64_t channels, int64_t row, int64_t column, int64_t n, float* values,
               int64_t values_apart);

/// The same of one channel.
inline void read_row(const HeadView& head, int64_t channel, int64_t row, int64_t column, int64_t n,
                     float* values) {
    HeadView one = head;
    const auto bytes = head.type == HeadType::float32 ? 4 : head.type == HeadType::float16 ? 2 : 1;
    one.data = static_cast<const char*>(head.data) + channel * head.channel_stride * bytes;
    read_rows(one, 1, row, column, n, values, 0);
}

}  // namespace yolor_edge
