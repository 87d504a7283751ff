from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from yolor_edge.runtime import _native

from ...reference import caption_search as reference
from ..manners import assert_lets_threads_run, strided_copy

IDS: dict[str, Any] = {"bos_id": 2, "eos_id": 3, "pad_id": 0}
PAD, UNK, BOS, EOS, A, B, C = range(7)
EXTREMES = (-1, -(2**63), 2**24, 2**31, 2**32, 2**62, 2**63 - 1)


def log_softmax(logits: np.ndarray) -> np.ndarray:
    shifted = logits - logits.max(axis=-1, keepdims=True)
    return (shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))).astype(np.float32)


class RandomLanguage:
    """Log-probabilities that depend on the whole sentence so far and on nothing else."""

    def __init__(self, seed: int, vocabulary_size: int, spread: float = 2.0, levels: int | None = None) -> None:
        self.seed = seed
        self.vocabulary_size = vocabulary_size
        self.spread = spread
        self.levels = levels

    def __call__(self, sentences: Sequence[tuple[int, ...]]) -> np.ndarray:
        rows = []
        for sentence in sentences:
            generator = np.random.default_rng((self.seed, *sentence))
            logits = generator.normal(0, self.spread, self.vocabulary_size)
            if self.levels:  # few distinct values, so that ties abound
                logits = np.round(logits * self.levels) / self.levels
                rows.append((logits - 5).astype(np.float32))
            else:
                rows.append(log_softmax(logits))
        return np.array(rows, dtype=np.float32).reshape(len(sentences), self.vocabulary_size)


def native_search(language, **options) -> list[tuple[list[int], float, float]]:
    search = _native.CaptionSearch(**options)
    sentences: list[tuple[int, ...]] = [()]
    while not search.finished:
        log_probs = language(sentences)
        before = log_probs.copy()
        tokens, parents = search.advance(log_probs)
        np.testing.assert_array_equal(log_probs, before)
        assert tokens.dtype == parents.dtype == np.int64
        assert len(tokens) == len(parents) <= options["beam_size"]
        assert (len(tokens) == 0) == search.finished
        sentences = [(*sentences[p], t) for t, p in zip(tokens.tolist(), parents.tolist(), strict=True)]
    return search.hypotheses()


def assert_same_hypotheses(language, **options):
    actual = native_search(language, **options)
    expected = reference.caption_search(language, **options)
    assert [tuple(tokens) for tokens, _, _ in actual] == [h.tokens for h in expected]
    assert [log_prob for _, log_prob, _ in actual] == [h.log_prob for h in expected]
    np.testing.assert_allclose([score for _, _, score in actual], [h.score for h in expected], rtol=1e-12)


@pytest.mark.parametrize("vocabulary_size", [5, 9, 64, 131])
@pytest.mark.parametrize("beam_size", [1, 2, 3, 5])
@pytest.mark.parametrize("length_penalty", [0.0, 0.7, 1.0, 2.0])
def test_equals_the_reference(vocabulary_size, beam_size, length_penalty):
    for seed in range(4):
        language = RandomLanguage(seed, vocabulary_size)
        for options in [{}, {"min_length": 4}, {"forbidden": [UNK, A]}, {"max_length": 1}]:
            options = {
                "max_length": 12,
                "length_penalty": length_penalty,
                "beam_size": beam_size,
                **IDS,
                **options,
            }
            assert_same_hypotheses(language, **options)


