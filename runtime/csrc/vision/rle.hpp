/// COCO's compressed run-length codes of masks.
/// Source: COCO API, rleEncode and rleToString, https://github.com/cocodataset/cocoapi
#pragma once

#include <cstdint>
#include <string>

namespace yolor_edge {

/// The code of a mask of (image_height, image_width) that is `crop` at row `y0`, column `x0` and 0 elsewhere.
///   crop        (height, width) inside the image, zero or not; may be empty
///   row_stride  bytes from row to row of the crop
/// Runs go down the columns. The crop is read along its rows, a change of one row against the one above at a
/// time: what a mask costs beyond that grows with its outline, not its area.
std::string rle_code(const uint8_t* crop, int64_t height, int64_t width, int64_t row_stride, int64_t y0,
                     int64_t x0, int64_t image_height, int64_t image_width);

}  // namespace yolor_edge
