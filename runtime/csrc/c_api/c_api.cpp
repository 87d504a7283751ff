/// The C interface of the kernels; see yolor_edge.h for what each function takes and gives.
#include <cmath>
#include <limits>

#include "arguments.hpp"
#include "simd/cpu_features.hpp"
#include "vision/boxes.hpp"
#include "vision/letterbox.hpp"
#include "vision/masks.hpp"
#include "vision/nms.hpp"
#include "vision/rle.hpp"
#include "vision/semantic.hpp"

using namespace yolor_edge;
using namespace yolor_edge::c_api;

namespace {

constexpr yolor_edge_image kImage{sizeof(yolor_edge_image), nullptr, 0, 0, 3,
                                  YOLOR_EDGE_INTERLEAVED,   0,       0, 0};
constexpr yolor_edge_letterbox_options kLetterbox{
    sizeof(yolor_edge_letterbox_options), 0, 0, 114, 1, 1.0 / 255.0, 1, YOLOR_EDGE_HALF_UP};
constexpr yolor_edge_grid kGrid{sizeof(yolor_edge_grid), 0, 0, nullptr, 0, nullptr, 0, YOLOR_EDGE_DFL,
                                YOLOR_EDGE_LOGITS,       0};
constexpr yolor_edge_box_options kBoxes{sizeof(yolor_edge_box_options), 0.25, 0.65, 300, 30000, 0, 1};

ImageView image_view(const yolor_edge_image* image) {
    require_known("image", image);
    require_given("image.data", image->data);
    require_side("image.height", image->height);
    require_side("image.width", image->width);
    require_between("image.layout", YOLOR_EDGE_INTERLEAVED, YOLOR_EDGE_YUYV, image->layout);
    const auto stride = [](int64_t given, int64_t packed) { return given != 0 ? given : packed; };
    if (image->layout == YOLOR_EDGE_INTERLEAVED) {
        if (image->channels != 1 && image->channels != 3) {
            throw std::invalid_argument("image.channels must be 3 or 1, got " +
                                        std::to_string(image->channels));
        }
        const int64_t pixel = stride(image->pixel_stride, image->channels);
        return {image->data,
                image->height,
                image->width,
                image->channels,
                static_cast<std::ptrdiff_t>(stride(image->row_stride, image->width * pixel)),
                static_cast<std::ptrdiff_t>(pixel),
                static_cast<std::ptrdiff_t>(stride(image->channel_stride, 1)),
                PixelLayout::interleaved};
    }
    const bool is_nv12 = image->layout == YOLOR_EDGE_NV12;
    if (image->width % 2 != 0 || (is_nv12 && image->height % 2 != 0)) {
        throw std::invalid_argument(
            "an image in " +
            std::string(is_nv12 ? "NV12 must have even sides" : "YUYV must have an even width") + ", got (" +
            std::to_string(image->height) + ", " + std::to_string(image->width) + ")");
    }
    if (is_nv12 && image->row_stride < 0) {
        throw std::invalid_argument("image.row_stride of NV12 must not be negative, got " +
                                    std::to_string(image->row_stride));
    }
    const std::ptrdiff_t pixel = is_nv12 ? 1 : 2;
    return {image->data,
            image->height,
            image->width,
            3,
            static_cast<std::ptrdiff_t>(stride(image->row_stride, image->width * pixel)),
            pixel,
            1,
            is_nv12 ? PixelLayout::nv12 : PixelLayout::yuyv};
}

Rounding rounding_of(const char* name, int64_t rounding) {
    require_between(name, YOLOR_EDGE_HALF_UP, YOLOR_EDGE_HALF_EVEN, rounding);
    return rounding == YOLOR_EDGE_HALF_EVEN ? Rounding::half_even : Rounding::half_up;
}

void require_letterbox(const yolor_edge_letterbox_options* options) {
    require_known("options", options);
    require_side("options.input_height", options->input_height);
    require_side("options.input_width", options->input_width);
    require_between("options.pad_value", 0, 255, options->pad_value);
    thread_count("options.threads", options->threads);
    rounding_of("options.rounding", options->rounding);
}

HeadGrid grid_of(const yolor_edge_grid* grid) {
    require_known("grid", grid);
    require_between("grid.box_coding", YOLOR_EDGE_DFL, YOLOR_EDGE_XYXY, grid->box_coding);
    require_between("grid.score_coding", YOLOR_EDGE_LOGITS, YOLOR_EDGE_PROBABILITIES, grid->score_coding);
    require_side("grid.input_height", grid->input_height);
    require_side("grid.input_width", grid->input_width);
    require_at_least("grid.stride_count", 1, grid->stride_count);
    require_given("grid.strides", grid->strides);
    HeadGrid made{{grid->strides, grid->strides + grid->stride_count}, grid->input_height, grid->input_width};
    for (const int64_t stride : made.strides) {
        require_at_least("grid.strides", 1, stride);
        if (grid->input_height % stride != 0 || grid->input_width % stride != 0) {
            throw std::invalid_argument(
                "the input must be divisible by every stride, got (" + std::to_string(grid->input_height) +
                ", " + std::to_string(grid->input_width) + ") and stride " + std::to_string(stride));
        }
    }
    if (grid->box_coding == YOLOR_EDGE_XYXY) {
        require_at_least("grid.box_count", 1, grid->box_count);
        made.box_count = grid->box_count;
    } else {
        require_between("grid.box_count", 0, 0, grid->box_count);
    }
    if (grid->cells == nullptr) return made;
    require_at_least("grid.cell_count", 1, grid->cell_count);
    made.chosen.assign(grid->cells, grid->cells + grid->cell_count);
    for (const int32_t cell : made.chosen) require_between("grid.cells", 0, made.cells() - 1, cell);
    return made;
}

void require_box_options(const yolor_edge_box_options& options) {
    if (std::isnan(options.score_threshold))
        throw std::invalid_argument("options.score_threshold must be a number, got nan");
    if (!(options.iou_threshold >= 0.0 && options.iou_threshold <= 1.0)) {
        throw std::invalid_argument("options.iou_threshold must lie in 0..1, got " +
                                    std::to_string(options.iou_threshold));
    }
    require_at_least("options.max_detections", 0, options.max_detections);
    require_at_least("options.max_candidates", 0, options.max_candidates);
    thread_count("options.threads", options.threads);
}

void require_columns(const char* name, const yolor_edge_head& head, int64_t columns) {
    if (head.rows == 1 && head.columns == columns) return;
    throw std::invalid_argument(std::string(name) + " must have 1 row of " + std::to_string(columns) +
                                " columns, got " + std::to_string(head.rows) + " of " +
                                std::to_string(head.columns));
}

void require_detections(const yolor_edge_detections* detections) {
    require_given("detections", detections);
    require_given("detections.boxes", detections->boxes);
    require_given("detections.scores", detections->scores);
    require_given("detections.class_ids", detections->class_ids);
    require_given("detections.columns", detections->columns);
}

/// Columns of a box to the image: as Letterbox.boxes_to_image does in Python, in double.
float to_image(float value, double pad, double scale, int64_t length) {
    const double moved = (static_cast<double>(value) - pad) / scale;
    return static_cast<float>(std::fmin(std::fmax(moved, 0.0), static_cast<double>(length)));
}

void require_region(const yolor_edge_region& region, int64_t image_height, int64_t image_width) {
    const bool fits = region.y0 >= 0 && region.x0 >= 0 && region.height >= 0 && region.width >= 0 &&
                      region.y0 <= image_height - region.height && region.x0 <= image_width - region.width;
    if (fits) return;
    throw std::invalid_argument("every region must lie inside the image, got (" +
                                std::to_string(region.height) + ", " + std::to_string(region.width) +
                                ") at (" + std::to_string(region.y0) + ", " + std::to_string(region.x0) +
                                ") of (" + std::to_string(image_height) + ", " + std::to_string(image_width) +
                                ")");
}

void draw_masks(const yolor_edge_head* prototypes, const float* rows, const yolor_edge_frame* frame,
                int64_t threads, const std::vector<PixelRegion>& regions,
                const std::vector<MaskTarget>& targets) {
    const HeadView view = view_of("prototypes", prototypes);
    const Axes axes = axes_of(frame, YOLOR_EDGE_MASK_STRIDE, *prototypes);
    fill_masks(view, prototypes->channels, HeadView::of(rows, 1, prototypes->channels), axes.vertical,
               axes.horizontal, frame->image_height, frame->image_width, regions.size(), regions.data(),
               targets.data(), thread_count("threads", threads));
}

}  // namespace

