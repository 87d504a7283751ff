/// Working memory that a thread keeps from one call to the next.
#pragma once

#include <cstddef>
#include <type_traits>
#include <vector>

namespace yolor_edge {

/// Bytes of one buffer that are kept at most. A kernel has fewer than ten buffers a thread, and at 640 x 640
/// none comes near.
constexpr size_t kKeptBytes = size_t{4} << 20;

/// Free the memory of buffers that a rare large call made grow beyond what is kept; for the end of a call.
template <class... Buffers>
void trim(Buffers*... buffers) {
    const auto one = [](auto* buffer) {
        using Buffer = std::remove_pointer_t<decltype(buffer)>;
        if (buffer->capacity() * sizeof(typename Buffer::value_type) > kKeptBytes) Buffer().swap(*buffer);
    };
    (one(buffers), ...);
}

}  // namespace yolor_edge
