"""The vision part with pre- and post-processing on the CPU, around a graph of any backend."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from .. import _native
from ..backends.base import Array, ClonableGraph, Graph, StagedGraph
from ..bundle.spec import ModelSpec
from ..bundle.tensors import MASK_STRIDE, outputs_of
from ..errors import BackendError
from ..images.preprocess import KernelLayout, Letterbox, preprocess
from ..results import InstanceMasks
from .contexts import Request
from .graph_outputs import by_rising_cell, map_to_image, run_one
from .head_check import HeadCheck

MAX_CANDIDATES = 30000


class HostVision:
    """A vision graph between the CPU's kernels.

    Args:
        spec: What the model is.
        graph: Takes and gives arrays in host memory; closed with it. Slots share it, or have a clone each if it takes
            one call at a time.
    """

    processing: ClassVar[str] = "cpu"

    def __init__(self, spec: ModelSpec, graph: Graph):
        self.check = HeadCheck(spec)
        self._spec = spec
        self._graph: Graph | None = graph
        self._clones: list[Graph] = []
        self._idle = [graph] if isinstance(graph, ClonableGraph) else []
        self._contexts: weakref.WeakSet[HostContext] = weakref.WeakSet()

    def context(self) -> HostContext:
        """Memory for one more image in flight."""
        graph = self._graph
        if graph is None:
            raise BackendError(f"{self._spec.name}: the model is closed")
        if not isinstance(graph, ClonableGraph):
            return HostContext(self._spec, graph, self.check)
        try:
            own = self._idle.pop()
        except IndexError:
            own = graph.clone()
            self._clones.append(own)
        context = HostContext(self._spec, own, self.check, free=lambda: self._idle.append(own))
        self._contexts.add(context)
        return context

    def close(self) -> None:
        """Free the graph and its clones."""
        for context in list(self._contexts):
            context.close()  # its memory may be the graph's
        for graph in (self._graph, *self._clones):
            if graph is not None:
                graph.close()
        self._graph = None
        self._clones = []


class HostContext:
    """One image in flight; see `slots.Slot`."""

    def __init__(
        self,
        spec: ModelSpec,
        graph: Graph,
        check: HeadCheck | None = None,
        free: Callable[[], None] | None = None,
    ):
        self._spec = spec
        self._check = check
        self._graph = graph
        self._free = free
        self._tensor: NDArray[np.float32] | None = _input_memory(spec, graph)  # written anew for every image
        self._letterbox: Letterbox | None = None
        self._heads: Mapping[str, Array] = {}

    @property
    def caption_memory(self) -> NDArray[np.float32]:
        """(1, L, D) float32."""
        return self._heads["caption_memory"]

    def prepare(self, image: NDArray[np.uint8], layout: KernelLayout = "bgr") -> None:
        """Letterbox the image."""
        self._heads = {}
        if self._tensor is None:
            raise BackendError(f"{self._spec.name}: the model is closed")
        _, self._letterbox = preprocess(image, self._spec.preprocess, out=self._tensor, layout=layout)

    def infer(self, tasks: tuple[str, ...]) -> None:
        """Run the graph."""
        if self._tensor is None:
            raise BackendError(f"{self._spec.name}: the model is closed")
        wanted = [name for task in tasks for name in outputs_of(self._spec, task)]
        self._heads = run_one(self._graph, self._tensor[np.newaxis], wanted)
        if self._check is not None:
            self._check.look(self._heads)

    def finish(self, request: Request, lap: Callable[[str], None]) -> dict[str, Any]:
        """The answers but for the caption."""
        letterbox = self._letterbox
        if letterbox is None:
            raise BackendError(f"{self._spec.name}: no image was prepared")
        answers: dict[str, Any] = {}
        if "boxes" in request.tasks:
            found, columns = self._boxes(letterbox, request)
            answers.update(found)
            lap("boxes")
            if "masks" in request.tasks:
                answers["masks"] = self._masks(letterbox, columns, found["boxes"])
                lap("masks")
        if "semantic" in request.tasks:
            answers["semantic_map"] = self._semantic_map(letterbox)
            lap("semantic")
        return answers

    def close(self) -> None:
        """Free the memory, and let the next context have the graph."""
        self._heads = {}
        self._tensor = None
        free, self._free = self._free, None
        if free is not None:
            free()

    def _boxes(self, letterbox: Letterbox, request: Request) -> tuple[dict[str, Array], Array]:
        """Boxes, scores and class ids in pixels of the image, and the column of the heads that each came from."""
        heads, spec, limits = self._heads, self._spec, request.limits
        score_head, box_head, cells, order = heads[spec.score_head][0], heads[spec.box_head][0], None, None
        if spec.graph.top_k is not None:
            score_head, box_head, cells, order = by_rising_cell(score_head, box_head, heads["cells"][0])
        boxes, scores, class_ids, columns = _native.decode_boxes(
            score_head,
            box_head,
            strides=list(spec.strides),
            input_size=spec.input_size,
            score_threshold=limits.score,
            iou_threshold=limits.iou,
            max_detections=limits.max_detections,
            max_candidates=MAX_CANDIDATES,
            class_agnostic=request.class_agnostic,
            cells=cells,
            box_coding=spec.box_coding,
            score_coding=spec.score_coding,
            box_count=spec.box_count,
        )
        if order is not None:
            columns = order[columns]
        boxes = letterbox.boxes_to_image(boxes)
        # A box that lay in the padding has nothing left of it inside the image.
        is_visible = (boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1])
        found = {
            "boxes": boxes[is_visible],
            "scores": scores[is_visible],
            "class_ids": class_ids[is_visible],
        }
        return found, columns[is_visible]

    def _masks(self, letterbox: Letterbox, columns: Array, boxes: NDArray[np.float32]) -> InstanceMasks:
        heads = self._heads
        coefficients = heads["mask_coefficients"][0][:, columns].T  # (N, K)
        crops = _native.mask_crops(
            heads["prototypes"][0], coefficients, boxes, letterbox.image_size, letterbox.geometry, MASK_STRIDE
        )
        return InstanceMasks(crops, letterbox.image_size)

    def _semantic_map(self, letterbox: Letterbox) -> NDArray[np.uint8]:
        if "semantic_map" in self._heads:
            return map_to_image(self._heads["semantic_map"][0], letterbox)
        return _native.semantic_argmax(
            self._heads["semantic_logits"][0], letterbox.image_size, letterbox.geometry, self._spec.semantic_stride
        )


def _input_memory(spec: ModelSpec, graph: Graph) -> NDArray[np.float32]:
    """(3, H, W) float32: the graph's own, where it has one for a single image, so that nothing is copied there."""
    if isinstance(graph, StagedGraph) and spec.graph.batch in (None, 1):
        memory = graph.host_input("images", (1, 3, *spec.input_size))
        if memory.dtype == np.float32:
            return memory[0]
    return np.empty((3, *spec.input_size), np.float32)
