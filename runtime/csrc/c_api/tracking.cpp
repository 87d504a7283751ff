/// Tracking for C; see yolor_edge.h.
#include <algorithm>
#include <cmath>
#include <limits>

#include "arguments.hpp"
#include "tracking/tracker.hpp"

using namespace yolor_edge;
using namespace yolor_edge::c_api;

struct yolor_edge_tracker {
    Tracker tracker;
};

namespace {

constexpr yolor_edge_tracker_options kTracker{
    sizeof(yolor_edge_tracker_options), 0.5, 0.1, 0.6, 0.2, 2, 30.0, 0.0, 0};
constexpr yolor_edge_tracker_step kStep{sizeof(yolor_edge_tracker_step), 1.0, 0.0, nullptr};

void require_duration(const char* name, double value) {
    if (value >= 0.0 && value <= 1e9) return;
    throw std::invalid_argument(std::string(name) + " must lie in 0..1e9, got " + std::to_string(value));
}

}  // namespace

yolor_edge_status yolor_edge_tracker_options_init(yolor_edge_tracker_options* options, size_t size) {
    return guarded([&] { give("options", kTracker, options, size); });
}

yolor_edge_status yolor_edge_tracker_step_init(yolor_edge_tracker_step* step, size_t size) {
    return guarded([&] { give("step", kStep, step, size); });
}

yolor_edge_status yolor_edge_tracker_open(const yolor_edge_tracker_options* options,
                                          yolor_edge_tracker** tracker) {
    return guarded([&] {
        require_given("tracker", tracker);
        *tracker = nullptr;
        const yolor_edge_tracker_options chosen = options_or("options", options, kTracker);
        *tracker = new yolor_edge_tracker{Tracker(checked(
            {chosen.high_score, chosen.low_score, chosen.new_score, chosen.overlap, chosen.confirm_frames,
             chosen.lost_frames, chosen.lost_seconds, chosen.class_agnostic != 0}))};
    });
}

void yolor_edge_tracker_close(yolor_edge_tracker* tracker) {
    delete tracker;
}

yolor_edge_status yolor_edge_tracker_update(yolor_edge_tracker* tracker,
                                            const yolor_edge_detections* detections,
                                            const yolor_edge_tracker_step* step, int64_t* track_ids) {
    return guarded([&] {
        require_given("tracker", tracker);
        require_given("detections", detections);
        require_between("detections.count", 0, std::numeric_limits<int32_t>::max(), detections->count);
        const yolor_edge_tracker_step chosen = options_or("step", step, kStep);
        require_duration("step.frames", chosen.frames);
        require_duration("step.seconds", chosen.seconds);
        TrackingStep taken{chosen.frames, chosen.seconds, {}};
        if (chosen.motion != nullptr) {
            const double* m = chosen.motion;
            if (!std::all_of(m, m + 6, [](double value) { return std::isfinite(value); }))
                throw std::invalid_argument("step.motion must hold finite numbers");
            taken.motion = {m[0], m[1], m[2], m[3], m[4], m[5]};
        }
        if (detections->count > 0) {
            require_given("detections.boxes", detections->boxes);
            require_given("detections.scores", detections->scores);
            require_given("detections.class_ids", detections->class_ids);
            require_given("track_ids", track_ids);
        }
        tracker->tracker.update({detections->boxes, detections->scores, detections->class_ids, nullptr,
                                 static_cast<size_t>(detections->count)},
                                taken, track_ids);
    });
}