@pytest.mark.parametrize("vocabulary_size", [5, 9, 131])
@pytest.mark.parametrize("beam_size", [1, 2, 5])
@pytest.mark.parametrize("length_penalty", [0.0, 1.0])
def test_keeping_what_is_finished_equals_the_reference(vocabulary_size, beam_size, length_penalty):
    padded = 0
    for seed in range(12):
        language = RandomLanguage(seed, vocabulary_size)
        for more in [{}, {"min_length": 4}, {"forbidden": [UNK]}, {"no_repeat_ngram": 2, "repetition_penalty": 1.3}]:
            options = {"max_length": 8, "length_penalty": length_penalty, "beam_size": beam_size, **IDS, **more}
            found = native_search(language, **options, keeps_finished=True)
            expected = reference.keeping_search(language, **options)
            assert [tuple(tokens) for tokens, _, _ in found] == [h.tokens for h in expected]
            np.testing.assert_allclose([score for _, _, score in found], [h.score for h in expected], rtol=1e-12)
            assert len(found) == beam_size
            padded += sum(PAD in tokens or BOS in tokens for tokens, _, _ in found)
    assert padded > 0


def test_a_running_sentence_loses_to_words_after_an_end():
    """What a finished sentence scores with any other word is low, and not impossible."""

    def language(sentences: Sequence[tuple[int, ...]]) -> np.ndarray:
        rows = np.stack([np.random.default_rng((5, *sentence)).normal(0, 1, 7) for sentence in sentences])
        return (rows - 400).astype(np.float32)

    for max_length, beam_size in ((2, 3), (3, 3), (4, 3), (4, 7)):
        options = {"max_length": max_length, "length_penalty": 0.0, "beam_size": beam_size, **IDS}
        found = native_search(language, **options, keeps_finished=True)
        expected = reference.keeping_search(language, **options)
        assert [(tuple(tokens), score) for tokens, _, score in found] == [(h.tokens, h.score) for h in expected]
        assert any(h.score == reference.LOST for h in expected) is (max_length > 2)


def test_finished_sentences_are_not_decoded_again():
    search = _native.CaptionSearch(2, 10, **IDS, length_penalty=0.0, keeps_finished=True)
    tokens, _ = search.advance(table(A=0.6, EOS=0.4)[None])
    assert tokens.tolist() == [A]
    tokens, _ = search.advance(table(A=0.5, PAD=0.5)[None])  # 0.3 each, and 0.4
    assert tokens.tolist() == [PAD]
    tokens, parents = search.advance(table(EOS=0.9, A=0.1)[None])
    assert (tokens.tolist(), parents.tolist(), search.finished) == ([], [], True)
    assert [words for words, _, _ in search.hypotheses()] == [[], [A, PAD]]


def test_a_stop_hands_back_what_is_finished():
    search = _native.CaptionSearch(2, 10, **IDS, length_penalty=0.0, keeps_finished=True)
    search.advance(table(A=0.6, EOS=0.4)[None])
    search.stop()
    assert [words for words, _, _ in search.hypotheses()] == [[]]
    assert search.finished


@pytest.mark.parametrize("beam_size", [1, 2, 4])
def test_equals_the_reference_where_ties_abound(beam_size):
    for seed in range(10):
        language = RandomLanguage(seed, 70, spread=0.5, levels=1)
        assert_same_hypotheses(language, beam_size=beam_size, max_length=8, **IDS)


@pytest.mark.parametrize("seed", range(20))
def test_a_beam_of_one_is_greedy(seed):
    language = RandomLanguage(seed, 8)
    ((tokens, log_prob, _),) = native_search(language, beam_size=1, max_length=15, **IDS)
    assert (tuple(tokens), log_prob) == reference.greedy_search(language, 15, **IDS)


def test_a_beam_as_wide_as_the_tree_finds_the_best_sentence():
    language = RandomLanguage(3, 6)
    options = {"max_length": 4, "length_penalty": 0.5}
    best = native_search(language, beam_size=200, **options, **IDS)[0]

    def sentences(start: tuple[int, ...], log_prob: float):
        row = language([start])[0].astype(np.float64)
        yield start, log_prob + row[EOS], len(start) + 1
        for word in (UNK, A, B):
            longer = (*start, word)
            if len(longer) == options["max_length"]:
                yield longer, log_prob + row[word], len(longer)
            else:
                yield from sentences(longer, log_prob + row[word])

    every = [(log_prob / length**0.5, tokens) for tokens, log_prob, length in sentences((), 0.0)]
    score, tokens = max(every)
    assert tuple(best[0]) == tokens
    assert best[2] == pytest.approx(score, rel=1e-12)


