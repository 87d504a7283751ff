/// Objects that keep their number from frame to frame: ByteTrack's association (arXiv 2110.06864), in which
/// weak boxes go on with lost and with new tracks as well.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "tracking/assignment.hpp"
#include "tracking/motion.hpp"

namespace yolor_edge {

struct TrackingOptions {
    double high_score = 0.5;      ///< boxes from here on are matched first
    double low_score = 0.1;       ///< boxes from here on go on with tracks that are left over then
    double new_score = 0.6;       ///< boxes from here on begin tracks
    double overlap = 0.2;         ///< IoU that boxes and tracks have at least; times a high score
    int64_t confirm = 2;          ///< frames in a row that a track is seen before it has a number
    double lost_frames = 30.0;    ///< frames that a track lives unseen
    double lost_seconds = 0.0;    ///< above 0: seconds instead
    bool class_agnostic = false;  ///< a track may change its class
};

/// The options, if they make sense.
/// Throws std::invalid_argument that names the one that does not.
TrackingOptions checked(const TrackingOptions& options);

/// A mask's rectangle in the image: (height, width) bytes, zero or not.
struct MaskCropView {
    const uint8_t* data;
    int64_t y0;
    int64_t x0;
    int64_t height;
    int64_t width;
    std::ptrdiff_t row_stride;
};

/// The objects found in a frame.
struct FoundObjects {
    const float* boxes;         ///< (n, 4) x1, y1, x2, y2 in pixels of the image
    const float* scores;        ///< (n,)
    const int32_t* class_ids;   ///< (n,)
    const MaskCropView* masks;  ///< (n,), or null: overlap is that of boxes
    size_t n;
};

/// What happened since the update before.
struct TrackingStep {
    double frames = 1.0;
    double seconds = 0.0;
    CameraMotion motion;
};

/// Follows the objects of one camera; one thread at a time. After as many frames as tracks live unseen,
/// memory is fetched only where there are more objects than before; lost tracks are at most `kMostLost`.
class Tracker {
  public:
    static constexpr size_t kMostLost = 1000;

    /// A track with a number.
    struct Told {
        int64_t id;
        int32_t class_id;
        float box[4];  ///< where it is, or is guessed to be
        bool is_lost;
    };

    explicit Tracker(const TrackingOptions& options) : options_(options) {}

    /// Take the objects of the next frame.
    ///   ids  (n,) out: the number of each object's track, from 1 on in the order of confirmation; -1 for
    ///   none.
    ///        Boxes that are empty or not finite, and scores that are NaN, are left out
    void update(const FoundObjects& objects, const TrackingStep& step, int64_t* ids);

    /// The tracks with a number, seen or lost, oldest first.
    const std::vector<Told>& tracks();

    /// Begin anew, with number 1.
    void reset();

  private:
    /// A mask as points of a grid: what it takes to compare it with another one, in little memory.
    struct MaskPoints {
        int64_t y0 = 0, x0 = 0, rows = 0, columns = 0, step = 1, count = 0;
        std::vector<uint8_t> points;
    };

    struct Track {
        int64_t id = 0;  // 0 until it is confirmed
        int64_t seen = 1;
        int32_t class_id = 0;
        bool is_lost = false, is_matched = false, is_over = false;
        double begin_frame = 0.0, last_frame = 0.0, last_second = 0.0;
        double seen_x = 0.0, seen_y = 0.0;  // the centre at the last correction, where the mask is
        float predicted[4] = {0.0f, 0.0f, 0.0f, 0.0f};
        int32_t object = -1;  // of this frame
        MovingBox box;
        MaskPoints mask;
    };

    void predict(const TrackingStep& step);
    void sort_out(const FoundObjects& objects);
    void associate(const FoundObjects& objects, std::vector<int32_t>* numbers, bool times_score);
    double mask_overlap(const FoundObjects& objects, const Track& track, int32_t object) const;
    void see(const FoundObjects& objects, Track* track, int32_t object);
    void begin_tracks(const FoundObjects& objects);
    void join_duplicates();
    void drop_old();
    void keep_mask(const MaskCropView& mask, MaskPoints* kept) const;

    TrackingOptions options_;
    double frame_ = 0.0, second_ = 0.0;
    int64_t updates_ = 0, last_id_ = 0;
    std::vector<Track> tracks_, spare_;  // spare ones lend the memory of their masks
    std::vector<Told> told_;

    // Working memory of an update.
    std::vector<int32_t> high_, low_, chosen_, candidates_;
    std::vector<float> x1_, y1_, x2_, y2_, area_;
    std::vector<char> meets_;
    std::vector<Pair> pairs_;
    std::vector<int64_t> mask_areas_;
    Matcher matcher_;
};

}  // namespace yolor_edge
