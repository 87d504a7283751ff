/// Greedy and beam search over words as a state machine: the caller runs the decoder, this says what to feed
/// it next.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "captions/scan.hpp"

namespace yolor_edge {

constexpr int64_t kLargestVocabulary = 1 << 24;

/// What a finished hypothesis that is kept scores with anything but itself; a running one that is worse loses
/// to it.
constexpr double kLostScore = -999.0;

/// All tokens lie in the vocabulary.
struct CaptionOptions {
    int64_t beam_size;      // hypotheses kept alive, 1 to 4096; 1 is greedy search
    int64_t max_length;     // tokens generated at most, end of sentence included; 1 to 1048576
    int64_t bos_id;         // never generated, unless the search keeps what is finished
    int64_t eos_id;         // ends a hypothesis
    int64_t pad_id;         // never generated, unless the search keeps what is finished
    double length_penalty;  // at least 0: score = log_prob / length^length_penalty, end of sentence counted
    int64_t min_length;     // tokens that must come before the end of sentence; 0 to max_length
    std::vector<int64_t> forbidden;  // further tokens never generated

    // The log-probability of a token that the sentence holds already is multiplied by this, at least 1;
    // nothing is normalised again. Keskar et al., CTRL, https://arxiv.org/abs/1909.05858 (there on logits).
    double repetition_penalty = 1.0;
    // No sentence holds the same run of so many tokens twice; 0 allows it.
    // Paulus et al., A deep reinforced model for abstractive summarization, https://arxiv.org/abs/1705.04304
    int64_t no_repeat_ngram = 0;

    // Above 0, beam_size sentences are drawn independently instead of searched for, and ranked by score
    // ("sample and rank", Adiwardana et al., https://arxiv.org/abs/2001.09977): each token with a probability
    // proportional to exp(log_prob / temperature) among the top_k likeliest (Fan et al.,
    // https://arxiv.org/abs/1805.04833), or among all where top_k is 0. The same seed draws the same
    // sentences.
    double temperature = 0.0;
    int64_t top_k = 0;
    uint64_t seed = 0;

    // Finished hypotheses keep their place in the beam; see CaptionSearch.
    bool keeps_finished = false;
};

/// What the decoder is to be fed next: row i takes `tokens[i]` and continues row `parents[i]` of the last
/// step. Both are empty when the search is finished.
struct NextRows {
    std::vector<int64_t> tokens;
    std::vector<int64_t> parents;
};

struct CaptionHypothesis {
    std::vector<int64_t> tokens;  // without bos and eos
    double log_prob;              // sum over the generated tokens, eos included where there is one
    double score;                 // log_prob / length^length_penalty
};

/// Standard beam search. Every step ranks all continuations of all rows by summed log-probability and looks
/// at the best 2 * beam_size: an end of sentence ranked among the first beam_size finishes its hypothesis,
/// other ends are dropped, and the best other tokens go on, up to beam_size rows. The search is finished when
///   - beam_size hypotheses are finished and no running row can still beat the worst of them: a running row's
///   score is
///     at most its log_prob / max_length^length_penalty; or
///   - max_length tokens are generated, or every continuation is impossible: running rows then count as
///   hypotheses too.
/// Greedy search (beam_size 1) takes the best continuation at every step and ends at the first end of
/// sentence.
///
/// With keeps_finished, the search of Generalist YOLO: every step takes the best beam_size of all
/// continuations, where a finished hypothesis has itself, at no further cost, and else what scores
/// kLostScore, like any other word after its end. It goes on for max_length steps or until all are finished,
/// when nothing can change any more. No token is forbidden but those of `forbidden`.
///
/// With a temperature, rows are drawn instead; see CaptionOptions. Ties go to the lower row, then
/// to the lower token. Sums are in double. A NaN log-probability counts as -infinity, and a continuation of
/// -infinity is never taken. One search serves one caption and one thread at a time.
class CaptionSearch {
  public:
    /// Throws std::invalid_argument naming the option that is out of its range. Where the vocabulary is not
    /// known yet, tokens may be any that the largest one has; see `smallest_vocabulary`.
    explicit CaptionSearch(CaptionOptions options, int64_t vocabulary_size = kLargestVocabulary);

