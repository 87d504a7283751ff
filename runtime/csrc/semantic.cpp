#include "semantic.hpp"

#include <algorithm>
#include <array>
#include <cstring>
#include <vector>

namespace yolor_edge {
namespace {

constexpr float kLimit = 1e30f;  // far above any logit, far enough from overflow to be interpolated

float limited(float value) noexcept {
    const float above = value > -kLimit ? value : -kLimit;  // NaN is not above, so it becomes the limit too
    return above < kLimit ? above : kLimit;
}

/// For every point of one grid row, the class that leads there; equal values go to the lowest class.
void find_leaders(const float* logits, int64_t classes, int64_t plane_size, int64_t row_start, int64_t width,
                  float* best, int32_t* leaders) {
    for (int64_t x = 0; x < width; ++x) {
        best[x] = limited(logits[row_start + x]);
        leaders[x] = 0;
    }
    for (int64_t c = 1; c < classes; ++c) {
        const float* row = logits + c * plane_size + row_start;
        const auto class_id = static_cast<int32_t>(c);
        for (int64_t x = 0; x < width; ++x) {
            const float value = limited(row[x]);
            const bool leads = value > best[x];
            best[x] = leads ? value : best[x];
            leaders[x] = leads ? class_id : leaders[x];
        }
    }
}

/// Logits of all classes at the four corners of one cell, and the classes that can win somewhere inside it.
class Cell {
  public:
    explicit Cell(int64_t classes)
        : classes_(classes),
          is_ruled_out_(static_cast<size_t>(classes)),
          contenders_(static_cast<size_t>(classes)) {
        for (auto& corner : corners_) corner.resize(static_cast<size_t>(classes));
    }

    /// Load the corners at the given offsets into a class plane: top left, top right, bottom left, bottom
    /// right.
    void load(const float* logits, int64_t plane_size, const std::array<int64_t, 4>& offsets) {
        for (int64_t c = 0; c < classes_; ++c) {
            const float* plane = logits + c * plane_size;
            for (size_t k = 0; k < 4; ++k) corners_[k][static_cast<size_t>(c)] = limited(plane[offsets[k]]);
        }
    }

    /// Find the contenders, given the leaders at the corners.
    void contend(const std::array<int32_t, 4>& leaders) {
        std::fill(is_ruled_out_.begin(), is_ruled_out_.end(), 0);
        for (size_t k = 0; k < 4; ++k) {
            if (std::find(leaders.begin(), leaders.begin() + k, leaders[k]) == leaders.begin() + k) {
                rule_out_below(leaders[k]);
            }
        }
        count_ = 0;
        for (int64_t c = 0; c < classes_; ++c) {
            contenders_[count_] = static_cast<int32_t>(c);
            count_ += is_ruled_out_[static_cast<size_t>(c)] == 0 ? 1 : 0;
        }
    }

    /// Winners along one row of pixels inside the cell, into `row`; `best` and `winners` are working memory.
    void fill_row(float fraction_y, const float* fractions_x, int64_t width, float* best, int32_t* winners,
                  uint8_t* row) const {
        for (size_t i = 0; i < count_; ++i) {
            const int32_t class_id = contenders_[i];
            const auto c = static_cast<size_t>(class_id);
            const float left = interpolate(corners_[0][c], corners_[2][c], fraction_y);
            const float right = interpolate(corners_[1][c], corners_[3][c], fraction_y);
            for (int64_t x = 0; x < width; ++x) {
                const float value = interpolate(left, right, fractions_x[x]);
                const bool wins = i == 0 || value > best[x];
                best[x] = wins ? value : best[x];
                winners[x] = wins ? class_id : winners[x];
            }
        }
        for (int64_t x = 0; x < width; ++x) row[x] = static_cast<uint8_t>(winners[x]);
    }