def table(**probabilities: float) -> np.ndarray:
    """One row over the seven words, by name; the rest is impossible."""
    row = np.full(7, -np.inf, dtype=np.float32)
    for name, probability in probabilities.items():
        row[globals()[name]] = np.log(probability)
    return row


def test_greedy_step_by_step():
    search = _native.CaptionSearch(1, 10, **IDS)
    tokens, parents = search.advance(table(A=0.6, EOS=0.4)[None])
    assert (tokens.tolist(), parents.tolist(), search.finished) == ([A], [0], False)
    assert search.hypotheses() == []
    tokens, parents = search.advance(table(A=0.4, EOS=0.6)[None])
    assert (tokens.tolist(), parents.tolist(), search.finished) == ([], [], True)
    ((words, log_prob, score),) = search.hypotheses()
    assert words == [A]
    assert log_prob == pytest.approx(2 * np.log(0.6))
    assert score == pytest.approx(log_prob / 2)


def test_beam_step_by_step():
    search = _native.CaptionSearch(2, 10, **IDS, length_penalty=0.0)
    tokens, parents = search.advance(table(A=0.6, B=0.3, C=0.1)[None])
    assert (tokens.tolist(), parents.tolist()) == ([A, B], [0, 0])
    # Best four: B-C 0.27, A-A 0.24, A-B 0.18, A-C 0.18 (a tie: the lower token first).
    tokens, parents = search.advance(np.stack([table(A=0.4, B=0.3, C=0.3), table(C=0.9, A=0.1)]))
    assert (tokens.tolist(), parents.tolist()) == ([C, A], [1, 0])
    # The first ends and ranks first; the second's ends ranks third of two and is dropped.
    tokens, parents = search.advance(np.stack([table(EOS=0.9, A=0.1), table(A=0.8, EOS=0.1, B=0.1)]))
    assert (tokens.tolist(), parents.tolist()) == ([A, A], [1, 0])
    assert [words for words, _, _ in search.hypotheses()] == [[B, C]]
    tokens, _ = search.advance(np.stack([table(EOS=1.0), table(EOS=1.0)]))
    assert tokens.size == 0
    assert search.finished
    assert [words for words, _, _ in search.hypotheses()] == [[B, C], [A, A, A]]


def test_stops_only_when_no_running_row_can_win():
    """With a length penalty a longer sentence may still overtake the two that are finished."""
    first = np.stack([table(A=0.4, B=0.35, EOS=0.25)])

    def run(length_penalty: float) -> bool:
        search = _native.CaptionSearch(1 + 1, 20, **IDS, length_penalty=length_penalty)
        search.advance(first)
        search.advance(np.stack([table(EOS=0.6, A=0.4), table(EOS=0.5, A=0.5)]))
        return search.finished

    assert run(0.0)
    assert not run(1.0)


def test_a_caption_that_never_ends_stops_at_the_longest_length():
    search = _native.CaptionSearch(1, 5, **IDS)
    for _ in range(4):
        assert search.advance(table(A=0.5)[None])[0].tolist() == [A]
    assert search.advance(table(A=0.5)[None])[0].size == 0
    ((words, log_prob, score),) = search.hypotheses()
    assert words == [A] * 5
    assert score == pytest.approx(log_prob / 5)


def test_the_end_counts_towards_the_longest_length():
    search = _native.CaptionSearch(1, 2, **IDS)
    search.advance(table(A=1.0)[None])
    search.advance(table(EOS=1.0)[None])
    assert search.finished
    assert search.hypotheses()[0][0] == [A]


