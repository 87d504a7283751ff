/// The kernels without Python, for the sanitizers: random and hostile inputs of odd sizes in buffers of
/// exactly their length, at every instruction set, the same bits asked of all; then the same from several
/// threads at once. `make sanitize` builds and runs it. `kernels ROUNDS FILE` also writes every answer to
/// FILE, for `make aarch64` to compare with another processor's.
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "boxes.hpp"
#include "cpu_features.hpp"
#include "half.hpp"
#include "letterbox.hpp"
#include "masks.hpp"
#include "nms.hpp"
#include "rle.hpp"
#include "semantic.hpp"

namespace {

using namespace yolor_edge;

/// All answers of one round, byte after byte.
using Bytes = std::vector<uint8_t>;

template <class Value>
void append(const std::vector<Value>& values, Bytes* bytes) {
    const auto* first = reinterpret_cast<const uint8_t*>(values.data());
    bytes->insert(bytes->end(), first, first + values.size() * sizeof(Value));
}

class Dice {
  public:
    explicit Dice(unsigned seed) : engine_(seed) {}
    int64_t between(int64_t low, int64_t high) {
        return std::uniform_int_distribution<int64_t>(low, high)(engine_);
    }
    std::vector<float> floats(int64_t n, double odd_share) {
        constexpr float kInfinity = std::numeric_limits<float>::infinity();
        const float odd[] = {NAN, kInfinity, -kInfinity, 0.0f, -0.0f, 1e-40f, 3e38f, -3e38f};
        std::vector<float> values(static_cast<size_t>(n));
        std::bernoulli_distribution is_odd(odd_share);
        for (float& value : values) value = is_odd(engine_) ? odd[between(0, 7)] : bell();
        return values;
    }
    std::vector<uint8_t> bytes(int64_t n) {
        std::vector<uint8_t> values(static_cast<size_t>(n));
        for (uint8_t& value : values) value = static_cast<uint8_t>(between(0, 255));
        return values;
    }

  private:
    /// Like a normal number of spread 3; from whole numbers, the same on every processor and C library.
    float bell() {
        int64_t sum = 0;
        for (int i = 0; i < 4; ++i) sum += between(-65536, 65536);
        return static_cast<float>(sum) * (2.6f / 65536.0f);
    }

