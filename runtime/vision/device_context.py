"""One image in flight on a GPU: what it needs is put into one stream, and then waited for in turn."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Hashable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..backends.base import Array, DeviceGraph, DeviceTensor
from ..bundle.spec import ModelSpec
from ..bundle.tensors import outputs_of
from ..cuda.device import CapturedGraph, Stream
from ..cuda.kernels import launches
from ..cuda.kernels.detections import Detections
from ..cuda.kernels.launches import Head
from ..errors import BackendError
from ..images.preprocess import KernelLayout, Letterbox, image_size_of
from ..results import InstanceMasks
from .box_memory import BoxMemory
from .contexts import Request
from .head_check import HeadCheck
from .host_vision import MAX_CANDIDATES
from .kernel_set import Exchange, ImageTables, KernelSet

_MOST_CAPTURED = 24  # graphs of an execution context; more kinds of request than that are started again
_BLOCKS_PER_MULTIPROCESSOR = 8  # of the masks' kernel


class DeviceContext:
    """One image in flight; see `slots.Slot`.

    Args:
        spec: What the model is.
        graph: For this context alone.
        kernels: Shared by all contexts.
        check: Looks at the heads of an image now and then; shared too.
        let_go: Called with the context when it is closed, also if it could not be made.
    """

    def __init__(
        self,
        spec: ModelSpec,
        graph: DeviceGraph,
        kernels: KernelSet,
        check: HeadCheck,
        release: Callable[[DeviceContext], None],
    ):
        self._spec = spec
        self._check = check
        self._graph = graph
        self._kernels = kernels
        self._released: Callable[[DeviceContext], None] | None = release
        self._device = device = graph.device
        self._owned: list[Any] = []
        self._stages: dict[Hashable, CapturedGraph | None] = {}
        self._outputs: Mapping[str, DeviceTensor] = {}
        # Of the last image: its layout, its channels and the bytes of a row.
        self._pixels: tuple[KernelLayout, int, int] = ("bgr", 3, 0)
        self._placed: Letterbox | None = None
        self._tables: ImageTables | None = None
        self._picture: Exchange | None = None
        self._memory: Exchange | None = None
        self._work: BoxMemory | None = None
        self._tiles: Exchange | None = None
        self._map: Exchange | None = None
        self._leaders: Any = None
        try:
            batch = graph.inputs["images"].shape[0]
            shape = (batch if isinstance(batch, int) else 1, 3, *spec.input_size)
            self._input = graph.input_on_device("images", shape)
            self._stream = self._own(device.stream())
            self._fetching = self._own(device.stream())
            self._has_memory, self._has_boxes, self._has_masks, self._has_map = (
                self._own(device.event(timing=False)) for _ in range(4)
            )
            nbytes = int(np.prod(self._input.shape)) * np.dtype(self._input.dtype).itemsize
            device.fill(self._input.address, 0, nbytes, self._stream)  # places of a batch that stay empty
        except BaseException:
            self.close()
            raise

    @property
    def caption_memory(self) -> NDArray[np.float32]:
        """(1, L, D) float32; waits for it alone, not for what the GPU does after it."""
        if self._memory is None or "caption_memory" not in self._outputs:
            raise BackendError(f"{self._spec.name}: no caption memory was computed")
        self._has_memory.synchronize()
        tensor = self._outputs["caption_memory"]
        shape = (1, *tensor.shape[1:])
        nbytes = int(np.prod(shape)) * np.dtype(tensor.dtype).itemsize
        return self._memory.host[:nbytes].view(tensor.dtype).reshape(shape).astype(np.float32, copy=False)

    def prepare(self, image: NDArray[np.uint8], layout: KernelLayout = "bgr") -> None:
        """Copy the image to where the device reads it, and put its letterbox into the stream."""
        with self._device.current():
            # Whatever the last image left undone, such as after an error, still reads what is written now.
            self._stream.synchronize()
            self._outputs = {}
            placed = self._spec.preprocess.letterbox_of(image_size_of(image, layout))
            if placed != self._placed or self._tables is None:
                self._resize(placed)
            picture = self._picture = self._at_least(self._picture, image.size, "the image")
            np.copyto(picture.host[: image.size].reshape(image.shape), image)
            picture.send(image.size, self._stream)
            self._pixels = (
                layout,
                1 if image.ndim == 2 and layout == "bgr" else 3,
                image.size // image.shape[0],
            )
            self._put_letterbox()

    def infer(self, tasks: tuple[str, ...]) -> None:
        """Put the graph into the stream, and the way of the caption memory to the host."""
        if self._placed is None:
            raise BackendError(f"{self._spec.name}: no image was prepared")
        with self._device.current():
            self._outputs = self._graph.run_on_device(self._stream, {"images": self._input})
            if "caption" not in tasks:
                return
            tensor = self._outputs["caption_memory"]
            nbytes = int(np.prod(tensor.shape[1:])) * np.dtype(tensor.dtype).itemsize
            memory = self._memory = self._at_least(self._memory, nbytes, "the caption memory")
            self._device.to_host(memory.host[:nbytes], tensor.address, self._stream)
            self._has_memory.record(self._stream)

    def finish(self, request: Request, lap: Callable[[str], None]) -> dict[str, Any]:
        """The answers but for the caption: everything is put into the stream first, and then waited for in turn."""
        placed = self._placed
        if placed is None or not self._outputs:
            raise BackendError(f"{self._spec.name}: no image was prepared")
        missing = [n for t in request.tasks for n in outputs_of(self._spec, t) if n not in self._outputs]
        if missing:
            raise BackendError(f"{self._spec.name}: the graph gave no {', '.join(missing)}")
        answers: dict[str, Any] = {}
        with self._device.current():
            if "boxes" in request.tasks:
                self._put_boxes(request)
            if "masks" in request.tasks:
                self._put_masks()
            if "semantic" in request.tasks:
                self._put_map()
            if "boxes" in request.tasks:
                found, views = self._fetch_boxes()
                answers.update(found)
                lap("boxes")
                if "masks" in request.tasks:
                    answers["masks"] = self._fetch_masks(views)
                    lap("masks")
            if "semantic" in request.tasks:
                answers["semantic_map"] = self._fetch_map()
                lap("semantic")
            if self._check.is_due():
                self._check.look_at_all(self.heads())
        return answers

    def close(self) -> None:
        """Free the memory, and let the next context have the graph."""
        with contextlib.suppress(BackendError), self._device.current():  # a device that failed frees nothing any more
            if hasattr(self, "_stream"):
                with contextlib.suppress(BackendError):
                    self._stream.synchronize()
            self._forget_stages()
            for thing in (self._tables, self._picture, self._memory, self._work, self._tiles, self._map, self._leaders):
                if thing is not None:
                    thing.close()
            for thing in reversed(self._owned):
                thing.close()
        self._tables = self._picture = self._memory = self._work = self._tiles = self._map = self._leaders = None
        self._owned, self._outputs, self._placed = [], {}, None
        release, self._released = self._released, None
        if release is not None:
            release(self)

    # For those who measure.

    @property
    def stream(self) -> Stream:
        """Where everything happens."""
        return self._stream

    def stages(self, request: Request) -> dict[str, Callable[[], object]]:
        """What an image in colour, once it has been through, puts into the stream: each stage by itself, by name."""
        found: dict[str, Callable[[], object]] = {
            "letterbox": self._put_letterbox,
            "network": lambda: self._graph.run_on_device(self._stream, {"images": self._input}),
        }
        if "boxes" in request.tasks:
            found["boxes"] = lambda: self._put_boxes(request)
        if "masks" in request.tasks:
            found["masks"] = self._put_masks
        if "semantic" in request.tasks:
            found["semantic"] = self._put_map
        return found

    def heads(self) -> dict[str, Array]:
        """The network's outputs for the last image, brought to the host."""
        found: dict[str, Array] = {}
        for name, tensor in self._outputs.items():
            found[name] = np.empty(tensor.shape, tensor.dtype)
            self._device.to_host(found[name], tensor.address, self._stream)
        self._stream.synchronize()
        return found

    # What is put into the stream.

    def _put_letterbox(self) -> None:
        placed, tables, picture = self._placed, self._tables, self._picture
        layout, channels, row_bytes = self._pixels
        assert placed is not None
        assert tables is not None
        assert picture is not None
        launch = launches.letterbox(
            picture.address,
            channels,
            layout,
            row_bytes,
            self._input.address,
            self._input.dtype == "float16",
            tables.rows,
            tables.columns,
            self._spec.preprocess,
            placed,
        )
        self._kernels.put(launch, self._stream)

    def _put_boxes(self, request: Request) -> None:
        limit = self._limit(request)
        scores, boxes = self._spec.score_head, self._spec.box_head
        if self._work is None or self._work.max_detections != limit:
            self._forget_stages()
            if self._work is not None:
                self._work.close()
                self._work = None
            self._work = BoxMemory(self._spec, self._kernels, self._head(scores), limit)
        work, options = self._work, (request.limits, request.class_agnostic)

        def put() -> None:
            cells = 0
            if self._spec.graph.top_k is not None:
                cells = self._outputs["cells"].address
            for launch in work.launches(self._head(scores), self._head(boxes), cells, request, self._placed):
                if launch is None:
                    self._device.fill(work.cleared, 0, work.cleared_bytes, self._stream)
                else:
                    self._kernels.put(launch, self._stream)
            work.found.fetch(work.read_bytes, self._stream)

        self._run(("boxes", self._placed, options, self._addresses(scores, boxes, "cells")), put)
        self._has_boxes.record(self._stream)

    def _put_masks(self) -> None:
        placed = self._placed
        assert placed is not None
        if self._tiles is None:  # room for masks of four whole images, to begin with
            self._tiles = Exchange(self._device, 4 * placed.image_size[0] * placed.image_size[1], "masks")
        tiles, work, tables = self._tiles, self._work, self._tables
        assert work is not None
        assert tables is not None

        def put() -> None:
            launch = launches.fill_masks(
                work.detections,
                self._head("prototypes"),
                self._head("mask_coefficients"),
                tables.mask_rows,
                tables.mask_columns,
                tiles.address,
                tiles.nbytes,
                _BLOCKS_PER_MULTIPROCESSOR * self._device.info.multiprocessors,
            )
            self._kernels.put(launch, self._stream)

        self._run(("masks", placed, self._addresses("prototypes", "mask_coefficients")), put)
        self._has_masks.record(self._stream)

    def _put_map(self) -> None:
        placed, tables = self._placed, self._tables
        assert placed is not None
        assert tables is not None
        height, width = placed.image_size
        semantic_map = self._map = self._at_least(self._map, height * width, "the semantic map")
        name = "semantic_map" if self._spec.graph.semantic_map else "semantic_logits"
        if name == "semantic_logits" and self._leaders is None:
            points = int(np.prod(self._head(name).shape[1:]))
            self._leaders = self._device.allocate(4 * points, "the semantic map's leaders")

        def put() -> None:
            if name == "semantic_map":
                source, width_in = self._outputs[name].address, self._spec.input_size[1]
                chosen = [
                    launches.resample_map(
                        source, tables.map_rows, tables.map_columns, semantic_map.address, width_in, placed.image_size
                    )
                ]
            else:
                chosen = launches.fill_semantic(
                    self._head(name),
                    self._leaders.address,
                    tables.semantic_rows,
                    tables.semantic_columns,
                    semantic_map.address,
                    width,
                )
            for launch in chosen:
                self._kernels.put(launch, self._stream)
            semantic_map.fetch(height * width, self._stream)

        self._run(("map", placed, self._addresses(name)), put)
        self._has_map.record(self._stream)

    # What comes back.

    def _fetch_boxes(self) -> tuple[dict[str, Array], Mapping[str, Array]]:
        work = self._work
        assert work is not None
        self._has_boxes.synchronize()
        views = Detections.views(work.found.host, work.max_detections)
        n = int(views["summary"][0]["detections"])
        found = {
            "boxes": views["image_boxes"][:n].copy(),
            "scores": views["scores"][:n].copy(),
            "class_ids": views["class_ids"][:n].copy(),
        }
        return found, views

    def _fetch_masks(self, views: Mapping[str, Array]) -> InstanceMasks:
        placed, tiles = self._placed, self._tiles
        assert placed is not None
        assert tiles is not None
        summary = views["summary"][0]
        n, total = int(summary["detections"]), int(summary["tile_bytes"])
        if total > tiles.nbytes:  # nothing was written: once more with room
            self._stream.synchronize()
            self._forget_stages()
            tiles.close()
            self._tiles = None
            tiles = self._tiles = Exchange(self._device, total + total // 2, "masks")
            self._put_masks()
        self._fetching.wait(self._has_masks)  # beside the semantic map's kernels
        tiles.fetch(total, self._fetching)
        self._fetching.synchronize()
        block = tiles.host[:total].copy()
        crops = []
        for (y0, x0, height, width), start in zip(
            views["regions"][:n].tolist(), views["tile_offsets"][:n].tolist(), strict=True
        ):
            crops.append((y0, x0, block[start : start + height * width].reshape(height, width)))
        return InstanceMasks(crops, placed.image_size)

    def _fetch_map(self) -> NDArray[np.uint8]:
        placed, semantic_map = self._placed, self._map
        assert placed is not None
        assert semantic_map is not None
        self._has_map.synchronize()
        height, width = placed.image_size
        return semantic_map.host[: height * width].reshape(height, width).copy()

    # Memory and captured work.

    def _run(self, key: Hashable, put: Callable[[], None]) -> None:
        """Put work into the stream: as it is the first time, captured the second, from then on at once."""
        if key not in self._stages:
            if len(self._stages) >= _MOST_CAPTURED:
                self._forget_stages()
            put()
            self._stages[key] = None
            return
        stage = self._stages[key]
        if stage is None:
            stage = self._stages[key] = self._device.capture(self._stream, put)
        stage.launch(self._stream)

    def _forget_stages(self) -> None:
        """After which memory that captured work uses may be freed; the stream is done with it."""
        for stage in self._stages.values():
            if stage is not None:
                stage.close()
        self._stages = {}

    def _resize(self, placed: Letterbox) -> None:
        """Be ready for images of another size."""
        launches.check_image_size(placed.image_size)
        self._forget_stages()
        if self._tables is not None:
            self._tables.close()
            self._tables = None
        self._tables = ImageTables(self._kernels, self._stream, placed, self._spec.semantic_stride)
        self._placed = placed

    def _at_least(self, memory: Exchange | None, nbytes: int, purpose: str) -> Exchange:
        """`memory` if it is large enough, else another in its place."""
        if memory is not None and memory.nbytes >= nbytes:
            return memory
        self._stream.synchronize()
        self._forget_stages()
        if memory is not None:
            memory.close()
        return Exchange(self._device, nbytes, purpose)

    def _limit(self, request: Request) -> int:
        """Detections at most, and never more than there can be."""
        classes, columns = self._head(self._spec.score_head).shape
        return max(min(request.limits.max_detections, MAX_CANDIDATES, classes * columns), 1)

    def _head(self, name: str) -> Head:
        tensor = self._outputs[name]
        return Head(tensor.address, tensor.shape[1:], tensor.dtype == "float16")

    def _addresses(self, *names: str) -> tuple[int, ...]:
        return tuple(self._outputs[name].address for name in names if name in self._outputs)

    def _own(self, thing: Any) -> Any:
        self._owned.append(thing)
        return thing
