/// The caption decoder on two processors: `decoder write FILE` runs fixed inputs through every instruction
/// set this one has, `decoder compare FILE FILE` says where two such files differ. `make aarch64` runs it
/// here and under emulation.
///
/// What must be equal to the bit, whatever the processor: everything by the portable kernels; products of
/// int8 by any kernels; products of float32 by all kernels that fuse (NEON, AVX2, AVX-512: one sum an output,
/// inputs in order); what is done to rows four lanes at a time. Whole decoders differ in how many lanes a row
/// is summed in, so log-probabilities of the fastest kernels are compared within a tolerance, their sentences
/// exactly.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <map>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "avxvnni_emulator.hpp"
#include "captions/caption_decoder.hpp"
#include "captions/decoder_kernels.hpp"

namespace {

using namespace yolor_edge;

constexpr float kFp32Tolerance = 2e-5f;
constexpr float kInt8Tolerance = 2e-3f;  // a digit that rounds the other way; logits spread some 4

/// Numbers that depend on nothing but whole-number arithmetic.
class Dice {
  public:
    explicit Dice(const std::string& name) {
        for (const char letter : name) state_ = state_ * 31 + static_cast<uint8_t>(letter);
    }
    int64_t below(int64_t n) {
        state_ = state_ * 6364136223846793005ULL + 1442695040888963407ULL;
        return static_cast<int64_t>((state_ >> 33) % static_cast<uint64_t>(n));
    }
    /// In -spread..spread around `middle`.
    std::vector<float> floats(int64_t n, float spread, float middle = 0.0f) {
        std::vector<float> values(static_cast<size_t>(n));
        for (float& value : values)
            value = middle + spread * (static_cast<float>(below(1 << 16)) / 32768.0f - 1.0f);
        return values;
    }

