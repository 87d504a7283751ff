#include "tracking/tracker.hpp"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <stdexcept>
#include <utility>

namespace yolor_edge {
namespace {

constexpr float kSameOverlap = 0.85f;     // IoU above which a track and a lost one are the same object
constexpr float kFarthest = 16777216.0f;  // pixels; floats have no half ones beyond
constexpr int64_t kMaskPoints = 64;       // on the longer side of a mask that is remembered

float area_of(const float* box) {
    return (box[2] - box[0]) * (box[3] - box[1]);
}

float overlap_of(const float* a, const float* b) {
    const float width = std::min(a[2], b[2]) - std::max(a[0], b[0]);
    const float height = std::min(a[3], b[3]) - std::max(a[1], b[1]);
    if (!(width > 0.0f && height > 0.0f)) return 0.0f;
    const float both = width * height;
    return both / (area_of(a) + area_of(b) - both);
}

bool is_sound(const float* box, float score) {
    for (int i = 0; i < 4; ++i) {
        if (!(std::fabs(box[i]) <= kFarthest)) return false;
    }
    return box[2] > box[0] && box[3] > box[1] && !std::isnan(score);
}

void require(const char* name, double lowest, double highest, double value) {
    if (value >= lowest && value <= highest) return;
    char text[160];
    std::snprintf(text, sizeof text, "%s must lie in %g..%g, got %g", name, lowest, highest, value);
    throw std::invalid_argument(text);
}

}  // namespace

TrackingOptions checked(const TrackingOptions& options) {
    constexpr double kLongest = 1e9;
    require("high_score", 0.0, 1.0, options.high_score);
    require("low_score", 0.0, options.high_score, options.low_score);
    require("new_score", options.high_score, 1.0, options.new_score);
    require("overlap", 0.0, 1.0, options.overlap);
    require("confirm_frames", 1.0, kLongest, static_cast<double>(options.confirm));
    require("lost_frames", 0.0, kLongest, options.lost_frames);
    require("lost_seconds", 0.0, kLongest, options.lost_seconds);
    return options;
}

void Tracker::reset() {
    frame_ = second_ = 0.0;
    updates_ = last_id_ = 0;
    tracks_.clear();
}

void Tracker::update(const FoundObjects& objects, const TrackingStep& step, int64_t* ids) {
    frame_ += step.frames;
    second_ += step.seconds;
    ++updates_;
    predict(step);
    sort_out(objects);
    const auto take = [this](const auto& wanted) {
        candidates_.clear();
        for (size_t i = 0; i < tracks_.size(); ++i) {
            if (!tracks_[i].is_matched && !tracks_[i].is_over && wanted(tracks_[i]))
                candidates_.push_back(static_cast<int32_t>(i));
        }
    };
    // Weak ones go on with lost and new tracks too, unlike in the paper: what comes out of hiding is weak at
    // first.
    const auto is_known = [](const Track& track) { return track.id != 0; };
    take(is_known);
    associate(objects, &high_, true);
    take(is_known);
    associate(objects, &low_, false);
    const auto is_new = [](const Track& track) { return track.id == 0; };
    take(is_new);
    associate(objects, &high_, true);
    take(is_new);
    associate(objects, &low_, false);
    for (Track& track : tracks_) {
        if (track.is_matched) continue;
        track.is_lost = true;
        track.is_over = track.is_over || track.id == 0;
    }
    begin_tracks(objects);
    join_duplicates();
    drop_old();
    std::fill(ids, ids + objects.n, int64_t{-1});
    for (const Track& track : tracks_) {
        if (track.object >= 0 && track.id != 0) ids[track.object] = track.id;
    }
}

void Tracker::predict(const TrackingStep& step) {
    for (Track& track : tracks_) {
        track.is_matched = false;
        track.object = -1;
        // Where much time went by at once.
        track.is_over = options_.lost_seconds > 0.0 ? second_ - track.last_second > options_.lost_seconds
                                                    : frame_ - track.last_frame - 1.0 > options_.lost_frames;
        if (track.is_lost) track.box.keep_size();
        track.box.predict(step.frames);
        track.box.follow(step.motion);
        track.box.write(track.predicted);
    }
}

/// Into objects of high and low score.
void Tracker::sort_out(const FoundObjects& objects) {
    high_.clear();
    low_.clear();
    for (size_t i = 0; i < objects.n; ++i) {
        const float score = objects.scores[i];
        if (!is_sound(objects.boxes + 4 * i, score)) continue;
        if (static_cast<double>(score) >= options_.high_score) {
            high_.push_back(static_cast<int32_t>(i));
        } else if (static_cast<double>(score) >= options_.low_score) {
            low_.push_back(static_cast<int32_t>(i));
        }
    }
    mask_areas_.clear();
    if (objects.masks == nullptr) return;
    for (size_t i = 0; i < objects.n; ++i) {
        const MaskCropView& mask = objects.masks[i];
        int64_t area = 0;
        for (int64_t y = 0; y < mask.height; ++y) {
            const uint8_t* row = mask.data + y * mask.row_stride;
            for (int64_t x = 0; x < mask.width; ++x) area += row[x] != 0;
        }
        mask_areas_.push_back(area);
    }
}

/// Match the candidates with objects; those that are matched leave `numbers`.
///   times_score  the overlap counts times the score of the object
void Tracker::associate(const FoundObjects& objects, std::vector<int32_t>* numbers, bool times_score) {
    if (candidates_.empty() || numbers->empty()) return;
    const size_t n = numbers->size();
    meets_.resize(n);
    for (std::vector<float>* values : {&x1_, &y1_, &x2_, &y2_, &area_}) values->resize(n);
    for (size_t j = 0; j < n; ++j) {
        const float* box = objects.boxes + 4 * static_cast<size_t>((*numbers)[j]);
        x1_[j] = box[0];
        y1_[j] = box[1];
        x2_[j] = box[2];
        y2_[j] = box[3];
        area_[j] = area_of(box);
    }
    pairs_.clear();
    for (size_t row = 0; row < candidates_.size(); ++row) {
        const Track& track = tracks_[static_cast<size_t>(candidates_[row])];
        const float *box = track.predicted, area = area_of(box);
        for (size_t j = 0; j < n; ++j) {
            meets_[j] = static_cast<char>((std::min(box[2], x2_[j]) > std::max(box[0], x1_[j])) &
                                          (std::min(box[3], y2_[j]) > std::max(box[1], y1_[j])));
        }
        for (size_t j = 0; j < n; ++j) {
            if (!meets_[j]) continue;
            const int32_t object = (*numbers)[j];
            if (!options_.class_agnostic && objects.class_ids[object] != track.class_id) continue;
            const float both = (std::min(box[2], x2_[j]) - std::max(box[0], x1_[j])) *
                               (std::min(box[3], y2_[j]) - std::max(box[1], y1_[j]));
            double overlap = static_cast<double>(both / (area + area_[j] - both));
            if (objects.masks != nullptr) overlap = mask_overlap(objects, track, object);
            if (times_score) overlap *= static_cast<double>(objects.scores[object]);
            if (overlap > options_.overlap) {
                pairs_.push_back(
                    {static_cast<int32_t>(row), static_cast<int32_t>(j), overlap - options_.overlap});
            }
        }
    }
    chosen_.resize(candidates_.size());
    matcher_.match(pairs_, static_cast<int32_t>(candidates_.size()), static_cast<int32_t>(n), chosen_.data());
    for (size_t row = 0; row < candidates_.size(); ++row) {
        if (chosen_[row] < 0) continue;
        int32_t& object = (*numbers)[static_cast<size_t>(chosen_[row])];
        see(objects, &tracks_[static_cast<size_t>(candidates_[row])], object);
        object = -1;
    }
    numbers->erase(std::remove(numbers->begin(), numbers->end(), -1), numbers->end());
}

/// IoU of an object's mask and that of a track where it is now guessed to be.
double Tracker::mask_overlap(const FoundObjects& objects, const Track& track, int32_t object) const {
    const MaskCropView& mask = objects.masks[object];
    const MaskPoints& points = track.mask;
    const auto moved = [](double now, double then) {
        constexpr auto kMost = static_cast<double>(kFarthest);
        return static_cast<int64_t>(std::llround(std::clamp(now - then, -kMost, kMost)));
    };
    const int64_t top = points.y0 + moved(track.box.y(), track.seen_y) - mask.y0;
    const int64_t left = points.x0 + moved(track.box.x(), track.seen_x) - mask.x0;
    int64_t both = 0;
    for (int64_t row = 0; row < points.rows; ++row) {
        const int64_t y = top + row * points.step;
        if (y < 0 || y >= mask.height) continue;
        const uint8_t* pixels = mask.data + y * mask.row_stride;
        const uint8_t* point = points.points.data() + row * points.columns;
        for (int64_t column = 0; column < points.columns; ++column) {
            const int64_t x = left + column * points.step;
            if (x >= 0 && x < mask.width) both += point[column] != 0 && pixels[x] != 0;
        }
    }
    const double area = static_cast<double>(mask_areas_[static_cast<size_t>(object)]) /
                        static_cast<double>(points.step * points.step);
    const double either = area + static_cast<double>(points.count - both);
    return either > 0.0 ? std::min(1.0, static_cast<double>(both) / either) : 0.0;
}

void Tracker::keep_mask(const MaskCropView& mask, MaskPoints* kept) const {
    kept->step = std::max<int64_t>(1, (std::max(mask.height, mask.width) + kMaskPoints - 1) / kMaskPoints);
    kept->y0 = mask.y0 + kept->step / 2;
    kept->x0 = mask.x0 + kept->step / 2;
    kept->rows = std::max<int64_t>(0, (mask.height - kept->step / 2 + kept->step - 1) / kept->step);
    kept->columns = std::max<int64_t>(0, (mask.width - kept->step / 2 + kept->step - 1) / kept->step);
    kept->count = 0;
    kept->points.clear();
    for (int64_t row = 0; row < kept->rows; ++row) {
        const uint8_t* pixels = mask.data + (kept->step / 2 + row * kept->step) * mask.row_stride;
        for (int64_t column = 0; column < kept->columns; ++column) {
            const bool is_set = pixels[kept->step / 2 + column * kept->step] != 0;
            kept->points.push_back(is_set);
            kept->count += is_set;
        }
    }
}

/// A track has an object of this frame.
void Tracker::see(const FoundObjects& objects, Track* track, int32_t object) {
    const float* box = objects.boxes + 4 * static_cast<size_t>(object);
    track->box.correct(box);
    track->seen_x = track->box.x();
    track->seen_y = track->box.y();
    track->class_id = objects.class_ids[object];
    track->is_matched = true;
    track->is_lost = false;
    track->object = object;
    track->last_frame = frame_;
    track->last_second = second_;
    if (objects.masks != nullptr) keep_mask(objects.masks[object], &track->mask);
    if (track->id == 0 && ++track->seen >= options_.confirm) track->id = ++last_id_;
}

void Tracker::begin_tracks(const FoundObjects& objects) {
    for (const int32_t object : high_) {
        if (static_cast<double>(objects.scores[object]) < options_.new_score) continue;
        if (spare_.empty()) {
            tracks_.emplace_back();
        } else {
            tracks_.push_back(std::move(spare_.back()));
            spare_.pop_back();
        }
        Track& track = tracks_.back();
        MaskPoints mask = std::move(track.mask);
        track = Track();
        track.mask = std::move(mask);
        const float* box = objects.boxes + 4 * static_cast<size_t>(object);
        track.box.begin(box);
        std::copy(box, box + 4, track.predicted);
        track.seen_x = track.box.x();
        track.seen_y = track.box.y();
        track.class_id = objects.class_ids[object];
        track.is_matched = true;
        track.object = object;
        track.begin_frame = track.last_frame = frame_;
        track.last_second = second_;
        if (objects.masks != nullptr) keep_mask(objects.masks[object], &track.mask);
        // What is there from the beginning needs no proof.
        if (options_.confirm <= 1 || updates_ == 1) track.id = ++last_id_;
    }
}

/// A track that lies on a lost one: the older of the two goes on with what the newer one has seen.
void Tracker::join_duplicates() {
    for (Track& lost : tracks_) {
        if (!lost.is_lost || lost.is_over) continue;
        for (Track& track : tracks_) {
            if (track.is_lost || track.is_over) continue;
            if (!options_.class_agnostic && track.class_id != lost.class_id) continue;
            float box[4];
            track.box.write(box);
            if (!(overlap_of(box, lost.predicted) > kSameOverlap)) continue;
            if (track.last_frame - track.begin_frame > lost.last_frame - lost.begin_frame) {
                lost.is_over = true;
            } else {
                std::swap(lost.id, track.id);
                std::swap(lost.begin_frame, track.begin_frame);
                lost.is_over = true;
            }
            break;
        }
    }
}

void Tracker::drop_old() {
    size_t lost = 0;
    for (Track& track : tracks_) {
        if (!track.is_lost || track.is_over) continue;
        track.is_over = options_.lost_seconds > 0.0 ? second_ - track.last_second > options_.lost_seconds
                                                    : frame_ - track.last_frame > options_.lost_frames;
        lost += !track.is_over;
    }
    for (; lost > kMostLost; --lost) {
        Track* oldest = nullptr;
        for (Track& track : tracks_) {
            const bool is_older = oldest == nullptr || track.last_frame < oldest->last_frame;
            if (track.is_lost && !track.is_over && is_older) oldest = &track;
        }
        oldest->is_over = true;
    }
    size_t kept = 0;
    for (size_t i = 0; i < tracks_.size(); ++i) {
        if (!tracks_[i].is_over) {
            if (kept != i) std::swap(tracks_[kept], tracks_[i]);
            ++kept;
        }
    }
    while (tracks_.size() > kept) {
        spare_.push_back(std::move(tracks_.back()));
        tracks_.pop_back();
    }
}

const std::vector<Tracker::Told>& Tracker::tracks() {
    told_.clear();
    for (const Track& track : tracks_) {
        if (track.id == 0) continue;
        Told told{track.id, track.class_id, {0.0f, 0.0f, 0.0f, 0.0f}, track.is_lost};
        track.box.write(told.box);
        told_.push_back(told);
    }
    std::sort(told_.begin(), told_.end(), [](const Told& a, const Told& b) { return a.id < b.id; });
    return told_;
}

}  // namespace yolor_edge
