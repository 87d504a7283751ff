"""The CUDA kernels from the heads to boxes, each with its grid, its block and its structure; see `launches`."""

from __future__ import annotations

import ctypes
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ...bundle.spec import BOX_HEADS, SCORE_HEADS, BoxCoding, ScoreCoding
from ...images.preprocess import Letterbox
from . import kernel_parameters as parameters
from .detections import Detections
from .kernel_parameters import RANK_STATE_BYTES
from .launches import Head, Launch, blocks_for, check_count, check_image_size

# As in csrc/cuda/boxes.cuh and ranking.cuh; the tile is that of masks.cuh.
_COLLECT_THREADS, _COLLECT_ITEMS = 256, 8
_DECODE_COLUMNS = 64
_RANK_THREADS, _RANK_ITEMS, _RANK_DIGIT = 256, 8, 11
_RANK_BYTES = 4 << _RANK_DIGIT  # of a pass's histogram
_SELECT_THREADS = 512
_MASK_TILE = (32, 64)


def collect_candidates(
    scores: Head,
    cells: int,
    grid_cells: int,
    score_threshold: float,
    candidates: int,
    count: int,
    is_wanted: int,
    column_of_cell: int,
    score_coding: ScoreCoding = "logits",
) -> Launch:
    """Pairs of class and cell above the threshold; `cells` is 0 where the columns are all cells."""
    classes, columns = scores.shape
    check_count("pairs of a class and a cell", classes * max(columns, grid_cells))
    filled = parameters.CollectParameters(
        scores=scores.address,
        cells=cells,
        candidates=candidates,
        count=count,
        is_wanted=is_wanted,
        column_of_cell=column_of_cell,
        classes=classes,
        columns=columns,
        grid_cells=grid_cells,
        is_half=scores.is_half,
        lowest=lowest_passing(score_threshold, score_coding),
    )
    blocks = blocks_for(classes * columns, _COLLECT_THREADS * _COLLECT_ITEMS)
    return Launch("collect_candidates", (blocks, 1, 1), (_COLLECT_THREADS, 1, 1), filled)


def lowest_passing(score_threshold: float, coding: ScoreCoding) -> float:
    """The smallest float32 number of the score head that is a score above the threshold; NaN where none is."""
    if score_threshold >= 1:
        return math.nan
    if score_threshold <= 0:
        return -math.inf
    limit = math.log(score_threshold / (1 - score_threshold)) if coding == "logits" else score_threshold
    rounded = np.float32(limit)
    return float(rounded if float(rounded) > limit else np.nextafter(rounded, np.float32(np.inf)))


def decode_cells(
    head: Head,
    cells: int,
    is_wanted: int,
    boxes: int,
    strides: Sequence[int],
    input_size: tuple[int, int],
    box_coding: BoxCoding = "dfl",
) -> Launch:
    """Boxes (columns, 4) of the columns that have a candidate, in pixels of the input; corners need no strides."""
    rows, columns = head.shape
    check_count("numbers of the boxes' sides", rows * columns)
    levels = () if box_coding == "xyxy" else tuple(strides)
    filled = parameters.DecodeParameters(
        head=head.address,
        cells=cells,
        is_wanted=is_wanted,
        boxes=boxes,
        coding=[*BOX_HEADS].index(box_coding),
        bins=rows // 4,
        columns=columns,
        input_height=input_size[0],
        input_width=input_size[1],
        levels=len(levels),
        strides=(ctypes.c_int32 * parameters.MOST_LEVELS)(*levels),
        is_half=head.is_half,
    )
    return Launch("decode_cells", (blocks_for(columns, _DECODE_COLUMNS), 1, 1), (_DECODE_COLUMNS, 4, 1), filled)