  private:
    uint64_t state_ = 1;
};

/// Answers by name: "exact ..." must be equal to the bit, "fp32 ..." and "int8 ..." nearly.
using Answers = std::map<std::string, std::vector<uint8_t>>;

template <class Value>
void note(const std::string& name, const std::vector<Value>& values, Answers* answers) {
    std::vector<uint8_t> bytes(values.size() * sizeof(Value));
    if (!bytes.empty()) std::memcpy(bytes.data(), values.data(), bytes.size());
    const auto [entry, is_new] = answers->emplace(name, bytes);
    if (!is_new && entry->second != bytes) throw std::runtime_error(name + " differs between kernels");
}

/// One product of odd sizes, with more rows than any kernel takes at once.
void products(const DecoderKernels& kernels, Answers* answers) {
    const bool is_fused = std::strcmp(kernels.name, "portable") != 0;
    for (const int64_t rows : {1, 2, 3, 7}) {
        for (const int64_t in : {1, 6, 61, 130, 530}) {
            const int64_t out = std::min<int64_t>(3 * in + 1, 300), stride = whole_blocks(out);
            const std::string what = std::to_string(rows) + "x" + std::to_string(in);
            Dice dice(what);
            const std::vector<float> x = dice.floats(rows * in, 2.0f), bias = dice.floats(stride, 1.0f);
            const std::vector<float> weights = dice.floats(stride * in, 1.0f);
            std::vector<float> y(static_cast<size_t>(rows * stride));
            kernels.matmul_f32(x.data(), rows, in, weights.data(), bias.data(), in, out, y.data(), stride);
            note((is_fused ? "exact fused products " : "exact plain products ") + what, y, answers);

            const int64_t padded = (in + 3) / 4 * 4;
            std::vector<int8_t> small(static_cast<size_t>(stride * padded));
            std::vector<int32_t> sums(static_cast<size_t>(stride));
            for (size_t i = 0; i < small.size(); ++i) {
                // (blocks, padded / 4, 16, 4); extremes too
                small[i] = static_cast<int8_t>(i % 5 == 0 ? 127 : dice.below(255) - 127);
                const auto at = static_cast<int64_t>(i);
                sums[static_cast<size_t>(at / (kBlock * padded) * kBlock + at / 4 % kBlock)] += small[i];
            }
            const std::vector<float> scales = dice.floats(stride, 0.4f, 0.5f);
            // Of one digit, of one with the 8 bits that rows without a sign have, of two.
            for (const char* kind : {"", "positive ", "fine "}) {
                const bool is_fine = std::strcmp(kind, "fine ") == 0;
                const int32_t shift = std::strcmp(kind, "positive ") == 0 ? 127 : 0;
                std::vector<uint8_t> high(static_cast<size_t>(rows * padded)), low(high.size());
                std::vector<float> row_scales, from = x;
                if (shift != 0) {
                    for (float& value : from) value = std::fabs(value);
                }
                for (int64_t row = 0; row < rows; ++row) {
                    uint8_t* to = high.data() + row * padded;
                    row_scales.push_back(is_fine ? kernels.quantise_fine(from.data() + row * in, in, to,
                                                                         low.data() + row * padded)
                                                 : kernels.quantise(from.data() + row * in, in, shift, to));
                }
                kernels.matmul_i8(
                    {high.data(), is_fine ? low.data() : nullptr, row_scales.data(), rows, padded, shift},
                    small.data(), sums.data(), scales.data(), bias.data(), in, out, y.data(), stride);
                note(std::string("exact int8 products ") + kind + what, y, answers);
            }
        }
    }
}

/// The largest sums that rows of two digits come to, with as many inputs as int32 has room for and with more.
void largest_sums(const DecoderKernels& kernels, Answers* answers) {
    constexpr int64_t kOutputs = 40, kStride = whole_blocks(kOutputs);
    for (const int64_t in : {4 * kExactGroups, 4 * kExactGroups + 1, int64_t{2100}}) {
        const int64_t padded = (in + 3) / 4 * 4;
        for (const int64_t rows : {1, 2, 4, 5}) {
            const std::vector<float> x(static_cast<size_t>(in), rows % 2 == 0 ? -3.0f : 3.0f);
            const std::vector<int8_t> weights(static_cast<size_t>(kStride * padded), 127);
            const std::vector<int32_t> sums(static_cast<size_t>(kStride), static_cast<int32_t>(127 * padded));
            const std::vector<float> scales(static_cast<size_t>(kStride), 1.0f);
            std::vector<uint8_t> high(static_cast<size_t>(rows * padded)), low(high.size());
            std::vector<float> row_scales, y(static_cast<size_t>(rows * kStride));
            for (int64_t row = 0; row < rows; ++row) {
                const int64_t at = row * padded;
                row_scales.push_back(kernels.quantise_fine(x.data(), in, high.data() + at, low.data() + at));
            }
            kernels.matmul_i8({high.data(), low.data(), row_scales.data(), rows, padded, 0}, weights.data(),
                              sums.data(), scales.data(), nullptr, in, kOutputs, y.data(), kStride);
            const float expected = x[0] * 127.0f * static_cast<float>(in);
            if (!(std::fabs(y[0] / expected - 1.0f) < 1e-6f))
                throw std::runtime_error("the largest sums overflow");
            note("exact largest sums " + std::to_string(rows) + "x" + std::to_string(in), y, answers);
        }
    }
}

/// Activations packed to be multiplied like weights.
void packing(const DecoderKernels& kernels, Answers* answers) {
    for (const int64_t n : {1, 3, 8, 29}) {
        const std::string what = " " + std::to_string(n);
        const std::vector<float> x = Dice(what).floats(n * kBlock, 2.0f);
        std::vector<int8_t> packed(static_cast<size_t>((n + 3) / 4 * 4 * kBlock)), row(packed.size());
        std::vector<float> scales(kBlock);
        std::vector<int32_t> sums(kBlock + 1);
        kernels.pack_columns(x.data(), n, kBlock, packed.data(), scales.data(), sums.data());
        scales.push_back(kernels.quantise_signed(x.data(), n * kBlock, row.data(), &sums[kBlock]));
        note("exact packed" + what, packed, answers);
        note("exact row" + what, row, answers);
        note("exact scales" + what, scales, answers);
        note("exact sums of" + what, sums, answers);
    }
}

/// What is done to rows; `lanes` of them at a time.
void rows(const DecoderKernels& kernels, Answers* answers) {
    for (const int64_t n : {1, 3, 4, 13, 64, 257}) {
        const std::string what = " " + std::to_string(n);
        Dice dice(what);
        const std::vector<float> x = dice.floats(n, 8.0f), gain = dice.floats(n, 1.0f), shift = gain;
        std::vector<float> out(x.size());
        kernels.layer_norm(x.data(), gain.data(), shift.data(), n, 1e-5f, out.data());
        note("exact norm" + what, out, answers);
        out = x;
        kernels.softmax(out.data(), n);
        note("exact softmax" + what, out, answers);
        kernels.add_scaled(out.data(), 0.3f, gain.data(), n);
        kernels.scale(out.data(), 1.7f, n);
        kernels.relu(out.data(), n);
        kernels.add_gated(out.data(), x.data(), gain.data(), n);
        note("exact sums" + what, out, answers);
        note("exact dot" + what, std::vector<float>{kernels.dot(x.data(), gain.data(), n)}, answers);
        std::vector<float> peaks(static_cast<size_t>(scan_parts(n)));
        kernels.peaks(x.data(), n, peaks.data());
        note("exact peaks" + what, peaks, answers);
        const float most = *std::max_element(peaks.begin(), peaks.end());
        note("exact log_sum_exp" + what, std::vector<float>{kernels.log_sum_exp(x.data(), n, most)}, answers);
    }
}

/// Random weights, each tensor from its name alone.
class Weights {
  public:
    explicit Weights(const DecoderDims& dims)
        : last_(dims.hidden > 0 ? "output.2" : "output.0"),
          inputs_(dims.hidden > 0 ? dims.hidden : dims.width) {}