def test_special_and_forbidden_words_are_never_said():
    row = np.zeros((1, 7), dtype=np.float32)  # everything is certain, pad and bos included
    search = _native.CaptionSearch(1, 3, **IDS, min_length=3, forbidden=[UNK, A, B])
    assert search.advance(row)[0].tolist() == [C]


def test_min_length_holds_the_end_back():
    for min_length in range(4):
        search = _native.CaptionSearch(1, 9, **IDS, min_length=min_length)
        steps = 0
        while not search.finished:
            search.advance(table(EOS=0.9, A=0.1)[None])
            steps += 1
        assert steps == min_length + 1
        assert search.hypotheses()[0][0] == [A] * min_length


def test_a_vocabulary_of_one_word():
    language = RandomLanguage(0, 5)
    for beam_size in (1, 3):
        assert_same_hypotheses(language, beam_size=beam_size, max_length=4, forbidden=[UNK], **IDS)
    only_end = {**IDS, "forbidden": [UNK]}
    search = _native.CaptionSearch(3, 9, **only_end)
    search.advance(np.zeros((1, 4), np.float32))
    assert search.finished
    assert search.hypotheses() == [([], 0.0, 0.0)]


@pytest.mark.parametrize("poison", [np.nan, -np.inf])
def test_nothing_possible_ends_the_search(poison):
    search = _native.CaptionSearch(2, 9, **IDS)
    assert search.advance(np.full((1, 7), poison, np.float32))[0].size == 0
    assert search.finished
    assert search.hypotheses() == [([], 0.0, 0.0)]
    search = _native.CaptionSearch(2, 9, **IDS)
    search.advance(table(A=0.5, B=0.25)[None])
    search.advance(np.full((2, 7), poison, np.float32))
    assert [words for words, _, _ in search.hypotheses()] == [[A], [B]]


def test_nan_counts_as_impossible_and_infinity_as_certain():
    row = table(A=0.5)[None]
    row[0, B] = np.nan
    assert _native.CaptionSearch(3, 9, **IDS).advance(row)[0].tolist() == [A]
    row[0, C] = np.inf
    search = _native.CaptionSearch(2, 9, **IDS)
    assert search.advance(row)[0].tolist() == [C, A]
    while not search.finished:
        search.advance(np.zeros((2, 7), np.float32))
    assert search.hypotheses()[0][1] == np.inf


def test_takes_strided_and_read_only_rows():
    language = RandomLanguage(1, 20)
    log_probs = language([(A,), (B,)])
    results = []
    for rows in (log_probs, strided_copy(log_probs)):
        search = _native.CaptionSearch(2, 9, **IDS)
        search.advance(language([()]))
        results.append(search.advance(rows))
    np.testing.assert_array_equal(results[0], results[1])


def test_refuses_other_shapes():
    search = _native.CaptionSearch(3, 9, **IDS)
    for shape, message in [
        ((7,), "log_probs must have shape (rows, V), got (7,)"),
        ((2, 7), "log_probs must have shape (1, V) with V at least 4, got (2, 7)"),
        ((0, 7), "log_probs must have shape (1, V) with V at least 4, got (0, 7)"),
        ((1, 3), "log_probs must have shape (1, V) with V at least 4, got (1, 3)"),
    ]:
        with pytest.raises(ValueError, match=re.escape(message)):
            search.advance(np.zeros(shape, np.float32))
    doubles: Any = np.zeros((1, 7))
    with pytest.raises(ValueError, match="log_probs must have dtype float32, got float64"):
        search.advance(doubles)
    for change in ({"bos_id": 7}, {"eos_id": 7}, {"pad_id": 7}, {"forbidden": [UNK, 7, A]}):
        with pytest.raises(ValueError, match=re.escape("shape (1, V) with V at least 8, got (1, 7)")):
            _native.CaptionSearch(3, 9, **{**IDS, **change}).advance(np.zeros((1, 7), np.float32))
    rows = len(search.advance(np.zeros((1, 7), np.float32))[0])
    with pytest.raises(ValueError, match=re.escape(f"log_probs must have shape ({rows}, 7), got ({rows}, 8)")):
        search.advance(np.zeros((rows, 8), np.float32))
    search.advance(np.zeros((rows, 7), np.float32))  # a refused call changed nothing


