/// What a caption decoder's dims and weights must be.
#include <algorithm>
#include <stdexcept>
#include <string>
#include <utility>

#include "captions/caption_decoder.hpp"

namespace yolor_edge {
namespace {

constexpr int64_t kLargestDim = kLargestVocabulary;
constexpr int64_t kMostInt8Inputs = 65000;  // see DecoderKernels::matmul_i8

void require_dim(const char* name, int64_t value, int64_t least = 1) {
    if (value >= least && value <= kLargestDim) return;
    throw std::invalid_argument(std::string(name) + " must lie in " + std::to_string(least) +
                                "..16777216, got " + std::to_string(value));
}

}  // namespace

const DecoderDims& checked(const DecoderDims& dims) {
    for (const auto& [name, value] : {std::pair{"vocabulary", dims.vocabulary},
                                      {"width", dims.width},
                                      {"layers", dims.layers},
                                      {"heads", dims.heads},
                                      {"feed_forward", dims.feed_forward},
                                      {"positions", dims.positions},
                                      {"memory", dims.memory}})
        require_dim(name, value);
    require_dim("hidden", dims.hidden, 0);
    if (dims.regions < 0 || dims.regions >= dims.memory) {
        throw std::invalid_argument("regions must be at least 0 and less than memory, got " +
                                    std::to_string(dims.regions) + " of " + std::to_string(dims.memory));
    }
    if (dims.regions > 0 && dims.hidden > 0) {
        throw std::invalid_argument("hidden must be 0 with gated layers, which have one output layer, got " +
                                    std::to_string(dims.hidden));
    }
    if (dims.padding < 0 || dims.padding >= dims.vocabulary) {
        throw std::invalid_argument("padding must be at least 0 and less than vocabulary, got " +
                                    std::to_string(dims.padding) + " of " + std::to_string(dims.vocabulary));
    }
    if (dims.width % dims.heads != 0) {
        throw std::invalid_argument("width must be a multiple of heads, got " + std::to_string(dims.width) +
                                    " and " + std::to_string(dims.heads));
    }
    if (!(dims.norm_epsilon > 0.0 && dims.norm_epsilon < 1.0)) {
        throw std::invalid_argument("norm_epsilon must lie between 0 and 1, got " +
                                    std::to_string(dims.norm_epsilon));
    }
    return dims;
}

DecoderWeights collect_weights(const DecoderDims& dims, bool is_int8, const TensorSource& source) {
    checked(dims);
    const int64_t widest = dims.regions > 0 ? 2 * dims.width : dims.width;
    const int64_t most_inputs = std::max({widest, dims.feed_forward, dims.hidden, dims.memory});
    if (is_int8 && most_inputs > kMostInt8Inputs) {
        throw std::invalid_argument(
            "width, feed_forward, hidden and memory must be at most 65000 with int8 weights, got " +
            std::to_string(most_inputs));
    }
    const auto floats = [&](const std::string& name, int64_t count) {
        return static_cast<const float*>(source(name, "float32", count * 4));
    };
    const auto norm = [&](const std::string& name) {
        return NormWeights{floats(name + ".weight", dims.width), floats(name + ".bias", dims.width)};
    };
    enum class Kind { kFloats, kInt8, kTwoDigits };
    const Kind kind = is_int8 ? Kind::kInt8 : Kind::kFloats;
    const Kind fine_kind = is_int8 ? Kind::kTwoDigits : Kind::kFloats;
    const auto linear = [&](const std::string& name, int64_t in, int64_t out, Kind of, bool has_bias = true) {
        const int64_t outputs = whole_blocks(out);
        PackedLinear layer{};
        if (has_bias) layer.bias = floats(name + ".bias", outputs);
        layer.in = in;
        layer.out = out;
        if (of == Kind::kFloats) {
            layer.weights = source(name + ".weight", "float32", outputs * in * 4);
            return layer;
        }
        const int64_t digits = of == Kind::kTwoDigits ? 2 : 1, size = outputs * ((in + 3) / 4 * 4);
        const auto* weight = static_cast<const int8_t*>(source(name + ".weight", "int8", digits * size));
        layer.weights = weight;
        if (of == Kind::kTwoDigits) layer.rest = weight + size;
        layer.scales = floats(name + ".scales", outputs);
        layer.sums = static_cast<const int32_t*>(source(name + ".sums", "int32", digits * outputs * 4));
        return layer;
    };
    DecoderWeights weights{};
    weights.words = floats("words", dims.vocabulary * dims.width);
    weights.positions = floats("positions", dims.positions * dims.width);
    if (dims.regions == 0) {
        weights.memory_positions = floats("memory_positions", dims.memory * dims.width);
        weights.norm = norm("norm");
        weights.memory_norm = norm("memory_norm");
    }
    for (int64_t i = 0; i < dims.layers; ++i) {
        const std::string at = "layers." + std::to_string(i) + ".";
        DecoderLayerWeights layer{};
        layer.self_in = linear(at + "self_attention.in", dims.width, 3 * dims.width, kind);
        layer.self_out = linear(at + "self_attention.output", dims.width, dims.width, kind);
        layer.self_out.is_coarse = true;
        layer.self_norm = norm(at + "norms.0");
        const auto look = [&](const std::string& name, const std::string& norm_name) {
            LookWeights weights{};
            weights.query = linear(at + name + ".query", dims.width, dims.width, kind);
            weights.query.is_coarse = true;
            weights.key = linear(at + name + ".key", dims.width, dims.width, kind);
            weights.value = linear(at + name + ".value", dims.width, dims.width, kind);
            weights.out = linear(at + name + ".output", dims.width, dims.width, kind);
            weights.norm = norm(at + norm_name);
            return weights;
        };
        layer.looks[0] = look("cross_attention", "norms.1");
        if (dims.regions > 0) {
            layer.looks[1] = look("region_attention", "region_norm");
            layer.gate = linear(at + "gate", 2 * dims.width, dims.width, kind);
            layer.gate.is_coarse = true;
        }
        layer.feed_in = linear(at + "feed_forward.in", dims.width, dims.feed_forward, kind);
        layer.feed_out = linear(at + "feed_forward.out", dims.feed_forward, dims.width, kind);
        // One digit where it changes the least, as measured: inputs that are never below 0 have 8 bits of it,
        // queries meet keys of one digit, gates are flat where they are far from 0, and the last layer only
        // finds the words that are then computed exactly.
        layer.feed_out.is_coarse = layer.feed_out.is_positive = true;
        layer.feed_norm = norm(at + "norms.2");
        weights.layers.push_back(layer);
    }
    if (dims.hidden > 0) {
        weights.hidden[0] = linear("output.0", dims.width, dims.hidden, fine_kind);
        weights.hidden[1] = linear("output.1", dims.hidden, dims.hidden, fine_kind);
    }
    const std::string last = dims.hidden > 0 ? "output.2" : "output.0";
    const int64_t inputs = dims.hidden > 0 ? dims.hidden : dims.width;
    weights.output = linear(last, inputs, dims.vocabulary, kind, dims.regions == 0);
    weights.is_int8 = is_int8;
    if (is_int8) {
        weights.output.is_coarse = true;
        weights.output.is_positive = dims.hidden > 0;
        weights.exact_output = floats(last + ".exact", dims.vocabulary * inputs);
    }
    return weights;
}

}  // namespace yolor_edge
