"""ONNX Runtime as a peer of the native caption decoder: the exported step graphs in the tightest loop from Python.

Without the checks of the runtime's own backend, with the extension's search. Handing values from run to run as ONNX
Runtime's own (OrtValue) was measured and is slower at these sizes than arrays are. Binding was only tried on single
steps of fixed shapes, where it saves a little; caches that grow and change their order leave less of it to bind.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from ...runtime import _native
from ...runtime.bundle.spec import CaptionSpec
from ...runtime.captions.captioning import CaptionOptions, caption_of
from ...runtime.results import Caption


class OnnxRuntimeDecoder:
    """Writes sentences with ONNX Runtime, on one thread, with all of its graph optimisations.

    Args:
        spec: Vocabulary and limits.
        prefill, step: The exported graphs.
    """

    def __init__(self, spec: CaptionSpec, prefill: Path, step: Path):
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
        options.log_severity_level = 4
        # Any: what `run` says it returns includes sparse tensors and lists.
        self._prefill: Any
        self._step: Any
        self._prefill, self._step = (
            onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"]) for path in (prefill, step)
        )
        self._spec = spec
        self._tokenizer = spec.tokenizer()

    def write(self, memory: NDArray[np.float32], options: CaptionOptions) -> Caption:
        """The best sentence for the memory (1, L, D) of one image."""
        search = _native.CaptionSearch(**options.search_arguments(self._spec))
        cross: dict[str, NDArray[np.float32]] = {}
        log_probs, cross["cross_keys"], cross["cross_values"], keys, values = self._prefill.run(
            ["log_probs", "cross_keys", "cross_values", "present_keys", "present_values"],
            {"caption_memory": memory, "tokens": np.array([self._spec.bos_id], np.int64)},
        )
        tokens, parents = search.advance(log_probs)
        while not search.finished:
            if len(parents) > 1:
                keys, values = keys[:, parents], values[:, parents]
            log_probs, keys, values = self._step.run(
                ["log_probs", "present_keys", "present_values"],
                {"tokens": tokens, "past_keys": keys, "past_values": values, **cross},
            )
            tokens, parents = search.advance(log_probs)
        return caption_of(search.hypotheses(), self._tokenizer, options, is_cut=False)
