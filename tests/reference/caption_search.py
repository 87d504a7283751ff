"""Beam search from its description, over whole sentences and without tricks."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

LogProbs = Callable[[Sequence[tuple[int, ...]]], NDArray[np.floating[Any]]]


@dataclass(frozen=True)
class Hypothesis:
    tokens: tuple[int, ...]
    log_prob: float
    score: float


@dataclass(frozen=True)
class Rules:
    """What may follow a sentence, and how likely it is held to be."""

    forbidden: tuple[int, ...]
    eos_id: int
    min_length: int = 0
    repetition_penalty: float = 1.0
    no_repeat_ngram: int = 0

    def choices(self, tokens: tuple[int, ...], log_probs: NDArray[np.float32]) -> list[tuple[int, float]]:
        """(token, log-probability) of all that is possible, by token."""
        found = []
        for token, log_prob in enumerate(log_probs.astype(float)):
            if token in self.forbidden or (token == self.eos_id and len(tokens) < self.min_length):
                continue
            if token != self.eos_id and self._repeats_a_run((*tokens, token)):
                continue
            if not math.isnan(log_prob) and log_prob > -math.inf:
                found.append((token, float(log_prob) * (self.repetition_penalty if token in tokens else 1.0)))
        return found

    def _repeats_a_run(self, tokens: tuple[int, ...]) -> bool:
        n = self.no_repeat_ngram
        runs = [tokens[i : i + n] for i in range(len(tokens) - n + 1)] if n else []
        return len(runs) > 0 and runs[-1] in runs[:-1]


def caption_search(
    log_probs_of: LogProbs,
    beam_size: int,
    max_length: int,
    bos_id: int,
    eos_id: int,
    pad_id: int,
    length_penalty: float = 1.0,
    min_length: int = 0,
    forbidden: Sequence[int] = (),
    repetition_penalty: float = 1.0,
    no_repeat_ngram: int = 0,
) -> list[Hypothesis]:
    """The best hypotheses, best first, at most `beam_size`.

    `log_probs_of(sentences)` gives one row of log-probabilities of the next token per sentence.
    """
    rules = Rules((bos_id, pad_id, *forbidden), eos_id, min_length, repetition_penalty, no_repeat_ngram)
    running: list[tuple[tuple[int, ...], float]] = [((), 0.0)]
    finished: list[Hypothesis] = []

    def score(log_prob: float, length: int) -> float:
        return log_prob / max(length, 1) ** length_penalty

    def finish(tokens: tuple[int, ...], log_prob: float, length: int) -> None:
        finished.append(Hypothesis(tokens, log_prob, score(log_prob, length)))
        finished.sort(key=lambda hypothesis: -hypothesis.score)
        del finished[beam_size:]

    for length in range(1, max_length + 1):
        table = log_probs_of([tokens for tokens, _ in running])
        continuations = []
        for row, (tokens, so_far) in enumerate(running):
            for token, log_prob in rules.choices(tokens, table[row]):
                continuations.append((so_far + log_prob, row, token))
        continuations.sort(key=lambda c: (-c[0], c[1], c[2]))
        if not continuations:
            for tokens, log_prob in running:
                finish(tokens, log_prob, length - 1)
            return finished
        survivors = []
        # Greedy search looks at the best continuation only; a beam needs spares for those that end.
        for rank, (log_prob, row, token) in enumerate(continuations[: 1 if beam_size == 1 else 2 * beam_size]):
            tokens = running[row][0]
            if token == eos_id:
                if rank < beam_size:
                    finish(tokens, log_prob, length)
            elif len(survivors) < beam_size:
                survivors.append(((*tokens, token), log_prob))
        running = survivors
        if not running:
            return finished
        if len(finished) == beam_size and length < max_length:
            best_possible = score(running[0][1], max_length)
            if not best_possible > finished[-1].score:
                return finished
    for tokens, log_prob in running:
        finish(tokens, log_prob, max_length)
    return finished


LOST = -999.0


def keeping_search(
    log_probs_of: LogProbs,
    beam_size: int,
    max_length: int,
    bos_id: int,
    eos_id: int,
    pad_id: int,
    length_penalty: float = 0.0,
    min_length: int = 0,
    forbidden: Sequence[int] = (),
    repetition_penalty: float = 1.0,
    no_repeat_ngram: int = 0,
) -> list[Hypothesis]:
    """The search of Generalist YOLO: always `max_length` steps, finished sentences stay in the beam.

    A finished sentence goes on with `pad_id` at no cost; with any other token it scores `LOST`.
    """
    rules = Rules(tuple(forbidden), eos_id, min_length, repetition_penalty, no_repeat_ngram)
    beam: list[tuple[tuple[int, ...], float]] = [((), 0.0)]
    for _ in range(max_length):
        table = log_probs_of([tokens for tokens, _ in beam])
        continuations = []
        for row, (tokens, so_far) in enumerate(beam):
            if eos_id in tokens:
                words = range(table.shape[1])
                continuations += [(so_far if word == pad_id else LOST, row, word) for word in words]
            else:
                continuations += [(so_far + x, row, word) for word, x in rules.choices(tokens, table[row])]
        continuations.sort(key=lambda c: (-c[0], c[1], c[2]))
        beam = [((*beam[row][0], word), log_prob) for log_prob, row, word in continuations[:beam_size]]
    found = []
    for tokens, log_prob in beam:
        words = tokens[: tokens.index(eos_id)] if eos_id in tokens else tokens
        length = len(words) + (eos_id in tokens)
        found.append(Hypothesis(words, log_prob, log_prob / length**length_penalty))
    return sorted(found, key=lambda hypothesis: -hypothesis.score)


def greedy_search(
    log_probs_of: LogProbs, max_length: int, bos_id: int, eos_id: int, pad_id: int
) -> tuple[tuple[int, ...], float]:
    """The tokens (without the end) and the summed log-probability of taking the best token at every step."""
    tokens: tuple[int, ...] = ()
    total = 0.0
    for _ in range(max_length):
        row = log_probs_of([tokens])[0].copy()
        row[[bos_id, pad_id]] = -np.inf
        token = int(row.argmax())
        total += float(row[token])
        if token == eos_id:
            break
        tokens = (*tokens, token)
    return tokens, total


def drawn_captions(
    log_probs_of: LogProbs,
    samples: int,
    max_length: int,
    rules: Rules,
    temperature: float,
    top_k: int = 0,
    seed: int = 0,
    length_penalty: float = 1.0,
) -> list[Hypothesis]:
    """Sentences drawn one by one, best score first."""
    drawn = []
    for sample in range(samples):
        tokens: tuple[int, ...] = ()
        total = 0.0
        length = 0
        while length < max_length:
            choices = rules.choices(tokens, log_probs_of([tokens])[0])
            if not choices:
                break
            length += 1
            if top_k:
                choices = sorted(sorted(choices, key=lambda c: (-c[1], c[0]))[:top_k])
            log_probs = np.array([log_prob for _, log_prob in choices])
            weights = np.exp((log_probs - log_probs.max()) / temperature)
            target = uniform(seed, sample, length) * weights.sum()
            index = min(int(np.searchsorted(np.cumsum(weights), target, side="right")), len(choices) - 1)
            total += choices[index][1]
            if choices[index][0] == rules.eos_id:
                break
            tokens = (*tokens, choices[index][0])
        drawn.append(Hypothesis(tokens, total, total / max(length, 1) ** length_penalty))
    return sorted(drawn, key=lambda hypothesis: -hypothesis.score)


def uniform(seed: int, sample: int, step: int) -> float:
    """In [0, 1), by SplitMix64 of the three numbers, one after the other."""

    def mixed(x: int) -> int:
        x = (x + 0x9E3779B97F4A7C15) % 2**64
        x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
        x = (x ^ (x >> 27)) * 0x94D049BB133111EB % 2**64
        return x ^ (x >> 31)

    return (mixed(mixed(mixed(seed) + sample) + step) >> 11) / 2**53
