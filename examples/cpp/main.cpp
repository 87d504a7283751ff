/// From an image and a bundle to boxes, masks, a semantic map and a caption, without Python: what a robot's
/// program does, once instead of in a loop. README.md says how to build and run it.
#include <yolor_edge.h>

#include <cstdint>
#include <cstdio>
#include <exception>
#include <memory>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "network.hpp"
#include "pictures.hpp"

namespace {

void check(yolor_edge_status status) {
    if (status != YOLOR_EDGE_OK) throw std::runtime_error(yolor_edge_last_error());
}

struct CloseBundle {
    void operator()(yolor_edge_bundle* bundle) const { yolor_edge_bundle_close(bundle); }
};
struct CloseDecoder {
    void operator()(yolor_edge_caption_decoder* decoder) const { yolor_edge_caption_decoder_close(decoder); }
};
using Bundle = std::unique_ptr<yolor_edge_bundle, CloseBundle>;
using Decoder = std::unique_ptr<yolor_edge_caption_decoder, CloseDecoder>;

/// What lives as long as the program.
struct Model {
    Bundle bundle;
    yolor_edge_bundle_info info{};
    Decoder captions;  // null where the bundle has no weights for it
    yolor_edge_caption_dims dims{};
};

Model open_model(const std::string& folder) {
    Model model;
    yolor_edge_bundle* bundle = nullptr;
    check(yolor_edge_bundle_open(folder.c_str(), &bundle));
    model.bundle.reset(bundle);
    check(yolor_edge_bundle_describe(bundle, &model.info, sizeof model.info));
    if (model.info.batch > 1 || model.info.top_k > 0 || model.info.is_map_in_graph != 0)
        throw std::runtime_error(folder +
                                 ": this example reads bundles exported without options of the graph");
    for (const char* precision : {"int8", "fp32"}) {
        const char* weights = yolor_edge_bundle_file(bundle, "caption_weights", precision);
        if (weights == nullptr) continue;
        yolor_edge_caption_decoder* decoder = nullptr;
        check(yolor_edge_caption_decoder_open(weights, nullptr, &decoder));
        model.captions.reset(decoder);
        check(yolor_edge_caption_decoder_dims(decoder, &model.dims, sizeof model.dims));
        break;
    }
    return model;
}

bool has(const Model& model, int64_t task) {
    return (model.info.tasks & task) != 0;
}

std::vector<std::string> head_names(const Model& model) {
    std::vector<std::string> names;
    if (has(model, YOLOR_EDGE_BOXES)) names.insert(names.end(), {model.info.score_head, model.info.box_head});
    if (has(model, YOLOR_EDGE_MASKS)) names.insert(names.end(), {"mask_coefficients", "prototypes"});
    if (has(model, YOLOR_EDGE_SEMANTIC)) names.emplace_back("semantic_logits");
    if (model.captions != nullptr) names.emplace_back("caption_memory");
    return names;
}

/// A head of (channels, rows, columns) whose channels follow from its length.
yolor_edge_head head_of(const Heads& heads, const std::string& name, int64_t rows, int64_t columns) {
    const std::vector<float>& values = heads.at(name);
    const auto count = static_cast<int64_t>(values.size());
    if (rows < 1 || columns < 1) throw std::runtime_error("the network's input is too small for " + name);
    if (count == 0 || count % (rows * columns) != 0) {
        throw std::runtime_error(name + " holds " + std::to_string(count) +
                                 " numbers, expected a multiple of " + std::to_string(rows) + " x " +
                                 std::to_string(columns) + "; is it of this bundle and of one image?");
    }
    yolor_edge_head head;
    check(yolor_edge_head_init(&head, sizeof head, values.data(), count / (rows * columns), rows, columns));
    return head;
}

std::vector<float> network_input(const Model& model, const Picture& picture) {
    yolor_edge_image image;
    check(yolor_edge_image_init(&image, sizeof image));
    image.data = picture.rgb.data();
    image.height = picture.height;
    image.width = picture.width;
    yolor_edge_letterbox_options options;
    check(yolor_edge_letterbox_options_init(&options, sizeof options));
    options.input_height = model.info.input_height;
    options.input_width = model.info.input_width;
    options.pad_value = model.info.pad_value;
    options.scale = model.info.scale;
    options.rounding = model.info.rounding;
    // A bundle says what becomes of B G R, which cameras give; a PPM holds R G B.
    options.swap_rb = model.info.swap_rb == 0 ? 1 : 0;
    std::vector<float> input(static_cast<size_t>(3 * options.input_height * options.input_width));
    check(yolor_edge_letterbox(&image, &options, input.data()));
    return input;
}

struct Boxes {
    explicit Boxes(int64_t capacity)
        : boxes(static_cast<size_t>(4 * capacity)),
          scores(static_cast<size_t>(capacity)),
          class_ids(static_cast<size_t>(capacity)),
          columns(static_cast<size_t>(capacity)),
          found{capacity, 0, boxes.data(), scores.data(), class_ids.data(), columns.data()} {}
    Boxes(const Boxes&) = delete;
    Boxes& operator=(const Boxes&) = delete;

