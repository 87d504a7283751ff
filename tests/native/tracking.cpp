/// The tracker without Python, for the sanitizers: objects that move, crowds, objects that all are new, odd
/// numbers, masks in buffers of exactly their length, cameras that move, then trackers in several threads.
/// `make sanitize` builds and runs it.
#include "tracking/tracker.hpp"

#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <limits>
#include <memory>
#include <random>
#include <set>
#include <thread>
#include <vector>

namespace {

using namespace yolor_edge;

void require(bool holds, const char* what) {
    if (holds) return;
    std::fprintf(stderr, "wrong: %s\n", what);
    std::exit(1);
}

struct Scene {
    std::vector<float> boxes, scores;
    std::vector<int32_t> class_ids;
    std::vector<std::vector<uint8_t>> pixels;
    std::vector<MaskCropView> masks;

    void add(float x, float y, float side, float score, int32_t class_id) {
        boxes.insert(boxes.end(), {x, y, x + side, y + side});
        scores.push_back(score);
        class_ids.push_back(class_id);
        const auto length = static_cast<int64_t>(side);
        pixels.emplace_back(static_cast<size_t>(length * length), uint8_t{1});
        const auto place = [](float value) { return std::isfinite(value) ? static_cast<int64_t>(value) : 0; };
        masks.push_back({nullptr, place(y), place(x), length, length, length});
        for (size_t i = 0; i < pixels.size(); ++i) masks[i].data = pixels[i].data();
    }

    FoundObjects view(bool has_masks) const {
        return {boxes.data(), scores.data(), class_ids.data(), has_masks ? masks.data() : nullptr,
                scores.size()};
    }
};

std::vector<int64_t> follow(const TrackingOptions& options, unsigned seed, int count, bool has_masks) {
    std::mt19937 dice(seed);
    std::uniform_real_distribution<float> place(0.0f, 300.0f), unit(0.0f, 1.0f);
    Tracker tracker(options);
    std::vector<int64_t> all;
    for (int frame = 0; frame < 60; ++frame) {
        Scene scene;
        for (int i = 0; i < count; ++i) {
            const auto step = static_cast<float>(frame);
            if (unit(dice) < 0.1f) continue;
            scene.add(static_cast<float>(i * 7 % 200) + step, static_cast<float>(i * 13 % 90) + unit(dice),
                      20.0f, 0.3f + 0.7f * unit(dice), i % 2);
            if (i % 5 == 0) scene.add(place(dice), place(dice), 1.0f + 30.0f * unit(dice), unit(dice), 0);
        }
        if (frame % 7 == 3) {
            scene.add(NAN, 0.0f, 3.0f, 0.9f, 0);
            scene.add(INFINITY, 0.0f, 3.0f, 0.9f, 0);
            scene.add(1e30f, 1e30f, 3.0f, 0.9f, 0);
            scene.add(5.0f, 5.0f, 0.0f, 0.9f, 0);
            scene.add(5.0f, 5.0f, 9.0f, NAN, 0);
        }
        if (frame % 20 == 19) scene = Scene();
        TrackingStep step;
        step.frames = 1.0 + frame % 3;
        step.seconds = 0.04;
        if (frame % 11 == 5) step.motion = {1.01, 0.02, -3.0, -0.02, 1.01, 2.0};
        if (frame == 50) step.motion = {0.0, 0.0, 1e9, 0.0, 0.0, -1e9};
        std::vector<int64_t> ids(scene.scores.size());
        tracker.update(scene.view(has_masks), step, ids.data());
        std::set<int64_t> given;
        for (const int64_t id : ids) require(id == -1 || given.insert(id).second, "one id for two objects");
        int64_t before = 0;
        for (const Tracker::Told& track : tracker.tracks()) {
            require(track.id > before, "tracks are not in the order of their ids");
            before = track.id;
        }
        all.insert(all.end(), ids.begin(), ids.end());
    }
    return all;
}

void all_new() {
    TrackingOptions options;
    options.confirm = 1;
    options.lost_frames = 1e6;
    Tracker tracker(options);
    for (int frame = 0; frame < 30; ++frame) {
        Scene scene;
        for (int i = 0; i < 100; ++i)
            scene.add(static_cast<float>(i) * 30.0f, static_cast<float>(frame) * 30.0f, 20.0f, 0.9f, 0);
        std::vector<int64_t> ids(scene.scores.size());
        tracker.update(scene.view(false), {}, ids.data());
    }
    require(tracker.tracks().size() == 100 + Tracker::kMostLost, "lost tracks are not bounded");
    tracker.reset();
    require(tracker.tracks().empty(), "a reset forgets");
}

void assignments() {
    std::mt19937 dice(3);
    Matcher matcher;
    for (int turn = 0; turn < 300; ++turn) {
        const auto rows = static_cast<int32_t>(dice() % 12), columns = static_cast<int32_t>(dice() % 12);
        std::vector<Pair> pairs;
        for (int32_t row = 0; row < rows; ++row) {
            for (int32_t column = 0; column < columns; ++column) {
                if (dice() % 3 == 0)
                    pairs.push_back({row, column, 0.25 * static_cast<double>(1 + dice() % 4)});
            }
        }
        std::vector<int32_t> chosen(static_cast<size_t>(rows));
        matcher.match(pairs, rows, columns, chosen.data());
        std::set<int32_t> used;
        for (int32_t row = 0; row < rows; ++row) {
            const int32_t column = chosen[static_cast<size_t>(row)];
            if (column < 0) continue;
            bool is_known = false;
            for (const Pair& pair : pairs) is_known = is_known || (pair.row == row && pair.column == column);
            require(is_known && used.insert(column).second, "a match that may not be");
        }
    }
}

}  // namespace

int main() {
    TrackingOptions options;
    for (const bool is_agnostic : {false, true}) {
        options.class_agnostic = is_agnostic;
        options.lost_seconds = is_agnostic ? 0.2 : 0.0;
        for (const bool has_masks : {false, true}) {
            for (const int count : {0, 1, 30, 120}) {
                const auto expected = follow(options, 7, count, has_masks);
                std::vector<std::thread> threads;
                for (int i = 0; i < 2; ++i) {
                    threads.emplace_back([&] {
                        require(follow(options, 7, count, has_masks) == expected,
                                "other ids in another thread");
                    });
                }
                for (std::thread& thread : threads) thread.join();
            }
        }
    }
    all_new();
    assignments();
    std::puts("tracking: all well");
    return 0;
}