const char* yolor_edge_version(void) {
    return YOLOR_EDGE_VERSION;
}

int32_t yolor_edge_abi_version(void) {
    return YOLOR_EDGE_ABI_VERSION;
}

const char* yolor_edge_simd_level(void) {
    return simd_level_name(simd_level());
}

yolor_edge_status yolor_edge_set_simd_level(const char* name) {
    return caught([&] {
        require_given("name", name);
        SimdLevel level;
        if (!find_simd_level(name, &level))
            throw std::invalid_argument("name must be one of " + simd_level_names() + ", got " +
                                        std::string(name));
        set_simd_level(level);
    });
}

yolor_edge_status yolor_edge_image_init(yolor_edge_image* image, size_t size) {
    return guarded([&] { give("image", kImage, image, size); });
}

yolor_edge_status yolor_edge_letterbox_options_init(yolor_edge_letterbox_options* options, size_t size) {
    return guarded([&] { give("options", kLetterbox, options, size); });
}

yolor_edge_status yolor_edge_grid_init(yolor_edge_grid* grid, size_t size) {
    return guarded([&] { give("grid", kGrid, grid, size); });
}

yolor_edge_status yolor_edge_box_options_init(yolor_edge_box_options* options, size_t size) {
    return guarded([&] { give("options", kBoxes, options, size); });
}

