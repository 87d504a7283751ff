/* The C interface from plain C, for the sanitizers: every function on small inputs in buffers of exactly
 * their length, then thousands of damaged bundles and weight files, none of which may do more than be
 * refused. `make sanitize` builds and runs it. */
#define _POSIX_C_SOURCE 200809L
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "yolor_edge.h"

enum { HEIGHT = 37, WIDTH = 53, INPUT = 64, CELLS = 84, CLASSES = 3, BINS = 4, CHANNELS = 2, MOST = 20 };

static int failures = 0;
static uint32_t dice = 1;

static void check(int is_true, const char* what) {
    if (is_true) return;
    ++failures;
    fprintf(stderr, "c_api: %s (%s)\n", what, yolor_edge_last_error());
}

static uint32_t roll(uint32_t below) {
    dice = dice * 1664525u + 1013904223u;
    return (dice >> 8) % below;
}

static void* some(size_t bytes) {
    void* memory = malloc(bytes > 0 ? bytes : 1);
    if (memory == NULL) abort();
    return memory;
}

static float* floats(size_t count) {
    float* values = some(count * sizeof(float));
    size_t i;
    for (i = 0; i < count; ++i) values[i] = (float)roll(2001) / 200.0f - 5.0f;
    return values;
}

static void letterboxes(void) {
    uint8_t* pixels = some(HEIGHT * WIDTH * 3);
    float* output = some(3 * INPUT * INPUT * sizeof(float));
    yolor_edge_image image;
    yolor_edge_letterbox_options options;
    size_t i;
    for (i = 0; i < HEIGHT * WIDTH * 3; ++i) pixels[i] = (uint8_t)roll(256);
    check(yolor_edge_image_init(&image, sizeof image) == YOLOR_EDGE_OK, "image_init");
    check(yolor_edge_letterbox_options_init(&options, sizeof options) == YOLOR_EDGE_OK, "options_init");
    image.data = pixels;
    image.height = HEIGHT;
    image.width = WIDTH;
    options.input_height = options.input_width = INPUT;
    check(yolor_edge_letterbox(&image, &options, output) == YOLOR_EDGE_OK, "letterbox");
    check(yolor_edge_letterbox_u8(&image, &options, (uint8_t*)output) == YOLOR_EDGE_OK, "letterbox_u8");
    image.data = NULL;
    check(yolor_edge_letterbox(&image, &options, output) == YOLOR_EDGE_INVALID_ARGUMENT, "no data");
    free(pixels);
    free(output);
}

