/// The C interface of the caption decoder; see yolor_edge.h.
#include <algorithm>
#include <memory>
#include <utility>

#include "arguments.hpp"
#include "caption_file.hpp"
#include "captions/caption_decoder.hpp"

using namespace yolor_edge;
using namespace yolor_edge::c_api;

struct yolor_edge_caption_decoder {
    explicit yolor_edge_caption_decoder(const char* path) : file(path) {}

    MappedFile file;  // holds what the decoder points into
    bool is_int8 = false;
    std::unique_ptr<CaptionDecoder> decoder;
};

namespace {

constexpr yolor_edge_caption_options kOptions{
    sizeof(yolor_edge_caption_options), 3, 0, 2, 3, 0, 1.0, 0, nullptr, 0, 1.0, 0, 0.0, 0, 0, -1.0, 0};
constexpr yolor_edge_captions kCaptions{
    sizeof(yolor_edge_captions), 0, 0, nullptr, nullptr, nullptr, nullptr, 0, 0, 0, 0, 0};

CaptionOptions search_options(const yolor_edge_caption_options& options, const DecoderDims& dims) {
    require_between("options.beam_size", 1, dims.vocabulary, options.beam_size);
    require_between("options.max_length", 0, dims.positions, options.max_length);
    require_between("options.forbidden_count", 0, dims.vocabulary, options.forbidden_count);
    if (options.forbidden_count > 0) require_given("options.forbidden", options.forbidden);
    CaptionOptions search{};
    search.beam_size = options.beam_size;
    search.max_length = options.max_length > 0 ? options.max_length : dims.positions;
    search.bos_id = options.bos_id;
    search.eos_id = options.eos_id;
    search.pad_id = options.pad_id;
    search.length_penalty = options.length_penalty;
    search.min_length = options.min_length;
    if (options.forbidden_count > 0)
        search.forbidden.assign(options.forbidden, options.forbidden + options.forbidden_count);
    search.repetition_penalty = options.repetition_penalty;
    search.no_repeat_ngram = options.no_repeat_ngram;
    search.temperature = options.temperature;
    search.top_k = options.top_k;
    search.seed = options.seed;
    search.keeps_finished = options.keeps_finished != 0;
    return search;
}

int64_t budget_ns(double budget_ms) {
    constexpr double kLongestMs = 1e12;
    if (budget_ms != budget_ms) throw std::invalid_argument("options.budget_ms must be a number, got nan");
    return budget_ms < 0.0 ? -1 : static_cast<int64_t>(std::min(budget_ms, kLongestMs) * 1e6);
}

}  // namespace

yolor_edge_status yolor_edge_caption_decoder_open(const char* path, const char* kernels,
                                                  yolor_edge_caption_decoder** decoder) {
    return guarded([&] {
        require_given("decoder", decoder);
        *decoder = nullptr;
        require_given("path", path);
        const DecoderKernels* chosen =
            kernels != nullptr ? decoder_kernels(kernels) : &best_decoder_kernels();
        if (chosen == nullptr) {
            throw std::invalid_argument("kernels must be one that this processor runs, got " +
                                        std::string(kernels));
        }
        auto opened = std::make_unique<yolor_edge_caption_decoder>(path);
        CaptionFile read = read_caption_file(opened->file);
        opened->is_int8 = read.is_int8;
        opened->decoder = std::make_unique<CaptionDecoder>(read.dims, std::move(read.weights), *chosen);
        *decoder = opened.release();
    });
}

void yolor_edge_caption_decoder_close(yolor_edge_caption_decoder* decoder) {
    delete decoder;
}

yolor_edge_status yolor_edge_caption_decoder_dims(const yolor_edge_caption_decoder* decoder,
                                                  yolor_edge_caption_dims* dims, size_t size) {
    return guarded([&] {
        require_given("decoder", decoder);
        const DecoderDims& known = decoder->decoder->dims();
        const yolor_edge_caption_dims values{
            sizeof values, known.vocabulary, known.positions,    known.memory, known.width,
            known.layers,  known.heads,      known.feed_forward, known.hidden, decoder->is_int8 ? 1 : 0,
            known.regions, known.padding};
        give("dims", values, dims, size);
    });
}

const char* yolor_edge_caption_decoder_kernels(const yolor_edge_caption_decoder* decoder) {
    return decoder != nullptr ? decoder->decoder->kernels() : "";
}

yolor_edge_status yolor_edge_caption_options_init(yolor_edge_caption_options* options, size_t size) {
    return guarded([&] { give("options", kOptions, options, size); });
}

yolor_edge_status yolor_edge_captions_init(yolor_edge_captions* captions, size_t size) {
    return guarded([&] { give("captions", kCaptions, captions, size); });
}

yolor_edge_status yolor_edge_caption_write(const yolor_edge_caption_decoder* decoder, const float* memory,
                                           const yolor_edge_caption_options* options,
                                           yolor_edge_captions* captions) {
    return guarded([&] {
        require_given("decoder", decoder);
        require_given("memory", memory);
        const yolor_edge_caption_options chosen = options_or("options", options, kOptions);
        const CaptionOptions search = search_options(chosen, decoder->decoder->dims());
        require_known("captions", captions);
        require_between("captions.capacity", 1, kMostElements, captions->capacity);
        require_given("captions.tokens", captions->tokens);
        require_given("captions.lengths", captions->lengths);
        if (captions->token_capacity < search.max_length) {
            throw Failure(YOLOR_EDGE_TOO_SMALL, "captions.token_capacity must be at least max_length, " +
                                                    std::to_string(search.max_length) + ", got " +
                                                    std::to_string(captions->token_capacity));
        }
        require_between("captions.token_capacity", search.max_length, kMostElements,
                        captions->token_capacity);
        const Writing writing = decoder->decoder->write(memory, search, budget_ns(chosen.budget_ms));
        captions->count = std::min(captions->capacity, static_cast<int64_t>(writing.hypotheses.size()));
        for (int64_t i = 0; i < captions->count; ++i) {
            const CaptionHypothesis& found = writing.hypotheses[static_cast<size_t>(i)];
            std::copy(found.tokens.begin(), found.tokens.end(),
                      captions->tokens + i * captions->token_capacity);
            captions->lengths[i] = static_cast<int64_t>(found.tokens.size());
            if (captions->log_probs != nullptr) captions->log_probs[i] = found.log_prob;
            if (captions->scores != nullptr) captions->scores[i] = found.score;
        }
        captions->first_token_ns = writing.first_token_ns;
        captions->later_ns = writing.later_ns;
        captions->runs = writing.runs;
        captions->is_cut = writing.is_cut ? 1 : 0;
    });
}

yolor_edge_status yolor_edge_caption_log_probs(const yolor_edge_caption_decoder* decoder, const float* memory,
                                               const int64_t* tokens, int64_t count, float* log_probs) {
    return guarded([&] {
        require_given("decoder", decoder);
        require_given("memory", memory);
        require_at_least("count", 0, count);
        if (count == 0) return;
        require_given("tokens", tokens);
        require_given("log_probs", log_probs);
        decoder->decoder->log_probs(memory, tokens, count, log_probs);
    });
}
