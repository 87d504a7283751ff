"""Working memory of the kernels from the heads to boxes, and their launches over it."""

from __future__ import annotations

from ..bundle.spec import ModelSpec
from ..cuda.kernels import box_launches
from ..cuda.kernels.box_launches import Ranking
from ..cuda.kernels.detections import Detections
from ..cuda.kernels.launches import Head, Launch
from ..images.preprocess import Letterbox
from .contexts import Request
from .host_vision import MAX_CANDIDATES
from .kernel_set import Exchange, KernelSet


class BoxMemory:
    """Working memory of the boxes' kernels, for so many detections.

    Attributes:
        max_detections: At most.
        found: Where the boxes come out.
        detections: The same, for the kernels.
        cleared: Address of what is zero before each image.
        cleared_bytes: Its size.
    """

    def __init__(self, spec: ModelSpec, kernels: KernelSet, scores: Head, max_detections: int):
        classes, columns = scores.shape
        self._spec = spec
        self.max_detections = max_detections
        shape = (classes, columns, spec.cells, MAX_CANDIDATES)
        ranks, compacted = Ranking.sizes(*shape)
        sizes = {
            "candidates": 8 * classes * columns,
            "compacted": compacted,
            "count": 16,
            "ranks": ranks,
            "is_wanted": columns,
            "column_of_cell": 4 * spec.cells,
            "boxes": 16 * columns,
            "kept": box_launches.kept_bytes(max_detections),
        }
        self._at: dict[str, int] = {}
        total = 0
        for name, size in sizes.items():
            self._at[name] = total
            total += -(-size // 16) * 16
        offsets = Detections.offsets(max_detections)
        self.read_bytes = offsets["read_end"]
        self._memory = kernels.device.allocate(total, "box candidates")
        try:
            self.found = Exchange(kernels.device, offsets["end"], "boxes")
        except BaseException:
            self._memory.close()
            raise
        self.detections = Detections(self.found.address, max_detections)
        self._ranking = Ranking.at(self._address("ranks"), self._address("compacted"), *shape)
        self.cleared = self._address("count")
        self.cleared_bytes = self._at["column_of_cell"] - self._at["count"]

    def launches(
        self, scores: Head, boxes: Head, cells: int, request: Request, placed: Letterbox | None
    ) -> list[Launch | None]:
        """In their order; None is where `cleared` is set to zero."""
        assert placed is not None
        spec, ranking = self._spec, self._ranking
        of_cell = self._address("column_of_cell") if cells else 0
        candidates, count = self._address("candidates"), self._address("count")
        ranked = [] if ranking is None else box_launches.rank_candidates(candidates, count, ranking, MAX_CANDIDATES)
        return [
            None,
            box_launches.collect_candidates(
                scores,
                cells,
                spec.cells,
                request.limits.score,
                candidates,
                count,
                self._address("is_wanted"),
                of_cell,
                spec.score_coding,
            ),
            *ranked,
            box_launches.decode_cells(
                boxes,
                cells,
                self._address("is_wanted"),
                self._address("boxes"),
                spec.strides,
                spec.input_size,
                spec.box_coding,
            ),
            box_launches.select_boxes(
                candidates,
                count,
                self._address("boxes"),
                of_cell,
                self._address("kept"),
                self.detections,
                spec.cells,
                placed,
                self.max_detections,
                MAX_CANDIDATES,
                request.limits.iou,
                request.class_agnostic,
                ranking,
                spec.score_coding,
            ),
        ]

    def close(self) -> None:
        """Free it."""
        self._memory.close()
        self.found.close()

    def _address(self, name: str) -> int:
        return self._memory.address + self._at[name]
