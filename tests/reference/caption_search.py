"""Beam search from its description, over whole sentences and without tricks."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

LogProbs = Callable[[Sequence[tuple[int, ...]]], NDArray[np.float32]]


@dataclass(frozen=True)
class Hypothesis:
    tokens: tuple[int, ...]
    log_prob: float
    score: float


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
) -> list[Hypothesis]:
    """The best hypotheses, best first, at most `beam_size`.

    `log_probs_of(sentences)` gives one row of log-probabilities of the next token per sentence.
    """
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
        for row, (_, so_far) in enumerate(running):
            for token in range(table.shape[1]):
                impossible = token in (bos_id, pad_id, *forbidden) or (token == eos_id and length - 1 < min_length)
                log_prob = float(table[row, token])
                if not impossible and not math.isnan(log_prob) and log_prob > -math.inf:
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
