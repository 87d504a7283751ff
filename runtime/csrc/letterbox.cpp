#include "letterbox.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <vector>

namespace yolor_edge {
namespace {

constexpr int kWeightOne = 2048;  // 11 bits per axis, so that a weighted pixel of both axes fits 30 bits
constexpr int kRoundingHalf = 1 << 21;
constexpr int kWeightShift = 22;

/// The two source pixels of one output pixel along one axis.
struct Tap {
    int64_t low;
    int64_t high;
    int32_t low_weight;
    int32_t high_weight;
};

std::vector<Tap> taps_of_axis(int64_t in, int64_t out) {
    std::vector<Tap> taps(static_cast<size_t>(out));
    for (int64_t i = 0; i < out; ++i) {
        const double source =
            (static_cast<double>(i) + 0.5) * static_cast<double>(in) / static_cast<double>(out) - 0.5;
        const double below = std::floor(source);
        const auto high_weight = static_cast<int32_t>(std::floor((source - below) * kWeightOne + 0.5));
        const auto low = static_cast<int64_t>(below);
        taps[static_cast<size_t>(i)] = {std::clamp<int64_t>(low, 0, in - 1),
                                        std::clamp<int64_t>(low + 1, 0, in - 1), kWeightOne - high_weight,
                                        high_weight};
    }
    return taps;
}

/// Rows of an image as packed interleaved bytes: the image's own where they are packed, else a copy in
/// `scratch`.
class PackedRows {
  public:
    explicit PackedRows(const ImageView& image)
        : image_(image),
          is_packed_(image.pixel_stride == image.channels &&
                     (image.channels == 1 || image.channel_stride == 1)),
          scratch_(is_packed_ ? 0 : static_cast<size_t>(2 * image.width * image.channels)) {}

    /// Row `y`; `slot` (0 or 1) names the scratch row to use, so that two rows can be held at once.
    const uint8_t* row(int64_t y, int slot) {
        const uint8_t* source = image_.data + y * image_.row_stride;
        if (is_packed_) return source;
        uint8_t* packed = scratch_.data() + slot * image_.width * image_.channels;
        if (held_[slot] == y) return packed;
        for (int64_t x = 0; x < image_.width; ++x) {
            for (int64_t c = 0; c < image_.channels; ++c) {
                packed[x * image_.channels + c] = source[x * image_.pixel_stride + c * image_.channel_stride];
            }
        }
        held_[slot] = y;
        return packed;
    }

