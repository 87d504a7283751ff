"""Writing a caption: the search says which tokens to feed, the decoder's graphs answer with probabilities."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from . import _native
from .backends.base import Array, Graph
from .errors import BackendError, UsageError
from .results import Caption
from .spec import CaptionSpec
from .tokenizer import Tokenizer


@dataclass(frozen=True)
class CaptionOptions:
    """How a sentence is searched for.

    Attributes:
        beam_size: Sentences kept at every step; 1 is greedy search.
        length_penalty: Sentences are ranked by log_prob / length ** length_penalty; 0 ranks by log_prob
            alone, above 0 favours longer ones. Length counts the end token.
            Source: Wu et al., Google's NMT system, https://arxiv.org/abs/1609.08144 (in this simpler form).
        min_length: The end token is not allowed before this many words.
        max_length: Most tokens, the end token included; None for the model's own limit.
    """

    beam_size: int = 3
    length_penalty: float = 1.0
    min_length: int = 0
    max_length: int | None = None

    def checked_length(self, spec: CaptionSpec) -> int:
        """The most tokens to write with this decoder.

        Raises:
            UsageError: If an option makes no sense, or asks for more tokens than the decoder can write.
        """
        length = spec.max_length if self.max_length is None else self.max_length
        if not 1 <= self.beam_size <= len(spec.vocabulary):
            raise UsageError(f"beam_size must be from 1 to {len(spec.vocabulary)}, got {self.beam_size}")
        if not 1 <= length <= spec.max_length:
            raise UsageError(f"max_length must be from 1 to the model's {spec.max_length}, got {length}")
        if not 0 <= self.min_length < length:
            raise UsageError(f"min_length must be from 0 to max_length - 1 ({length - 1}), got {self.min_length}")
        if not np.isfinite(self.length_penalty):
            raise UsageError(f"length_penalty must be a number, got {self.length_penalty}")
        return length


@dataclass(frozen=True)
class CaptionTimes:
    """Where the time of one caption went.

    Attributes:
        first_token_ms: From the start to the first token's choice.
        per_token_ms: Mean of every later decoder run with its choice; 0 if there was none.
        tokens: Decoder runs, the first included.
    """

    first_token_ms: float
    per_token_ms: float
    tokens: int


class CaptionDecoder:
    """The two decoder graphs with the vocabulary they write in.

    Args:
        spec: Vocabulary and limits.
        prefill: The graph from image memory and the begin token to first probabilities and caches.
        step: The graph for every token after it.
    """

    def __init__(self, spec: CaptionSpec, prefill: Graph, step: Graph):
        self._spec = spec
        self._prefill = prefill
        self._step = step
        self._tokenizer = Tokenizer(spec.vocabulary)

    def write(self, memory: NDArray[np.float32], options: CaptionOptions) -> tuple[Caption, CaptionTimes]:
        """The best sentence for one image.

        Args:
            memory: (1, L, D) float32, the vision graph's `caption_memory`.
            options: How to search.

        Returns:
            The caption, and where the time went.

        Raises:
            UsageError: If an option makes no sense for this decoder.
            BackendError: If the decoder's probabilities lead nowhere (all NaN).
        """
        spec = self._spec
        max_length = options.checked_length(spec)
        started = time.perf_counter_ns()
        search = _native.CaptionSearch(
            options.beam_size,
            max_length,
            spec.bos_id,
            spec.eos_id,
            spec.pad_id,
            length_penalty=options.length_penalty,
            min_length=options.min_length,
            forbidden=[spec.pad_id, spec.unk_id, spec.bos_id],
        )
        state = self._prefill.run({"caption_memory": memory, "tokens": np.array([spec.bos_id], np.int64)})
        cross = {"cross_keys": state["cross_keys"], "cross_values": state["cross_values"]}
        tokens, parents = search.advance(state["log_probs"])
        first_done = time.perf_counter_ns()
        runs = 1
        while not search.finished:
            feed = {"tokens": tokens, **_gathered_cache(state, parents), **cross}
            state = self._step.run(feed)
            tokens, parents = search.advance(state["log_probs"])
            runs += 1
        later_ms = (time.perf_counter_ns() - first_done) / 1e6
        hypotheses = search.hypotheses()
        if not hypotheses:
            raise BackendError("the caption decoder gave no sentence; its log_probs are not numbers")
        ids, log_prob, score = hypotheses[0]
        token_ids = tuple(int(i) for i in ids)
        caption = Caption(self._tokenizer.decode(token_ids), token_ids, float(log_prob), float(score))
        per_token_ms = later_ms / (runs - 1) if runs > 1 else 0.0
        return caption, CaptionTimes((first_done - started) / 1e6, per_token_ms, runs)


def _gathered_cache(state: Mapping[str, Array], parents: NDArray[np.int64]) -> dict[str, Array]:
    """The past (layers, rows, heads, T, d) of the sentences that go on: row i continues row parents[i]."""
    keys, values = state["present_keys"], state["present_values"]
    if not np.array_equal(parents, np.arange(keys.shape[1])):
        keys, values = keys[:, parents], values[:, parents]
    return {"past_keys": np.ascontiguousarray(keys), "past_values": np.ascontiguousarray(values)}
