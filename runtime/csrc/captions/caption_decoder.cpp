#include "captions/caption_decoder.hpp"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstring>
#include <limits>
#include <stdexcept>
#include <utility>

#include "captions/caption_state.hpp"
#include "captions/scan.hpp"

namespace yolor_edge {
namespace {

// Words beyond the 2 * beam_size that a search looks at whose logits are made exact as well.
constexpr int64_t kSpareWords = 6;

int64_t now_ns() {
    return std::chrono::duration_cast<std::chrono::nanoseconds>(
               std::chrono::steady_clock::now().time_since_epoch())
        .count();
}

/// A number that at least `wanted` of `values` reach, near the highest such.
float reached_by(const float* values, int64_t n, int64_t wanted, PassingBits passing) {
    float lowest = std::numeric_limits<float>::lowest();
    if (n < wanted) return lowest;
    const auto [least, most] = std::minmax_element(values, values + n);
    float from = *least, to = *most;
    if (!(from >= lowest && to <= std::numeric_limits<float>::max())) return lowest;
    lowest = from;
    for (int i = 0; i < 8; ++i) {
        const float middle = from + (to - from) * 0.5f;
        int64_t count = 0;
        for (int64_t k = 0; k < n; k += kScanPart)
            count += __builtin_popcountll(passing(values + k, std::min(n - k, kScanPart), middle));
        if (count >= wanted) {
            lowest = from = middle;
        } else {
            to = middle;
        }
    }
    return lowest;
}

}  // namespace

class CaptionDecoder::HeldState {
  public:
    HeldState(const CaptionDecoder& decoder, int64_t rows, int64_t length)
        : decoder_(decoder), state_(decoder.acquire(rows, length)) {}
    ~HeldState() { decoder_.release(std::move(state_)); }
    HeldState(const HeldState&) = delete;
    HeldState& operator=(const HeldState&) = delete;
    State& operator*() const noexcept { return *state_; }

