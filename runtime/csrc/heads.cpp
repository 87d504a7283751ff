#include "heads.hpp"

#include <cstring>

#include "cpu_features.hpp"

namespace yolor_edge {
namespace {

/// A packed row of bytes as numbers.
template <class Byte>
struct WidenBytes {
    static YOLOR_EDGE_INLINE void run(const Byte* __restrict bytes, int64_t n, int32_t zero_point,
                                      float scale, float* __restrict values) {
        for (int64_t i = 0; i < n; ++i) {
            values[i] = static_cast<float>(static_cast<int32_t>(bytes[i]) - zero_point) * scale;
        }
    }
};

}  // namespace

void read_row(const HeadView& head, int64_t channel, int64_t row, int64_t column, int64_t n, float* values) {
    const int64_t first = head.at(channel, row, column);
    if (head.column_stride == 1) {
        switch (head.type) {
            case HeadType::float32:
                std::memcpy(values, static_cast<const float*>(head.data) + first,
                            static_cast<size_t>(n) * sizeof(float));
                return;
            case HeadType::float16:
                widen_half(static_cast<const uint16_t*>(head.data) + first, static_cast<size_t>(n), values);
                return;
            case HeadType::uint8:
                dispatch<WidenBytes<uint8_t>>(static_cast<const uint8_t*>(head.data) + first, n,
                                              head.zero_point, head.scale, values);
                return;
            case HeadType::int8:
                dispatch<WidenBytes<int8_t>>(static_cast<const int8_t*>(head.data) + first, n,
                                             head.zero_point, head.scale, values);
                return;
        }
    }
    with_elements(head.type, [&](auto elements) {
        using Elements = decltype(elements);
        const auto* source = static_cast<const typename Elements::Element*>(head.data) + first;
        for (int64_t i = 0; i < n; ++i) values[i] = Elements::value(source[i * head.column_stride], head);
    });
}

}  // namespace yolor_edge
