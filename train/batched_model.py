"""The pipeline that ships over the training network, with several images at a time through the network itself.

Pre- and post-processing are the runtime's and go image by image: each image has an execution context of its own, whose
graph is one row of the batch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from ..runtime.backends.base import Array, Graph, TensorInfo
from ..runtime.bundle.tensors import outputs_of
from ..runtime.captions.captioning import CaptionDecoder, CaptionOptions
from ..runtime.options import PredictOptions
from ..runtime.results import Result
from ..runtime.vision.contexts import Request
from ..runtime.vision.host_vision import HostContext
from .network.any_network import AnyNetwork
from .torch_backend import parts_of, spec_of


class BatchedModel:
    """A network ready to answer for several images at once; see `evaluation.evaluator.BatchPredictor`.

    Args:
        network: In evaluation mode, on any device.
        batch: Images that pass it at once, at most.

    Raises:
        ValueError: If the network is in training mode.
    """

    def __init__(self, network: AnyNetwork, batch: int) -> None:
        self.spec = spec_of(network.config)
        self.batch = batch
        parts = parts_of(network)
        self._vision: Graph = parts["vision"]
        self._captions: CaptionDecoder | None = None
        if self.spec.caption is not None and "caption" in self.spec.tasks:
            self._captions = CaptionDecoder(self.spec.caption, parts["caption_prefill"], parts["caption_step"])
        self._images = np.empty((batch, 3, *self.spec.input_size), np.float32)
        self._rows = [_Row(self._vision, image) for image in self._images]

    def predict_many(
        self,
        images: Sequence[np.ndarray],
        tasks: Sequence[str],
        *,
        score_threshold: float | None = None,
        caption: CaptionOptions | None = None,
    ) -> list[Result]:
        """A result for each image, as `Model.predict` gives it, without times.

        Args:
            images: At most `batch`, (height, width, 3) uint8 BGR of any sizes.
            tasks, score_threshold, caption: See `PredictOptions`.

        Raises:
            UsageError: If an option makes no sense.
            BackendError: If the decoder fails.
        """
        options = PredictOptions(tasks=tasks, score_threshold=score_threshold, caption=caption)
        request = Request.of(self.spec, options)
        rows = self._rows[: len(images)]
        contexts = [HostContext(self.spec, row) for row in rows]
        for context, image in zip(contexts, images, strict=True):
            context.prepare(image)
        wanted = list(dict.fromkeys(name for task in request.tasks for name in outputs_of(self.spec, task)))
        heads = self._vision.run({"images": self._images[: len(images)]}, wanted)
        results = []
        for number, (context, row, image) in enumerate(zip(contexts, rows, images, strict=True)):
            row.heads = {name: value[number : number + 1] for name, value in heads.items()}
            context.infer(request.tasks)
            answers = context.finish(request, lambda _: None)
            if "caption" in request.tasks and self._captions is not None:
                answers["caption"], _ = self._captions.write(context.caption_memory, request.caption)
            results.append(
                Result(
                    image_size=(image.shape[0], image.shape[1]),
                    class_names=self.spec.class_names,
                    semantic_names=self.spec.semantic_names,
                    category_ids=self.spec.category_ids,
                    **answers,
                )
            )
        return results


class _Row:
    """One image of the batch as a `runtime.backends.base.StagedGraph`: its input lies in the batch, and its outputs are
    what the batch gave.
    """

    def __init__(self, graph: Graph | _Row, image: Array) -> None:
        self.inputs: Mapping[str, TensorInfo] = graph.inputs
        self.outputs: Mapping[str, TensorInfo] = graph.outputs
        self.heads: Mapping[str, Array] = {}
        self._image = image

    def host_input(self, name: str, shape: tuple[int, ...]) -> Array:
        """The image's place in the batch."""
        return self._image[np.newaxis]

    def run(self, feed: Mapping[str, Array], wanted: Sequence[str] | None = None) -> dict[str, Array]:
        """This image's outputs of the batch's run."""
        return {name: self.heads[name] for name in (self.outputs if wanted is None else wanted)}

    def clone(self) -> _Row:
        """The same place in the batch."""
        return _Row(self, self._image)

    def close(self) -> None:
        """The network belongs to the caller."""
