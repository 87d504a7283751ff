/// Instance masks from prototypes and coefficients, only where their boxes are.
/// Source: Bolya et al., YOLACT (mask assembly), https://arxiv.org/abs/1904.02689
#pragma once

#include <cstddef>
#include <cstdint>

#include "vision/heads.hpp"
#include "vision/sampling.hpp"

namespace yolor_edge {

/// See `region_within`.
PixelRegion region_of_box(const float* box, int64_t image_height, int64_t image_width) noexcept;

/// Where a mask is written: its first pixel, and bytes from one row to the next.
struct MaskTarget {
    uint8_t* data;
    int64_t row_stride;
};

/// Fill the crops of `n` masks.
///   prototypes    (channels, vertical.grid_length, horizontal.grid_length); what is not float32 side by side
///                 is widened a row of a box at a time
///   coefficients  (n, 1, channels): mask i's are in channel i
///   vertical, horizontal  how pixels of the image fall on the prototypes
///   image_height, image_width  of the image
///   regions       (n,) inside the image
///   targets       (n,) each takes regions[i].height rows of regions[i].width bytes, each 0 or 1
///   threads       at most; they take whole masks, and the answer does not depend on them
/// A pixel belongs to the mask where coefficients . prototypes, sampled bilinearly at its centre, is above 0;
/// next to a NaN it does not. Products are limited to +-1e30, so that an infinity has a sign and no more.
/// They are made once per prototype point under the box; grid rows are then widened to pixels once, and a
/// pixel costs two multiplications and a comparison.
void fill_masks(const HeadView& prototypes, int64_t channels, const HeadView& coefficients,
                const AxisFrame& vertical, const AxisFrame& horizontal, int64_t image_height,
                int64_t image_width, size_t n, const PixelRegion* regions, const MaskTarget* targets,
                int threads);

}  // namespace yolor_edge