static void answers(void) {
    const int64_t strides[3] = {8, 16, 32};
    float* values[5];
    yolor_edge_head logits, bins, coefficients, prototypes, semantic;
    yolor_edge_grid grid;
    yolor_edge_box_options options;
    yolor_edge_frame frame;
    yolor_edge_detections found = {MOST, 0, NULL, NULL, NULL, NULL};
    yolor_edge_region regions[MOST];
    int64_t bytes = 0, i;
    float* rows;
    uint8_t *crops, *masks, *map;

    values[0] = floats(CLASSES * CELLS);
    values[1] = floats(4 * BINS * CELLS);
    values[2] = floats(CHANNELS * CELLS);
    values[3] = floats(CHANNELS * (INPUT / 4) * (INPUT / 4));
    values[4] = floats(CLASSES * (INPUT / 8) * (INPUT / 8));
    yolor_edge_head_init(&logits, sizeof logits, values[0], CLASSES, 1, CELLS);
    yolor_edge_head_init(&bins, sizeof bins, values[1], 4 * BINS, 1, CELLS);
    yolor_edge_head_init(&coefficients, sizeof coefficients, values[2], CHANNELS, 1, CELLS);
    yolor_edge_head_init(&prototypes, sizeof prototypes, values[3], CHANNELS, INPUT / 4, INPUT / 4);
    yolor_edge_head_init(&semantic, sizeof semantic, values[4], CLASSES, INPUT / 8, INPUT / 8);
    check(yolor_edge_grid_init(&grid, sizeof grid) == YOLOR_EDGE_OK, "grid_init");
    grid.input_height = grid.input_width = INPUT;
    grid.strides = strides;
    grid.stride_count = 3;
    check(yolor_edge_box_options_init(&options, sizeof options) == YOLOR_EDGE_OK, "box_options_init");
    options.max_detections = MOST;
    found.boxes = some(4 * MOST * sizeof(float));
    found.scores = some(MOST * sizeof(float));
    found.class_ids = some(MOST * sizeof(int32_t));
    found.columns = some(MOST * sizeof(int32_t));
    check(yolor_edge_decode_boxes(&logits, &bins, &grid, &options, &found) == YOLOR_EDGE_OK, "decode_boxes");
    check(found.count > 0, "boxes");
    check(yolor_edge_frame_of(HEIGHT, WIDTH, INPUT, INPUT, YOLOR_EDGE_HALF_UP, &frame) == YOLOR_EDGE_OK,
          "frame_of");
    check(yolor_edge_boxes_to_image(&frame, &found) == YOLOR_EDGE_OK, "boxes_to_image");

    rows = some((size_t)(found.count * CHANNELS) * sizeof(float));
    check(yolor_edge_mask_coefficients(&coefficients, found.columns, found.count, rows) == YOLOR_EDGE_OK,
          "rows");
    check(yolor_edge_mask_regions(&frame, found.boxes, found.count, regions, &bytes) == YOLOR_EDGE_OK,
          "regions");
    crops = some((size_t)bytes);
    check(yolor_edge_mask_crops(&prototypes, rows, &frame, regions, found.count, 1, crops, bytes) ==
              YOLOR_EDGE_OK,
          "mask_crops");
    masks = some((size_t)(found.count * HEIGHT * WIDTH));
    check(
        yolor_edge_full_masks(&prototypes, rows, &frame, found.boxes, found.count, 1, masks) == YOLOR_EDGE_OK,
        "full_masks");
    for (i = 0; i < found.count; ++i) {
        size_t length = 0;
        char* code;
        const uint8_t* crop = crops + regions[i].offset;
        check(yolor_edge_mask_rle(crop, regions[i].width, &regions[i], HEIGHT, WIDTH, NULL, 0, &length) ==
                  YOLOR_EDGE_TOO_SMALL,
              "mask_rle without room");
        code = some(length + 1);
        check(yolor_edge_mask_rle(crop, regions[i].width, &regions[i], HEIGHT, WIDTH, code, length + 1,
                                  &length) == YOLOR_EDGE_OK,
              "mask_rle");
        check(strlen(code) == length, "length of a code");
        free(code);
    }
    map = some(HEIGHT * WIDTH);
    check(yolor_edge_semantic_argmax(&semantic, &frame, 8, 1, map) == YOLOR_EDGE_OK, "semantic_argmax");
    for (i = 0; i < 5; ++i) free(values[i]);
    free(found.boxes);
    free(found.scores);
    free(found.class_ids);
    free(found.columns);
    free(rows);
    free(crops);
    free(masks);
    free(map);
}

