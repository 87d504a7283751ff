"""Writing a caption: what a search can be told, and the decoder whose graphs answer it with probabilities."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from .. import _native
from ..backends.base import Array, ClonableGraph, Graph
from ..bundle.spec import CaptionSpec
from ..bundle.tokenizer import Tokenizer
from ..errors import BackendError, UsageError
from ..results import Caption


@dataclass(frozen=True)
class CaptionOptions:
    """How a sentence is searched for.

    Attributes:
        beam_size: Sentences kept at every step; 1 is greedy search; None for the model's own number.
        length_penalty: Sentences are ranked by log_prob / length ** length_penalty; 0 ranks by log_prob
            alone, above 0 favours longer ones. Length counts the end token. None for the model's own.
            Source: Wu et al., Google's NMT system, https://arxiv.org/abs/1609.08144 (in this simpler form).
        min_length: The end token is not allowed before this many words.
        max_length: Most tokens, the end token included; None for the model's own limit.
        n_best: Sentences to hand back, the best as the caption and the rest as its `others`; at most beam_size.
        repetition_penalty: The log-probability of a word that the sentence holds already is multiplied by this; 1
            leaves it. Nothing is normalised again.
            Source: Keskar et al., CTRL, https://arxiv.org/abs/1909.05858 (there on logits).
        no_repeat_ngram: No run of so many words comes twice in a sentence; 0 allows it.
            Source: Paulus et al., https://arxiv.org/abs/1705.04304
        forbidden_words: Words of the vocabulary never written.
        temperature: 0 searches. Above 0, beam_size sentences are drawn word by word instead, each word with a
            probability proportional to exp(log_prob / temperature), and ranked by score.
            Source: sample-and-rank, Adiwardana et al., https://arxiv.org/abs/2001.09977
        top_k: Words drawn from are the likeliest `top_k`; 0 for all.
            Source: Fan et al., https://arxiv.org/abs/1805.04833
        seed: Of the drawing; the same seed draws the same sentences.
        budget_ms: Time for the caption from its start: no word is begun that would likely end later (as judged by the
            longest so far), and the best sentence found by then is the answer, be it unfinished. The first word is
            always made. None for no limit.
    """

    beam_size: int | None = None
    length_penalty: float | None = None
    min_length: int = 0
    max_length: int | None = None
    n_best: int = 1
    repetition_penalty: float = 1.0
    no_repeat_ngram: int = 0
    forbidden_words: tuple[str, ...] = ()
    temperature: float = 0.0
    top_k: int = 0
    seed: int = 0
    budget_ms: float | None = None

    def for_model(self, spec: CaptionSpec) -> CaptionOptions:
        """These options with the model's own in place of those that are None.

        Raises:
            UsageError: If an option makes no sense, or asks for more tokens than the decoder can write.
        """
        own = {name: getattr(spec, name) for name in ("beam_size", "length_penalty", "max_length")}
        options = replace(self, **{name: value for name, value in own.items() if getattr(self, name) is None})
        options._check(spec)
        return options

    def _check(self, spec: CaptionSpec) -> None:
        beam_size, length, length_penalty = self.beam_size, self.max_length, self.length_penalty
        assert beam_size is not None and length is not None and length_penalty is not None
        if not 1 <= beam_size <= len(spec.vocabulary):
            raise UsageError(
                f"<beam_size> must be from 1 to {len(spec.vocabulary)}, got {beam_size}", argument="beam_size"
            )
        if not 1 <= length <= spec.max_length:
            raise UsageError(
                f"<max_length> must be from 1 to the model's {spec.max_length}, got {length}", argument="max_length"
            )
        if not 0 <= self.min_length < length:
            raise UsageError(
                f"<min_length> must be from 0 to max_length - 1 ({length - 1}), got {self.min_length}",
                argument="min_length",
            )
        if not math.isfinite(length_penalty):
            raise UsageError(f"<length_penalty> must be a number, got {length_penalty}", argument="length_penalty")
        if not 1 <= self.n_best <= beam_size:
            raise UsageError(
                f"<n_best> must be from 1 to beam_size ({beam_size}), got {self.n_best}", argument="n_best"
            )
        for name, least in (("length_penalty", 0), ("repetition_penalty", 1), ("temperature", 0)):
            value = getattr(self, name)
            if not (math.isfinite(value) and value >= least):
                raise UsageError(f"<{name}> must be a number of at least {least}, got {value}", argument=name)
        for name in ("no_repeat_ngram", "top_k"):
            if getattr(self, name) < 0:
                raise UsageError(f"<{name}> must be at least 0, got {getattr(self, name)}", argument=name)
        if not 0 <= self.seed < 1 << 64:
            raise UsageError(f"<seed> must be from 0 to 2 ** 64 - 1, got {self.seed}", argument="seed")
        if self.budget_ms is not None and not self.budget_ms >= 0:
            raise UsageError(f"<budget_ms> must be at least 0, got {self.budget_ms}", argument="budget_ms")
        unknown = [word for word in self.forbidden_words if word not in spec.vocabulary]
        if unknown:
            raise UsageError(
                f"<forbidden_words> must be in the vocabulary, {', '.join(map(repr, unknown))} not",
                argument="forbidden_words",
            )

    def search_arguments(self, spec: CaptionSpec) -> dict[str, Any]:
        """What a search of the extension is told.

        Raises:
            UsageError: As by `for_model`.
        """
        options = self.for_model(spec)
        leaves = spec.finished == "leave"
        return {
            "beam_size": options.beam_size,
            "max_length": options.max_length,
            "bos_id": spec.bos_id,
            "eos_id": spec.eos_id,
            "pad_id": spec.pad_id,
            "length_penalty": options.length_penalty,
            "min_length": self.min_length,
            "forbidden": [
                *((spec.pad_id, spec.unk_id, spec.bos_id) if leaves else ()),
                *(i for word in self.forbidden_words for i, token in enumerate(spec.vocabulary) if token == word),
            ],
            "repetition_penalty": self.repetition_penalty,
            "no_repeat_ngram": self.no_repeat_ngram,
            "temperature": self.temperature,
            "top_k": self.top_k,
            "seed": self.seed,
            "keeps_finished": not leaves,
        }


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


class CaptionWriter(Protocol):
    """Whatever writes captions for a model."""

    def write(self, memory: NDArray[np.float32], options: CaptionOptions) -> tuple[Caption, CaptionTimes]:
        """The best sentence for the memory (1, L, D) of one image, and where the time went."""
        ...


class CaptionDecoder:
    """The two decoder graphs with the vocabulary they write in.

    Args:
        spec: Vocabulary and limits.
        prefill: The graph from image memory and the begin token to first probabilities and caches.
        step: The graph for every token after it.
    """

    def __init__(self, spec: CaptionSpec, prefill: Graph, step: Graph):
        self._spec = spec
        self._graphs = (prefill, step)
        self._idle = [self._graphs]
        self._clones: list[Graph] = []
        self._tokenizer = spec.tokenizer()

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
        with self._acquired() as (prefill, step):
            return self._write(prefill, step, memory, options)

    def close(self) -> None:
        """Free what was made for threads beside the first; the graphs are their owner's."""
        for clone in self._clones:
            clone.close()
        self._clones, self._idle = [], []

    @contextlib.contextmanager
    def _acquired(self) -> Iterator[tuple[Graph, Graph]]:
        """Both graphs; where they take one call at a time, for no other thread as long."""
        if not all(isinstance(graph, ClonableGraph) for graph in self._graphs):
            yield self._graphs
            return
        try:
            pair = self._idle.pop()  # atomic, like append below
        except IndexError:
            prefill, step = (graph.clone() for graph in self._graphs if isinstance(graph, ClonableGraph))
            self._clones += [prefill, step]
            pair = (prefill, step)
        try:
            yield pair
        finally:
            self._idle.append(pair)

    def _write(
        self, prefill: Graph, step: Graph, memory: NDArray[np.float32], options: CaptionOptions
    ) -> tuple[Caption, CaptionTimes]:
        spec = self._spec
        started = time.perf_counter_ns()
        search = _native.CaptionSearch(**options.search_arguments(spec))
        state = prefill.run({"caption_memory": memory, "tokens": np.array([spec.bos_id], np.int64)})
        cross = {"cross_keys": state["cross_keys"], "cross_values": state["cross_values"]}
        tokens, parents = search.advance(state["log_probs"])
        first_done = step_started = time.perf_counter_ns()
        runs, longest, is_cut = 1, 0, False
        while not search.finished:
            if options.budget_ms is not None and step_started + longest - started >= options.budget_ms * 1e6:
                search.stop()
                is_cut = True
                break
            feed = {"tokens": tokens, **_gathered_cache(state, parents), **cross}
            state = step.run(feed)
            tokens, parents = search.advance(state["log_probs"])
            runs += 1
            ended = time.perf_counter_ns()
            longest, step_started = max(longest, ended - step_started), ended
        later_ms = (time.perf_counter_ns() - first_done) / 1e6
        caption = caption_of(search.hypotheses(), self._tokenizer, options, is_cut)
        per_token_ms = later_ms / (runs - 1) if runs > 1 else 0.0
        return caption, CaptionTimes((first_done - started) / 1e6, per_token_ms, runs)


