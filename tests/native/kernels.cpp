/// The kernels without Python, for the sanitizers: random and hostile inputs of odd sizes in buffers of
/// exactly their length, at every instruction set and number of threads, the same bits asked of all; then the
/// same from several threads at once. What is done twice must fetch no memory the second time. `make
/// sanitize` builds and runs it. `kernels ROUNDS FILE` also writes every answer to FILE, for `make aarch64`
/// to compare with another processor's.
#include <atomic>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <new>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "host/parallel.hpp"
#include "simd/cpu_features.hpp"
#include "simd/half.hpp"
#include "vision/bits.hpp"
#include "vision/boxes.hpp"
#include "vision/heads.hpp"
#include "vision/letterbox.hpp"
#include "vision/masks.hpp"
#include "vision/nms.hpp"
#include "vision/rle.hpp"
#include "vision/semantic.hpp"

std::atomic<int64_t> allocations{0};

// Out of line, for where the compiler sees both sides it takes them for a mismatch.
__attribute__((noinline)) void* operator new(size_t size) {
    ++allocations;
    if (void* memory = std::malloc(size == 0 ? 1 : size)) return memory;
    throw std::bad_alloc();
}
__attribute__((noinline)) void operator delete(void* memory) noexcept {
    std::free(memory);
}
__attribute__((noinline)) void operator delete(void* memory, size_t) noexcept {
    std::free(memory);
}

namespace {

using namespace yolor_edge;

int thread_count = 1;  // of the kernels

/// All answers of one round, byte after byte.
using Bytes = std::vector<uint8_t>;

bool is_good = true;

bool check(bool is_true, const char* what, int64_t number) {
    if (!is_true) std::fprintf(stderr, "%s, %lld\n", what, static_cast<long long>(number));
    return is_true;
}

std::atomic<bool> counts_allocations{false};

/// Do something; on request once more, which must fetch no memory.
template <class Work>
void do_twice(const char* what, Work&& work) {
    work();
    if (!counts_allocations) return;
    const int64_t before = allocations;
    work();
    is_good &= check(allocations == before, what, allocations - before);
}

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
    /// A head of some type and strides, of `size` numbers, in memory of exactly its length.
    struct Head {
        std::vector<uint8_t> memory;
        HeadView view;
    };
    Head head(int64_t channels, int64_t rows, int64_t columns, double odd_share) {
        const int64_t size = channels * rows * columns;
        Head made{{}, {nullptr, rows * columns, columns, 1}};
        made.view.type = static_cast<HeadType>(between(0, 3));
        if (made.view.type == HeadType::float32) {
            const std::vector<float> values = floats(size, odd_share);
            append(values, &made.memory);
        } else if (made.view.type == HeadType::float16) {
            made.memory = bytes(2 * size);
            for (int64_t i = 0; odd_share == 0.0 && i < size; ++i)
                made.memory[2 * i + 1] &= 0xbf;  // no more than 2
        } else {
            made.memory = bytes(size);
            made.view.scale = 0.05f;
            made.view.zero_point = made.view.type == HeadType::int8 ? 20 : 150;
        }
        const int64_t layout = between(0, 2);
        if (layout == 1) {
            made.view.channel_stride = 1;
            made.view.row_stride = columns * channels;
            made.view.column_stride = channels;
        } else if (layout == 2) {
            made.view.channel_stride = columns;
            made.view.row_stride = channels * columns;
        }
        made.view.data = made.memory.data();
        return made;
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
        do_twice("letterbox fetches memory", [&] {
            letterbox(view, out_height, out_width, 114, true, 1.0f / 255.0f, tensor.data(), thread_count);
        });
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
        letterbox(turned, out_height, out_width, 0, false, 1.0f, tensor.data(), thread_count);
        append(tensor, answers);
    }
    const int64_t even_height = 2 * ((height + 1) / 2), even_width = 2 * ((width + 1) / 2);
    const std::vector<uint8_t> nv12 = dice.bytes(even_height * even_width * 3 / 2);
    letterbox({nv12.data(), even_height, even_width, 3, even_width, 1, 1, PixelLayout::nv12}, out_height,
              out_width, 114, true, 1.0f, tensor.data(), thread_count);
    append(tensor, answers);
    const std::vector<uint8_t> yuyv = dice.bytes(height * even_width * 2);
    letterbox({yuyv.data(), height, even_width, 3, even_width * 2, 2, 1, PixelLayout::yuyv}, out_height,
              out_width, 114, true, 1.0f, tensor.data(), thread_count);
    append(tensor, answers);
}