static void tracks(void) {
    yolor_edge_tracker* tracker = NULL;
    yolor_edge_tracker_options options;
    yolor_edge_tracker_step step;
    yolor_edge_detections found = {MOST, MOST, NULL, NULL, NULL, NULL};
    const double motion[6] = {1, 0, 2, 0, 1, 0};
    int64_t* ids = some(MOST * sizeof(int64_t));
    int frame, i;
    found.boxes = some(4 * MOST * sizeof(float));
    found.scores = some(MOST * sizeof(float));
    found.class_ids = some(MOST * sizeof(int32_t));
    check(yolor_edge_tracker_options_init(&options, sizeof options) == YOLOR_EDGE_OK, "tracker_options_init");
    check(yolor_edge_tracker_step_init(&step, sizeof step) == YOLOR_EDGE_OK, "tracker_step_init");
    options.low_score = 2;
    check(yolor_edge_tracker_open(&options, &tracker) == YOLOR_EDGE_INVALID_ARGUMENT && tracker == NULL,
          "a low_score above high_score");
    check(yolor_edge_tracker_open(NULL, &tracker) == YOLOR_EDGE_OK, "tracker_open");
    step.motion = motion;
    for (frame = 0; frame < 20; ++frame) {
        for (i = 0; i < MOST; ++i) {
            float* box = found.boxes + 4 * i;
            box[0] = (float)(40 * i + 2 * frame);
            box[1] = 5;
            box[2] = box[0] + 30;
            box[3] = 40;
            found.scores[i] = frame % 5 == 4 ? 0.2f : 0.9f;
            found.class_ids[i] = i % 2;
        }
        check(yolor_edge_tracker_update(tracker, &found, frame > 0 ? &step : NULL, ids) == YOLOR_EDGE_OK,
              "tracker_update");
        for (i = 0; i < MOST; ++i) check(ids[i] == i + 1, "an id that stays");
    }
    found.count = 0;
    check(yolor_edge_tracker_update(tracker, &found, NULL, NULL) == YOLOR_EDGE_OK, "nothing found");
    yolor_edge_tracker_close(tracker);
    yolor_edge_tracker_close(NULL);
    free(found.boxes);
    free(found.scores);
    free(found.class_ids);
    free(ids);
}

static void write_file(const char* path, const char* bytes, size_t count) {
    FILE* file = fopen(path, "wb");
    if (file == NULL || fwrite(bytes, 1, count, file) != count) abort();
    fclose(file);
}

static const char kBundle[] =
    "{\"schema_version\": 1, \"model\": {\"name\": \"a\", \"tasks\": [\"boxes\", \"caption\"], "
    "\"preprocess\": "
    "{\"input_size\": [64, 96], \"pad_value\": 114, \"channel_order\": \"RGB\", \"scale\": 0.5}, "
    "\"strides\": [8, 16], "
    "\"box_coding\": \"dfl\", \"score_coding\": \"logits\", \"semantic_stride\": 8, "
    "\"reg_max\": 4, \"class_names\": [\"x\\u00e9\", \"\\ud83d\\ude42\"], \"semantic_names\": [], "
    "\"thresholds\": "
    "{\"score\": 0.25, \"iou\": 0.65, \"max_detections\": 300}, \"caption\": {\"max_length\": 9, \"pad_id\": "
    "0, "
    "\"unk_id\": 1, \"bos_id\": 2, \"eos_id\": 3, \"text\": \"bert\", \"beam_size\": 5, "
    "\"length_penalty\": 0, \"finished\": \"stay\", \"vocabulary\": [\"<pad>\", \"<unk>\", \"<bos>\", "
    "\"<eos>\", \"sea\"]}}, "
    "\"graphs\": {\"vision\": {\"fp32\": \"vision.onnx\"}}, \"caption_weights\": {\"int8\": \"w.bin\"}}";

/* The same with a few bytes changed, cut off or doubled. */
static size_t damaged(const char* text, size_t count, char* to) {
    uint32_t changes = 1 + roll(3);
    memcpy(to, text, count);
    while (changes-- > 0) {
        const size_t at = roll((uint32_t)count);
        switch (roll(3)) {
            case 0:
                to[at] = (char)roll(256);
                break;
            case 1:
                to[at] = "{}[]\",:\\u0123456789eE-+.nullt"[roll(29)];
                break;
            default:
                count = at > 0 ? at : count;
        }
    }
    return count;
}