    std::vector<float> boxes, scores;
    std::vector<int32_t> class_ids, columns;
    yolor_edge_detections found;  // points into the arrays
};

int64_t cells_of(const Model& model) {
    if (model.info.box_coding == YOLOR_EDGE_XYXY) return model.info.box_count;
    int64_t cells = 0;
    for (int64_t i = 0; i < model.info.stride_count; ++i) {
        const int64_t stride = model.info.strides[i];
        cells += (model.info.input_height / stride) * (model.info.input_width / stride);
    }
    return cells;
}

void find_boxes(const Model& model, const Heads& heads, const yolor_edge_frame& frame, Boxes* boxes) {
    const int64_t cells = cells_of(model);
    const yolor_edge_head scores = head_of(heads, model.info.score_head, 1, cells);
    const yolor_edge_head sides = head_of(heads, model.info.box_head, 1, cells);
    yolor_edge_grid grid;
    check(yolor_edge_grid_init(&grid, sizeof grid));
    grid.input_height = model.info.input_height;
    grid.input_width = model.info.input_width;
    grid.strides = model.info.strides;
    grid.stride_count = model.info.stride_count;
    grid.box_coding = model.info.box_coding;
    grid.score_coding = model.info.score_coding;
    grid.box_count = model.info.box_count;
    yolor_edge_box_options options;
    check(yolor_edge_box_options_init(&options, sizeof options));
    options.score_threshold = model.info.score_threshold;
    options.iou_threshold = model.info.iou_threshold;
    options.max_detections = model.info.max_detections;
    check(yolor_edge_decode_boxes(&scores, &sides, &grid, &options, &boxes->found));
    check(yolor_edge_boxes_to_image(&frame, &boxes->found));
}

/// One crop of 0 and 1 per box, and where each lies.
struct Masks {
    std::vector<yolor_edge_region> regions;
    std::vector<uint8_t> crops;
};

Masks find_masks(const Model& model, const Heads& heads, const yolor_edge_frame& frame, const Boxes& boxes) {
    const int64_t n = boxes.found.count;
    const yolor_edge_head coefficients = head_of(heads, "mask_coefficients", 1, cells_of(model));
    const yolor_edge_head prototypes =
        head_of(heads, "prototypes", model.info.input_height / YOLOR_EDGE_MASK_STRIDE,
                model.info.input_width / YOLOR_EDGE_MASK_STRIDE);
    if (prototypes.channels != coefficients.channels)
        throw std::runtime_error("prototypes and mask_coefficients are not of one graph");
    std::vector<float> rows(static_cast<size_t>(n * coefficients.channels));
    check(yolor_edge_mask_coefficients(&coefficients, boxes.columns.data(), n, rows.data()));
    Masks masks;
    masks.regions.resize(static_cast<size_t>(n));
    int64_t bytes = 0;
    check(yolor_edge_mask_regions(&frame, boxes.boxes.data(), n, masks.regions.data(), &bytes));
    masks.crops.resize(static_cast<size_t>(bytes));
    check(yolor_edge_mask_crops(&prototypes, rows.data(), &frame, masks.regions.data(), n, 1,
                                masks.crops.data(), bytes));
    return masks;
}

std::string rle_of(const Masks& masks, size_t i, const Picture& picture) {
    const yolor_edge_region& region = masks.regions[i];
    std::string code(1024, '\0');
    size_t length = 0;
    while (true) {
        const yolor_edge_status status =
            yolor_edge_mask_rle(masks.crops.data() + region.offset, region.width, &region, picture.height,
                                picture.width, &code[0], code.size(), &length);
        if (status != YOLOR_EDGE_TOO_SMALL) {
            check(status);
            break;
        }
        code.resize(length + 1);
    }
    code.resize(length);
    return code;
}

void write_instances(const std::string& path, const Masks& masks, const Picture& picture) {
    // The best box is drawn last, on top; more than 255 do not fit a byte.
    std::vector<uint8_t> instances(static_cast<size_t>(picture.height * picture.width));
    for (size_t i = masks.regions.size(); i-- > 0;) {
        const yolor_edge_region& region = masks.regions[i];
        const uint8_t* crop = masks.crops.data() + region.offset;
        for (int64_t y = 0; y < region.height; ++y) {
            for (int64_t x = 0; x < region.width; ++x) {
                if (*crop++ == 0) continue;
                const int64_t pixel = (region.y0 + y) * picture.width + region.x0 + x;
                instances[static_cast<size_t>(pixel)] = static_cast<uint8_t>(i < 254 ? i + 1 : 255);
            }
        }
    }
    write_pgm(path, instances, picture.height, picture.width);
}

void write_semantic(const std::string& path, const Model& model, const Heads& heads,
                    const yolor_edge_frame& frame) {
    const yolor_edge_head logits =
        head_of(heads, "semantic_logits", model.info.input_height / model.info.semantic_stride,
                model.info.input_width / model.info.semantic_stride);
    std::vector<uint8_t> map(static_cast<size_t>(frame.image_height * frame.image_width));
    check(yolor_edge_semantic_argmax(&logits, &frame, model.info.semantic_stride, 1, map.data()));
    write_pgm(path, map, frame.image_height, frame.image_width);
}

void print_caption(const Model& model, const Heads& heads) {
    const yolor_edge_head memory = head_of(heads, "caption_memory", model.dims.memory, model.dims.width);
    if (memory.channels != 1) throw std::runtime_error("caption_memory does not fit the caption weights");
    yolor_edge_caption_options options;
    check(yolor_edge_bundle_caption_options(model.bundle.get(), &options, sizeof options));
    std::vector<int64_t> tokens(static_cast<size_t>(options.max_length));
    int64_t length = 0;
    double log_prob = 0.0;
    yolor_edge_captions captions;
    check(yolor_edge_captions_init(&captions, sizeof captions));
    captions.capacity = 1;
    captions.token_capacity = options.max_length;
    captions.tokens = tokens.data();
    captions.lengths = &length;
    captions.log_probs = &log_prob;
    check(yolor_edge_caption_write(model.captions.get(), static_cast<const float*>(memory.data), &options,
                                   &captions));
    std::string text(64 * tokens.size() + 1, '\0');
    size_t size = 0;
    check(yolor_edge_bundle_text(model.bundle.get(), tokens.data(), length, &text[0], text.size(), &size));
    text.resize(size);
    std::printf("caption %.9g %s\n", log_prob, text.c_str());
}

int run(const std::string& folder, const std::string& picture_path, const std::string& out,
        const std::string& heads_folder) {
    const Model model = open_model(folder);
    const Picture picture = read_ppm(picture_path);
    const std::vector<float> input = network_input(model, picture);
    Heads heads;
    if (!heads_folder.empty()) {
        heads = heads_from_folder(heads_folder, head_names(model));
    } else if (has_onnxruntime()) {
        const char* graph = yolor_edge_bundle_file(model.bundle.get(), "vision", "fp32");
        if (graph == nullptr) throw std::runtime_error(folder + ": holds no fp32 graph");
        heads = heads_from_onnxruntime(graph, input, static_cast<long>(model.info.input_height),
                                       static_cast<long>(model.info.input_width), head_names(model));
    } else {
        write_floats(out + "/images.f32", input);
        std::printf(
            "wrote %s/images.f32: run the network on it (README.md), then name the folder of its outputs\n",
            out.c_str());
        return 0;
    }
    yolor_edge_frame frame;
    check(yolor_edge_frame_of(picture.height, picture.width, model.info.input_height, model.info.input_width,
                              model.info.rounding, &frame));
    if (has(model, YOLOR_EDGE_BOXES)) {
        Boxes boxes(model.info.max_detections);
        find_boxes(model, heads, frame, &boxes);
        Masks masks;
        if (has(model, YOLOR_EDGE_MASKS)) masks = find_masks(model, heads, frame, boxes);
        for (size_t i = 0; i < static_cast<size_t>(boxes.found.count); ++i) {
            const float* box = boxes.boxes.data() + 4 * i;
            std::printf("box %s %.9g %.9g %.9g %.9g %.9g",
                        yolor_edge_bundle_class_name(model.bundle.get(), boxes.class_ids[i]),
                        static_cast<double>(boxes.scores[i]), static_cast<double>(box[0]),
                        static_cast<double>(box[1]), static_cast<double>(box[2]),
                        static_cast<double>(box[3]));
            std::printf(masks.regions.empty() ? "\n" : " %s\n",
                        masks.regions.empty() ? "" : rle_of(masks, i, picture).c_str());
        }
        if (has(model, YOLOR_EDGE_MASKS)) write_instances(out + "/instances.pgm", masks, picture);
    }
    if (has(model, YOLOR_EDGE_SEMANTIC)) write_semantic(out + "/semantic.pgm", model, heads, frame);
    if (model.captions != nullptr) print_caption(model, heads);
    return 0;
}

}  // namespace

int main(int argument_count, char** arguments) {
    if (argument_count != 4 && argument_count != 5) {
        std::fprintf(stderr, "usage: %s BUNDLE PICTURE.ppm OUT [HEADS]\n", arguments[0]);
        return 2;
    }
    if (yolor_edge_abi_version() != YOLOR_EDGE_ABI_VERSION) {
        std::fprintf(stderr, "built for another version of libyolor_edge than is installed; build again\n");
        return 1;
    }
    try {
        return run(arguments[1], arguments[2], arguments[3], argument_count == 5 ? arguments[4] : "");
    } catch (const std::exception& error) {
        std::fprintf(stderr, "%s\n", error.what());
        return 1;
    }
}