def test_refuses_a_step_after_the_end():
    search = _native.CaptionSearch(1, 1, **IDS)
    search.advance(np.zeros((1, 7), np.float32))
    with pytest.raises(ValueError, match="this search is finished; start another CaptionSearch"):
        search.advance(np.zeros((1, 7), np.float32))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"beam_size": 0}, "beam_size must lie in 1..4096, got 0"),
        ({"max_length": 0}, "max_length must lie in 1..1048576, got 0"),
        ({"min_length": 11}, "min_length must lie in 0..max_length, got 11"),
        ({"length_penalty": -1.0}, "length_penalty must be a finite number of at least 0, got -1"),
        ({"length_penalty": float("nan")}, "length_penalty must be a finite number of at least 0, got nan"),
        ({"bos_id": -1}, "bos_id must lie in 0..16777215, got -1"),
        ({"eos_id": 0}, "eos_id must differ from bos_id and pad_id, got 0"),
        ({"forbidden": [-5]}, "forbidden ids must lie in 0..16777215, got -5"),
    ],
)
def test_refuses_bad_options(change, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        _native.CaptionSearch(**{"beam_size": 2, "max_length": 10, **IDS, **change})


@pytest.mark.parametrize("extreme", EXTREMES)
def test_numbers_far_out_of_range_are_refused_or_have_no_end(extreme: int) -> None:
    options: dict[str, Any] = {"beam_size": 2, "max_length": 9, **IDS}
    for name in ("bos_id", "eos_id", "pad_id", "beam_size", "max_length", "min_length"):
        with pytest.raises(ValueError, match=rf"^{name} must lie in [^\n]*, got {extreme}$"):
            _native.CaptionSearch(**{**options, name: extreme})
    with pytest.raises(ValueError, match=rf"^forbidden ids must lie in 0\.\.16777215, got {extreme}$"):
        _native.CaptionSearch(**options, forbidden=[UNK, extreme])
    for name in ("no_repeat_ngram", "top_k"):
        rules = {name: extreme, "temperature": 0.5 if name == "top_k" else 0.0}
        if extreme < 0:
            with pytest.raises(ValueError, match=f"^{name} must be at least 0, got {extreme}$"):
                _native.CaptionSearch(**options, **rules)
        else:
            assert_ends(_native.CaptionSearch(**options, **rules))


def assert_ends(search: _native.CaptionSearch) -> None:
    rows = 1
    while not search.finished:
        rows = len(search.advance(np.zeros((rows, 7), np.float32))[0])


def test_lets_threads_run():
    # Rising values: every one of them enters the heap, so that the step takes long.
    log_probs = np.linspace(-9, -1, 3_000_000, dtype=np.float32)[None]
    assert_lets_threads_run(lambda: _native.CaptionSearch(64, 9, **IDS).advance(log_probs))


@pytest.mark.parametrize("beam_size", [1, 2, 5])
@pytest.mark.parametrize("vocabulary_size", [6, 9, 131])
def test_rules_against_repetition_equal_the_reference(vocabulary_size: int, beam_size: int) -> None:
    for seed in range(4):
        language = RandomLanguage(seed, vocabulary_size)
        for rules in [
            {"repetition_penalty": 1.7},
            {"no_repeat_ngram": 1},
            {"no_repeat_ngram": 2, "min_length": 5},
            {"no_repeat_ngram": 3, "repetition_penalty": 1.2, "forbidden": [UNK]},
        ]:
            assert_same_hypotheses(language, max_length=14, beam_size=beam_size, **IDS, **rules)


def test_no_run_of_words_comes_twice() -> None:
    def stammer(sentences: Sequence[tuple[int, ...]]) -> np.ndarray:
        # A, B, A, B, ... if nothing forbids it.
        rows = np.full((len(sentences), 7), -9.0, np.float32)
        for row, sentence in zip(rows, sentences, strict=True):
            row[B if sentence and sentence[-1] == A else A] = -0.1
        return rows

    options = {"beam_size": 1, "max_length": 9, "forbidden": [UNK, EOS], **IDS}
    assert native_search(stammer, **options)[0][0] == [A, B, A, B, A, B, A, B, A]
    (tokens, *_), *_ = native_search(stammer, no_repeat_ngram=2, **options)
    runs = list(itertools.pairwise(tokens))
    assert tokens[:3] == [A, B, A] and len(set(runs)) == len(runs)


@pytest.mark.parametrize("temperature", [0.3, 1.0, 2.5])
@pytest.mark.parametrize("top_k", [0, 1, 3])
def test_drawing_equals_the_reference(temperature: float, top_k: int) -> None:
    for seed in (0, 1, 2**64 - 1):
        language = RandomLanguage(seed % 97, 11)
        drawing = {"temperature": temperature, "top_k": top_k, "seed": seed}
        actual = native_search(
            language, beam_size=4, max_length=8, min_length=2, repetition_penalty=1.3, **IDS, **drawing
        )
        rules = reference.Rules((BOS, PAD), EOS, 2, 1.3)
        expected = reference.drawn_captions(language, 4, 8, rules, **drawing)
        assert [tuple(tokens) for tokens, _, _ in actual] == [h.tokens for h in expected]
        np.testing.assert_allclose([log_prob for _, log_prob, _ in actual], [h.log_prob for h in expected], rtol=1e-12)
        np.testing.assert_allclose([score for _, _, score in actual], [h.score for h in expected], rtol=1e-12)


def test_words_are_drawn_as_often_as_they_are_likely() -> None:
    log_probs = np.log(np.array([[0.1, 0.1, 0.1, 0.1, 0.1, 0.2, 0.3]], np.float32))
    counts = np.zeros(7)
    for seed in range(100):
        search = _native.CaptionSearch(20, 2, temperature=0.5, seed=seed, **IDS)
        tokens, parents = search.advance(log_probs)
        assert set(parents.tolist()) <= {0}
        counts += np.bincount(tokens, minlength=7)
        counts[EOS] += 20 - len(tokens)
    expected = np.array([0, 0.01, 0, 0.01, 0.01, 0.04, 0.09]) / 0.16
    np.testing.assert_allclose(counts / counts.sum(), expected, atol=0.04)


def test_stopping_keeps_finished_sentences_or_else_running_ones() -> None:
    def step(search: _native.CaptionSearch, rows: int, likely: int) -> None:
        log_probs = np.full((rows, 7), -8.0, np.float32)
        log_probs[:, likely] = -0.01
        search.advance(log_probs)

    search = _native.CaptionSearch(2, 9, **IDS)
    step(search, 1, A)
    search.stop()
    assert search.finished and search.hypotheses()[0][0] == [A]
    search.stop()
    search = _native.CaptionSearch(2, 9, **IDS)
    step(search, 1, A)
    step(search, 2, EOS)
    search.stop()
    assert search.hypotheses()[0][0] == [A]
    with pytest.raises(ValueError, match="this search is finished"):
        step(search, 2, A)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"repetition_penalty": 0.9}, "repetition_penalty must be a finite number of at least 1, got 0.9"),
        ({"no_repeat_ngram": -1}, "no_repeat_ngram must be at least 0, got -1"),
        ({"temperature": float("inf")}, "temperature must be a finite number of at least 0, got inf"),
        ({"top_k": -2}, "top_k must be at least 0, got -2"),
    ],
)
def test_bad_rules(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        _native.CaptionSearch(2, 9, **IDS, **options)
