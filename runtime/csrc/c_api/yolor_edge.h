/* yolor-edge without Python: from a camera's bytes to the network's input, and from the network's raw outputs
 * to boxes, masks, a semantic map and a caption. The network itself runs in whatever you like: TensorRT, ONNX
 * Runtime, OpenVINO.
 *
 *     yolor_edge_bundle *bundle;                               what the model is: sizes, names, words
 *     yolor_edge_caption_decoder *decoder;
 *     yolor_edge_bundle_open("bundles/demo", &bundle);
 *     yolor_edge_caption_decoder_open(
 *         yolor_edge_bundle_file(bundle, "caption_weights", "int8"), NULL, &decoder);
 *     for every image
 *         yolor_edge_frame_of(...)                             where the image lies in the input
 *         yolor_edge_letterbox(...)                            bytes -> input
 *         (run the network)
 *         yolor_edge_decode_boxes(...)                         boxes in pixels of the input
 *         yolor_edge_boxes_to_image(...)                       boxes in pixels of the image
 *         yolor_edge_tracker_update(...)                       numbers that stay with their objects
 *         yolor_edge_mask_coefficients, _mask_regions, _mask_crops or _full_masks, _mask_rle
 *         yolor_edge_semantic_argmax(...)
 *         yolor_edge_caption_write(...), yolor_edge_bundle_text(...)
 *
 * examples/cpp/main.cpp is such a program.
 *
 * Build. `make library` makes build/libyolor_edge.so and build/libyolor_edge.a. Link a C program with
 * `-lyolor_edge -lstdc++ -lm -lpthread` where you take the archive.
 *
 * Errors. Functions that can fail return a yolor_edge_status, 0 for success; yolor_edge_last_error() then
 * says in one line what was wrong and what to do. No exception leaves the library and nothing is printed.
 * After a failure, outputs hold nothing of use, except where it is said.
 *
 * Memory. What is passed in stays the caller's and is not kept after the call, outputs are memory of the
 * caller's too; only what `_open` returns belongs to the library, until `_close`. Inputs and outputs must not
 * overlap. Arrays are row-major. Float data must be aligned as its type asks for.
 *
 * Threads. Every function may be called from any number of threads at once, on the same bundle and the same
 * decoder too, as long as no output is shared and nothing is closed meanwhile. Exceptions: a tracker is for
 * one thread at a time, and yolor_edge_set_simd_level() is for all threads.
 *
 * Same answers. Every function gives the bits that the Python module gives, at every instruction set, short
 * of the last digits of captions' log-probabilities, which depend on the instruction set (not on the number
 * of threads).
 *
 * Growing. A struct that begins with `size` is filled by its `_init` function, called with `sizeof` the
 * struct, and changed after that. Later versions of the library may add fields at the end; programs built
 * before go on working with a later library of the same YOLOR_EDGE_ABI_VERSION, and programs built later with
 * this one as long as what they add is 0. Structs without `size` stay as they are.
 *
 * Units. Sizes are in pixels, (height, width); boxes are x1, y1, x2, y2. "The input" is the network's, "the
 * image" what came from the camera.
 */
#ifndef YOLOR_EDGE_H
#define YOLOR_EDGE_H

#include <stddef.h>
#include <stdint.h>

#define YOLOR_EDGE_VERSION "0.1.0"
#define YOLOR_EDGE_ABI_VERSION 1

#if defined(__GNUC__)
#define YOLOR_EDGE_API __attribute__((visibility("default")))
#else
#define YOLOR_EDGE_API
#endif