yolor_edge_status yolor_edge_head_init(yolor_edge_head* head, size_t size, const void* data, int64_t channels,
                                       int64_t rows, int64_t columns) {
    return guarded([&] {
        for (const int64_t length : {channels, rows, columns})
            require_between("channels, rows and columns", 1, std::numeric_limits<int32_t>::max(), length);
        const yolor_edge_head packed{sizeof(yolor_edge_head),
                                     data,
                                     YOLOR_EDGE_FLOAT32,
                                     channels,
                                     rows,
                                     columns,
                                     rows * columns,
                                     columns,
                                     1,
                                     1.0,
                                     0};
        give("head", packed, head, size);
    });
}

yolor_edge_status yolor_edge_frame_of(int64_t image_height, int64_t image_width, int64_t input_height,
                                      int64_t input_width, int64_t rounding, yolor_edge_frame* frame) {
    return guarded([&] {
        require_given("frame", frame);
        require_side("image_height", image_height);
        require_side("image_width", image_width);
        require_side("input_height", input_height);
        require_side("input_width", input_width);
        const LetterboxGeometry geometry = letterbox_geometry(image_height, image_width, input_height,
                                                              input_width, rounding_of("rounding", rounding));
        *frame = {image_height,
                  image_width,
                  input_height,
                  input_width,
                  static_cast<double>(geometry.resized_height) / static_cast<double>(image_height),
                  static_cast<double>(geometry.resized_width) / static_cast<double>(image_width),
                  geometry.pad_top,
                  geometry.pad_left};
    });
}

yolor_edge_status yolor_edge_letterbox(const yolor_edge_image* image,
                                       const yolor_edge_letterbox_options* options, float* output) {
    return guarded([&] {
        const ImageView view = image_view(image);
        require_letterbox(options);
        require_given("output", output);
        letterbox(view, options->input_height, options->input_width, static_cast<uint8_t>(options->pad_value),
                  options->swap_rb != 0, static_cast<float>(options->scale), output,
                  thread_count("options.threads", options->threads),
                  rounding_of("options.rounding", options->rounding));
    });
}

