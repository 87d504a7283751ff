#include "captions/caption_search.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <stdexcept>
#include <string>
#include <utility>

namespace yolor_edge {
namespace {

constexpr int64_t kLargestBeam = 1 << 12;
constexpr int64_t kLargestLength = 1 << 20;

void require(bool holds, const char* name, const std::string& expected, const std::string& given) {
    if (!holds) throw std::invalid_argument(std::string(name) + " must " + expected + ", got " + given);
}

CaptionOptions checked(CaptionOptions options, int64_t vocabulary_size) {
    const auto require_token = [&](const char* name, int64_t id) {
        require(id >= 0 && id < vocabulary_size, name, "lie in 0.." + std::to_string(vocabulary_size - 1),
                std::to_string(id));
    };
    require(options.beam_size >= 1 && options.beam_size <= kLargestBeam, "beam_size", "lie in 1..4096",
            std::to_string(options.beam_size));
    require(options.max_length >= 1 && options.max_length <= kLargestLength, "max_length",
            "lie in 1..1048576", std::to_string(options.max_length));
    require(options.min_length >= 0 && options.min_length <= options.max_length, "min_length",
            "lie in 0..max_length", std::to_string(options.min_length));
    require(std::isfinite(options.length_penalty) && options.length_penalty >= 0.0, "length_penalty",
            "be a finite number of at least 0", std::to_string(options.length_penalty));
    require_token("bos_id", options.bos_id);
    require_token("eos_id", options.eos_id);
    require_token("pad_id", options.pad_id);
    require(options.eos_id != options.bos_id && options.eos_id != options.pad_id, "eos_id",
            "differ from bos_id and pad_id", std::to_string(options.eos_id));
    require(std::isfinite(options.repetition_penalty) && options.repetition_penalty >= 1.0,
            "repetition_penalty", "be a finite number of at least 1",
            std::to_string(options.repetition_penalty));
    require(options.no_repeat_ngram >= 0, "no_repeat_ngram", "be at least 0",
            std::to_string(options.no_repeat_ngram));
    require(std::isfinite(options.temperature) && options.temperature >= 0.0, "temperature",
            "be a finite number of at least 0", std::to_string(options.temperature));
    require(options.top_k >= 0, "top_k", "be at least 0", std::to_string(options.top_k));
    for (const int64_t id : options.forbidden) require_token("forbidden ids", id);
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

/// A float that every logit is at least whose log-probability, the logit less the normaliser, reaches
/// `bound`.
float lowest_value(float bound, float normaliser) noexcept {
    // Room for the rounding of the difference, and of this sum.
    const double room =
        0x1p-22 * (std::abs(static_cast<double>(bound)) + std::abs(static_cast<double>(normaliser)));
    const double sum = static_cast<double>(bound) + static_cast<double>(normaliser) - room;
    if (!(sum > -std::numeric_limits<float>::max())) return std::numeric_limits<float>::lowest();
    return std::nextafter(static_cast<float>(sum), -std::numeric_limits<float>::infinity());
}

/// The finaliser of SplitMix64 (Steele et al., Fast splittable pseudorandom number generators, OOPSLA 2014).
uint64_t mixed(uint64_t x) noexcept {
    x += 0x9E3779B97F4A7C15u;
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9u;
    x = (x ^ (x >> 27)) * 0x94D049BB133111EBu;
    return x ^ (x >> 31);
}

/// A number in [0, 1) that depends on nothing but these three.
double uniform(uint64_t seed, int64_t sample, int64_t step) noexcept {
    const uint64_t bits =
        mixed(mixed(mixed(seed) + static_cast<uint64_t>(sample)) + static_cast<uint64_t>(step));
    return static_cast<double>(bits >> 11) * 0x1p-53;
}

}  // namespace

CaptionSearch::CaptionSearch(CaptionOptions options, int64_t vocabulary_size)
    : options_(checked(std::move(options), vocabulary_size)), running_{{0.0, -1, 0}} {
    const auto beam = static_cast<size_t>(options_.beam_size);
    const auto length = static_cast<size_t>(std::min<int64_t>(options_.max_length, 1 << 10));
    nodes_.reserve(std::min<size_t>(beam * length, 1 << 16));
    running_.reserve(beam);
    survivors_.reserve(beam);
    ended_.reserve(beam + 1);
    if (options_.keeps_finished) {
        kept_.reserve(beam);
        still_kept_.reserve(beam);
    }
    best_.reserve(2 * beam + 1);
    next_.tokens.reserve(beam);
    next_.parents.reserve(beam);
    history_.reserve(length);
}

int64_t CaptionSearch::smallest_vocabulary() const noexcept {
    int64_t largest = std::max({options_.bos_id, options_.eos_id, options_.pad_id});
    for (const int64_t id : options_.forbidden) largest = std::max(largest, id);
    return largest + 1;
}

const NextRows& CaptionSearch::advance(const float* logits, const float* normalisers, const float* peaks,
                                       PassingBits passing, int64_t vocabulary_size, int64_t stride) {
    if (finished_)
        throw std::invalid_argument(
            "this search is finished; start another CaptionSearch for the next caption");
    if (vocabulary_size_ == 0) start(vocabulary_size);
    next_.tokens.clear();
    next_.parents.clear();
    survivors_.clear();
    const Values step{logits, normalisers, peaks, passing, stride};
    if (options_.temperature > 0.0) {
        draw_continuations(step);
    } else {
        find_best_continuations(step);
        if (best_.empty()) {
            finish_with_running_rows();
            return next_;
        }
        if (options_.keeps_finished) {
            keep_continuations();
        } else {
            take_continuations();
        }
    }
    if (!finished_) return next_;
    running_.clear();
    next_.tokens.clear();
    next_.parents.clear();
    return next_;
}

void CaptionSearch::start(int64_t vocabulary_size) {
    vocabulary_size_ = vocabulary_size;
    const auto words = static_cast<size_t>(vocabulary_size);
    is_forbidden_.assign(words, 0);
    if (!options_.keeps_finished) {
        is_forbidden_[static_cast<size_t>(options_.bos_id)] = 1;
        is_forbidden_[static_cast<size_t>(options_.pad_id)] = 1;
    }
    for (const int64_t id : options_.forbidden) is_forbidden_[static_cast<size_t>(id)] = 1;
    if (options_.repetition_penalty > 1.0) written_.assign(words, 0);
    if (options_.no_repeat_ngram > 0) banned_.assign(words, 0);
    if (options_.temperature > 0.0) best_.reserve(words);
}

/// Mark what the sentence of a row holds already, and what would repeat a run of it.
void CaptionSearch::note_history(const Row& row) {
    ++mark_;
    if (written_.empty() && banned_.empty()) return;
    history_.clear();
    for (int64_t node = row.node; node >= 0; node = nodes_[static_cast<size_t>(node)].parent)
        history_.push_back(nodes_[static_cast<size_t>(node)].token);
    if (!written_.empty()) {
        for (const int64_t token : history_) written_[static_cast<size_t>(token)] = mark_;
    }
    if (banned_.empty() || static_cast<int64_t>(history_.size()) < options_.no_repeat_ngram) return;
    std::reverse(history_.begin(), history_.end());
    const auto run = static_cast<std::ptrdiff_t>(options_.no_repeat_ngram - 1);
    const auto latest = history_.end() - run;
    for (auto start = history_.begin(); start + run != history_.end(); ++start) {
        if (std::equal(latest, history_.end(), start)) banned_[static_cast<size_t>(start[run])] = mark_;
    }
}

/// Whether the row in hand may go on with `token`.
bool CaptionSearch::may_follow(int64_t token) const noexcept {
    const auto index = static_cast<size_t>(token);
    if (is_forbidden_[index] != 0) return false;
    if (token == options_.eos_id) return length_ >= options_.min_length;
    return banned_.empty() || banned_[index] != mark_;
}

double CaptionSearch::log_prob_of(float value, float normaliser, int64_t token) const noexcept {
    const double log_prob = value - normaliser;  // in float, as a log-softmax gives it
    const bool is_repeated = !written_.empty() && written_[static_cast<size_t>(token)] == mark_;
    return is_repeated ? log_prob * options_.repetition_penalty : log_prob;
}

/// The best continuations of all rows, best first: by log-probability, then lower row, then lower token.
void CaptionSearch::find_best_continuations(const Values& step) {
    // Greedy search looks at the best continuation only, so that an end of sentence ends it.
    const bool is_narrow = options_.beam_size == 1 || options_.keeps_finished;
    const auto wanted = static_cast<size_t>(is_narrow ? options_.beam_size : 2 * options_.beam_size);
    constexpr float kLowestFinite = std::numeric_limits<float>::lowest();
    const auto is_better = [](const Continuation& a, const Continuation& b) {
        if (a.log_prob != b.log_prob) return a.log_prob > b.log_prob;
        return std::pair{a.row, a.token} < std::pair{b.row, b.token};
    };
    best_.clear();
    for (size_t row = 0; row < running_.size(); ++row) {
        note_history(running_[row]);
        const double base = running_[row].log_prob;
        const float normaliser = step.normalisers != nullptr ? step.normalisers[row] : 0.0f;
        if (std::isnan(normaliser)) continue;
        // What a value must reach, worked out anew where the worst of the best has changed.
        float bound = kLowestFinite;
        double reached = -std::numeric_limits<double>::infinity();
        const auto lowest = [&] {
            if (best_.size() < wanted || best_.front().log_prob == reached) return bound;
            reached = best_.front().log_prob;
            const float least = lowest_reaching(reached, base);
            bound = std::max(kLowestFinite, normaliser == 0.0f ? least : lowest_value(least, normaliser));
            return bound;
        };
        const auto index = static_cast<int64_t>(row);
        const float* peaks =
            step.peaks != nullptr ? step.peaks + index * scan_parts(vocabulary_size_) : nullptr;
        for_each_at_least(step.values + index * step.stride, vocabulary_size_, peaks, step.passing, lowest,
                          [&](int64_t token, float value) {
                              if (!may_follow(token)) return;
                              const Continuation continuation{base + log_prob_of(value, normaliser, token),
                                                              static_cast<int64_t>(row), token};
                              if (best_.size() == wanted) {
                                  if (!is_better(continuation, best_.front())) return;
                                  std::pop_heap(best_.begin(), best_.end(), is_better);
                                  best_.pop_back();
                              }
                              best_.push_back(continuation);
                              std::push_heap(best_.begin(), best_.end(), is_better);
                          });
    }
    std::sort_heap(best_.begin(), best_.end(), is_better);
}

/// One step of beam search from the best continuations.
void CaptionSearch::take_continuations() {
    ++length_;
    const auto beam = static_cast<size_t>(options_.beam_size);
    for (size_t rank = 0; rank < best_.size() && survivors_.size() < beam; ++rank) {
        const Continuation& continuation = best_[rank];
        const int64_t parent = running_[static_cast<size_t>(continuation.row)].node;
        if (continuation.token == options_.eos_id) {
            if (rank < beam) add_ended(continuation.log_prob, length_, parent);
            continue;
        }
        survivors_.push_back({continuation.log_prob, static_cast<int64_t>(nodes_.size()), 0});
        nodes_.push_back({parent, continuation.token});
        next_.tokens.push_back(continuation.token);
        next_.parents.push_back(continuation.row);
    }
    std::swap(running_, survivors_);

    if (length_ == options_.max_length) {
        finish_with_running_rows();
    } else if (running_.empty()) {
        finished_ = true;
    } else if (ended_.size() == beam) {
        const double best_possible = score_of(running_.front().log_prob, options_.max_length);
        finished_ = !(best_possible > ended_.back().score);
    }
}

/// One step of the search that keeps what is finished, from the best continuations.
void CaptionSearch::keep_continuations() {
    ++length_;
    const auto beam = static_cast<size_t>(options_.beam_size);
    const auto others = std::min<int64_t>(options_.beam_size, vocabulary_size_ - 1);
    for (size_t i = 0; i < kept_.size(); ++i) {
        const auto row = -1 - static_cast<int64_t>(i);
        best_.push_back({kept_[i].log_prob, row, options_.pad_id});
        for (int64_t other = 0; other < others; ++other) best_.push_back({kLostScore, row, options_.pad_id});
    }
    std::stable_sort(best_.begin(), best_.end(),
                     [](const Continuation& a, const Continuation& b) { return a.log_prob > b.log_prob; });
    if (best_.size() > beam) best_.resize(beam);
    still_kept_.clear();
    for (const Continuation& continuation : best_) {
        if (continuation.row < 0) {
            const Kept& kept = kept_[static_cast<size_t>(-1 - continuation.row)];
            still_kept_.push_back({continuation.log_prob, kept.length, kept.node});
            continue;
        }
        const int64_t parent = running_[static_cast<size_t>(continuation.row)].node;
        if (continuation.token == options_.eos_id) {
            still_kept_.push_back({continuation.log_prob, length_, parent});
            continue;
        }
        survivors_.push_back({continuation.log_prob, static_cast<int64_t>(nodes_.size()), 0});
        nodes_.push_back({parent, continuation.token});
        next_.tokens.push_back(continuation.token);
        next_.parents.push_back(continuation.row);
    }
    std::swap(running_, survivors_);
    std::swap(kept_, still_kept_);
    if (length_ == options_.max_length || running_.empty()) finish_with_running_rows();
}

/// One step of every sentence that is being drawn; the first step starts all of them from the one row there
/// is.
void CaptionSearch::draw_continuations(const Values& step) {
    if (length_ == 0) {
        for (int64_t sample = 0; sample < options_.beam_size; ++sample) draw(step, 0, sample);
    } else {
        for (size_t row = 0; row < running_.size(); ++row) draw(step, row, running_[row].sample);
    }
    ++length_;
    std::swap(running_, survivors_);
    if (length_ == options_.max_length) {
        finish_with_running_rows();
    } else {
        finished_ = running_.empty();
    }
}

/// Draw the next token of one sentence. Where no token is possible, it ends as it is.
void CaptionSearch::draw(const Values& step, size_t row, int64_t sample) {
    const Row running = running_[row];
    note_history(running);
    const float normaliser = step.normalisers != nullptr ? step.normalisers[row] : 0.0f;
    const float* values = step.values + static_cast<int64_t>(row) * step.stride;
    best_.clear();
    for (int64_t token = 0; token < vocabulary_size_; ++token) {
        if (!may_follow(token)) continue;
        const double log_prob = log_prob_of(values[token], normaliser, token);
        if (log_prob >= -std::numeric_limits<double>::max())
            best_.push_back({log_prob, static_cast<int64_t>(row), token});
    }
    if (best_.empty()) {
        add_ended(running.log_prob, length_, running.node);
        return;
    }
    if (options_.top_k > 0 && static_cast<int64_t>(best_.size()) > options_.top_k) {
        const auto end = best_.begin() + static_cast<std::ptrdiff_t>(options_.top_k);
        std::nth_element(best_.begin(), end, best_.end(), [](const Continuation& a, const Continuation& b) {
            return a.log_prob != b.log_prob ? a.log_prob > b.log_prob : a.token < b.token;
        });
        best_.erase(end, best_.end());
        std::sort(best_.begin(), best_.end(),
                  [](const Continuation& a, const Continuation& b) { return a.token < b.token; });
    }
    double highest = best_.front().log_prob;
    for (const Continuation& continuation : best_) highest = std::max(highest, continuation.log_prob);
    const auto weight_of = [&](const Continuation& continuation) {
        return std::exp((continuation.log_prob - highest) / options_.temperature);
    };
    double total = 0.0;
    for (const Continuation& continuation : best_) total += weight_of(continuation);
    const double target = uniform(options_.seed, sample, length_ + 1) * total;
    const Continuation* drawn = &best_.back();
    double passed = 0.0;
    for (const Continuation& continuation : best_) {
        passed += weight_of(continuation);
        if (passed > target) {
            drawn = &continuation;
            break;
        }
    }
    const double log_prob = running.log_prob + drawn->log_prob;
    if (drawn->token == options_.eos_id) {
        add_ended(log_prob, length_ + 1, running.node);
        return;
    }
    survivors_.push_back({log_prob, static_cast<int64_t>(nodes_.size()), sample});
    nodes_.push_back({running.node, drawn->token});
    next_.tokens.push_back(drawn->token);
    next_.parents.push_back(static_cast<int64_t>(row));
}

void CaptionSearch::stop() {
    if (finished_) return;
    if (!ended_.empty() || !kept_.empty()) running_.clear();
    finish_with_running_rows();
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
    for (const Kept& kept : kept_) add_ended(kept.log_prob, kept.length, kept.node);
    for (const Row& row : running_) add_ended(row.log_prob, length_, row.node);
    kept_.clear();
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