    std::mt19937 engine_;
};

void letterboxes(Dice& dice, Bytes* answers) {
    const int64_t height = dice.between(1, 70), width = dice.between(1, 70);
    const int64_t out_height = dice.between(35, 90), out_width = dice.between(35, 90);
    std::vector<float> tensor(static_cast<size_t>(3 * out_height * out_width));
    for (const int64_t channels : {1, 3}) {
        const std::vector<uint8_t> image = dice.bytes(height * width * channels);
        const ImageView view{image.data(), height, width, channels, width * channels, channels, 1};
        letterbox(view, out_height, out_width, 114, true, 1.0f / 255.0f, tensor.data());
        append(tensor, answers);
        std::vector<uint8_t> pixels(tensor.size());
        letterbox_u8(view, out_height, out_width, 114, false, pixels.data());
        append(pixels, answers);
        const ImageView turned{image.data() + (height - 1) * width * channels,
                               height,
                               width,
                               channels,
                               -width * channels,
                               channels,
                               1};
        letterbox(view, (height + 1) / 2, (width + 1) / 2, 114, true, 1.0f / 255.0f,
                  tensor.data());  // or halved
        append(tensor, answers);
        letterbox(turned, out_height, out_width, 0, false, 1.0f, tensor.data());
        append(tensor, answers);
    }
    const int64_t even_height = 2 * ((height + 1) / 2), even_width = 2 * ((width + 1) / 2);
    const std::vector<uint8_t> nv12 = dice.bytes(even_height * even_width * 3 / 2);
    letterbox({nv12.data(), even_height, even_width, 3, even_width, 1, 1, PixelLayout::nv12}, out_height,
              out_width, 114, true, 1.0f, tensor.data());
    append(tensor, answers);
    const std::vector<uint8_t> yuyv = dice.bytes(height * even_width * 2);
    letterbox({yuyv.data(), height, even_width, 3, even_width * 2, 2, 1, PixelLayout::yuyv}, out_height,
              out_width, 114, true, 1.0f, tensor.data());
    append(tensor, answers);
}

Detections boxes(Dice& dice, const HeadGrid& grid, double odd_share, Bytes* answers) {
    const int64_t classes = dice.between(1, 9), bins = dice.between(1, 17);
    const std::vector<float> logits = dice.floats(classes * grid.cells(), odd_share);
    const std::vector<float> box_bins = dice.floats(4 * bins * grid.cells(), odd_share / 10);
    const double thresholds[] = {-1.0, 0.001, 0.25, 0.9, 1.0};
    const DecodeOptions options{thresholds[dice.between(0, 4)], 0.5f, dice.between(0, 400),
                                dice.between(0, 3000), dice.between(0, 1) == 1};
    Detections found = decode_boxes(logits.data(), classes, box_bins.data(), bins, grid, options);
    append(found.boxes, answers);
    append(found.scores, answers);
    append(found.class_ids, answers);
    append(found.cells, answers);
    return found;
}

void masks(Dice& dice, const Detections& found, double odd_share, Bytes* answers) {
    const int64_t channels = dice.between(1, 9), grid_height = dice.between(1, 40),
                  grid_width = dice.between(1, 40);
    const int64_t height = dice.between(1, 200), width = dice.between(1, 200);
    const std::vector<float> prototypes = dice.floats(channels * grid_height * grid_width, odd_share / 10);
    const size_t n = found.scores.size();
    const std::vector<float> coefficients = dice.floats(static_cast<int64_t>(n) * channels, 0.0);
    std::vector<PixelRegion> regions;
    std::vector<std::vector<uint8_t>> crops;
    std::vector<MaskTarget> targets;
    for (size_t i = 0; i < n; ++i) {
        regions.push_back(region_of_box(found.boxes.data() + 4 * i, height, width));
        crops.emplace_back(static_cast<size_t>(regions[i].height * regions[i].width));
        targets.push_back({crops[i].data(), regions[i].width});
    }
    fill_masks(prototypes.data(), channels, coefficients.data(), {0.7, 3, 4, grid_height},
               {0.9, 0, 4, grid_width}, height, width, n, regions.data(), targets.data());
    for (size_t i = 0; i < n; ++i) {
        append(crops[i], answers);
        const std::string code = rle_code(crops[i].data(), regions[i].height, regions[i].width,
                                          regions[i].width, regions[i].y0, regions[i].x0, height, width);
        answers->insert(answers->end(), code.begin(), code.end());
    }
}

void semantic(Dice& dice, double odd_share, Bytes* answers) {
    const int64_t classes = dice.between(1, 200), grid_height = dice.between(1, 20),
                  grid_width = dice.between(1, 20);
    const int64_t height = dice.between(1, 120), width = dice.between(1, 120);
    const std::vector<float> logits = dice.floats(classes * grid_height * grid_width, odd_share);
    std::vector<uint8_t> map(static_cast<size_t>(height * width));
    semantic_argmax(logits.data(), classes, {0.7, 3, 8, grid_height}, {1.1, 0, 8, grid_width}, height, width,
                    map.data());
    append(map, answers);
}

void halves(Dice& dice, Bytes* answers) {
    const std::vector<uint8_t> source = dice.bytes(2 * dice.between(0, 40));
    std::vector<uint16_t> packed(source.size() / 2);
    if (!source.empty()) std::memcpy(packed.data(), source.data(), source.size());
    std::vector<float> wide(packed.size());
    widen_half(packed.data(), packed.size(), wide.data());
    append(wide, answers);
}

Bytes answers_of(unsigned seed) {
    Dice dice(seed);
    const double odd_share = seed % 2 == 0 ? 0.0 : 0.02;
    Bytes answers;
    letterboxes(dice, &answers);
    const Detections found =
        boxes(dice, {{8, 16, 32}, 32 * dice.between(1, 4), 32 * dice.between(1, 4)}, odd_share, &answers);
    masks(dice, found, odd_share, &answers);
    semantic(dice, odd_share, &answers);
    halves(dice, &answers);
    return answers;
}

bool check(bool is_true, const char* what, unsigned seed) {
    if (!is_true) std::fprintf(stderr, "%s, seed %u\n", what, seed);
    return is_true;
}

bool write_answers(const std::vector<Bytes>& rounds, const char* path) {
    std::FILE* file = std::fopen(path, "wb");
    if (file == nullptr) return false;
    bool is_whole = true;
    for (const Bytes& answers : rounds)
        is_whole &= std::fwrite(answers.data(), 1, answers.size(), file) == answers.size();
    return std::fclose(file) == 0 && is_whole;
}

}  // namespace

int main(int argument_count, char** arguments) {
    const unsigned rounds = argument_count > 1 ? static_cast<unsigned>(std::atoi(arguments[1])) : 20;
    bool is_good = true;
    std::vector<Bytes> expected;
    for (unsigned seed = 0; seed < rounds; ++seed) {
        set_simd_level(SimdLevel::portable);
        expected.push_back(answers_of(seed));
        for (int level = 1; level <= static_cast<int>(best_simd_level()); ++level) {
            set_simd_level(static_cast<SimdLevel>(level));
            is_good &= check(answers_of(seed) == expected.back(), "instruction sets differ", seed);
        }
    }
    std::vector<std::thread> threads;
    std::vector<char> agree(4, 1);
    for (size_t t = 0; t < agree.size(); ++t) {
        threads.emplace_back([&, t] {
            for (unsigned seed = 0; seed < rounds; ++seed) {
                if (answers_of(seed) != expected[seed]) agree[t] = 0;
            }
        });
    }
    for (std::thread& thread : threads) thread.join();
    for (const char same : agree) is_good &= check(same != 0, "threads differ", 0);
    if (argument_count > 2)
        is_good &= check(write_answers(expected, arguments[2]), "cannot write the file", 0);
    std::puts(is_good ? "kernels: all answers agree" : "kernels: FAILED");
    return is_good ? 0 : 1;
}
