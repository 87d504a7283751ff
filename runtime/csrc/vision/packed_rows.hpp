/// Rows of an image of any layout as interleaved bytes.
#pragma once

#include <array>
#include <cstdint>
#include <vector>

#include "vision/letterbox.hpp"

namespace yolor_edge {

/// Rows of an image as packed interleaved bytes: the image's own where they are packed, else a copy, of which
/// the last two are kept, in `scratch`.
class PackedRows {
  public:
    PackedRows(const ImageView& image, std::vector<uint8_t>* scratch)
        : image_(image),
          is_packed_(image.layout == PixelLayout::interleaved && image.pixel_stride == image.channels &&
                     (image.channels == 1 || image.channel_stride == 1)),
          scratch_(scratch) {
        if (!is_packed_) scratch->resize(static_cast<size_t>(2 * image.width * image.channels));
    }

    const uint8_t* operator[](int64_t y) {
        if (is_packed_) return image_.data + y * image_.row_stride;
        const auto slot = static_cast<size_t>(y % 2);
        uint8_t* packed = scratch_->data() + y % 2 * image_.width * image_.channels;
        if (held_[slot] != y) unpack(y, packed);
        held_[slot] = y;
        return packed;
    }

  private:
    void unpack(int64_t y, uint8_t* packed) const;

    const ImageView& image_;
    bool is_packed_;
    std::vector<uint8_t>* scratch_;
    std::array<int64_t, 2> held_{-1, -1};
};

}  // namespace yolor_edge