@dataclass(frozen=True)
class Ranking:
    """Where the best candidates are singled out, if they are more than `select_boxes` should look through itself.

    Attributes:
        state: Address of `state_bytes` bytes that are zero before each image.
        compacted: Address of room for `capacity` candidates.
        capacity: Candidates singled out at most, and no fewer than are to be looked at.
        pairs: Candidates there may be.
        index_bits: Of the number of a pair.
    """

    state: int
    compacted: int
    capacity: int
    pairs: int
    index_bits: int

    @classmethod
    def sizes(cls, classes: int, columns: int, grid_cells: int, max_candidates: int) -> tuple[int, int]:
        """Bytes of the state and of the candidates; zeros where it is never needed."""
        one = cls.at(0, 0, classes, columns, grid_cells, max_candidates)
        return (0, 0) if one is None else (RANK_STATE_BYTES + one.passes * _RANK_BYTES, 8 * one.capacity)

    @classmethod
    def at(
        cls, state: int, compacted: int, classes: int, columns: int, grid_cells: int, max_candidates: int
    ) -> Ranking | None:
        """One for heads of this shape; None where there cannot be so many candidates."""
        # Twice as many as are looked at: mostly a digit less has to be told apart for it.
        capacity = 2 * max(max_candidates, 1)
        if classes * columns <= capacity:
            return None
        return cls(state, compacted, capacity, classes * columns, max(classes * grid_cells - 1, 1).bit_length())

    @property
    def passes(self) -> int:
        """Digits of a candidate's key."""
        return blocks_for(32 + self.index_bits, _RANK_DIGIT)


def rank_candidates(candidates: int, count: int, ranking: Ranking, max_candidates: int) -> list[Launch]:
    """The passes that find the last of the best candidates, and the one that gathers those up to it."""
    check_count("candidates", 2 * max_candidates)
    grid = (blocks_for(ranking.pairs, _RANK_THREADS * _RANK_ITEMS), 1, 1)
    found = []
    for number in range(ranking.passes):
        filled = parameters.RankParameters(
            candidates=candidates,
            count=count,
            state=ranking.state,
            histogram=ranking.state + RANK_STATE_BYTES + number * _RANK_BYTES,
            rank=max(max_candidates, 1),
            capacity=ranking.capacity,
            index_bits=ranking.index_bits,
            shift=_RANK_DIGIT * (ranking.passes - 1 - number),
            is_first=number == 0,
        )
        found.append(Launch("rank_candidates", grid, (_RANK_THREADS, 1, 1), filled))
    filled = parameters.CompactParameters(
        candidates, count, ranking.state, ranking.compacted, ranking.capacity, ranking.index_bits
    )
    return [*found, Launch("compact_candidates", grid, (_RANK_THREADS, 1, 1), filled)]


def kept_bytes(max_detections: int) -> int:
    """Working memory of `select_boxes`."""
    return max_detections * (8 + 20 + 4)


def select_boxes(
    candidates: int,
    count: int,
    boxes: int,
    column_of_cell: int,
    kept: int,
    found: Detections,
    grid_cells: int,
    placed: Letterbox,
    max_detections: int,
    max_candidates: int,
    iou_threshold: float,
    class_agnostic: bool,
    ranking: Ranking | None = None,
    score_coding: ScoreCoding = "logits",
) -> Launch:
    """The best boxes into `found`, which has room for `max_detections`; `column_of_cell` is 0 without `cells`."""
    check_image_size(placed.image_size)
    height, width = placed.image_size
    tiles = blocks_for(height, _MASK_TILE[0]) * blocks_for(width, _MASK_TILE[1])
    check_count(f"portions of {max_detections} masks in an image of {height}x{width} pixels", max_detections * tiles)
    check_count("coordinates of boxes", 5 * max_detections)
    filled = parameters.SelectParameters(
        candidates=candidates,
        count=count,
        compacted=0 if ranking is None else ranking.compacted,
        ranks=0 if ranking is None else ranking.state,
        boxes=boxes,
        column_of_cell=column_of_cell,
        kept=kept,
        kept_boxes=kept + 8 * max_detections,
        kept_classes=kept + 28 * max_detections,
        summary=found.address,
        image_boxes=found["image_boxes"],
        scores=found["scores"],
        class_ids=found["class_ids"],
        columns=found["columns"],
        regions=found["regions"],
        tile_offsets=found["tile_offsets"],
        block_offsets=found["block_offsets"],
        scale_y=placed.scale_y,
        scale_x=placed.scale_x,
        pad_top=placed.pad_top,
        pad_left=placed.pad_left,
        image_height=placed.image_size[0],
        image_width=placed.image_size[1],
        grid_cells=grid_cells,
        max_detections=max_detections,
        max_candidates=max_candidates,
        class_agnostic=class_agnostic,
        capacity=0 if ranking is None else ranking.capacity,
        score_coding=[*SCORE_HEADS].index(score_coding),
        iou_threshold=iou_threshold,
    )
    return Launch("select_boxes", (1, 1, 1), (_SELECT_THREADS, 1, 1), filled)