def caption_of(
    hypotheses: Sequence[tuple[Sequence[int], float, float]],
    tokenizer: Tokenizer,
    options: CaptionOptions,
    is_cut: bool,
) -> Caption:
    """The caption of a search that is over, from its hypotheses, the best first.

    Raises:
        BackendError: If there is none.
    """
    if not hypotheses:
        raise BackendError("the caption decoder gave no sentence; its log_probs are not numbers")
    captions = []
    for ids, log_prob, score in hypotheses[: options.n_best]:
        # By way of a list, whose length is known. Of a generator CPython makes a larger tuple and cuts it; when that is
        # gone, it is put aside for the next one of its length, up to 2000 of each, and no next one is made so.
        token_ids = tuple([int(i) for i in ids])
        captions.append(Caption(tokenizer.decode(token_ids), token_ids, float(log_prob), float(score), is_cut=is_cut))
    return replace(captions[0], others=tuple(captions[1:])) if len(captions) > 1 else captions[0]


def _gathered_cache(state: Mapping[str, Array], parents: NDArray[np.int64]) -> dict[str, Array]:
    """The past (layers, rows, heads, T, d) of the sentences that go on: row i continues row parents[i]."""
    keys, values = state["present_keys"], state["present_values"]
    if not np.array_equal(parents, np.arange(keys.shape[1])):
        keys, values = keys[:, parents], values[:, parents]
    return {"past_keys": np.ascontiguousarray(keys), "past_values": np.ascontiguousarray(values)}