static void bundles(const char* folder) {
    char path[1024], text[sizeof kBundle], words[8];
    yolor_edge_bundle* bundle = NULL;
    yolor_edge_bundle_info info;
    yolor_edge_caption_options options;
    const int64_t tokens[3] = {2, 4, 3};
    size_t length = 0;
    int i, opened = 0;
    snprintf(path, sizeof path, "%s/bundle.json", folder);
    for (i = 0; i < 1500; ++i) {
        const size_t count = i == 0 ? sizeof kBundle - 1 : damaged(kBundle, sizeof kBundle - 1, text);
        write_file(path, i == 0 ? kBundle : text, count);
        if (yolor_edge_bundle_open(folder, &bundle) != YOLOR_EDGE_OK) {
            check(i > 0 && bundle == NULL && strlen(yolor_edge_last_error()) > 0, "a bundle is refused");
            continue;
        }
        ++opened;
        check(yolor_edge_bundle_describe(bundle, &info, sizeof info) == YOLOR_EDGE_OK, "describe");
        check(yolor_edge_bundle_caption_options(bundle, &options, sizeof options) ==
                  (info.word_count > 0 ? YOLOR_EDGE_OK : YOLOR_EDGE_INVALID_ARGUMENT),
              "caption options");
        check(yolor_edge_bundle_class_name(bundle, info.class_count) == NULL, "no such class");
        check(yolor_edge_bundle_text(bundle, tokens, INT64_MAX, NULL, 0, &length) ==
                  YOLOR_EDGE_INVALID_ARGUMENT,
              "too many tokens");
        if (info.word_count == 5 &&
            yolor_edge_bundle_text(bundle, tokens, 3, words, sizeof words, &length) == YOLOR_EDGE_OK)
            check(strlen(words) == length, "length of a text");
        yolor_edge_bundle_close(bundle);
    }
    check(opened > 20 && opened < 1480, "some damage is harmless, some is not");
}

static void weights(const char* folder) {
    static const char kHeader[] =
        "{\"precision\": \"fp32\", \"norm_epsilon\": 1e-5, \"dims\": {\"vocabulary\": 4, \"width\": 2, "
        "\"layers\": 1, \"heads\": "
        "1, \"feed_forward\": 1, \"hidden\": 1, \"positions\": 3, \"memory\": 1, \"regions\": 0, "
        "\"padding\": 0}, "
        "\"tensors\": {\"words\": "
        "{\"dtype\": "
        "\"float32\", \"shape\": [4, 2], \"offset\": 512}, \"positions\": {\"dtype\": \"float32\", "
        "\"shape\": [3, 2], "
        "\"offset\": 512}}}";
    char path[1024], file[16 + 1024], header[sizeof kHeader];
    yolor_edge_caption_decoder* decoder = NULL;
    int i;
    snprintf(path, sizeof path, "%s/w.bin", folder);
    for (i = 0; i < 800; ++i) {
        const size_t count = damaged(kHeader, sizeof kHeader - 1, header);
        const uint32_t version = 4, said = (uint32_t)count + (roll(8) == 0 ? roll(4000) : 0);
        memset(file, 0, sizeof file);
        memcpy(file, "YECAPTN", 8);
        memcpy(file + 8, &version, 4);
        memcpy(file + 12, &said, 4);
        memcpy(file + 16, header, count);
        write_file(path, file, 16 + roll(sizeof file - 16));
        check(yolor_edge_caption_decoder_open(path, NULL, &decoder) == YOLOR_EDGE_BAD_FILE && decoder == NULL,
              "weights are refused");
    }
}

enum { WORDS = 5, DEPTH = 2, POSITIONS = 4, MEMORY = 3, BLOCK = 16, TENSORS = 8192 };

static void add_tensor(char* header, const char* name, const char* part, int count) {
    const size_t at = strlen(header);
    snprintf(header + at, TENSORS - 16 - at,
             "%s\"%s%s\": {\"dtype\": \"float32\", \"shape\": [%d], \"offset\": %d}",
             header[at - 1] == '{' ? "" : ", ", name, part, count, TENSORS);
}