yolor_edge_status yolor_edge_letterbox_u8(const yolor_edge_image* image,
                                          const yolor_edge_letterbox_options* options, uint8_t* output) {
    return guarded([&] {
        const ImageView view = image_view(image);
        if (view.layout != PixelLayout::interleaved)
            throw std::invalid_argument(
                "image.layout must be INTERLEAVED here; call yolor_edge_letterbox for YUV");
        require_letterbox(options);
        require_given("output", output);
        letterbox_u8(view, options->input_height, options->input_width,
                     static_cast<uint8_t>(options->pad_value), options->swap_rb != 0, output,
                     rounding_of("options.rounding", options->rounding));
    });
}

yolor_edge_status yolor_edge_decode_boxes(const yolor_edge_head* scores, const yolor_edge_head* boxes,
                                          const yolor_edge_grid* grid, const yolor_edge_box_options* options,
                                          yolor_edge_detections* detections) {
    return guarded([&] {
        const HeadGrid made = grid_of(grid);
        const HeadView score_view = view_of("scores", scores);
        const HeadView box_view = view_of("boxes", boxes);
        require_columns("scores", *scores, made.columns());
        require_columns("boxes", *boxes, made.columns());
        if (scores->channels > std::numeric_limits<int32_t>::max() / made.columns())
            throw std::invalid_argument("scores must have fewer than 2^31 values");
        const bool has_bins = grid->box_coding == YOLOR_EDGE_DFL;
        if (has_bins ? boxes->channels % 4 != 0 : boxes->channels != 4) {
            throw std::invalid_argument("boxes must have " + std::string(has_bins ? "4 * bins" : "4") +
                                        " channels, got " + std::to_string(boxes->channels));
        }
        const yolor_edge_box_options chosen = options_or("options", options, kBoxes);
        require_box_options(chosen);
        require_detections(detections);
        if (detections->capacity < chosen.max_detections) {
            throw Failure(YOLOR_EDGE_TOO_SMALL, "detections.capacity must be at least max_detections, " +
                                                    std::to_string(chosen.max_detections) + ", got " +
                                                    std::to_string(detections->capacity));
        }
        Detections found;
        decode_boxes({score_view, scores->channels, box_view, boxes->channels / 4,
                      static_cast<ScoreCoding>(grid->score_coding), static_cast<BoxCoding>(grid->box_coding)},
                     made,
                     {chosen.score_threshold, static_cast<float>(chosen.iou_threshold), chosen.max_detections,
                      chosen.max_candidates, chosen.class_agnostic != 0},
                     thread_count("options.threads", chosen.threads), &found);
        detections->count = static_cast<int64_t>(found.scores.size());
        std::copy(found.boxes.begin(), found.boxes.end(), detections->boxes);
        std::copy(found.scores.begin(), found.scores.end(), detections->scores);
        std::copy(found.class_ids.begin(), found.class_ids.end(), detections->class_ids);
        std::copy(found.cells.begin(), found.cells.end(), detections->columns);
    });
}

yolor_edge_status yolor_edge_boxes_to_image(const yolor_edge_frame* frame,
                                            yolor_edge_detections* detections) {
    return guarded([&] {
        require_frame(frame);
        require_detections(detections);
        require_between("detections.count", 0, detections->capacity, detections->count);
        int64_t kept = 0;
        for (int64_t i = 0; i < detections->count; ++i) {
            const float* box = detections->boxes + 4 * i;
            const auto top = static_cast<double>(frame->pad_top), left = static_cast<double>(frame->pad_left);
            const float moved[4] = {to_image(box[0], left, frame->scale_x, frame->image_width),
                                    to_image(box[1], top, frame->scale_y, frame->image_height),
                                    to_image(box[2], left, frame->scale_x, frame->image_width),
                                    to_image(box[3], top, frame->scale_y, frame->image_height)};
            // A box that lay in the padding has nothing left of it inside the image.
            if (!(moved[2] > moved[0] && moved[3] > moved[1])) continue;
            std::copy(moved, moved + 4, detections->boxes + 4 * kept);
            detections->scores[kept] = detections->scores[i];
            detections->class_ids[kept] = detections->class_ids[i];
            detections->columns[kept] = detections->columns[i];
            ++kept;
        }
        detections->count = kept;
    });
}

