/// The caption decoder: a post-norm Transformer (arXiv 1706.03762) that writes one sentence from an image's
/// memory, from the first token to the last without leaving C++.
///
/// The last vectors of the memory may stand for regions of the image. Layers are gated then: they look at the
/// others, the grid, and at the regions side by side, and a gate weighs what both say, feature by feature
/// (parallel attention of GRIT, arXiv 2207.09666, as Generalist YOLO has it). Words and memory are taken as
/// they are, without norms and positions of the memory, and one word is masked: no word sees it, and what
/// follows it is as likely as anything else.
///
/// Once an image, every layer's cross-attention keys and values are made from it and
/// packed like weights, in int8 where those are. Then all running sentences take each step together, so that
/// every weight is read once a step whatever the beam. The self-attention cache stays where it was written; a
/// table says in which row each position of each sentence lies, so that the beam is reordered by moving a few
/// indices.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "captions/caption_search.hpp"
#include "captions/decoder_kernels.hpp"

namespace yolor_edge {

struct DecoderDims {
    int64_t vocabulary;
    int64_t width;  // a multiple of heads
    int64_t layers;
    int64_t heads;
    int64_t feed_forward;
    int64_t hidden;     // width of the two layers before the last one; 0 where the last one is alone
    int64_t positions;  // tokens it can be fed at most
    int64_t memory;     // vectors an image gives
    int64_t regions;    // how many of those, the last ones, are regions; 0 for plain layers
    int64_t padding;    // id of the word that gated layers mask
    double norm_epsilon;
};

/// A linear layer in the packing of decoder_kernels.hpp. `scales` and `sums` are null for float32 weights.
struct PackedLinear {
    const void* weights;
    const int8_t* rest;   // null, or a second digit of int8 weights: (255 * weights + rest) * scale
    const float* bias;    // (whole_blocks(out),)
    const float* scales;  // (whole_blocks(out),)
    const int32_t* sums;  // (whole_blocks(out),), those of the second digit after them
    int64_t in;
    int64_t out;
    bool is_coarse;    // inputs of one digit rather than two
    bool is_positive;  // no input is below 0
};

struct NormWeights {
    const float* gain;   // (width,)
    const float* shift;  // (width,)
};

/// Attention to one part of the memory, and the norm after it.
struct LookWeights {
    PackedLinear query, key, value, out;
    NormWeights norm;
};

struct DecoderLayerWeights {
    PackedLinear self_in;  // queries, keys and values in one: 3 * width outputs
    PackedLinear self_out;
    LookWeights looks[2];  // at the grid and, in gated layers, at the regions
    PackedLinear gate;     // in gated layers: from 2 * width inputs, a word before and after a look
    PackedLinear feed_in, feed_out;
    NormWeights self_norm, feed_norm;
};

/// Where the weights lie; the memory is the caller's and outlives the decoder.
struct DecoderWeights {
    bool is_int8;
    const float* words;             // (vocabulary, width)
    const float* positions;         // (positions, width)
    const float* memory_positions;  // (memory, width), added to the keys of the cross-attention; null with
                                    // gated layers
    NormWeights norm, memory_norm;  // of plain layers
    std::vector<DecoderLayerWeights> layers;
    PackedLinear hidden[2];  // where dims.hidden is not 0
    PackedLinear output;
    const float* exact_output;  // (vocabulary, output.in), the last layer once more in float32; null for
                                // float32 weights
};

/// Hands out the tensor `name` of `bytes` bytes, or throws std::invalid_argument.
using TensorSource = std::function<const void*(const std::string& name, const char* dtype, int64_t bytes)>;

/// The same dims; throws std::invalid_argument where they make no sense.
const DecoderDims& checked(const DecoderDims& dims);

/// All weights by name; see caption_weights.py for the names.
DecoderWeights collect_weights(const DecoderDims& dims, bool is_int8, const TensorSource& source);

struct Writing {
    std::vector<CaptionHypothesis> hypotheses;  // best first
    int64_t first_token_ns;                     // to the first token's choice
    int64_t later_ns;                           // all the rest
    int64_t runs;                               // of the decoder, the first one included
    bool is_cut;                                // the budget ended it
};

/// One decoder serves any number of threads at once: each call takes working memory of its own, which is kept
/// for the next one.
class CaptionDecoder {
  public:
    /// Throws std::invalid_argument where dims make no sense.
    CaptionDecoder(DecoderDims dims, DecoderWeights weights, const DecoderKernels& kernels);
    ~CaptionDecoder();

