#include "vision/letterbox.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <utility>
#include <vector>

#include "host/parallel.hpp"
#include "host/scratch.hpp"
#include "shared/letterbox_math.hpp"
#include "vision/letterbox_rows.hpp"
#include "vision/packed_rows.hpp"

namespace yolor_edge {
namespace {

void fill_taps(int64_t in, int64_t out, std::vector<Tap>* taps) {
    taps->resize(static_cast<size_t>(out));
    for (int64_t i = 0; i < out; ++i) {
        (*taps)[static_cast<size_t>(i)] = tap_of(i, in, out);
    }
}

/// How rows and columns of the output lie in the image; computed once a call.
struct Axes {
    std::vector<Tap> vertical;
    std::vector<Tap> horizontal;
    std::vector<int32_t> starts;
    std::vector<int32_t> weights;

    void fill(const ImageView& image, const LetterboxGeometry& geometry) {
        fill_taps(image.height, geometry.resized_height, &vertical);
        fill_taps(image.width, geometry.resized_width, &horizontal);
        starts.clear();
        weights.clear();
        for (const Tap& tap : horizontal) {
            starts.push_back(static_cast<int32_t>(tap.low * image.channels));
            weights.push_back(tap.high == tap.low ? 0 : tap.high_weight);
        }
    }
};

/// Working memory of one thread, for one strip after the other.
struct Scratch {
    std::vector<uint8_t> packed;
    std::vector<int32_t> blended;
};

Scratch& scratch_of_thread() {
    thread_local Scratch scratch;
    return scratch;
}

bool keeps_size(const ImageView& image, const LetterboxGeometry& geometry) noexcept {
    return geometry.resized_height == image.height && geometry.resized_width == image.width;
}

/// Rows [begin, end) of `image` resized to the size of `geometry`: `take_row(y, row)` gets rows that keep
/// their size as bytes, and `take_blended(y, row, columns)` gets the others blended vertically, still to be
/// resized horizontally.
template <class TakeRow, class TakeBlended>
void resize(const ImageView& image, const LetterboxGeometry& geometry, const Axes& axes, int64_t begin,
            int64_t end, TakeRow&& take_row, TakeBlended&& take_blended) {
    Scratch& scratch = scratch_of_thread();
    PackedRows rows(image, &scratch.packed);
    if (keeps_size(image, geometry)) {
        for (int64_t y = begin; y < end; ++y) take_row(y, rows[y]);
        return;
    }
    const Columns columns{axes.starts.data(), axes.weights.data(), geometry.resized_width};
    const int64_t row_values = image.width * image.channels;
    // A vector of four starts at the last pixel's right neighbour at most, which counts for nothing.
    scratch.blended.resize(static_cast<size_t>(row_values + 8));
    for (int64_t y = begin; y < end; ++y) {
        const Tap& tap = axes.vertical[static_cast<size_t>(y)];
        const uint8_t* low = rows[tap.low];
        const uint8_t* high = rows[tap.high];
        blend_rows(low, high, tap.low_weight, tap.high_weight, row_values, scratch.blended.data());
        take_blended(y, static_cast<const int32_t*>(scratch.blended.data()), columns);
    }
}

int64_t resized_length(int64_t length, double scale, int64_t limit, Rounding rounding) noexcept {
    const double exact = static_cast<double>(length) * scale;
    double rounded = std::floor(exact + 0.5);
    if (rounding == Rounding::half_even) {
        const double below = std::floor(exact);
        const double rest = exact - below;
        const bool is_down = rest < 0.5 || (rest == 0.5 && std::fmod(below, 2.0) == 0.0);
        rounded = is_down ? below : below + 1.0;
    }
    return std::clamp<int64_t>(static_cast<int64_t>(rounded), 1, limit);
}

/// Fill what the image does not cover of one (input_height, input_width) plane of `per_pixel` values a pixel:
/// beside the rows [begin, end) of the image, above the first and below the last.
template <class Value>
void fill_padding(const LetterboxGeometry& geometry, int64_t input_height, int64_t input_width,
                  int64_t per_pixel, Value value, int64_t begin, int64_t end, Value* plane) {
    const int64_t row_values = input_width * per_pixel;
    const int64_t bottom = geometry.pad_top + geometry.resized_height;
    if (begin == 0) std::fill(plane, plane + geometry.pad_top * row_values, value);
    if (end == geometry.resized_height) {
        std::fill(plane + bottom * row_values, plane + input_height * row_values, value);
    }
    for (int64_t y = geometry.pad_top + begin; y < geometry.pad_top + end; ++y) {
        Value* row = plane + y * row_values;
        std::fill(row, row + geometry.pad_left * per_pixel, value);
        std::fill(row + (geometry.pad_left + geometry.resized_width) * per_pixel, row + row_values, value);
    }
}

/// The same pixels with rising channels: RGB as a reversed view of BGR, say, is BGR whose channels 0 and 2
/// change places once more, and its rows stay packed.
ImageView with_rising_channels(const ImageView& image, bool* swap_rb) noexcept {
    if (image.layout != PixelLayout::interleaved || image.channels != 3 || image.channel_stride >= 0) {
        return image;
    }
    ImageView rising = image;
    rising.data += 2 * image.channel_stride;
    rising.channel_stride = -image.channel_stride;
    *swap_rb = !*swap_rb;
    return rising;
}

}  // namespace

LetterboxGeometry letterbox_geometry(int64_t height, int64_t width, int64_t input_height, int64_t input_width,
                                     Rounding rounding) noexcept {
    const double scale = std::min(static_cast<double>(input_height) / static_cast<double>(height),
                                  static_cast<double>(input_width) / static_cast<double>(width));
    const int64_t resized_height = resized_length(height, scale, input_height, rounding);
    const int64_t resized_width = resized_length(width, scale, input_width, rounding);
    return {resized_height, resized_width, (input_height - resized_height) / 2,
            (input_width - resized_width) / 2};
}

void letterbox(const ImageView& given, int64_t input_height, int64_t input_width, uint8_t pad_value,
               bool swap_rb, float scale, float* output, int threads, Rounding rounding) {
    const ImageView image = with_rising_channels(given, &swap_rb);
    const LetterboxGeometry geometry =
        letterbox_geometry(image.height, image.width, input_height, input_width, rounding);
    const int64_t plane_size = input_height * input_width;
    const auto planes_of = [&](int64_t y) {
        float* row = output + (geometry.pad_top + y) * input_width + geometry.pad_left;
        Planes planes{{row, row + plane_size, row + 2 * plane_size}, scale};
        if (swap_rb) std::swap(planes.at[0], planes.at[2]);
        return planes;
    };
    const auto repeat_grey = [&](const Planes& planes) {
        const auto bytes = static_cast<size_t>(geometry.resized_width) * sizeof(float);
        std::memcpy(planes.at[1], planes.at[0], bytes);
        std::memcpy(planes.at[2], planes.at[0], bytes);
    };
    // What cameras of 1280 x 720 and 1280 x 960 need at 640.
    const bool is_halved = image.channels == 3 && image.height == 2 * geometry.resized_height &&
                           image.width == 2 * geometry.resized_width;
    thread_local Axes axes_of_thread;
    Axes& axes = axes_of_thread;  // the workers' too, who would have their own under the other name
    if (!is_halved && !keeps_size(image, geometry)) axes.fill(image, geometry);
    constexpr int64_t kLeastRows = 16;  // a strip
    const int64_t height = geometry.resized_height;
    const int64_t strips =
        threads <= 1 ? 1 : std::min<int64_t>(2 * int64_t{threads}, (height + kLeastRows - 1) / kLeastRows);
    run_parallel(threads, strips, [&](int64_t strip) {
        const int64_t begin = height * strip / strips;
        const int64_t end = height * (strip + 1) / strips;
        for (int64_t c = 0; c < 3; ++c) {
            fill_padding(geometry, input_height, input_width, 1, static_cast<float>(pad_value) * scale, begin,
                         end, output + c * plane_size);
        }
        if (is_halved) {
            PackedRows rows(image, &scratch_of_thread().packed);
            for (int64_t y = begin; y < end; ++y) {
                const uint8_t* upper = rows[2 * y];
                halve_rows(upper, rows[2 * y + 1], geometry.resized_width, planes_of(y));
            }
        } else {
            resize(
                image, geometry, axes, begin, end,
                [&](int64_t y, const uint8_t* row) {
                    const Planes planes = planes_of(y);
                    if (image.channels == 3) {
                        spread_row3(row, image.width, planes);
                    } else {
                        spread_row1(row, image.width, scale, planes.at[0]);
                        repeat_grey(planes);
                    }
                },
                [&](int64_t y, const int32_t* blended, const Columns& columns) {
                    const Planes planes = planes_of(y);
                    if (image.channels == 3) {
                        resize_row3(blended, columns, planes);
                    } else {
                        resize_row1(blended, columns, scale, planes.at[0]);
                        repeat_grey(planes);
                    }
                });
        }
        trim(&scratch_of_thread().packed, &scratch_of_thread().blended);
    });
    trim(&axes.vertical, &axes.horizontal, &axes.starts, &axes.weights);
}

void letterbox_u8(const ImageView& image, int64_t input_height, int64_t input_width, uint8_t pad_value,
                  bool swap_rb, uint8_t* output, Rounding rounding) {
    const LetterboxGeometry geometry =
        letterbox_geometry(image.height, image.width, input_height, input_width, rounding);
    const int64_t height = geometry.resized_height;
    fill_padding(geometry, input_height, input_width, 3, pad_value, 0, height, output);
    const int64_t last = image.channels - 1;
    const auto source_channel = [&](int64_t c) { return std::min(swap_rb ? 2 - c : c, last); };
    const auto row_at = [&](int64_t y) {
        return output + ((geometry.pad_top + y) * input_width + geometry.pad_left) * 3;
    };
    thread_local Axes axes;
    if (!keeps_size(image, geometry)) axes.fill(image, geometry);
    resize(
        image, geometry, axes, 0, height,
        [&](int64_t y, const uint8_t* source) {
            uint8_t* row = row_at(y);
            for (int64_t x = 0; x < image.width; ++x) {
                for (int64_t c = 0; c < 3; ++c)
                    row[3 * x + c] = source[x * image.channels + source_channel(c)];
            }
        },
        [&](int64_t y, const int32_t* blended, const Columns& columns) {
            uint8_t* row = row_at(y);
            for (int64_t x = 0; x < columns.width; ++x) {
                for (int64_t c = 0; c < 3; ++c) {
                    row[3 * x + c] = static_cast<uint8_t>(resized_value(
                        blended + columns.starts[x] + source_channel(c), image.channels, columns.weights[x]));
                }
            }
        });
    trim(&axes.vertical, &axes.horizontal, &axes.starts, &axes.weights, &scratch_of_thread().packed,
         &scratch_of_thread().blended);
}

}  // namespace yolor_edge