yolor_edge_status yolor_edge_nms(const float* boxes, const float* scores, const int32_t* class_ids, int64_t n,
                                 const yolor_edge_box_options* options, int32_t* keep, int64_t* count) {
    return guarded([&] {
        require_between("n", 0, std::numeric_limits<int32_t>::max(), n);
        require_given("count", count);
        const yolor_edge_box_options chosen = options_or("options", options, kBoxes);
        require_box_options(chosen);
        *count = 0;
        if (n == 0 || chosen.max_detections == 0) return;
        require_given("boxes", boxes);
        require_given("scores", scores);
        require_given("class_ids", class_ids);
        require_given("keep", keep);
        std::vector<int32_t> order(static_cast<size_t>(n));
        order.resize(order_by_score(boxes, scores, order.size(), order.data()));
        std::vector<float> sorted_boxes;
        std::vector<int32_t> sorted_classes;
        for (const int32_t i : order) {
            const float* box = boxes + 4 * static_cast<int64_t>(i);
            sorted_boxes.insert(sorted_boxes.end(), box, box + 4);
            sorted_classes.push_back(class_ids[i]);
        }
        const auto kept = nms(sorted_boxes.data(), sorted_classes.data(), order.size(),
                              static_cast<float>(chosen.iou_threshold),
                              static_cast<size_t>(chosen.max_detections), chosen.class_agnostic != 0, keep);
        for (size_t i = 0; i < kept; ++i) keep[i] = order[static_cast<size_t>(keep[i])];
        *count = static_cast<int64_t>(kept);
    });
}

yolor_edge_status yolor_edge_mask_coefficients(const yolor_edge_head* coefficients, const int32_t* columns,
                                               int64_t n, float* rows) {
    return guarded([&] {
        require_at_least("n", 0, n);
        if (n == 0) return;
        require_given("columns", columns);
        require_given("rows", rows);
        const HeadView view = view_of("coefficients", coefficients);
        require_columns("coefficients", *coefficients, coefficients->columns);
        HeadView along_channels = view;
        along_channels.channel_stride = view.column_stride;
        along_channels.column_stride = view.channel_stride;
        for (int64_t i = 0; i < n; ++i) {
            require_between("columns", 0, coefficients->columns - 1, columns[i]);
            const int64_t channels = coefficients->channels;
            read_row(along_channels, columns[i], 0, 0, channels, rows + i * channels);
        }
    });
}

yolor_edge_status yolor_edge_mask_regions(const yolor_edge_frame* frame, const float* boxes, int64_t n,
                                          yolor_edge_region* regions, int64_t* bytes) {
    return guarded([&] {
        require_frame(frame);
        require_at_least("n", 0, n);
        require_given("bytes", bytes);
        *bytes = 0;
        if (n == 0) return;
        require_given("boxes", boxes);
        require_given("regions", regions);
        for (int64_t i = 0; i < n; ++i) {
            const PixelRegion region = region_of_box(boxes + 4 * i, frame->image_height, frame->image_width);
            regions[i] = {region.y0, region.x0, region.height, region.width, *bytes};
            *bytes += region.height * region.width;
        }
    });
}

yolor_edge_status yolor_edge_mask_crops(const yolor_edge_head* prototypes, const float* rows,
                                        const yolor_edge_frame* frame, const yolor_edge_region* regions,
                                        int64_t n, int64_t threads, uint8_t* crops, int64_t bytes) {
    return guarded([&] {
        require_frame(frame);
        require_at_least("n", 0, n);
        if (n == 0) return;
        require_given("rows", rows);
        require_given("regions", regions);
        require_given("crops", crops);
        std::vector<PixelRegion> inside;
        std::vector<MaskTarget> targets;
        for (int64_t i = 0; i < n; ++i) {
            const yolor_edge_region& region = regions[i];
            require_region(region, frame->image_height, frame->image_width);
            if (region.offset < 0 || region.offset > bytes - region.height * region.width) {
                throw Failure(YOLOR_EDGE_TOO_SMALL, "crop " + std::to_string(i) + " of " +
                                                        std::to_string(region.height * region.width) +
                                                        " bytes at " + std::to_string(region.offset) +
                                                        " exceeds the " + std::to_string(bytes) +
                                                        " bytes of crops");
            }
            inside.push_back({region.y0, region.x0, region.height, region.width});
            targets.push_back({crops + region.offset, region.width});
        }
        draw_masks(prototypes, rows, frame, threads, inside, targets);
    });
}

