/// The tracker for Python.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <memory>
#include <mutex>
#include <optional>
#include <stdexcept>
#include <string>
#include <tuple>
#include <vector>

#include "bindings_arguments.hpp"
#include "tracking/tracker.hpp"

namespace yolor_edge {
namespace {

template <class Value>
using Packed = py::array_t<Value, py::array::c_style>;

template <class Value>
Packed<Value> packed(const char* name, const py::array& array, const std::vector<py::ssize_t>& shape,
                     const std::string& expected) {
    require_dtype<Value>(name, array);
    if (std::vector<py::ssize_t>(array.shape(), array.shape() + array.ndim()) != shape) {
        refuse_shape(name, expected, array);
    }
    return is_aligned(array) ? Packed<Value>(array) : Packed<Value>(py::array(array.attr("copy")()));
}

void require_finite(const char* name, double lowest, double value) {
    if (std::isfinite(value) && value >= lowest) return;
    throw std::invalid_argument(std::string(name) + " must be a finite number of at least " +
                                text_of(py::float_(lowest)) + ", got " + text_of(py::float_(value)));
}

/// A tracker and a lock: calls from two threads take turns instead of corrupting it.
class LockedTracker {
  public:
    explicit LockedTracker(const TrackingOptions& options) : tracker_(options) {}

    py::array_t<int64_t> update(const py::array& boxes, const py::array& scores, const py::array& class_ids,
                                const std::optional<py::sequence>& masks, double frames, double seconds,
                                const std::optional<py::array>& motion) {
        const py::ssize_t n = scores.ndim() == 1 ? scores.shape(0) : 0;
        const std::string count = std::to_string(n);
        const auto box_values = packed<float>("boxes", boxes, {n, 4}, "(" + count + ", 4)");
        const auto score_values = packed<float>("scores", scores, {n}, "(N,)");
        const auto class_values = packed<int32_t>("class_ids", class_ids, {n}, "(" + count + ",)");
        if (n > std::numeric_limits<int32_t>::max()) refuse_shape("boxes", "(N, 4), N below 2^31", boxes);
        require_finite("frames", 0.0, frames);
        require_finite("seconds", 0.0, seconds);
        TrackingStep step{frames, seconds, {}};
        if (motion) {
            const auto values = packed<double>("motion", *motion, {2, 3}, "(2, 3)");
            const double* m = values.data();
            if (!std::all_of(m, m + 6, [](double value) { return std::isfinite(value); })) {
                throw std::invalid_argument("motion must hold finite numbers");
            }
            step.motion = {m[0], m[1], m[2], m[3], m[4], m[5]};
        }
        std::vector<Packed<uint8_t>> held;
        std::vector<MaskCropView> crops;
        if (masks) {
            if (static_cast<py::ssize_t>(masks->size()) != n) {
                throw std::invalid_argument("masks must be as many as the boxes, " + count + ", got " +
                                            std::to_string(masks->size()));
            }
            for (const py::handle& item : *masks) {
                const auto [y0, x0, crop] = item.cast<std::tuple<int64_t, int64_t, py::array>>();
                require_dtype<uint8_t>("crop", crop);
                if (crop.ndim() != 2) refuse_shape("crop", "(height, width)", crop);
                held.push_back(Packed<uint8_t>::ensure(crop));
                crops.push_back({held.back().data(), y0, x0, crop.shape(0), crop.shape(1), crop.shape(1)});
            }
        }
        py::array_t<int64_t> ids(n);
        int64_t* id_data = ids.mutable_data();
        const FoundObjects objects{box_values.data(), score_values.data(), class_values.data(),
                                   masks ? crops.data() : nullptr, static_cast<size_t>(n)};
        {
            py::gil_scoped_release unlocked;
            const std::lock_guard lock(mutex_);
            tracker_.update(objects, step, id_data);
        }
        return ids;
    }

    py::tuple tracks() {
        const std::lock_guard lock(mutex_);
        const auto& told = tracker_.tracks();
        const auto n = static_cast<py::ssize_t>(told.size());
        py::array_t<int64_t> ids(n);
        py::array_t<int32_t> class_ids(n);
        py::array_t<float> boxes({n, py::ssize_t{4}});
        py::array_t<bool> is_lost(n);
        for (py::ssize_t i = 0; i < n; ++i) {
            const Tracker::Told& track = told[static_cast<size_t>(i)];
            ids.mutable_at(i) = track.id;
            class_ids.mutable_at(i) = track.class_id;
            std::copy(track.box, track.box + 4, boxes.mutable_data() + 4 * i);
            is_lost.mutable_at(i) = track.is_lost;
        }
        return py::make_tuple(ids, class_ids, boxes, is_lost);
    }

    void reset() {
        const std::lock_guard lock(mutex_);
        tracker_.reset();
    }

  private:
    Tracker tracker_;
    std::mutex mutex_;
};

py::array_t<int32_t> assignment_binding(const py::array& costs) {
    if (costs.ndim() != 2 || costs.shape(0) > costs.shape(1) ||
        costs.shape(1) > std::numeric_limits<int32_t>::max()) {
        refuse_shape("costs", "(rows, columns), columns not fewer", costs);
    }
    const auto values = packed<double>("costs", costs, {costs.shape(0), costs.shape(1)}, "");
    const double* data = values.data();
    if (!std::all_of(data, data + values.size(), [](double value) { return std::isfinite(value); })) {
        throw std::invalid_argument("costs must be finite");
    }
    py::array_t<int32_t> chosen(costs.shape(0));
    Assignment().solve(data, static_cast<int32_t>(costs.shape(0)), static_cast<int32_t>(costs.shape(1)),
                       chosen.mutable_data());
    return chosen;
}

}  // namespace

void bind_tracking(py::module_& module) {
    module.def("assignment", &assignment_binding, py::arg("costs"));
    py::class_<LockedTracker>(module, "Tracker")
        .def(py::init([](double high_score, double low_score, double new_score, double overlap,
                         int64_t confirm, double lost_frames, double lost_seconds, bool class_agnostic) {
                 return std::make_unique<LockedTracker>(
                     checked(TrackingOptions{high_score, low_score, new_score, overlap, confirm, lost_frames,
                                             lost_seconds, class_agnostic}));
             }),
             py::arg("high_score") = 0.5, py::arg("low_score") = 0.1, py::arg("new_score") = 0.6,
             py::arg("overlap") = 0.2, py::arg("confirm_frames") = 2, py::arg("lost_frames") = 30.0,
             py::arg("lost_seconds") = 0.0, py::arg("class_agnostic") = false)
        .def("update", &LockedTracker::update, py::arg("boxes"), py::arg("scores"), py::arg("class_ids"),
             py::arg("masks") = py::none(), py::arg("frames") = 1.0, py::arg("seconds") = 0.0,
             py::arg("motion") = py::none())
        .def("tracks", &LockedTracker::tracks)
        .def("reset", &LockedTracker::reset);
}

}  // namespace yolor_edge