    /// Rows of log-probabilities the next `advance` takes: 1 at first, then as many as the last one returned.
    int64_t rows() const noexcept { return static_cast<int64_t>(running_.size()); }

    /// Vocabulary size of the steps so far, or 0 before the first.
    int64_t vocabulary_size() const noexcept { return vocabulary_size_; }

    /// Smallest vocabulary that contains bos, eos, pad and what is forbidden; the first step needs as large a
    /// one.
    int64_t smallest_vocabulary() const noexcept;

    bool finished() const noexcept { return finished_; }

    /// Take one step.
    ///   log_probs  (rows(), vocabulary_size) row-major
    /// Throws std::invalid_argument if the search is finished.
    const NextRows& advance(const float* log_probs, int64_t vocabulary_size) {
        return advance(log_probs, nullptr, nullptr, passing_bits, vocabulary_size, vocabulary_size);
    }

    /// The same from logits: log_probs of row r are logits - normalisers[r], where a normaliser is the
    /// logarithm of the sum of exp(logits). Only what can rank among the best is normalised. The answer lives
    /// until the next step.
    ///   logits  `stride` floats from row to row
    ///   peaks   (rows(), scan_parts(vocabulary_size)) what no logit of each part exceeds, or null; see
    ///   scan.hpp, also for `passing`
    const NextRows& advance(const float* logits, const float* normalisers, const float* peaks,
                            PassingBits passing, int64_t vocabulary_size, int64_t stride);

    /// End the search now. Hypotheses are those finished so far or, where there are none, the running rows.
    void stop();

    /// Hypotheses finished so far, best score first, at most beam_size; equal scores in order of finishing.
    std::vector<CaptionHypothesis> hypotheses() const;

  private:
    struct Node {  // one generated token; a hypothesis is a path to the root
        int64_t parent;
        int64_t token;
    };
    struct Row {
        double log_prob;
        int64_t node;    // -1 before the first token
        int64_t sample;  // of those drawn, from 0 on
    };
    struct Continuation {
        double log_prob;
        int64_t row;  // -1 - i: that of kept_[i], which is finished
        int64_t token;
    };
    struct Ended {
        double log_prob;
        double score;
        int64_t node;
    };
    struct Kept {  // a finished hypothesis that stays in the beam
        double log_prob;
        int64_t length;
        int64_t node;
    };

    /// One step's values with what makes log-probabilities of them.
    struct Values {
        const float* values;
        const float* normalisers;  // null where values are log-probabilities
        const float* peaks;        // of the parts of each row, or null
        PassingBits passing;
        int64_t stride;
    };

    void start(int64_t vocabulary_size);
    void note_history(const Row& row);
    bool may_follow(int64_t token) const noexcept;
    double log_prob_of(float value, float normaliser, int64_t token) const noexcept;
    void find_best_continuations(const Values& step);
    void take_continuations();
    void keep_continuations();
    void draw_continuations(const Values& step);
    void draw(const Values& step, size_t row, int64_t sample);
    void add_ended(double log_prob, int64_t length, int64_t node);
    double score_of(double log_prob, int64_t length) const noexcept;
    void finish_with_running_rows();

    CaptionOptions options_;
    std::vector<uint8_t> is_forbidden_;  // by token; sized with the vocabulary at the first step
    std::vector<Node> nodes_;
    std::vector<Row> running_;
    std::vector<Ended> ended_;  // best first
    std::vector<Kept> kept_;
    int64_t vocabulary_size_ = 0;
    int64_t length_ = 0;  // tokens generated by every running row
    bool finished_ = false;

    // Working memory, kept from step to step.
    std::vector<Continuation> best_;  // a heap whose front is the worst one kept, then best first
    std::vector<Row> survivors_;
    std::vector<Kept> still_kept_;
    NextRows next_;
    std::vector<int64_t> history_;  // tokens of the row in hand
    std::vector<int64_t> written_;  // by token: the row's mark where the row in hand holds it
    std::vector<int64_t> banned_;   // by token: the row's mark where it would repeat a run
    int64_t mark_ = 0;
};

}  // namespace yolor_edge