  private:
    const CaptionDecoder& decoder_;
    std::unique_ptr<State> state_;
};

CaptionDecoder::CaptionDecoder(DecoderDims dims, DecoderWeights weights, const DecoderKernels& kernels)
    : dims_(checked(dims)), weights_(std::move(weights)), kernels_(kernels) {
    const float zero = 0.0f;
    uint8_t digits[4];
    kernels_.quantise(&zero, 1, 0, digits);
    digit_offset_ = digits[0];
    const float* positions = weights_.memory_positions;
    is_placed_ = positions != nullptr && std::any_of(positions, positions + dims_.memory * dims_.width,
                                                     [](float value) { return value != 0.0f; });
}

CaptionDecoder::~CaptionDecoder() = default;

std::unique_ptr<CaptionDecoder::State> CaptionDecoder::acquire(int64_t rows, int64_t length) const {
    std::unique_ptr<State> state;
    {
        const std::lock_guard lock(mutex_);
        if (!idle_.empty()) {
            state = std::move(idle_.back());
            idle_.pop_back();
        }
    }
    if (!state) {
        state = std::make_unique<State>();
        const std::lock_guard lock(mutex_);
        idle_.reserve(++states_);  // so that releasing one, in a destructor, never has to fetch memory
    }
    state->rows = rows;
    state->length = length;
    state->position = 0;
    const int64_t depth = dims_.width / dims_.heads;
    const int64_t outputs = whole_blocks(depth);
    const View all = view(dims_.layers, 0, 0);
    if (weights_.is_int8) {
        state->small_keys.take(all.keys * ((depth + 3) / 4 * 4));
        state->small_values.take(all.values * outputs);
        state->key_scales.take(all.keys);
        state->key_sums.take(all.keys);
        state->value_scales.take(all.outputs);
        state->value_sums.take(all.outputs);
        state->quantised.take(whole_blocks(depth));
        state->rest.take(rows * whole_blocks(dims_.hidden));
        state->memory_scales.take(dims_.memory);
        state->key_input_scales.take(dims_.memory);
        state->memory_digits.take(dims_.memory * row_stride(dims_.width));
        state->key_digits.take(dims_.memory * row_stride(dims_.width));
    } else {
        state->cross_keys.take(all.keys * depth);
        state->cross_values.take(all.values * outputs);
    }
    state->keys.take(dims_.layers * length * rows * dims_.width);
    state->values.take(dims_.layers * length * rows * dims_.width);
    state->rows_of.resize(static_cast<size_t>(length * rows));
    state->moved.resize(static_cast<size_t>(length * rows));
    state->is_hidden.assign(static_cast<size_t>(length * rows), 0);
    const int64_t width = row_stride(dims_.width);
    state->x.take(rows * width);
    state->y.take(rows * width);
    state->mixed.take(rows * width);
    if (is_gated()) state->both.take(2 * rows * row_stride(2 * dims_.width));
    const int64_t widest = std::max({3 * dims_.width, dims_.feed_forward, dims_.hidden});
    state->wide.take(2 * rows * row_stride(widest));
    state->scores.take(std::max(rows * row_stride(dims_.memory), dims_.heads * length));
    state->where.take(length);
    state->logits.take(rows * whole_blocks(dims_.vocabulary));
    state->normalisers.take(rows);
    state->shortlist.reserve(static_cast<size_t>(dims_.vocabulary));
    state->peaks.take(rows * scan_parts(dims_.vocabulary));
    // Gates take the words of both looks at once.
    const int64_t high_rows = looks() * rows;
    state->high.take(high_rows * row_stride(std::max(widest, dims_.memory)));
    state->low.take(rows * row_stride(std::max(widest, dims_.memory)));
    state->row_scales.take(high_rows);
    state->memory.take(dims_.memory * width);
    state->key_input.take(dims_.memory * width);
    state->projected.take(dims_.memory * width);
    return state;
}

void CaptionDecoder::release(std::unique_ptr<State> state) const {
    const std::lock_guard lock(mutex_);
    idle_.push_back(std::move(state));
}

void CaptionDecoder::linear(State& state, const PackedLinear& layer, const float* x, int64_t rows,
                            int64_t x_stride, float* y, int64_t y_stride) const {
    if (layer.scales == nullptr) {
        kernels_.matmul_f32(x, rows, x_stride, static_cast<const float*>(layer.weights), layer.bias, layer.in,
                            layer.out, y, y_stride);
        return;
    }
    if (layer.rest != nullptr) return fine_product(state, layer, x, rows, x_stride, y, y_stride);
    if (!layer.is_coarse) return product(fine_rows(state, x, rows, x_stride, layer.in), layer, y, y_stride);
    const int64_t stride = row_stride(layer.in);
    const int32_t shift = layer.is_positive ? 127 : 0;
    for (int64_t row = 0; row < rows; ++row) {
        state.row_scales.get()[row] =
            kernels_.quantise(x + row * x_stride, layer.in, shift, state.high.get() + row * stride);
    }
    product({state.high.get(), nullptr, state.row_scales.get(), rows, stride, shift}, layer, y, y_stride);
}

/// With weights of two digits; the product of the lower digits of both is too small to matter.
void CaptionDecoder::fine_product(State& state, const PackedLinear& layer, const float* x, int64_t rows,
                                  int64_t x_stride, float* y, int64_t y_stride) const {
    QuantisedRows digits = fine_rows(state, x, rows, x_stride, layer.in);
    for (int64_t row = 0; row < rows; ++row) state.row_scales.get()[row] *= 255.0f;
    product(digits, layer, y, y_stride);
    digits.low = nullptr;
    float* rest = state.rest.get();
    const int64_t outputs = whole_blocks(layer.out);
    kernels_.matmul_i8(digits, layer.rest, layer.sums + outputs, layer.scales, nullptr, layer.in, layer.out,
                       rest, outputs);
    for (int64_t row = 0; row < rows; ++row)
        kernels_.add_scaled(y + row * y_stride, 1.0f, rest + row * outputs, layer.out);
}

void CaptionDecoder::product(const QuantisedRows& x, const PackedLinear& layer, float* y,
                             int64_t y_stride) const {
    kernels_.matmul_i8(x, static_cast<const int8_t*>(layer.weights), layer.sums, layer.scales, layer.bias,
                       layer.in, layer.out, y, y_stride);
}

/// Rows of two digits, good until the next ones are asked for.
QuantisedRows CaptionDecoder::fine_rows(State& state, const float* x, int64_t rows, int64_t x_stride,
                                        int64_t n) const {
    const int64_t stride = row_stride(n);
    uint8_t* high = state.high.get();
    uint8_t* low = state.low.get();
    for (int64_t row = 0; row < rows; ++row) {
        state.row_scales.get()[row] =
            kernels_.quantise_fine(x + row * x_stride, n, high + row * stride, low + row * stride);
    }
    return {high, low, state.row_scales.get(), rows, stride, 0};
}

/// x = norm(x + y)
void CaptionDecoder::add_and_norm(State& state, const NormWeights& norm, int64_t rows) const {
    add_and_norm(state, norm, rows, state.x.get(), row_stride(dims_.width));
}

/// The same, but to `out`.
void CaptionDecoder::add_and_norm(State& state, const NormWeights& norm, int64_t rows, float* out,
                                  int64_t out_stride) const {
    const int64_t stride = row_stride(dims_.width);
    for (int64_t row = 0; row < rows; ++row) {
        float* y = state.y.get() + row * stride;
        kernels_.add_scaled(y, 1.0f, state.x.get() + row * stride, dims_.width);
        kernels_.layer_norm(y, norm.gain, norm.shift, dims_.width, static_cast<float>(dims_.norm_epsilon),
                            out + row * out_stride);
    }
}

/// Compute the logits of one row that can decide anything, those of its best words, from float32 weights:
/// reading a few rows of them costs little, and most of what int8 changes in a sentence it changes in this
/// last layer.
void CaptionDecoder::make_best_exact(State& state, const float* hidden, float* logits, float* peaks) const {
    const int64_t wanted = std::min(2 * state.rows + kSpareWords, dims_.vocabulary);
    // What `wanted` of the parts' peaks reach, the wanted-th best logit reaches too, so that only few parts
    // have to be looked through.
    const float lowest = reached_by(peaks, scan_parts(dims_.vocabulary), wanted, kernels_.passing);
    auto& best = state.shortlist;
    best.clear();
    for_each_at_least(
        logits, dims_.vocabulary, peaks, kernels_.passing, [&] { return lowest; },
        [&](int64_t word, float logit) { best.emplace_back(logit, word); });
    if (static_cast<int64_t>(best.size()) > wanted) {
        const auto is_better = [](const auto& a, const auto& b) {
            return a.first != b.first ? a.first > b.first : a.second < b.second;
        };
        std::nth_element(best.begin(), best.begin() + wanted, best.end(), is_better);
        best.resize(static_cast<size_t>(wanted));
    }
    // These rows lie far apart: let all of them be on their way before the first is needed.
    const PackedLinear& output = weights_.output;
    for (const auto& [logit, word] : best) {
        const float* row = weights_.exact_output + word * output.in;
        for (int64_t i = 0; i < std::min<int64_t>(output.in, 256); i += 16) __builtin_prefetch(row + i);
    }
    for (const auto& [logit, word] : best) {
        const float product = kernels_.dot(hidden, weights_.exact_output + word * output.in, output.in);
        logits[word] = output.bias != nullptr ? product + output.bias[word] : product;
    }
    // The highest of them is what powers are taken relative to, so it must be one that there is.
    for (const auto& [logit, word] : best) {
        const int64_t start = word / kScanPart * kScanPart;
        kernels_.peaks(logits + start, std::min(kScanPart, dims_.vocabulary - start),
                       peaks + word / kScanPart);
    }
}

/// Logits of the word after `tokens` (rows,), and the logarithm of each row's normaliser.
void CaptionDecoder::step(State& state, const int64_t* tokens, int64_t rows) const {
    const int64_t width = dims_.width, stride = row_stride(width);
    for (int64_t row = 0; row < rows; ++row) {
        const auto at = static_cast<size_t>(state.position * state.rows + row);
        state.rows_of[at] = static_cast<int32_t>(row);
        state.is_hidden[at] = is_gated() && tokens[row] == dims_.padding ? 1 : 0;
        float* x = state.x.get() + row * stride;
        std::memcpy(x, weights_.words + tokens[row] * width, static_cast<size_t>(width) * 4);
        kernels_.add_scaled(x, 1.0f, weights_.positions + state.position * width, width);
        if (is_gated()) continue;
        kernels_.layer_norm(x, weights_.norm.gain, weights_.norm.shift, width,
                            static_cast<float>(dims_.norm_epsilon), x);
    }
    float* x = state.x.get();
    float* y = state.y.get();
    float* wide = state.wide.get();
    for (int64_t layer = 0; layer < dims_.layers; ++layer) {
        const DecoderLayerWeights& weights = weights_.layers[static_cast<size_t>(layer)];
        linear(state, weights.self_in, x, rows, stride, wide, row_stride(3 * width));
        self_attention(state, layer, rows);
        linear(state, weights.self_out, state.mixed.get(), rows, stride, y, stride);
        add_and_norm(state, weights.self_norm, rows);

        if (is_gated()) {
            gated_look(state, layer, rows);
        } else {
            look(state, layer, rows);
        }

        const int64_t inner = row_stride(dims_.feed_forward);
        linear(state, weights.feed_in, x, rows, stride, wide, inner);
        for (int64_t row = 0; row < rows; ++row) kernels_.relu(wide + row * inner, dims_.feed_forward);
        linear(state, weights.feed_out, wide, rows, inner, y, stride);
        add_and_norm(state, weights.feed_norm, rows);
    }
    for (int64_t row = 0; row < rows; ++row) {
        if (state.is_hidden[static_cast<size_t>(state.position * state.rows + row)] != 0)
            std::fill_n(x + row * stride, width, 0.0f);
    }
    words_logits(state, rows);
    ++state.position;
}

/// From the words in `x` to the logits of those after them, their peaks and normalisers.
void CaptionDecoder::words_logits(State& state, int64_t rows) const {
    const float* last = state.x.get();
    int64_t last_stride = row_stride(dims_.width);
    if (dims_.hidden > 0) {
        const int64_t inner = row_stride(dims_.hidden);
        for (int64_t i = 0; i < 2; ++i) {
            float* hidden = state.wide.get() + i * state.rows * inner;
            linear(state, weights_.hidden[i], last, rows, last_stride, hidden, inner);
            for (int64_t row = 0; row < rows; ++row) kernels_.relu(hidden + row * inner, dims_.hidden);
            last = hidden;
            last_stride = inner;
        }
    }
    const int64_t words = whole_blocks(dims_.vocabulary);
    linear(state, weights_.output, last, rows, last_stride, state.logits.get(), words);
    const int64_t parts = scan_parts(dims_.vocabulary);
    for (int64_t row = 0; row < rows; ++row) {
        float* logits = state.logits.get() + row * words;
        float* peaks = state.peaks.get() + row * parts;
        kernels_.peaks(logits, dims_.vocabulary, peaks);
        if (weights_.exact_output != nullptr) make_best_exact(state, last + row * last_stride, logits, peaks);
        const float most = *std::max_element(peaks, peaks + parts);
        state.normalisers.get()[row] = kernels_.log_sum_exp(logits, dims_.vocabulary, most);
    }
}

void CaptionDecoder::require_positions(const char* name, int64_t tokens) const {
    if (tokens <= dims_.positions) return;
    throw std::invalid_argument(std::string(name) + " must be at most the decoder's " +
                                std::to_string(dims_.positions) + " positions, got " +
                                std::to_string(tokens));
}

Writing CaptionDecoder::write(const float* memory, const CaptionOptions& options, int64_t budget_ns) const {
    const int64_t started = now_ns();
    CaptionSearch search(options, dims_.vocabulary);
    require_positions("max_length", options.max_length);
    const HeldState held(*this, options.beam_size, options.max_length);
    State& state = *held;
    const int64_t stride = whole_blocks(dims_.vocabulary);
    prefill(state, memory);

    const auto advance = [&](const int64_t* tokens, int64_t rows) -> const NextRows& {
        step(state, tokens, rows);
        return search.advance(state.logits.get(), state.normalisers.get(), state.peaks.get(),
                              kernels_.passing, dims_.vocabulary, stride);
    };
    const NextRows* next = &advance(&options.bos_id, 1);
    Writing writing{{}, now_ns() - started, 0, 1, false};
    int64_t longest = 0, step_started = now_ns();
    while (!search.finished()) {
        if (budget_ns >= 0 && step_started + longest - started >= budget_ns) {
            search.stop();
            writing.is_cut = true;
            break;
        }
        // Sentence r goes on from sentence parents[r].
        const auto rows = static_cast<int64_t>(next->parents.size());
        for (int64_t t = 0; t < state.position; ++t) {
            for (int64_t row = 0; row < rows; ++row) {
                const int64_t parent = next->parents[static_cast<size_t>(row)];
                state.moved[static_cast<size_t>(t * state.rows + row)] =
                    state.rows_of[static_cast<size_t>(t * state.rows + parent)];
            }
        }
        std::swap(state.rows_of, state.moved);
        next = &advance(next->tokens.data(), rows);
        ++writing.runs;
        const int64_t ended = now_ns();
        longest = std::max(longest, ended - step_started);
        step_started = ended;
    }
    writing.later_ns = now_ns() - started - writing.first_token_ns;
    writing.hypotheses = search.hypotheses();
    return writing;
}

void CaptionDecoder::log_probs(const float* memory, const int64_t* tokens, int64_t count, float* out) const {
    require_positions("tokens", count);
    for (int64_t i = 0; i < count; ++i) {
        if (tokens[i] >= 0 && tokens[i] < dims_.vocabulary) continue;
        throw std::invalid_argument("tokens must lie in 0.." + std::to_string(dims_.vocabulary - 1) +
                                    ", got " + std::to_string(tokens[i]));
    }
    const HeldState held(*this, 1, count);
    State& state = *held;
    prefill(state, memory);
    for (int64_t i = 0; i < count; ++i) {
        step(state, tokens + i, 1);
        float* row = out + i * dims_.vocabulary;
        const float* logits = state.logits.get();
        const float normaliser = state.normalisers.get()[0];
        for (int64_t word = 0; word < dims_.vocabulary; ++word) row[word] = logits[word] - normaliser;
    }
}

}  // namespace yolor_edge