  private:
    /// Rule out what cannot win beside `leader`: lower classes that are below it at all four corners, and
    /// higher classes that are nowhere above it (a tie goes to the lower class, so a lower one must be
    /// strictly below).
    void rule_out_below(int32_t leader) {
        const auto l = static_cast<size_t>(leader);
        const float top_left = corners_[0][l], top_right = corners_[1][l];
        const float bottom_left = corners_[2][l], bottom_right = corners_[3][l];
        const float *a = corners_[0].data(), *b = corners_[1].data(), *c = corners_[2].data(),
                    *d = corners_[3].data();
        int32_t* out = is_ruled_out_.data();
        for (int64_t i = 0; i < leader; ++i) {
            out[i] |= (top_left > a[i]) & (top_right > b[i]) & (bottom_left > c[i]) & (bottom_right > d[i]);
        }
        for (int64_t i = leader + 1; i < classes_; ++i) {
            out[i] |=
                (top_left >= a[i]) & (top_right >= b[i]) & (bottom_left >= c[i]) & (bottom_right >= d[i]);
        }
    }

    int64_t classes_;
    std::array<std::vector<float>, 4> corners_;
    std::vector<int32_t> is_ruled_out_;
    std::vector<int32_t> contenders_;
    size_t count_ = 0;
};

int64_t longest(const std::vector<GridRun>& runs) noexcept {
    int64_t length = 0;
    for (const GridRun& run : runs) length = std::max(length, run.end - run.begin);
    return length;
}

}  // namespace

void semantic_argmax(const float* logits, int64_t classes, const AxisFrame& vertical,
                     const AxisFrame& horizontal, int64_t image_height, int64_t image_width, uint8_t* map) {
    const std::vector<GridSample> rows = sample_axis(vertical, 0, image_height);
    const std::vector<GridSample> columns = sample_axis(horizontal, 0, image_width);
    const std::vector<GridRun> row_runs = runs_of(rows);
    const std::vector<GridRun> column_runs = runs_of(columns);
    const int64_t grid_width = horizontal.grid_length;
    const int64_t plane_size = vertical.grid_length * grid_width;
    const auto width = static_cast<size_t>(grid_width);

    std::vector<float> fractions_x;
    fractions_x.reserve(columns.size());
    for (const GridSample& sample : columns) fractions_x.push_back(sample.fraction);

    Cell cell(classes);
    std::vector<float> best(std::max(width, static_cast<size_t>(longest(column_runs))));
    std::vector<int32_t> winners(best.size());
    std::vector<int32_t> upper_leaders(width);
    std::vector<int32_t> lower_leaders(width);
    int64_t lower_row = -1;
    for (const GridRun& row_run : row_runs) {
        if (row_run.low == lower_row) {
            std::swap(upper_leaders, lower_leaders);
        } else {
            find_leaders(logits, classes, plane_size, row_run.low * grid_width, grid_width, best.data(),
                         upper_leaders.data());
        }
        find_leaders(logits, classes, plane_size, row_run.high * grid_width, grid_width, best.data(),
                     lower_leaders.data());
        lower_row = row_run.high;

        for (const GridRun& run : column_runs) {
            const int64_t run_width = run.end - run.begin;
            const auto low = static_cast<size_t>(run.low);
            const auto high = static_cast<size_t>(run.high);
            const std::array<int32_t, 4> leaders{upper_leaders[low], upper_leaders[high], lower_leaders[low],
                                                 lower_leaders[high]};
            uint8_t* corner = map + row_run.begin * image_width + run.begin;
            const int64_t run_height = row_run.end - row_run.begin;
            if (leaders[0] == leaders[1] && leaders[0] == leaders[2] && leaders[0] == leaders[3]) {
                for (int64_t y = 0; y < run_height; ++y) {
                    std::memset(corner + y * image_width, leaders[0], static_cast<size_t>(run_width));
                }
                continue;
            }
            const int64_t upper = row_run.low * grid_width;
            const int64_t lower = row_run.high * grid_width;
            cell.load(logits, plane_size,
                      {upper + run.low, upper + run.high, lower + run.low, lower + run.high});
            cell.contend(leaders);
            for (int64_t y = 0; y < run_height; ++y) {
                cell.fill_row(rows[static_cast<size_t>(row_run.begin + y)].fraction,
                              fractions_x.data() + run.begin, run_width, best.data(), winners.data(),
                              corner + y * image_width);
            }
        }
    }
}

}  // namespace yolor_edge