    const void* tensor(const std::string& name, const char* dtype, int64_t bytes) {
        std::vector<uint8_t>& stored = tensors_[name];
        stored.resize(static_cast<size_t>(bytes));
        Dice dice(name);
        if (std::strcmp(dtype, "int8") == 0) {
            for (uint8_t& weight : stored) weight = static_cast<uint8_t>(dice.below(255) - 127);
        } else if (std::strcmp(dtype, "int32") == 0) {
            const std::vector<uint8_t>& weights =
                tensors_.at(name.substr(0, name.size() - std::strlen("sums")) + "weight");
            const auto per_block = static_cast<size_t>(kBlock) * weights.size() / (stored.size() / 4);
            std::vector<int32_t> sums(stored.size() / 4);
            for (size_t i = 0; i < weights.size(); ++i)
                sums[i / per_block * kBlock + i / 4 % kBlock] += static_cast<int8_t>(weights[i]);
            std::memcpy(stored.data(), sums.data(), stored.size());
        } else if (name == last_ + ".exact") {
            fill_exact(&stored);
        } else {
            const bool is_scale = name.find("scales") != std::string::npos;
            const bool is_gain = name.find("norm") != std::string::npos;
            const bool is_last = name.rfind(last_ + ".", 0) == 0;
            // Weights of two digits are 255 times as large.
            const bool is_fine = is_scale && name.rfind("output.", 0) == 0 && !is_last;
            const float spread = is_fine ? 0.000002f : is_scale ? 0.0005f : is_last ? 1.0f : 0.3f;
            const std::vector<float> values = dice.floats(bytes / 4, spread,
                                                          is_fine    ? 0.000004f
                                                          : is_scale ? 0.001f
                                                          : is_gain  ? 1.0f
                                                                     : 0.0f);
            std::memcpy(stored.data(), values.data(), stored.size());
        }
        return stored.data();
    }

