"""The caption decoder in the extension: the whole loop in C++, on weights mapped into memory from the bundle."""

from __future__ import annotations

import os
from dataclasses import asdict
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from .. import _native
from ..bundle.caption_weights import open_caption_weights
from ..bundle.spec import CaptionSpec
from ..errors import BundleError, UsageError
from ..results import Caption
from .captioning import CaptionOptions, CaptionTimes, caption_of

# Chooses the instruction set, for tests and for finding faults; by default the best of the level in use.
KERNELS_VARIABLE = "YOLOR_EDGE_CAPTION_KERNELS"


class NativeCaptionDecoder:
    """Writes captions with the extension's decoder, on one thread. Threads may share it: each call has its own state.

    Args:
        spec: Vocabulary and limits.
        path: A file of caption weights.
        kernels: One of `_native.decoder_kernels()`; None for what the environment variable
            YOLOR_EDGE_CAPTION_KERNELS says, or else the fastest of no higher level than YOLOR_EDGE_SIMD says.

    Raises:
        BundleError: If the file is not one of caption weights, not whole, or does not fit the spec.
        UsageError: If this processor does not run those kernels.
    """

    def __init__(self, spec: CaptionSpec, path: Path, kernels: str | None = None):
        weights = open_caption_weights(path)
        dims = weights.dims
        complaints = []
        if dims.vocabulary != len(spec.vocabulary):
            complaints.append(f"the decoder has {dims.vocabulary} words, the model {len(spec.vocabulary)}")
        if dims.positions < spec.max_length:
            complaints.append(f"the decoder takes {dims.positions} tokens, the model writes {spec.max_length}")
        if complaints:
            raise BundleError(f"{path}: {'; '.join(complaints)}; export the model again")
        chosen = kernels or os.environ.get(KERNELS_VARIABLE) or None
        available = _native.decoder_kernels()
        if chosen is not None and chosen not in available:
            raise UsageError(f"caption kernels must be one of {', '.join(available)} on this processor, got {chosen!r}")
        self.dims = dims
        self.precision = weights.precision
        self._spec = spec
        self._tokenizer = spec.tokenizer()
        self._decoder = _native.CaptionDecoder(
            **asdict(dims),
            norm_epsilon=weights.norm_epsilon,
            precision=weights.precision,
            tensors=dict(weights.tensors),
            kernels=chosen,
        )

    @property
    def kernels(self) -> str:
        """The instruction set in use."""
        return self._decoder.kernels

    def write(self, memory: NDArray[np.float32], options: CaptionOptions) -> tuple[Caption, CaptionTimes]:
        """The best sentence for one image; see `CaptionDecoder.write`.

        Args:
            memory: (1, L, D) float32, the vision graph's `caption_memory`.
            options: How to search.

        Raises:
            UsageError: If an option makes no sense for this decoder, or the memory has another shape.
            BackendError: If the decoder's probabilities lead nowhere (all NaN).
        """
        arguments = options.search_arguments(self._spec)
        expected = (1, self.dims.memory, self.dims.width)
        if memory.shape != expected:
            raise UsageError(f"caption_memory must have shape {expected}, got {memory.shape}")
        hypotheses, first_ns, later_ns, runs, is_cut = self._decoder.write(
            memory[0], **arguments, budget_ms=options.budget_ms
        )
        caption = caption_of(hypotheses, self._tokenizer, options, is_cut)
        per_token_ms = later_ns / 1e6 / (runs - 1) if runs > 1 else 0.0
        return caption, CaptionTimes(first_ns / 1e6, per_token_ms, runs)
