/// Half-precision heads, widened to the float32 the kernels work in; every float16 is one exactly.
#pragma once

#include <cstddef>
#include <cstdint>

namespace yolor_edge {

/// Widen `n` IEEE 754 half-precision numbers, NaN (which becomes a quiet one) and infinity among
/// them.
void widen_half(const uint16_t* halves, size_t n, float* values);

}  // namespace yolor_edge