#ifdef __cplusplus
extern "C" {
#endif

typedef int32_t yolor_edge_status;

enum {
    YOLOR_EDGE_OK = 0,
    YOLOR_EDGE_INVALID_ARGUMENT = 1, /* an argument is out of its range; a mistake in the calling program */
    YOLOR_EDGE_BAD_FILE = 2,         /* a file is missing, cannot be read, or is not what it should be */
    YOLOR_EDGE_TOO_SMALL = 3,        /* an output does not hold the answer; see the function */
    YOLOR_EDGE_OUT_OF_MEMORY = 4,
    YOLOR_EDGE_INTERNAL = 5 /* a mistake in this library */
};

/* ---- The library ------------------------------------------------------------------------------------- */

/* Version of the library that was linked, as YOLOR_EDGE_VERSION of its header; lives forever. */
YOLOR_EDGE_API const char* yolor_edge_version(void);

/* YOLOR_EDGE_ABI_VERSION of the library that was linked. A program checks that it is its header's. */
YOLOR_EDGE_API int32_t yolor_edge_abi_version(void);

/* What went wrong in the last call on this thread that failed, in one line without an end; "" if none has. It
 * lives until the next call on this thread fails. */
YOLOR_EDGE_API const char* yolor_edge_last_error(void);

/* Vector instructions in use by the kernels, "portable", "avx2" or "avx512"; lives forever. The best there
 * are, or those that the environment variable YOLOR_EDGE_SIMD names. Results do not depend on it. Where it
 * names none that this processor has, every other function that returns a status fails with INVALID_ARGUMENT,
 * until yolor_edge_set_simd_level has named some. */
YOLOR_EDGE_API const char* yolor_edge_simd_level(void);

/* Use others, in all threads; for tests. Fails with INVALID_ARGUMENT if this processor lacks them. */
YOLOR_EDGE_API yolor_edge_status yolor_edge_set_simd_level(const char* name);

/* ---- Images ---------------------------------------------------------------------------------------- */

enum {
    YOLOR_EDGE_INTERLEAVED = 0, /* 3 bytes a pixel, B G R as cameras and OpenCV give them, or 1 byte, grey */
    YOLOR_EDGE_NV12 = 1, /* rows of Y, then half as many rows of U and V alternating, all at one row_stride,
                            which cannot be negative; both sizes even */
    YOLOR_EDGE_YUYV = 2  /* Y U Y V for two pixels; width even */
};

/* An 8-bit image as it lies in memory. Sizes 1 to 1048576. YUV is BT.601 in its narrow range. */
typedef struct yolor_edge_image {
    size_t size;
    const uint8_t* data;    /* the first pixel of the top row */
    int64_t height;         /* in pixels, whatever the layout */
    int64_t width;          /* in pixels */
    int64_t channels;       /* of INTERLEAVED: 3 or 1 */
    int64_t layout;         /* YOLOR_EDGE_INTERLEAVED by default */
    int64_t row_stride;     /* bytes from row to row, may be negative; 0: rows are packed */
    int64_t pixel_stride;   /* of INTERLEAVED, bytes from pixel to pixel; 0: `channels` */
    int64_t channel_stride; /* of INTERLEAVED, bytes from channel to channel; 0: 1 */
} yolor_edge_image;

/* Zeros, and 3 channels. `size` is sizeof(yolor_edge_image). */
YOLOR_EDGE_API yolor_edge_status yolor_edge_image_init(yolor_edge_image* image, size_t size);

/* Where an image lies in the input: x_input = x_image * scale_x + pad_left, and so for y. */
typedef struct yolor_edge_frame {
    int64_t image_height;
    int64_t image_width;
    int64_t input_height;
    int64_t input_width;
    double scale_y; /* resized height / image_height, exactly */
    double scale_x;
    int64_t pad_top;
    int64_t pad_left;
} yolor_edge_frame;

/* Where a length of the resized image goes that ends on half a pixel; a bundle says what its network takes.
 */
enum { YOLOR_EDGE_HALF_UP = 0, YOLOR_EDGE_HALF_EVEN = 1 };

/* The image in the middle of the input, as large as fits, its shape kept. All sizes 1 to 1048576.
 *   rounding  YOLOR_EDGE_HALF_UP or YOLOR_EDGE_HALF_EVEN, as in the letterbox's options */
YOLOR_EDGE_API yolor_edge_status yolor_edge_frame_of(int64_t image_height, int64_t image_width,
                                                     int64_t input_height, int64_t input_width,
                                                     int64_t rounding, yolor_edge_frame* frame);

typedef struct yolor_edge_letterbox_options {
    size_t size;
    int64_t input_height; /* no default: 0 */
    int64_t input_width;
    int64_t pad_value; /* byte around the image, 0 to 255; 114 */
    int64_t swap_rb;   /* whether B G R becomes R G B; 1 */
    double scale;      /* every byte is multiplied by it; 1 / 255. Not for letterbox_u8 */
    int64_t threads;   /* at most, at least 1; 1 */
    int64_t rounding;  /* YOLOR_EDGE_HALF_UP */
} yolor_edge_letterbox_options;

YOLOR_EDGE_API yolor_edge_status yolor_edge_letterbox_options_init(yolor_edge_letterbox_options* options,
                                                                   size_t size);

/* Resize, pad, order and scale in one pass, by the rule the network was trained with: bilinear at half-pixel
 * centres, in whole numbers.
 *   output  (3, input_height, input_width) float, out; grey is repeated in all three channels */
YOLOR_EDGE_API yolor_edge_status yolor_edge_letterbox(const yolor_edge_image* image,
                                                      const yolor_edge_letterbox_options* options,
                                                      float* output);

/* The same as bytes, of INTERLEAVED images.
 *   output  (input_height, input_width, 3) bytes, out */
YOLOR_EDGE_API yolor_edge_status yolor_edge_letterbox_u8(const yolor_edge_image* image,
                                                         const yolor_edge_letterbox_options* options,
                                                         uint8_t* output);

/* ---- Heads: outputs of the network -------------------------------------------------------------------- */

enum { YOLOR_EDGE_FLOAT32 = 0, YOLOR_EDGE_FLOAT16 = 1, YOLOR_EDGE_UINT8 = 2, YOLOR_EDGE_INT8 = 3 };

/* One output for one image, (channels, rows, columns); a head over cells has one row. Worked on in float:
 * float16 widened, which is exact, bytes as (byte - zero_point) * scale. */
typedef struct yolor_edge_head {
    size_t size;
    const void* data;
    int64_t dtype; /* YOLOR_EDGE_FLOAT32 by default */
    int64_t channels;
    int64_t rows;
    int64_t columns;
    int64_t channel_stride; /* in elements; packed by default. Any, negative or 0 too */
    int64_t row_stride;
    int64_t column_stride;
    double scale;       /* of bytes: above 0; 1 */
    int64_t zero_point; /* of bytes, -128 to 255; 0 */
} yolor_edge_head;

/* Packed floats of this shape. Each length at least 1. */
YOLOR_EDGE_API yolor_edge_status yolor_edge_head_init(yolor_edge_head* head, size_t size, const void* data,
                                                      int64_t channels, int64_t rows, int64_t columns);

/* ---- Boxes ------------------------------------------------------------------------------------------- */

/* What the box head says, N columns of it:
 *   DFL   (4 * bins, 1, N) logits of distributions over the distances, sides left, top, right, bottom; a
 *         distance is the expectation of the bin number under softmax
 *   LTRB  (4, 1, N) the distances from the cell's centre, in strides like those of DFL
 *   XYXY  (4, 1, N) corners in pixels of the input, of any number of boxes */
enum { YOLOR_EDGE_DFL = 0, YOLOR_EDGE_LTRB = 1, YOLOR_EDGE_XYXY = 2 };

/* What the score head says: numbers before the sigmoid, or scores as they come out. */
enum { YOLOR_EDGE_LOGITS = 0, YOLOR_EDGE_PROBABILITIES = 1 };

/* What the box heads hold, and what their columns are of. */
typedef struct yolor_edge_grid {
    size_t size;
    int64_t input_height; /* divisible by every stride */
    int64_t input_width;
    const int64_t* strides; /* (stride_count,); cells are numbered level by level in this order, row by row */
    int64_t stride_count;
    const int32_t* cells; /* (cell_count,) the cell each column is of, from a graph that keeps the best ones;
                             NULL where the columns are all cells. Ties go by column: hand the columns over in
                             the order of their cells to get what the graph without it gives */
    int64_t cell_count;
    int64_t box_coding;   /* YOLOR_EDGE_DFL */
    int64_t score_coding; /* YOLOR_EDGE_LOGITS */
    int64_t box_count; /* of YOLOR_EDGE_XYXY: boxes of an image before any were chosen, at least 1; else 0 */
} yolor_edge_grid;

/* Zeros. */
YOLOR_EDGE_API yolor_edge_status yolor_edge_grid_init(yolor_edge_grid* grid, size_t size);

typedef struct yolor_edge_box_options {
    size_t size;
    double score_threshold; /* strictly above; 0.25. At or below 0 all pass, at or above 1 none */
    double iou_threshold;   /* of two boxes that overlap strictly more, the lower-scored goes; 0 to 1; 0.65 */
    int64_t max_detections; /* at least 0; 300 */
    int64_t max_candidates; /* (cell, class) pairs looked at, the best ones; at least 0; 30000 */
    int64_t class_agnostic; /* whether boxes of different classes suppress each other; 0 */
    int64_t threads;        /* at most, at least 1; 1 */
} yolor_edge_box_options;

YOLOR_EDGE_API yolor_edge_status yolor_edge_box_options_init(yolor_edge_box_options* options, size_t size);

/* Boxes by falling score, in arrays of the caller's with room for `capacity` of them. */
typedef struct yolor_edge_detections {
    int64_t capacity;
    int64_t count;      /* out */
    float* boxes;       /* (capacity, 4) x1, y1, x2, y2 */
    float* scores;      /* (capacity,) */
    int32_t* class_ids; /* (capacity,) */
    int32_t* columns;   /* (capacity,) the column of the heads, to find mask coefficients by */
} yolor_edge_detections;

/* Threshold, distances, order and suppression of the raw heads of one image.
 *   scores      (classes, 1, N), N the number of columns of the grid; fewer than 2^31 values
 *   boxes       (4 * bins, 1, N) or (4, 1, N), as the grid's box_coding says
 *   options     NULL for the defaults
 *   detections  capacity at least max_detections; boxes in pixels of the input, not clipped
 * A cell may give several boxes, of several classes. Equal scores: lower class first, then lower column.
 * Where a score is NaN or a box not finite, the pair is left out. */
YOLOR_EDGE_API yolor_edge_status yolor_edge_decode_boxes(const yolor_edge_head* scores,
                                                         const yolor_edge_head* boxes,
                                                         const yolor_edge_grid* grid,
                                                         const yolor_edge_box_options* options,
                                                         yolor_edge_detections* detections);

/* From pixels of the input to those of the image, in place: moved, clipped to the image, and those of
 * which nothing is left removed, the others moving up. */
YOLOR_EDGE_API yolor_edge_status yolor_edge_boxes_to_image(const yolor_edge_frame* frame,
                                                           yolor_edge_detections* detections);

/* Suppression alone, of n boxes in any order.
 *   boxes      (n, 4); those not finite, or with a score of NaN, are left out
 *   scores     (n,)
 *   class_ids  (n,)
 *   options    NULL for the defaults; iou_threshold, max_detections and class_agnostic count
 *   keep       (min(n, max_detections),) out: indices by falling score, equal ones by rising index
 *   count      out: how many */
YOLOR_EDGE_API yolor_edge_status yolor_edge_nms(const float* boxes, const float* scores,
                                                const int32_t* class_ids, int64_t n,
                                                const yolor_edge_box_options* options, int32_t* keep,
                                                int64_t* count);

/* ---- Masks ------------------------------------------------------------------------------------------- */

#define YOLOR_EDGE_MASK_STRIDE 4 /* input pixels per prototype */

/* The rectangle of the image that a mask lies in; height and width are both 0 where the box is empty. */
typedef struct yolor_edge_region {
    int64_t y0;
    int64_t x0;
    int64_t height;
    int64_t width;
    int64_t offset; /* where its crop begins among those of all masks, in bytes */
} yolor_edge_region;

/* One row of coefficients per detection.
 *   coefficients  (K, 1, N)
 *   columns       (n,) of the detections
 *   rows          (n, K) out */
YOLOR_EDGE_API yolor_edge_status yolor_edge_mask_coefficients(const yolor_edge_head* coefficients,
                                                              const int32_t* columns, int64_t n, float* rows);

/* The pixels of the image whose centres lie inside each box.
 *   boxes    (n, 4) in pixels of the image
 *   regions  (n,) out
 *   bytes    out: what all crops take together; each begins where the one before ends */
YOLOR_EDGE_API yolor_edge_status yolor_edge_mask_regions(const yolor_edge_frame* frame, const float* boxes,
                                                         int64_t n, yolor_edge_region* regions,
                                                         int64_t* bytes);

/* Masks inside their boxes.
 *   prototypes  (K, h, w)
 *   rows        (n, K) coefficients
 *   regions     (n,) inside the image, crops inside `bytes`
 *   threads     at most, at least 1
 *   crops       (bytes,) out: the crop of mask i is (regions[i].height, regions[i].width) bytes of 0 and 1
 *               from regions[i].offset on; what lies outside a crop is 0
 * TOO_SMALL where a crop exceeds `bytes`. */
YOLOR_EDGE_API yolor_edge_status yolor_edge_mask_crops(const yolor_edge_head* prototypes, const float* rows,
                                                       const yolor_edge_frame* frame,
                                                       const yolor_edge_region* regions, int64_t n,
                                                       int64_t threads, uint8_t* crops, int64_t bytes);

/* The same at the size of the image.
 *   boxes  (n, 4) in pixels of the image
 *   masks  (n, image_height, image_width) bytes out, of 0 and 1 */
YOLOR_EDGE_API yolor_edge_status yolor_edge_full_masks(const yolor_edge_head* prototypes, const float* rows,
                                                       const yolor_edge_frame* frame, const float* boxes,
                                                       int64_t n, int64_t threads, uint8_t* masks);

/* COCO's compressed run-length code of a mask, with a 0 at its end.
 *   crop        of the region, (region->height, region->width) zero or not; region->offset is not added
 *   row_stride  bytes from row to row of the crop
 *   code        (capacity,) out; may be NULL where capacity is 0
 *   length      out: of the code without the 0. Where capacity is below length + 1, TOO_SMALL, and
 *               length says what it takes */
YOLOR_EDGE_API yolor_edge_status yolor_edge_mask_rle(const uint8_t* crop, int64_t row_stride,
                                                     const yolor_edge_region* region, int64_t image_height,
                                                     int64_t image_width, char* code, size_t capacity,
                                                     size_t* length);

/* ---- Tracking ---------------------------------------------------------------------------------------- */

/* Gives objects a number that stays the same from frame to frame (ByteTrack's association): one for each
 * camera. One thread at a time may use it. */
typedef struct yolor_edge_tracker yolor_edge_tracker;

typedef struct yolor_edge_tracker_options {
    size_t size;
    double high_score; /* boxes from here on are matched with tracks first; 0 to 1; 0.5 */
    double low_score;  /* boxes from here on go on with tracks left over then; 0 to high_score; 0.1 */
    double new_score;  /* boxes from here on begin tracks; high_score to 1; 0.6 */
    double overlap; /* IoU that a box has with its track at least; times its score where that is high; 0.2 */
    int64_t confirm_frames; /* frames in a row that an object is seen before it has a number; at least 1; 2 */
    double lost_frames;     /* frames that a track lives unseen; 0 to 1e9; 30 */
    double lost_seconds;    /* above 0: seconds instead; 0 */
    int64_t class_agnostic; /* whether a track may change its class; 0 */
} yolor_edge_tracker_options;

YOLOR_EDGE_API yolor_edge_status yolor_edge_tracker_options_init(yolor_edge_tracker_options* options,
                                                                 size_t size);

/* A tracker that has seen nothing.
 *   options  NULL for the defaults
 *   tracker  out; NULL after a failure */
YOLOR_EDGE_API yolor_edge_status yolor_edge_tracker_open(const yolor_edge_tracker_options* options,
                                                         yolor_edge_tracker** tracker);

/* Free it; NULL is fine. */
YOLOR_EDGE_API void yolor_edge_tracker_close(yolor_edge_tracker* tracker);

/* What happened since the update before. */
typedef struct yolor_edge_tracker_step {
    size_t size;
    double frames;        /* 1, and those that were left out between; 0 to 1e9; 1 */
    double seconds;       /* for lost_seconds; 0 to 1e9; 0 */
    const double* motion; /* (2, 3) where what was at (x, y, 1) of the image before is in this one, where the
                             camera moves; NULL */
} yolor_edge_tracker_step;

YOLOR_EDGE_API yolor_edge_status yolor_edge_tracker_step_init(yolor_edge_tracker_step* step, size_t size);

/* Take the objects of the next frame. Hand over all from `low_score` on: weak ones can go on with tracks.
 *   detections  boxes in pixels of the image; `columns` is not looked at and may be NULL
 *   step        NULL for the defaults
 *   track_ids   (detections->count,) out: the number of each object's track, from 1 on, or -1 for none */
YOLOR_EDGE_API yolor_edge_status yolor_edge_tracker_update(yolor_edge_tracker* tracker,
                                                           const yolor_edge_detections* detections,
                                                           const yolor_edge_tracker_step* step,
                                                           int64_t* track_ids);

/* ---- Semantic map ------------------------------------------------------------------------------------ */

/* Logits interpolated to every pixel of the image, and the class that is highest there, exactly.
 *   logits   (classes, h, w), 1 to 256 classes. NaN counts as lowest
 *   stride   input pixels per cell of the semantic head, as the bundle says
 *   threads  at most, at least 1
 *   map      (image_height, image_width) bytes out; ties go to the lower class */
YOLOR_EDGE_API yolor_edge_status yolor_edge_semantic_argmax(const yolor_edge_head* logits,
                                                            const yolor_edge_frame* frame, int64_t stride,
                                                            int64_t threads, uint8_t* map);

/* Of a graph that answers with the map itself, (input_height, input_width) bytes: cut and resized to the
 * image, each pixel with the value its centre falls on.
 *   map  (image_height, image_width) bytes out */
YOLOR_EDGE_API yolor_edge_status yolor_edge_map_to_image(const uint8_t* input_map,
                                                         const yolor_edge_frame* frame, uint8_t* map);

/* ---- Captions ---------------------------------------------------------------------------------------- */

/* Writes sentences from the network's `caption_memory`, on the CPU, from weights mapped into memory:
 * processes that open the same file share them. */
typedef struct yolor_edge_caption_decoder yolor_edge_caption_decoder;

/* Open a file of caption weights.
 *   path     "caption.fp32.bin" or "caption.int8.bin" of a bundle; see yolor_edge_bundle_file
 *   kernels  instructions: "portable", "neon", "neondot", "avx2", "avxvnni", "avx512" or "avx512vnni"; NULL
 * for the best of the level in use; see yolor_edge_simd_level decoder  out; NULL after a failure BAD_FILE
 * where it is none, is of another version, or not whole. The file must stay unchanged while open. */
YOLOR_EDGE_API yolor_edge_status yolor_edge_caption_decoder_open(const char* path, const char* kernels,
                                                                 yolor_edge_caption_decoder** decoder);

/* Free it; NULL is fine. */
YOLOR_EDGE_API void yolor_edge_caption_decoder_close(yolor_edge_caption_decoder* decoder);

typedef struct yolor_edge_caption_dims {
    size_t size;
    int64_t vocabulary; /* words it chooses from */
    int64_t positions;  /* tokens of a sentence at most, its end included */
    int64_t memory;     /* L: vectors of an image */
    int64_t width;      /* D: of a vector */
    int64_t layers;
    int64_t heads;
    int64_t feed_forward;
    int64_t hidden;  /* width of the two layers before the last one; 0 where the last one is alone */
    int64_t is_int8; /* 1 for int8 weights, 0 for float */
    int64_t regions; /* the last so many of the L vectors are regions of the image; 0: plain layers */
    int64_t padding; /* the word that layers with regions mask */
} yolor_edge_caption_dims;

/* `size` is sizeof(yolor_edge_caption_dims); all else is out. */
YOLOR_EDGE_API yolor_edge_status yolor_edge_caption_decoder_dims(const yolor_edge_caption_decoder* decoder,
                                                                 yolor_edge_caption_dims* dims, size_t size);

/* Instructions in use; lives forever. */
YOLOR_EDGE_API const char* yolor_edge_caption_decoder_kernels(const yolor_edge_caption_decoder* decoder);

typedef struct yolor_edge_caption_options {
    size_t size;
    int64_t beam_size;         /* sentences kept at every step, 1 to the vocabulary, 4096 at most; 1 is
                                  greedy; 3 */
    int64_t max_length;        /* tokens at most, the end included; 0, the default: the decoder's positions */
    int64_t bos_id;            /* begins a sentence; 2. All tokens are at least 0 and below the vocabulary */
    int64_t eos_id;            /* ends one; 3 */
    int64_t pad_id;            /* 0 */
    double length_penalty;     /* score = log_prob / length ^ length_penalty; at least 0; 1 */
    int64_t min_length;        /* tokens before the end, at most max_length; 0 */
    const int64_t* forbidden;  /* (forbidden_count,) tokens never written beside bos and pad; Python's forbid
                                  the unknown word, 1, as well. NULL */
    int64_t forbidden_count;   /* at most the vocabulary; 0 */
    double repetition_penalty; /* factor of the log-probability of a word written already; at least 1; 1 */
    int64_t no_repeat_ngram;   /* no run of so many words comes twice; 0: allowed */
    double temperature;        /* above 0, sentences are drawn rather than searched for; 0 */
    int64_t top_k;             /* words drawn from, the likeliest; 0: all */
    uint64_t seed;             /* of the drawing; 0 */
    double budget_ms;          /* no word is begun that would likely end later than this after the call; the
                                  best sentence so far is the answer then. Negative, the default: no budget */
    int64_t keeps_finished;    /* 1: a sentence that has ended keeps its place in the beam at no further cost,
                                  the search goes on for max_length tokens, and no token is forbidden but those
                                  of `forbidden`; 0 */
} yolor_edge_caption_options;

YOLOR_EDGE_API yolor_edge_status yolor_edge_caption_options_init(yolor_edge_caption_options* options,
                                                                 size_t size);

/* Sentences, the best first, in arrays of the caller's. */
typedef struct yolor_edge_captions {
    size_t size;
    int64_t capacity;       /* sentences there is room for, 1 to 2^40; no more are given. In */
    int64_t token_capacity; /* tokens each has room for, max_length to 2^40. In */
    int64_t* tokens;        /* (capacity, token_capacity) without begin and end */
    int64_t* lengths;       /* (capacity,) tokens of each */
    double* log_probs;      /* (capacity,) natural logarithm of the sentence's probability, or NULL */
    double* scores;         /* (capacity,) what they are ranked by, or NULL */
    int64_t count;          /* out: sentences given, at least 1 */
    int64_t first_token_ns; /* out: time to the first token's choice, and of all later ones */
    int64_t later_ns;
    int64_t runs;   /* out: of the decoder, one a token */
    int64_t is_cut; /* out: the budget ended it */
} yolor_edge_captions;

/* Zeros. */
YOLOR_EDGE_API yolor_edge_status yolor_edge_captions_init(yolor_edge_captions* captions, size_t size);

/* Sentences about one image, on the calling thread.
 *   memory   (L, D) float
 *   options  NULL for the defaults
 * Where no log-probability is a number, one sentence of no tokens. TOO_SMALL where token_capacity is below
 * max_length. */
YOLOR_EDGE_API yolor_edge_status yolor_edge_caption_write(const yolor_edge_caption_decoder* decoder,
                                                          const float* memory,
                                                          const yolor_edge_caption_options* options,
                                                          yolor_edge_captions* captions);

/* Log-probabilities of the word after each token, for judging sentences.
 *   memory     (L, D) float
 *   tokens     (count,) from bos on; at most the decoder's positions
 *   log_probs  (count, vocabulary) float, out */
YOLOR_EDGE_API yolor_edge_status yolor_edge_caption_log_probs(const yolor_edge_caption_decoder* decoder,
                                                              const float* memory, const int64_t* tokens,
                                                              int64_t count, float* log_probs);

/* ---- Bundles ----------------------------------------------------------------------------------------- */

/* A folder as `yolor-edge export` writes it: what the model is, in words and numbers. */
typedef struct yolor_edge_bundle yolor_edge_bundle;

/* Read bundle.json of a folder. The files it names are not opened; `yolor-edge verify` checks their digests.
 *   bundle  out; NULL after a failure
 * BAD_FILE where it is missing, of another schema, or lacks something. */
YOLOR_EDGE_API yolor_edge_status yolor_edge_bundle_open(const char* folder, yolor_edge_bundle** bundle);

/* Free it; NULL is fine. */
YOLOR_EDGE_API void yolor_edge_bundle_close(yolor_edge_bundle* bundle);

enum { YOLOR_EDGE_BOXES = 1, YOLOR_EDGE_MASKS = 2, YOLOR_EDGE_SEMANTIC = 4, YOLOR_EDGE_CAPTION = 8 };

/* Pointers live as long as the bundle. */
typedef struct yolor_edge_bundle_info {
    size_t size;
    const char* name;
    int64_t tasks; /* the sum of what the model answers: YOLOR_EDGE_BOXES and so on */
    int64_t input_height;
    int64_t input_width;
    int64_t pad_value;
    int64_t swap_rb; /* whether the network takes R G B */
    double scale;
    int64_t rounding;       /* YOLOR_EDGE_HALF_UP or _HALF_EVEN */
    const int64_t* strides; /* (stride_count,) */
    int64_t stride_count;
    int64_t box_coding;      /* YOLOR_EDGE_DFL, _LTRB or _XYXY */
    int64_t score_coding;    /* YOLOR_EDGE_LOGITS or _PROBABILITIES */
    const char* box_head;    /* the output of the graph that holds the boxes: "box_bins" and so on */
    const char* score_head;  /* and the one that holds the scores */
    int64_t box_count;       /* of YOLOR_EDGE_XYXY: boxes of an image, else 0 */
    int64_t bins;            /* of a box's side, where they are YOLOR_EDGE_DFL */
    int64_t semantic_stride; /* pixels of the input from one point of `semantic_logits` to the next */
    int64_t class_count;
    int64_t semantic_count;
    double score_threshold; /* the model's defaults */
    double iou_threshold;
    int64_t max_detections;
    int64_t batch;           /* images the graph takes at a time; 0: any number */
    int64_t top_k;           /* cells that the graph keeps, whose numbers its output `cells` gives; 0: all */
    int64_t is_map_in_graph; /* the graph answers `semantic_map` instead of `semantic_logits` */
    int64_t word_count;      /* 0 without captions, and so below */
    int64_t max_length;      /* tokens of a caption at most, its end included */
    int64_t pad_id;
    int64_t unk_id;
    int64_t bos_id;
    int64_t eos_id;
    int64_t beam_size; /* the model's own search; see yolor_edge_caption_options */
    double length_penalty;
    int64_t keeps_finished;
} yolor_edge_bundle_info;

/* `size` is sizeof(yolor_edge_bundle_info); all else is out. */
YOLOR_EDGE_API yolor_edge_status yolor_edge_bundle_describe(const yolor_edge_bundle* bundle,
                                                            yolor_edge_bundle_info* info, size_t size);

/* Names by number, in UTF-8, living as long as the bundle; NULL where there is no such number. */
YOLOR_EDGE_API const char* yolor_edge_bundle_class_name(const yolor_edge_bundle* bundle, int64_t i);
YOLOR_EDGE_API const char* yolor_edge_bundle_semantic_name(const yolor_edge_bundle* bundle, int64_t i);
YOLOR_EDGE_API const char* yolor_edge_bundle_word(const yolor_edge_bundle* bundle, int64_t i);

/* Path of a file of the bundle, living as long as the bundle; NULL where it has none.
 *   what       "vision", "caption_prefill", "caption_step" (ONNX) or "caption_weights"
 *   precision  "fp32", "fp16" or "int8" */
YOLOR_EDGE_API const char* yolor_edge_bundle_file(const yolor_edge_bundle* bundle, const char* what,
                                                  const char* precision);

/* The model's own search for captions, its special tokens and what it never writes: the same answers as
 * Python's. options  out, with pointers that live as long as the bundle BAD_ARGUMENT where the model has no
 * captions. */
YOLOR_EDGE_API yolor_edge_status yolor_edge_bundle_caption_options(const yolor_edge_bundle* bundle,
                                                                   yolor_edge_caption_options* options,
                                                                   size_t size);

/* Words of `count` tokens, 0 to 16777216, joined by spaces, with a 0 at the end; pad, begin and end are left
 * out. Each token lies in the vocabulary. Of a BERT-like vocabulary no special token is written, no space
 * stands before punctuation, the first letter is upper case and the rest lower (letters of ASCII). text
 * (capacity,) out; may be NULL where capacity is 0 length  out: bytes without the 0. Where capacity is below
 * length + 1, TOO_SMALL, and length says what it takes */
YOLOR_EDGE_API yolor_edge_status yolor_edge_bundle_text(const yolor_edge_bundle* bundle,
                                                        const int64_t* tokens, int64_t count, char* text,
                                                        size_t capacity, size_t* length);

#ifdef __cplusplus
}
#endif

#endif /* YOLOR_EDGE_H */