    const DecoderDims& dims() const noexcept { return dims_; }
    const char* kernels() const noexcept { return kernels_.name; }

    /// Throws std::invalid_argument where it cannot be fed so many tokens.
    void require_positions(const char* name, int64_t tokens) const;

    /// Write a sentence about one image.
    ///   memory     (dims.memory, dims.width) row-major
    ///   options    max_length at most dims.positions
    ///   budget_ns  no step is begun that would end later than this after the call if it took as long as the
    ///   longest
    ///              one so far; the first is always made. Negative: no budget.
    /// Without a number among the log-probabilities there is one hypothesis of no tokens.
    Writing write(const float* memory, const CaptionOptions& options, int64_t budget_ns) const;

    /// Log-probabilities of the token after each of `tokens` (count,), which begin with bos.
    ///   out  (count, vocabulary)
    void log_probs(const float* memory, const int64_t* tokens, int64_t count, float* out) const;

  private:
    struct State;
    class HeldState;

    /// A part of the memory that is looked at by itself.
    struct Part {
        int64_t first, count;
    };
    /// Where the keys and values of a layer's look with one head begin, in vectors (16 or 4 to the block),
    /// and what is known of its outputs.
    struct View {
        int64_t keys, values, outputs;
    };

    std::unique_ptr<State> acquire(int64_t rows, int64_t length) const;
    void release(std::unique_ptr<State> state) const;
    void prefill(State& state, const float* memory) const;
    bool is_gated() const noexcept { return dims_.regions > 0; }
    int64_t looks() const noexcept { return is_gated() ? 2 : 1; }
    Part part(int64_t look) const noexcept;
    View view(int64_t layer, int64_t look, int64_t head) const noexcept;
    void pack_keys(State& state, int64_t layer, int64_t look) const;
    void pack_values(State& state, int64_t layer, int64_t look) const;
    void pack_small_keys(State& state, int64_t layer, int64_t look) const;
    void pack_small_values(State& state, int64_t layer, int64_t look) const;
    void step(State& state, const int64_t* tokens, int64_t rows) const;
    void self_attention(State& state, int64_t layer, int64_t rows) const;
    void look(State& state, int64_t layer, int64_t rows) const;
    void gated_look(State& state, int64_t layer, int64_t rows) const;
    void look_at(State& state, int64_t layer, int64_t look, float* queries, int64_t rows) const;
    void words_logits(State& state, int64_t rows) const;
    void linear(State& state, const PackedLinear& layer, const float* x, int64_t rows, int64_t x_stride,
                float* y, int64_t y_stride) const;
    void fine_product(State& state, const PackedLinear& layer, const float* x, int64_t rows, int64_t x_stride,
                      float* y, int64_t y_stride) const;
    void product(const QuantisedRows& x, const PackedLinear& layer, float* y, int64_t y_stride) const;
    QuantisedRows fine_rows(State& state, const float* x, int64_t rows, int64_t x_stride, int64_t n) const;
    void make_best_exact(State& state, const float* hidden, float* logits, float* peaks) const;
    void add_and_norm(State& state, const NormWeights& norm, int64_t rows) const;
    void add_and_norm(State& state, const NormWeights& norm, int64_t rows, float* out,
                      int64_t out_stride) const;

    DecoderDims dims_;
    DecoderWeights weights_;
    const DecoderKernels& kernels_;
    int32_t digit_offset_;    // what these kernels add to a digit
    bool is_placed_ = false;  // whether the vectors of the memory have positions
    mutable std::mutex mutex_;
    mutable std::vector<std::unique_ptr<State>> idle_;
    mutable size_t states_ = 0;  // idle or in use
};

}  // namespace yolor_edge