Detections boxes(Dice& dice, HeadGrid grid, double odd_share, Bytes* answers) {
    const auto box_coding = static_cast<BoxCoding>(dice.between(0, 2));
    const auto score_coding = static_cast<ScoreCoding>(dice.between(0, 1));
    if (box_coding == BoxCoding::xyxy) grid.box_count = dice.between(1, 2000);
    const int64_t classes = dice.between(1, 9);
    const int64_t bins = box_coding == BoxCoding::dfl ? dice.between(1, 17) : 1;
    const Dice::Head scores = dice.head(classes, 1, grid.cells(), odd_share);
    const Dice::Head sides = dice.head(4 * bins, 1, grid.cells(), odd_share / 10);
    const BoxHeads heads{scores.view, classes, sides.view, bins, score_coding, box_coding};
    const double thresholds[] = {-1.0, 0.001, 0.25, 0.9, 1.0};
    const DecodeOptions options{thresholds[dice.between(0, 4)], 0.5f, dice.between(0, 400),
                                dice.between(0, 3000), dice.between(0, 1) == 1};
    Detections found;
    do_twice("boxes fetch memory", [&] { decode_boxes(heads, grid, options, thread_count, &found); });
    const size_t n = found.scores.size();
    std::vector<int32_t> order(n), kept(n);
    do_twice("suppression fetches memory", [&] {
        order_by_score(found.boxes.data(), found.scores.data(), n, order.data());
        nms(found.boxes.data(), found.class_ids.data(), n, 0.3f, n, true, kept.data());
    });
    append(order, answers);
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
    const Dice::Head prototypes = dice.head(channels, grid_height, grid_width, odd_share / 10);
    const size_t n = found.scores.size();
    const Dice::Head coefficients = dice.head(static_cast<int64_t>(n), 1, channels, 0.0);
    std::vector<PixelRegion> regions;
    std::vector<std::vector<uint8_t>> crops;
    std::vector<MaskTarget> targets;
    for (size_t i = 0; i < n; ++i) {
        regions.push_back(region_of_box(found.boxes.data() + 4 * i, height, width));
        crops.emplace_back(static_cast<size_t>(regions[i].height * regions[i].width));
        targets.push_back({crops[i].data(), regions[i].width});
    }
    do_twice("masks fetch memory", [&] {
        fill_masks(prototypes.view, channels, coefficients.view, {0.7, 3, 4, grid_height},
                   {0.9, 0, 4, grid_width}, height, width, n, regions.data(), targets.data(), thread_count);
    });
    std::vector<uint8_t> bits(static_cast<size_t>((width + 7) / 8));
    for (size_t i = 0; i < n; ++i) {
        append(crops[i], answers);
        const std::string code = rle_code(crops[i].data(), regions[i].height, regions[i].width,
                                          regions[i].width, regions[i].y0, regions[i].x0, height, width);
        answers->insert(answers->end(), code.begin(), code.end());
        for (int64_t y = 0; y < regions[i].height; ++y) {
            set_bits(crops[i].data() + y * regions[i].width, regions[i].width, regions[i].x0, bits.data());
        }
        append(bits, answers);
    }
}

void semantic(Dice& dice, double odd_share, Bytes* answers) {
    const int64_t classes = dice.between(1, 200), grid_height = dice.between(1, 20),
                  grid_width = dice.between(1, 20);
    const int64_t height = dice.between(1, 120), width = dice.between(1, 120);
    const Dice::Head logits = dice.head(classes, grid_height, grid_width, odd_share);
    std::vector<uint8_t> map(static_cast<size_t>(height * width));
    do_twice("the semantic map fetches memory", [&] {
        semantic_argmax(logits.view, classes, {0.7, 3, 8, grid_height}, {1.1, 0, 8, grid_width}, height,
                        width, thread_count, map.data());
    });
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
    std::vector<Bytes> expected;
    for (unsigned seed = 0; seed < rounds; ++seed) {
        set_simd_level(SimdLevel::portable);
        thread_count = 1;
        counts_allocations = true;
        expected.push_back(answers_of(seed));
        counts_allocations = false;
        for (int level = 0; level <= static_cast<int>(best_simd_level()); ++level) {
            set_simd_level(static_cast<SimdLevel>(level));
            for (const int threads : {1, 2, 5}) {
                thread_count = threads;
                is_good &= check(answers_of(seed) == expected.back(),
                                 "instruction sets or numbers of threads differ, seed", seed);
            }
        }
    }
    thread_count = 3;  // whose workers all the callers below share
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
    bool is_thrown = false;
    try {
        run_parallel(4, 100, [](int64_t i) {
            if (i == 50) throw std::bad_alloc();
        });
    } catch (const std::bad_alloc&) {
        is_thrown = true;
    }
    is_good &= check(is_thrown, "a worker's exception is lost", 0);
    if (argument_count > 2)
        is_good &= check(write_answers(expected, arguments[2]), "cannot write the file", 0);
    std::puts(is_good ? "kernels: all answers agree" : "kernels: FAILED");
    return is_good ? 0 : 1;
}
