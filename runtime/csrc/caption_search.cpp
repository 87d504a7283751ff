#include "caption_search.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <stdexcept>
#include <string>
#include <utility>

#include "scan.hpp"

namespace yolor_edge {
namespace {

constexpr int64_t kLargestBeam = 1 << 12;
constexpr int64_t kLargestLength = 1 << 20;

void require(bool holds, const char* name, const std::string& expected, const std::string& given) {
    if (!holds) throw std::invalid_argument(std::string(name) + " must " + expected + ", got " + given);
}

CaptionOptions checked(CaptionOptions options) {
    require(options.beam_size >= 1 && options.beam_size <= kLargestBeam, "beam_size", "lie in 1..4096",
            std::to_string(options.beam_size));
    require(options.max_length >= 1 && options.max_length <= kLargestLength, "max_length",
            "lie in 1..1048576", std::to_string(options.max_length));
    require(options.min_length >= 0 && options.min_length <= options.max_length, "min_length",
            "lie in 0..max_length", std::to_string(options.min_length));
    require(std::isfinite(options.length_penalty) && options.length_penalty >= 0.0, "length_penalty",
            "be a finite number of at least 0", std::to_string(options.length_penalty));
    for (const auto& [name, id] :
         {std::pair{"bos_id", options.bos_id}, {"eos_id", options.eos_id}, {"pad_id", options.pad_id}}) {
        require(id >= 0, name, "be at least 0", std::to_string(id));
    }
    require(options.eos_id != options.bos_id && options.eos_id != options.pad_id, "eos_id",
            "differ from bos_id and pad_id", std::to_string(options.eos_id));
    for (const int64_t id : options.forbidden)
        require(id >= 0, "forbidden ids", "be at least 0", std::to_string(id));
    return options;
}

/// A float that every log-probability which takes `base` above `sum` is at least.
float lowest_reaching(double sum, double base) noexcept {
    constexpr float kInfinity = std::numeric_limits<float>::infinity();
    const double difference = sum - base;
    if (std::isnan(difference)) return -kInfinity;
    // Two steps down: one for the rounding to float, one for that of the sum in double.
    return std::nextafter(std::nextafter(static_cast<float>(difference), -kInfinity), -kInfinity);
}

}  // namespace

CaptionSearch::CaptionSearch(CaptionOptions options)
    : options_(checked(std::move(options))), running_{{0.0, -1}} {}

int64_t CaptionSearch::smallest_vocabulary() const noexcept {
    return std::max({options_.bos_id, options_.eos_id, options_.pad_id}) + 1;
}

NextRows CaptionSearch::advance(const float* log_probs, int64_t vocabulary_size) {
    if (finished_)
        throw std::invalid_argument(
            "this search is finished; start another CaptionSearch for the next caption");
    if (vocabulary_size_ == 0) {
        vocabulary_size_ = vocabulary_size;
        is_forbidden_.assign(static_cast<size_t>(vocabulary_size), 0);
        is_forbidden_[static_cast<size_t>(options_.bos_id)] = 1;
        is_forbidden_[static_cast<size_t>(options_.pad_id)] = 1;
        for (const int64_t id : options_.forbidden) {
            if (id < vocabulary_size) is_forbidden_[static_cast<size_t>(id)] = 1;
        }
    }

    const std::vector<Continuation> continuations = best_continuations(log_probs);
    if (continuations.empty()) {
        finish_with_running_rows();
        return {};
    }
    ++length_;
    NextRows next;
    std::vector<Row> survivors;
    const auto beam = static_cast<size_t>(options_.beam_size);
    for (size_t rank = 0; rank < continuations.size() && survivors.size() < beam; ++rank) {
        const Continuation& continuation = continuations[rank];
        const int64_t parent = running_[static_cast<size_t>(continuation.row)].node;
        if (continuation.token == options_.eos_id) {
            if (rank < beam) add_ended(continuation.log_prob, length_, parent);
            continue;
        }
        survivors.push_back({continuation.log_prob, static_cast<int64_t>(nodes_.size())});
        nodes_.push_back({parent, continuation.token});
        next.tokens.push_back(continuation.token);
        next.parents.push_back(continuation.row);
    }
    running_ = std::move(survivors);

    if (length_ == options_.max_length) {
        finish_with_running_rows();
    } else if (running_.empty()) {
        finished_ = true;
    } else if (ended_.size() == beam) {
        const double best_possible = score_of(running_.front().log_prob, options_.max_length);
        finished_ = !(best_possible > ended_.back().score);
    }
    if (!finished_) return next;
    running_.clear();
    return {};
}

/// The best continuations of all rows, best first: by log-probability, then lower row, then lower token.
std::vector<CaptionSearch::Continuation> CaptionSearch::best_continuations(const float* log_probs) const {
    // Greedy search looks at the best continuation only, so that an end of sentence ends it.
    const auto wanted = static_cast<size_t>(options_.beam_size == 1 ? 1 : 2 * options_.beam_size);
    constexpr float kLowestFinite = std::numeric_limits<float>::lowest();
    const bool may_end = length_ >= options_.min_length;
    const auto is_better = [](const Continuation& a, const Continuation& b) {
        if (a.log_prob != b.log_prob) return a.log_prob > b.log_prob;
        return std::pair{a.row, a.token} < std::pair{b.row, b.token};
    };
    std::vector<Continuation> heap;  // its front is the worst one kept
    heap.reserve(wanted + 1);
    for (size_t row = 0; row < running_.size(); ++row) {
        const double base = running_[row].log_prob;
        const auto lowest = [&] {
            return heap.size() < wanted
                       ? kLowestFinite
                       : std::max(kLowestFinite, lowest_reaching(heap.front().log_prob, base));
        };
        for_each_at_least(log_probs + static_cast<int64_t>(row) * vocabulary_size_, vocabulary_size_, lowest,
                          [&](int64_t token, float log_prob) {
                              if (is_forbidden_[static_cast<size_t>(token)] != 0) return;
                              if (token == options_.eos_id && !may_end) return;
                              const Continuation continuation{base + static_cast<double>(log_prob),
                                                              static_cast<int64_t>(row), token};
                              if (heap.size() == wanted) {
                                  if (!is_better(continuation, heap.front())) return;
                                  std::pop_heap(heap.begin(), heap.end(), is_better);
                                  heap.pop_back();
                              }
                              heap.push_back(continuation);
                              std::push_heap(heap.begin(), heap.end(), is_better);
                          });
    }
    std::sort_heap(heap.begin(), heap.end(), is_better);
    return heap;
}

double CaptionSearch::score_of(double log_prob, int64_t length) const noexcept {
    return log_prob / std::pow(static_cast<double>(std::max<int64_t>(length, 1)), options_.length_penalty);
}

/// Enter a hypothesis among the best beam_size that have ended.
void CaptionSearch::add_ended(double log_prob, int64_t length, int64_t node) {
    const Ended ended{log_prob, score_of(log_prob, length), node};
    const auto place = std::upper_bound(ended_.begin(), ended_.end(), ended,
                                        [](const Ended& a, const Ended& b) { return a.score > b.score; });
    ended_.insert(place, ended);
    if (ended_.size() > static_cast<size_t>(options_.beam_size)) ended_.pop_back();
}

void CaptionSearch::finish_with_running_rows() {
    for (const Row& row : running_) add_ended(row.log_prob, length_, row.node);
    running_.clear();
    finished_ = true;
}

std::vector<CaptionHypothesis> CaptionSearch::hypotheses() const {
    std::vector<CaptionHypothesis> result;
    result.reserve(ended_.size());
    for (const Ended& ended : ended_) {
        CaptionHypothesis hypothesis{{}, ended.log_prob, ended.score};
        for (int64_t node = ended.node; node >= 0; node = nodes_[static_cast<size_t>(node)].parent) {
            hypothesis.tokens.push_back(nodes_[static_cast<size_t>(node)].token);
        }
        std::reverse(hypothesis.tokens.begin(), hypothesis.tokens.end());
        result.push_back(std::move(hypothesis));
    }
    return result;
}

}  // namespace yolor_edge
