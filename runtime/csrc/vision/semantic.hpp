/// The semantic map: logits interpolated to every pixel of the image, and the class that is highest there.
#pragma once

#include <cstdint>

#include "vision/heads.hpp"
#include "vision/sampling.hpp"

namespace yolor_edge {

/// Exact bilinear upsampling followed by argmax, interpolating only where more than one class can win.
///   logits      (classes, vertical.grid_length, horizontal.grid_length); classes 1 to 256. NaN counts as
///               -1e30, and values are limited to +-1e30. What is not float32 side by side is widened a row
///               of the grid at a time
///   vertical, horizontal  how pixels of the image fall on the grid
///   map         (image_height, image_width) out: class numbers; equal values go to the lowest class
///   threads     at most; they take strips of the map, and the answer does not depend on them
/// Between four grid points a class cannot win if one single other class is at least as high at all four. (A
/// class that is second at every one of them can win in the middle, so looking at the leaders alone would not
/// be exact.) Where the same class leads at all four, nothing is interpolated; elsewhere only classes that
/// none of the leaders rules out.
void semantic_argmax(const HeadView& logits, int64_t classes, const AxisFrame& vertical,
                     const AxisFrame& horizontal, int64_t image_height, int64_t image_width, int threads,
                     uint8_t* map);

}  // namespace yolor_edge