  private:
    const ImageView& image_;
    bool is_packed_;
    std::vector<uint8_t> scratch_;
    std::array<int64_t, 2> held_{-1, -1};
};

/// Write one output row: `value(x, channel)` is asked for every pixel of the image, channels in output order.
template <int Channels, bool Swap, class Sink>
void resize_row(const int32_t* blended, const std::vector<Tap>& taps, Sink&& sink) {
    const auto width = static_cast<int64_t>(taps.size());
    for (int64_t x = 0; x < width; ++x) {
        const Tap& tap = taps[static_cast<size_t>(x)];
        const int32_t* low = blended + tap.low * Channels;
        const int32_t* high = blended + tap.high * Channels;
        std::array<uint8_t, 3> pixel;
        for (int c = 0; c < Channels; ++c) {
            const int32_t sum = low[c] * tap.low_weight + high[c] * tap.high_weight;
            pixel[static_cast<size_t>(Swap ? Channels - 1 - c : c)] =
                static_cast<uint8_t>((sum + kRoundingHalf) >> kWeightShift);
        }
        if constexpr (Channels == 1) pixel[1] = pixel[2] = pixel[0];
        sink(x, pixel);
    }
}

template <int Channels, bool Swap, class Sink>
void copy_row(const uint8_t* row, int64_t width, Sink&& sink) {
    for (int64_t x = 0; x < width; ++x) {
        std::array<uint8_t, 3> pixel;
        for (int c = 0; c < Channels; ++c)
            pixel[static_cast<size_t>(Swap ? Channels - 1 - c : c)] = row[x * Channels + c];
        if constexpr (Channels == 1) pixel[1] = pixel[2] = pixel[0];
        sink(x, pixel);
    }
}

/// Resize `image` to the size of `geometry`; `sink_of_row(y)` gives the function that takes (x, pixel) of row
/// y.
template <int Channels, bool Swap, class SinkOfRow>
void resize(const ImageView& image, const LetterboxGeometry& geometry, SinkOfRow&& sink_of_row) {
    PackedRows rows(image);
    if (geometry.resized_height == image.height && geometry.resized_width == image.width) {
        for (int64_t y = 0; y < image.height; ++y)
            copy_row<Channels, Swap>(rows.row(y, 0), image.width, sink_of_row(y));
        return;
    }
    const std::vector<Tap> vertical = taps_of_axis(image.height, geometry.resized_height);
    const std::vector<Tap> horizontal = taps_of_axis(image.width, geometry.resized_width);
    const int64_t row_values = image.width * Channels;
    std::vector<int32_t> blended(static_cast<size_t>(row_values));
    for (int64_t y = 0; y < geometry.resized_height; ++y) {
        const Tap& tap = vertical[static_cast<size_t>(y)];
        const uint8_t* low = rows.row(tap.low, 0);
        const uint8_t* high = rows.row(tap.high, 1);
        // Vertical before horizontal: integer sums do not depend on the order, and this one runs along whole
        // rows.
        for (int64_t i = 0; i < row_values; ++i) {
            blended[static_cast<size_t>(i)] = low[i] * tap.low_weight + high[i] * tap.high_weight;
        }
        resize_row<Channels, Swap>(blended.data(), horizontal, sink_of_row(y));
    }
}

template <class SinkOfRow>
void resize_any(const ImageView& image, const LetterboxGeometry& geometry, bool swap_rb,
                SinkOfRow&& sink_of_row) {
    if (image.channels == 1) {
        resize<1, false>(image, geometry, sink_of_row);
    } else if (swap_rb) {
        resize<3, true>(image, geometry, sink_of_row);
    } else {
        resize<3, false>(image, geometry, sink_of_row);
    }
}

int64_t resized_length(int64_t length, double scale, int64_t limit) noexcept {
    const double rounded = std::floor(static_cast<double>(length) * scale + 0.5);
    return std::clamp<int64_t>(static_cast<int64_t>(rounded), 1, limit);
}

/// Fill what the image does not cover of one (input_height, input_width) plane of `per_pixel` values a pixel.
template <class Value>
void fill_padding(const LetterboxGeometry& geometry, int64_t input_height, int64_t input_width,
                  int64_t per_pixel, Value value, Value* plane) {
    const int64_t row_values = input_width * per_pixel;
    const int64_t bottom = geometry.pad_top + geometry.resized_height;
    std::fill(plane, plane + geometry.pad_top * row_values, value);
    std::fill(plane + bottom * row_values, plane + input_height * row_values, value);
    for (int64_t y = geometry.pad_top; y < bottom; ++y) {
        Value* row = plane + y * row_values;
        std::fill(row, row + geometry.pad_left * per_pixel, value);
        std::fill(row + (geometry.pad_left + geometry.resized_width) * per_pixel, row + row_values, value);
    }
}

}  // namespace

LetterboxGeometry letterbox_geometry(int64_t height, int64_t width, int64_t input_height,
                                     int64_t input_width) noexcept {
    const double scale = std::min(static_cast<double>(input_height) / static_cast<double>(height),
                                  static_cast<double>(input_width) / static_cast<double>(width));
    const int64_t resized_height = resized_length(height, scale, input_height);
    const int64_t resized_width = resized_length(width, scale, input_width);
    return {resized_height, resized_width, (input_height - resized_height) / 2,
            (input_width - resized_width) / 2};
}

void letterbox(const ImageView& image, int64_t input_height, int64_t input_width, uint8_t pad_value,
               bool swap_rb, float scale, float* output) {
    const LetterboxGeometry geometry =
        letterbox_geometry(image.height, image.width, input_height, input_width);
    std::array<float, 256> value_of_byte;
    for (size_t byte = 0; byte < 256; ++byte) value_of_byte[byte] = static_cast<float>(byte) * scale;
    const int64_t plane_size = input_height * input_width;
    for (int64_t c = 0; c < 3; ++c) {
        fill_padding(geometry, input_height, input_width, 1, value_of_byte[pad_value],
                     output + c * plane_size);
    }
    resize_any(image, geometry, swap_rb, [&](int64_t y) {
        float* row = output + (geometry.pad_top + y) * input_width + geometry.pad_left;
        return [row, plane_size, &value_of_byte](int64_t x, const std::array<uint8_t, 3>& pixel) {
            row[x] = value_of_byte[pixel[0]];
            row[plane_size + x] = value_of_byte[pixel[1]];
            row[2 * plane_size + x] = value_of_byte[pixel[2]];
        };
    });
}

void letterbox_u8(const ImageView& image, int64_t input_height, int64_t input_width, uint8_t pad_value,
                  bool swap_rb, uint8_t* output) {
    const LetterboxGeometry geometry =
        letterbox_geometry(image.height, image.width, input_height, input_width);
    fill_padding(geometry, input_height, input_width, 3, pad_value, output);
    resize_any(image, geometry, swap_rb, [&](int64_t y) {
        uint8_t* row = output + ((geometry.pad_top + y) * input_width + geometry.pad_left) * 3;
        return [row](int64_t x, const std::array<uint8_t, 3>& pixel) {
            row[3 * x] = pixel[0];
            row[3 * x + 1] = pixel[1];
            row[3 * x + 2] = pixel[2];
        };
    });
}

}  // namespace yolor_edge