yolor_edge_status yolor_edge_full_masks(const yolor_edge_head* prototypes, const float* rows,
                                        const yolor_edge_frame* frame, const float* boxes, int64_t n,
                                        int64_t threads, uint8_t* masks) {
    return guarded([&] {
        require_frame(frame);
        require_at_least("n", 0, n);
        if (n == 0) return;
        require_given("rows", rows);
        require_given("boxes", boxes);
        require_given("masks", masks);
        const int64_t height = frame->image_height, width = frame->image_width;
        std::vector<PixelRegion> regions;
        std::vector<MaskTarget> targets;
        for (int64_t i = 0; i < n; ++i) {
            const PixelRegion region = region_of_box(boxes + 4 * i, height, width);
            regions.push_back(region);
            targets.push_back({masks + (i * height + region.y0) * width + region.x0, width});
        }
        std::memset(masks, 0, static_cast<size_t>(n * height * width));
        draw_masks(prototypes, rows, frame, threads, regions, targets);
    });
}

yolor_edge_status yolor_edge_mask_rle(const uint8_t* crop, int64_t row_stride,
                                      const yolor_edge_region* region, int64_t image_height,
                                      int64_t image_width, char* code, size_t capacity, size_t* length) {
    return guarded([&] {
        require_given("region", region);
        require_side("image_height", image_height);
        require_side("image_width", image_width);
        require_region(*region, image_height, image_width);
        if (region->height > 0 && region->width > 0) require_given("crop", crop);
        give_text(rle_code(crop, region->height, region->width, row_stride, region->y0, region->x0,
                           image_height, image_width),
                  code, capacity, length);
    });
}

yolor_edge_status yolor_edge_semantic_argmax(const yolor_edge_head* logits, const yolor_edge_frame* frame,
                                             int64_t stride, int64_t threads, uint8_t* map) {
    return guarded([&] {
        const HeadView view = view_of("logits", logits);
        require_between("logits.channels", 1, 256, logits->channels);
        const Axes axes = axes_of(frame, stride, *logits);
        const int most = thread_count("threads", threads);
        require_given("map", map);
        semantic_argmax(view, logits->channels, axes.vertical, axes.horizontal, frame->image_height,
                        frame->image_width, most, map);
    });
}

yolor_edge_status yolor_edge_map_to_image(const uint8_t* input_map, const yolor_edge_frame* frame,
                                          uint8_t* map) {
    return guarded([&] {
        require_given("input_map", input_map);
        require_frame(frame);
        require_side("frame.input_height", frame->input_height);
        require_side("frame.input_width", frame->input_width);
        require_given("map", map);
        const auto places = [](int64_t count, double scale, int64_t pad, int64_t length) {
            std::vector<int64_t> found;
            for (int64_t i = 0; i < count; ++i) {
                const double at = (static_cast<double>(i) + 0.5) * scale + static_cast<double>(pad);
                found.push_back(static_cast<int64_t>(std::clamp(at, 0.0, static_cast<double>(length - 1))));
            }
            return found;
        };
        const auto rows = places(frame->image_height, frame->scale_y, frame->pad_top, frame->input_height);
        const auto columns = places(frame->image_width, frame->scale_x, frame->pad_left, frame->input_width);
        for (const int64_t row : rows) {
            for (const int64_t column : columns) *map++ = input_map[row * frame->input_width + column];
        }
    });
}