/* Weights of a decoder whose tensors all lie at the same place. */
static void write_weights(const char* path, int regions) {
    static const char* const kNorms[] = {"norm",
                                         "memory_norm",
                                         "layers.0.norms.0",
                                         "layers.0.norms.1",
                                         "layers.0.norms.2",
                                         "layers.0.region_norm"};
    static const struct {
        const char* name;
        int inputs;
    } kLinears[] = {{"layers.0.self_attention.in", DEPTH},
                    {"layers.0.self_attention.output", DEPTH},
                    {"layers.0.cross_attention.query", DEPTH},
                    {"layers.0.cross_attention.key", DEPTH},
                    {"layers.0.cross_attention.value", DEPTH},
                    {"layers.0.cross_attention.output", DEPTH},
                    {"layers.0.region_attention.query", DEPTH},
                    {"layers.0.region_attention.key", DEPTH},
                    {"layers.0.region_attention.value", DEPTH},
                    {"layers.0.region_attention.output", DEPTH},
                    {"layers.0.gate", 2 * DEPTH},
                    {"layers.0.feed_forward.in", DEPTH},
                    {"layers.0.feed_forward.out", 1},
                    {"output.0", DEPTH}};
    const size_t largest = 2 * DEPTH * BLOCK * sizeof(float);
    const uint32_t version = 4;
    char file[TENSORS + 2 * DEPTH * BLOCK * sizeof(float)] = "YECAPTN";
    char* header = file + 16;
    float* values = floats(largest / sizeof(float));
    uint32_t length;
    size_t i;
    snprintf(header, TENSORS - 16,
             "{\"precision\": \"fp32\", \"norm_epsilon\": 1e-5, \"dims\": {\"vocabulary\": %d, \"width\": "
             "%d, \"layers\": 1, \"heads\": 1, \"feed_forward\": 1, \"hidden\": 0, \"positions\": %d, "
             "\"memory\": %d, \"regions\": %d, \"padding\": 0}, \"tensors\": {",
             WORDS, DEPTH, POSITIONS, MEMORY, regions);
    add_tensor(header, "words", "", WORDS * DEPTH);
    add_tensor(header, "positions", "", POSITIONS * DEPTH);
    add_tensor(header, "memory_positions", "", MEMORY * DEPTH);
    for (i = 0; i < sizeof kNorms / sizeof *kNorms; ++i) {
        add_tensor(header, kNorms[i], ".weight", DEPTH);
        add_tensor(header, kNorms[i], ".bias", DEPTH);
    }
    for (i = 0; i < sizeof kLinears / sizeof *kLinears; ++i) {
        add_tensor(header, kLinears[i].name, ".weight", kLinears[i].inputs * BLOCK);
        add_tensor(header, kLinears[i].name, ".bias", BLOCK);
    }
    strcat(header, "}}");
    length = (uint32_t)strlen(header);
    memcpy(file + 8, &version, 4);
    memcpy(file + 12, &length, 4);
    memcpy(file + TENSORS, values, largest);
    write_file(path, file, sizeof file);
    free(values);
}

