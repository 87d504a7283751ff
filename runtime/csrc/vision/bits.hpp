/// Masks at one bit a pixel, in numpy's order: eight pixels of a row a byte, the first one highest.
#pragma once

#include <cstdint>

namespace yolor_edge {

/// Set the bits of a row of a mask that are 1 in a crop's row; the others stay as they are.
///   pixels  (n,) of 0 and 1
///   first   column of pixels[0]
///   row     out: bytes of the whole row
void set_bits(const uint8_t* pixels, int64_t n, int64_t first, uint8_t* row);

}  // namespace yolor_edge
