#include "vision/rle.hpp"

#include <algorithm>
#include <cstring>
#include <utility>
#include <vector>

#include "host/scratch.hpp"

namespace yolor_edge {
namespace {

constexpr int64_t kBlock = 16;

/// Whether any of `n` neighbouring pixels differs from the one above it; `above` is null over the first row.
bool differs(const uint8_t* row, const uint8_t* above, int64_t n) noexcept {
    if (above == nullptr) return std::any_of(row, row + n, [](uint8_t v) { return v != 0; });
    return std::memcmp(row, above, static_cast<size_t>(n)) != 0;
}

/// Five bits a letter, the last one without the sixth; from the fourth run on the change to two before.
void append_run(int64_t value, std::string* text) {
    for (bool more = true; more;) {
        auto letter = static_cast<int>(value & 31);
        value >>= 5;
        more = (letter & 16) != 0 ? value != -1 : value != 0;
        if (more) letter |= 32;
        text->push_back(static_cast<char>(letter + 48));
    }
}

/// Runs one after the other into text.
class RunWriter {
  public:
    void add(int64_t run) {
        append_run(count_ > 2 ? run - before_last_ : run, &text_);
        before_last_ = last_;
        last_ = run;
        ++count_;
    }
    std::string text_;

  private:
    int64_t last_ = 0;
    int64_t before_last_ = 0;
    int64_t count_ = 0;
};

}  // namespace

std::string rle_code(const uint8_t* crop, int64_t height, int64_t width, int64_t row_stride, int64_t y0,
                     int64_t x0, int64_t image_height, int64_t image_width) {
    struct Change {
        int32_t column;
        int32_t row;
    };
    if (width == 0) height = 0;
    // Changes down each column, found row by row, so that those of a column come out by rising row.
    thread_local std::vector<Change> kept_changes;
    thread_local std::vector<int32_t> kept_starts;
    thread_local std::vector<int64_t> kept_positions;
    std::vector<Change>& changes = kept_changes;
    std::vector<int32_t>& starts = kept_starts;
    std::vector<int64_t>& positions = kept_positions;
    changes.clear();
    starts.assign(static_cast<size_t>(width + 2), 0);
    const auto note = [&](int64_t x, int64_t y) {
        changes.push_back({static_cast<int32_t>(x), static_cast<int32_t>(y)});
        ++starts[static_cast<size_t>(x + 2)];
    };
    for (int64_t y = 0; y < height; ++y) {
        const uint8_t* row = crop + y * row_stride;
        const uint8_t* above = y == 0 ? nullptr : row - row_stride;
        for (int64_t block = 0; block < width; block += kBlock) {
            const int64_t n = std::min(kBlock, width - block);
            if (!differs(row + block, above == nullptr ? nullptr : above + block, n)) continue;
            for (int64_t x = block; x < block + n; ++x) {
                if ((row[x] != 0) != (above != nullptr && above[x] != 0)) note(x, y);
            }
        }
    }
    if (height > 0) {
        const uint8_t* last = crop + (height - 1) * row_stride;
        for (int64_t x = 0; x < width; ++x) {
            if (last[x] != 0) note(x, height);  // one past the end
        }
    }
    for (size_t x = 2; x < starts.size(); ++x) starts[x] += starts[x - 1];
    positions.resize(changes.size());
    for (const Change& change : changes) {
        positions[static_cast<size_t>(starts[static_cast<size_t>(change.column + 1)]++)] =
            (x0 + change.column) * image_height + y0 + change.row;
    }

    RunWriter writer;
    int64_t reached = 0;
    for (size_t i = 0; i < positions.size(); ++i) {
        // A run that fills a column to its end and goes on at the top of the next: end and start cancel.
        if (i + 1 < positions.size() && positions[i + 1] == positions[i]) {
            ++i;
            continue;
        }
        writer.add(positions[i] - reached);
        reached = positions[i];
    }
    const int64_t size = image_height * image_width;
    if (reached < size || positions.empty()) writer.add(size - reached);
    trim(&changes, &starts, &positions);
    return std::move(writer.text_);
}

}  // namespace yolor_edge
