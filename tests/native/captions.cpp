/// The caption decoder without Python, for the sanitizers: odd sizes, weights in buffers of exactly their
/// length, memory that is no number, every instruction set, then one decoder from several threads. `make
/// sanitize` builds and runs it.
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "captions/caption_decoder.hpp"

namespace {

using namespace yolor_edge;

void require(bool holds, const char* what) {
    if (holds) return;
    std::fprintf(stderr, "wrong: %s\n", what);
    std::exit(1);
}

/// Random tensors in buffers of their own.
class Tensors {
  public:
    explicit Tensors(unsigned seed) : engine_(seed) {}

    const void* make(const char* dtype, int64_t bytes) {
        buffers_.emplace_back(static_cast<size_t>(bytes));
        uint8_t* data = buffers_.back().data();
        if (std::strcmp(dtype, "float32") == 0) {
            std::normal_distribution<float> normal(0.0f, 0.1f);
            for (int64_t i = 0; i < bytes; i += 4) {
                const float value = normal(engine_);
                std::memcpy(data + i, &value, 4);
            }
        } else if (std::strcmp(dtype, "int8") == 0) {
            std::uniform_int_distribution<int> digit(-127, 127);
            for (int64_t i = 0; i < bytes; ++i) data[i] = static_cast<uint8_t>(digit(engine_));
        }
        return data;
    }

  private:
    std::mt19937 engine_;
    std::deque<std::vector<uint8_t>> buffers_;
};

std::vector<int64_t> best_tokens(const CaptionDecoder& decoder, const std::vector<float>& memory,
                                 int64_t beam) {
    const CaptionOptions options{beam, 6, 2, 3, 0, 1.0, 1, {}};
    const Writing writing = decoder.write(memory.data(), options, -1);
    require(!writing.hypotheses.empty(), "no hypothesis");
    return writing.hypotheses.front().tokens;
}

void write_everything(const DecoderDims& dims, bool is_int8, unsigned seed) {
    Tensors tensors(seed);
    const DecoderWeights weights = collect_weights(
        dims, is_int8,
        [&](const std::string&, const char* dtype, int64_t bytes) { return tensors.make(dtype, bytes); });
    std::mt19937 engine(seed + 1);
    std::normal_distribution<float> normal(0.0f, 2.0f);
    std::vector<float> memory(static_cast<size_t>(dims.memory * dims.width));
    for (float& value : memory) value = normal(engine);
    for (const char* const* name = kDecoderKernelNames; *name != nullptr; ++name) {
        const DecoderKernels* kernels = decoder_kernels(*name);
        if (kernels == nullptr) continue;
        const CaptionDecoder decoder(dims, weights, *kernels);
        const std::vector<int64_t> tokens{2, 4, 1};
        std::vector<float> log_probs(tokens.size() * static_cast<size_t>(dims.vocabulary));
        decoder.log_probs(memory.data(), tokens.data(), 3, log_probs.data());
        for (const float value : log_probs) require(std::isfinite(value) && value < 1e-3f, "log-probability");
        std::vector<std::vector<int64_t>> expected;
        for (int64_t beam = 1; beam <= 8; ++beam) expected.push_back(best_tokens(decoder, memory, beam));
        std::vector<std::thread> threads;
        for (int thread = 0; thread < 3; ++thread) {
            threads.emplace_back([&] {
                for (int64_t beam = 8; beam >= 1; --beam) {
                    require(best_tokens(decoder, memory, beam) == expected[static_cast<size_t>(beam - 1)],
                            "another answer from another thread");
                }
            });
        }
        for (std::thread& thread : threads) thread.join();
        for (const float odd : {NAN, INFINITY, 3e38f}) {
            std::vector<float> spoilt = memory;
            spoilt[spoilt.size() / 2] = odd;
            decoder.log_probs(spoilt.data(), tokens.data(), 3, log_probs.data());
            best_tokens(decoder, spoilt, 3);
        }
    }
}

}  // namespace

int main() {
    const DecoderDims all[] = {
        {5, 1, 1, 1, 1, 1, 8, 1, 0, 0, 1e-5},         {37, 24, 2, 3, 50, 29, 12, 21, 0, 0, 1e-5},
        {70, 18, 1, 1, 13, 7, 8, 33, 0, 0, 1e-5},     {160, 64, 2, 4, 96, 128, 8, 48, 0, 0, 1e-5},
        {1700, 40, 1, 20, 17, 33, 8, 17, 0, 0, 1e-5}, {70, 18, 1, 1, 13, 0, 8, 33, 0, 0, 1e-5},
        {5, 1, 1, 1, 1, 0, 8, 2, 1, 0, 1e-5},         {37, 24, 2, 3, 50, 0, 12, 21, 8, 3, 1e-5},
        {160, 64, 1, 4, 96, 0, 8, 83, 51, 0, 1e-5},
    };
    unsigned seed = 0;
    for (const DecoderDims& dims : all) {
        for (const bool is_int8 : {false, true}) write_everything(dims, is_int8, ++seed);
    }
    std::puts("captions: all well");
    return 0;
}
