/// Resize with padding: an image of any size into the fixed input of the network, its shape kept.
///
/// One rule for training, calibration and inference, in integer arithmetic, so that every implementation of
/// it gives the same bytes: the source coordinate of output pixel i is f = (i + 0.5) * in / out - 0.5 in
/// double, its right-hand weight round_half_up((f - floor(f)) * 2048), neighbours are clamped to the image,
/// and a value is (sum of four weighted pixels + 2^21) >> 22.
#pragma once

#include <cstddef>
#include <cstdint>

namespace yolor_edge {

/// How the lengths of the resized image become whole pixels; they differ only where a length ends on a half.
enum class Rounding {
    half_up,
    half_even,  // as Python's round(), which YOLOv7 and its kin call
};

/// Where an image of some size comes to lie inside the input of the network.
struct LetterboxGeometry {
    int64_t resized_height;
    int64_t resized_width;
    int64_t pad_top;
    int64_t pad_left;
};

/// Place an image (height, width) in an input (input_height, input_width); all four at least 1.
/// The image keeps its shape as far as whole pixels allow, is at least one pixel in size and sits in the
/// middle; where the padding is odd, the extra row or column is at the bottom or right.
LetterboxGeometry letterbox_geometry(int64_t height, int64_t width, int64_t input_height, int64_t input_width,
                                     Rounding rounding = Rounding::half_up) noexcept;

/// How the bytes of an image mean pixels. Cameras' YUV is BT.601 in its narrow range (16 to 235), converted
/// to BGR in fixed point as OpenCV does, before resizing.
enum class PixelLayout {
    interleaved,  // `channels` bytes a pixel
    nv12,         // a plane of Y, then half as many rows of U and V alternating; both lengths are even
    yuyv,         // Y U Y V for two pixels; the width is even
};

/// An 8-bit image as it lies in memory. Strides are in bytes and may be negative; one channel counts as grey.
struct ImageView {
    const uint8_t* data;
    int64_t height;
    int64_t width;
    int64_t channels;  // 1 or 3, of what is resized: 3 for YUV
    std::ptrdiff_t row_stride;
    std::ptrdiff_t pixel_stride;
    std::ptrdiff_t channel_stride;
    PixelLayout layout = PixelLayout::interleaved;  // otherwise the bytes of a row are packed
};

/// Letterbox into the tensor a network takes.
///   image      at least one pixel
///   pad_value  byte written around the image, before scaling
///   swap_rb    whether channels 0 and 2 change places (BGR in, RGB out)
///   scale      every byte becomes float(byte) * scale
///   output     out: (3, input_height, input_width), contiguous; grey is repeated in all three channels
///   threads    at most; they take strips of the output, and the answer does not depend on them
///   rounding   see letterbox_geometry
void letterbox(const ImageView& image, int64_t input_height, int64_t input_width, uint8_t pad_value,
               bool swap_rb, float scale, float* output, int threads = 1,
               Rounding rounding = Rounding::half_up);

/// The same, as interleaved bytes.
///   output     out: (input_height, input_width, 3), contiguous
void letterbox_u8(const ImageView& image, int64_t input_height, int64_t input_width, uint8_t pad_value,
                  bool swap_rb, uint8_t* output, Rounding rounding = Rounding::half_up);

}  // namespace yolor_edge