/* Sentences, and numbers that are refused before anything is done with them. */
static void captions(const char* folder, int regions) {
    static const int64_t kFar[] = {
        -1, INT64_MIN, WORDS, (int64_t)1 << 31, (int64_t)1 << 32, INT64_MAX, (int64_t)1 << 62, INT64_MAX - 1};
    char path[1024];
    yolor_edge_caption_decoder* decoder = NULL;
    yolor_edge_caption_options options;
    yolor_edge_captions found;
    float* memory = floats(MEMORY * DEPTH);
    float* log_probs = some(2 * WORDS * sizeof(float));
    int64_t* forbidden = some(sizeof(int64_t));
    int64_t tokens[2] = {2, 4};
    size_t i, k;
    snprintf(path, sizeof path, "%s/w.bin", folder);
    write_weights(path, regions);
    check(yolor_edge_caption_decoder_open(path, NULL, &decoder) == YOLOR_EDGE_OK, "decoder_open");
    check(yolor_edge_caption_options_init(&options, sizeof options) == YOLOR_EDGE_OK, "options_init");
    check(yolor_edge_captions_init(&found, sizeof found) == YOLOR_EDGE_OK, "captions_init");
    found.capacity = 2;
    found.token_capacity = POSITIONS;
    found.tokens = some(2 * POSITIONS * sizeof(int64_t));
    found.lengths = some(2 * sizeof(int64_t));
    options.forbidden = forbidden;
    options.min_length = POSITIONS;
    check(yolor_edge_caption_write(decoder, memory, &options, &found) == YOLOR_EDGE_OK && found.count == 2 &&
              found.lengths[0] == POSITIONS,
          "caption_write");
    check(yolor_edge_caption_log_probs(decoder, memory, tokens, 2, log_probs) == YOLOR_EDGE_OK, "log_probs");
    options.keeps_finished = 1;
    options.min_length = 0;
    check(yolor_edge_caption_write(decoder, memory, &options, &found) == YOLOR_EDGE_OK && found.count == 2,
          "caption_write that keeps what is finished");
    options.keeps_finished = 0;
    options.min_length = POSITIONS;
    options.no_repeat_ngram = options.top_k = INT64_MAX;
    options.temperature = 1.0;
    check(yolor_edge_caption_write(decoder, memory, &options, &found) == YOLOR_EDGE_OK, "no such run");
    for (i = 0; i < sizeof kFar / sizeof *kFar; ++i) {
        int64_t* const fields[] = {&options.bos_id,         &options.eos_id,     &options.pad_id,
                                   &options.max_length,     &options.min_length, &options.beam_size,
                                   &options.forbidden_count};
        for (k = 0; k < sizeof fields / sizeof *fields; ++k) {
            const int64_t before = *fields[k];
            if (k >= 5 && kFar[i] == WORDS) continue; /* which may be as many */
            *fields[k] = kFar[i];
            check(yolor_edge_caption_write(decoder, memory, &options, &found) == YOLOR_EDGE_INVALID_ARGUMENT,
                  "an option is refused");
            *fields[k] = before;
        }
        options.forbidden_count = 1;
        *forbidden = kFar[i];
        check(yolor_edge_caption_write(decoder, memory, &options, &found) == YOLOR_EDGE_INVALID_ARGUMENT,
              "a forbidden word is refused");
        options.forbidden_count = 0;
        check(yolor_edge_caption_log_probs(decoder, memory, tokens, kFar[i], log_probs) ==
                  YOLOR_EDGE_INVALID_ARGUMENT,
              "a count is refused");
        tokens[1] = kFar[i];
        check(yolor_edge_caption_log_probs(decoder, memory, tokens, 2, log_probs) ==
                  YOLOR_EDGE_INVALID_ARGUMENT,
              "a token is refused");
        tokens[1] = 4;
    }
    found.token_capacity = INT64_MAX;
    check(yolor_edge_caption_write(decoder, memory, &options, &found) == YOLOR_EDGE_INVALID_ARGUMENT,
          "room that there cannot be");
    yolor_edge_caption_decoder_close(decoder);
    free(memory);
    free(log_probs);
    free(forbidden);
    free(found.tokens);
    free(found.lengths);
}

int main(void) {
    char folder[] = "/tmp/yolor-edge-XXXXXX", path[64];
    if (mkdtemp(folder) == NULL) abort();
    check(yolor_edge_abi_version() == YOLOR_EDGE_ABI_VERSION, "version");
    letterboxes();
    answers();
    tracks();
    bundles(folder);
    weights(folder);
    captions(folder, 0);
    captions(folder, 1);
    yolor_edge_bundle_close(NULL);
    yolor_edge_caption_decoder_close(NULL);
    snprintf(path, sizeof path, "%s/bundle.json", folder);
    remove(path);
    snprintf(path, sizeof path, "%s/w.bin", folder);
    remove(path);
    rmdir(folder);
    puts(failures == 0 ? "c_api: all as it should be" : "c_api: FAILED");
    return failures == 0 ? 0 : 1;
}