  private:
    /// The last layer once more, as plain rows of floats.
    void fill_exact(std::vector<uint8_t>* stored) const {
        const std::vector<uint8_t>&packed = tensors_.at(last_ + ".weight"),
              &scales = tensors_.at(last_ + ".scales");
        const auto padded = static_cast<int64_t>(packed.size() / (scales.size() / 4));
        const int64_t in = inputs_;
        for (int64_t i = 0; i < static_cast<int64_t>(stored->size() / 4); ++i) {
            const int64_t word = i / in, input = i % in;
            const int64_t at =
                word / kBlock * kBlock * padded + (input / 4 * kBlock + word % kBlock) * 4 + input % 4;
            float value = 0.0f;
            std::memcpy(&value, scales.data() + word * 4, 4);
            value *= static_cast<float>(static_cast<int8_t>(packed[static_cast<size_t>(at)]));
            std::memcpy(stored->data() + i * 4, &value, 4);
        }
    }

    const std::string last_;  // name of the layer that gives the words' logits
    const int64_t inputs_;    // of it
    std::map<std::string, std::vector<uint8_t>> tensors_;
};

void sentences(const DecoderKernels& kernels, const char* kind, const DecoderDims& dims, bool is_best,
               Answers* answers) {
    for (const bool is_int8 : {false, true}) {
        const std::string precision = std::string(is_int8 ? "int8 " : "fp32 ") + kind;
        Weights weights(dims);
        const auto source = [&](const std::string& name, const char* dtype, int64_t bytes) {
            return weights.tensor(name, dtype, bytes);
        };
        const CaptionDecoder decoder(dims, collect_weights(dims, is_int8, source), kernels);
        const std::vector<float> memory = Dice("memory").floats(dims.memory * dims.width, 3.0f);
        const std::vector<int64_t> tokens = {2, 7, 31, 5, 59, 12, 12, 40};
        std::vector<float> log_probs(tokens.size() * static_cast<size_t>(dims.vocabulary));
        decoder.log_probs(memory.data(), tokens.data(), static_cast<int64_t>(tokens.size()),
                          log_probs.data());
        const bool is_portable = std::strcmp(kernels.name, "portable") == 0;
        if (is_portable) note("exact portable log_probs " + precision, log_probs, answers);
        if (is_best) note(precision + " log_probs", log_probs, answers);
        for (const int64_t beam_size : {1, 5}) {
            CaptionOptions options{beam_size, 12, 2, 3, 0, 1.0, 4, {1}};
            options.no_repeat_ngram = 2;
            std::vector<int64_t> ids;
            for (const CaptionHypothesis& hypothesis : decoder.write(memory.data(), options, -1).hypotheses) {
                ids.insert(ids.end(), hypothesis.tokens.begin(), hypothesis.tokens.end());
                ids.push_back(-1);
            }
            // Of all kernels of this processor, in float32; int8 of the portable ones must not depend on it.
            if (!is_int8 || is_portable)
                note("exact sentences " + precision + " beam " + std::to_string(beam_size), ids, answers);
        }
    }
}

constexpr std::pair<const char*, DecoderDims> kDecoders[] = {
    {"plain", {60, 40, 2, 5, 70, 45, 14, 33, 0, 0, 1e-5}},
    {"gated", {60, 40, 2, 5, 70, 0, 14, 53, 20, 0, 1e-5}},
};

Answers all_answers() {
    Answers answers;
    const char* best = best_decoder_kernels().name;
    for (const char* const* name = kDecoderKernelNames; *name != nullptr; ++name) {
        const DecoderKernels* kernels = decoder_kernels(*name);
        if (kernels == nullptr) continue;
        std::printf("decoder: %s%s\n", *name, std::strcmp(*name, best) == 0 ? ", the best here" : "");
        products(*kernels, &answers);
        largest_sums(*kernels, &answers);
        packing(*kernels, &answers);
        const bool has_four_lanes =
            std::strcmp(*name, "portable") == 0 || std::strncmp(*name, "neon", 4) == 0;
        if (has_four_lanes) rows(*kernels, &answers);
        for (const auto& [kind, dims] : kDecoders)
            sentences(*kernels, kind, dims, std::strcmp(*name, best) == 0, &answers);
    }
#if defined(__x86_64__) && defined(__linux__)
    const DecoderKernels* newer = avxvnni_decoder_kernels_unchecked();
    if (newer != nullptr && avx2_decoder_kernels() != nullptr && decoder_kernels("avxvnni") == nullptr) {
        avxvnni_emulator::install();
        products(*newer, &answers);
        largest_sums(*newer, &answers);
        for (const auto& [kind, dims] : kDecoders) sentences(*newer, kind, dims, false, &answers);
        std::printf("decoder: avxvnni, %llu instructions of it emulated\n",
                    static_cast<unsigned long long>(avxvnni_emulator::emulated()));
    }
#endif
    return answers;
}

bool write_file(const Answers& answers, const char* path) {
    std::FILE* file = std::fopen(path, "wb");
    if (file == nullptr) return false;
    bool is_whole = true;
    for (const auto& [name, bytes] : answers) {
        std::fprintf(file, "%s\n%zu\n", name.c_str(), bytes.size());
        is_whole &= std::fwrite(bytes.data(), 1, bytes.size(), file) == bytes.size();
    }
    return std::fclose(file) == 0 && is_whole;
}

Answers read_file(const char* path) {
    std::FILE* file = std::fopen(path, "rb");
    if (file == nullptr) throw std::runtime_error(std::string(path) + " cannot be read");
    Answers answers;
    char name[200];
    size_t size = 0;
    while (std::fscanf(file, "%199[^\n]%*c%zu%*c", name, &size) == 2) {
        std::vector<uint8_t> bytes(size);
        if (std::fread(bytes.data(), 1, size, file) != size) break;
        answers[name] = bytes;
    }
    std::fclose(file);
    return answers;
}

/// The largest difference of two rows of floats; infinite where one is not a number.
float distance(const std::vector<uint8_t>& a, const std::vector<uint8_t>& b) {
    float most = a.size() == b.size() ? 0.0f : INFINITY;
    for (size_t i = 0; i + 4 <= std::min(a.size(), b.size()); i += 4) {
        float x = 0.0f, y = 0.0f;
        std::memcpy(&x, a.data() + i, 4);
        std::memcpy(&y, b.data() + i, 4);
        const float gap = std::fabs(x - y);
        most = gap <= most ? most : std::isnan(gap) ? INFINITY : gap;
    }
    return most;
}

bool compare(const Answers& here, const Answers& there) {
    bool is_good = here.size() == there.size() && !here.empty();
    if (!is_good) std::printf("decoder: %zu answers against %zu\n", here.size(), there.size());
    size_t exact = 0;
    for (const auto& [name, bytes] : here) {
        const auto other = there.find(name);
        if (other == there.end()) {
            std::printf("decoder: %s is in one file only\n", name.c_str());
            is_good = false;
            continue;
        }
        const bool is_exact = name.rfind("exact ", 0) == 0;
        const float gap = distance(bytes, other->second);
        const float allowed = name.rfind("int8 ", 0) == 0 ? kInt8Tolerance : kFp32Tolerance;
        if (is_exact ? bytes != other->second : !(gap <= allowed)) {
            std::printf("decoder: %s differs by %g\n", name.c_str(), static_cast<double>(gap));
            is_good = false;
        }
        if (is_exact) {
            ++exact;
        } else {
            std::printf("decoder: %s within %.1e of each other, allowed %.0e\n", name.c_str(),
                        static_cast<double>(gap), static_cast<double>(allowed));
        }
    }
    std::printf("decoder: %zu answers compared to the bit: %s\n", exact, is_good ? "all agree" : "FAILED");
    return is_good;
}

}  // namespace

int main(int argument_count, char** arguments) {
    try {
        if (argument_count == 3 && std::strcmp(arguments[1], "write") == 0)
            return write_file(all_answers(), arguments[2]) ? 0 : 1;
        if (argument_count == 4 && std::strcmp(arguments[1], "compare") == 0)
            return compare(read_file(arguments[2]), read_file(arguments[3])) ? 0 : 1;
    } catch (const std::exception& error) {
        std::fprintf(stderr, "decoder: %s\n", error.what());
        return 1;
    }
    std::fprintf(stderr, "usage: decoder write FILE | decoder compare FILE FILE\n");
    return 2;
}
