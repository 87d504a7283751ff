/// Instance masks from prototypes and coefficients, only where their boxes are.
/// Source: Bolya et al., YOLACT (mask assembly), https://arxiv.org/abs/1904.02689
#pragma once

#include <cstddef>
#include <cstdint>

#include "sampling.hpp"

namespace yolor_edge {

/// A rectangle of whole pixels; `height` and `width` are both 0 where there is none.
struct PixelRegion {
    int64_t y0;
    int64_t x0;
    int64_t height;
    int64_t width;
};

/// The pixels of an image whose centres lie inside `box` (xyxy in pixels of the image): x1 <= centre < x2,
/// and so for y. The region is empty where the box is, lies outside the image or is not finite.
PixelRegion region_of_box(const float* box, int64_t image_height, int64_t image_width) noexcept;

/// Fill the crops of `n` masks.
///   prototypes    (channels, vertical.grid_length, horizontal.grid_length) row-major
///   coefficients  (n, channels) row-major
///   vertical, horizontal  how pixels of the image fall on the prototypes
///   regions       (n,) inside the image
///   crops         (n,) out: crops[i] holds regions[i].height rows of regions[i].width bytes, each 0 or 1
/// A pixel belongs to the mask where coefficients . prototypes, sampled bilinearly at its centre, is above 0;
/// next to a NaN it does not. The products are made once per prototype point under the box, then sampled; a
/// pixel between points that agree in sign is not interpolated at all.
void fill_mask_crops(const float* prototypes, int64_t channels, const float* coefficients,
                     const AxisFrame& vertical, const AxisFrame& horizontal, size_t n,
                     const PixelRegion* regions, uint8_t* const* crops);

}  // namespace yolor_edge
