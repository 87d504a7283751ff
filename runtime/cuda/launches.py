"""Each CUDA kernel with its grid, its block and its structure, from addresses on the device and sizes.

Nothing here needs a device: a `Launch` says what to run, and whoever has a stream runs it.
"""

from __future__ import annotations

import ctypes
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..backends.base import Array
from ..errors import UsageError
from ..preprocess import Letterbox, PreprocessRule
from . import kernel_parameters as parameters
from .kernel_parameters import MOST_COUNTED, RANK_STATE_BYTES, SAMPLE_BYTES, TAP_BYTES

# As in csrc/cuda/boxes.cuh, ranking.cuh, masks.cuh and semantic.cuh.
_COLLECT_THREADS, _COLLECT_ITEMS = 256, 8
_DECODE_COLUMNS = 64
_RANK_THREADS, _RANK_ITEMS, _RANK_DIGIT = 256, 8, 11
_SELECT_THREADS = 512
_MASK_TILE = (32, 64)
_MASK_THREADS = 256
_LEADER_POINTS, _LEADER_GROUPS = 32, 8
_SEMANTIC_THREADS = 64

# What every GPU takes.
_MOST_BLOCKS = ((1 << 31) - 1, 65535, 65535)

LAYOUTS = {"interleaved": 0, "nv12": 1, "yuyv": 2}
Extent = tuple[int, int, int]
_OTHER_SIDE = "take post-processing on the CPU"


def check_count(what: str, count: int) -> None:
    """Refuse what the kernels, which count in 32 bits, would lose count of.

    Raises:
        UsageError: If it is too much.
    """
    if count > MOST_COUNTED:
        raise UsageError(f"{what}: {count} are too many for the GPU's kernels, at most {MOST_COUNTED}; {_OTHER_SIDE}")


def check_picture(image_size: tuple[int, int]) -> None:
    """Refuse a picture of too many bytes, (height, width), in three channels.

    Raises:
        UsageError: If it has too many.
    """
    height, width = image_size
    check_count(f"bytes of a picture of {height}x{width} pixels", 3 * height * width)


@dataclass(frozen=True)
class Launch:
    """A kernel about to run.

    Attributes:
        name: Of the kernel.
        grid: Blocks along x, y, z.
        block: Threads of a block along x, y, z.
        parameters: What it takes.

    Raises:
        UsageError: If there are more blocks than a GPU takes.
    """

    name: str
    grid: Extent
    block: Extent
    parameters: ctypes.Structure

    def __post_init__(self) -> None:
        if any(count > most for count, most in zip(self.grid, _MOST_BLOCKS, strict=True)):
            raise UsageError(f"{self.name}: {self.grid} blocks are too many for a GPU; {_OTHER_SIDE}")


@dataclass(frozen=True)
class Head:
    """An output of the network on the device, one image of it, contiguous.

    Attributes:
        address: Where it is.
        shape: Its axes without the batch.
        is_half: float16, else float32.
    """

    address: int
    shape: tuple[int, ...]
    is_half: bool = False


@dataclass(frozen=True)
class AxisTables:
    """Where the tables of one axis of an image on a grid are.

    Attributes:
        samples: (pixels,) `AxisSample`.
        begins: (grid,) int32.
        ends: (grid,) int32.
    """

    samples: int
    begins: int
    ends: int

    @staticmethod
    def size(pixels: int, grid: int) -> int:
        """Bytes of the three together."""
        return SAMPLE_BYTES * pixels + 8 * grid

    @classmethod
    def at(cls, address: int, pixels: int, grid: int) -> AxisTables:
        """The three one after the other."""
        begins = address + SAMPLE_BYTES * pixels
        return cls(address, begins, begins + 4 * grid)


@dataclass(frozen=True)
class Detections:
    """Where `select_boxes` writes, and how much room there is: a summary and seven arrays in one block of memory.

    Attributes:
        address: Of the block.
        capacity: Detections it holds.
    """

    address: int
    capacity: int

    # What the host reads comes first; the last two are for the masks' kernel.
    FIELDS = (
        ("tile_offsets", np.dtype(np.int64), ()),
        ("image_boxes", np.dtype(np.float32), (4,)),
        ("scores", np.dtype(np.float32), ()),
        ("class_ids", np.dtype(np.int32), ()),
        ("regions", np.dtype(np.int32), (4,)),
        ("columns", np.dtype(np.int32), ()),
        ("block_offsets", np.dtype(np.int32), ()),
    )
    READ = 5

    @classmethod
    def offsets(cls, capacity: int) -> dict[str, int]:
        """Where each array begins in the block, and under "end" and "read_end" where all and those read end."""
        found: dict[str, int] = {}
        at = parameters.SUMMARY.itemsize
        for i, (name, dtype, shape) in enumerate(cls.FIELDS):
            if i == cls.READ:
                found["read_end"] = at
            found[name] = at
            at += capacity * dtype.itemsize * math.prod(shape)
        found["end"] = at
        return found

    def __getitem__(self, name: str) -> int:
        return self.address + self.offsets(self.capacity)[name]

    @classmethod
    def views(cls, block: NDArray[np.uint8], capacity: int) -> dict[str, Array]:
        """The summary and the arrays that the host reads, as views of the block's bytes."""
        offsets = cls.offsets(capacity)
        found: dict[str, Array] = {"summary": block[: parameters.SUMMARY.itemsize].view(parameters.SUMMARY)}
        for name, dtype, shape in cls.FIELDS[: cls.READ]:
            nbytes = capacity * dtype.itemsize * math.prod(shape)
            found[name] = block[offsets[name] : offsets[name] + nbytes].view(dtype).reshape(capacity, *shape)
        return found


def fill_taps(taps: int, length_in: int, length_out: int) -> Launch:
    """What the letterbox reads along one axis, (length_out,) `Tap`."""
    check_count("pixels in a row or column of the picture", length_in)
    return _line("fill_taps", length_out, parameters.TapsParameters(taps, length_in, length_out))


def fill_axis(tables: AxisTables, pixels: int, scale: float, pad: int, stride: int, grid: int) -> Launch:
    """The tables of one axis; `begins` and `ends` are zeros before."""
    frame = parameters.AxisFrame(scale, pad, stride, grid)
    filled = parameters.AxisParameters(frame, tables.samples, tables.begins, tables.ends, pixels)
    return _line("fill_axis", pixels, filled)


def fill_nearest(indices: int, pixels: int, scale: float, pad: int, length: int) -> Launch:
    """(pixels,) int32 that `resample_map` reads along one axis."""
    return _line("fill_nearest", pixels, parameters.NearestParameters(scale, indices, pad, length, pixels))


def letterbox(
    image: int,
    channels: int,
    layout: str,
    row_stride: int,
    output: int,
    is_half: bool,
    rows: int,
    columns: int,
    rule: PreprocessRule,
    placed: Letterbox,
) -> Launch:
    """A picture into the network's input; `rows` and `columns` are the taps."""
    height, width = rule.input_size
    check_picture(placed.image_size)
    check_count("pixels of the network's input", height * width)
    resized_height, resized_width = resized_size(placed)
    filled = parameters.LetterboxParameters(
        image=image,
        output=output,
        rows=rows,
        columns=columns,
        row_stride=row_stride,
        layout=LAYOUTS[layout],
        channels=channels,
        image_height=placed.image_size[0],
        input_height=height,
        input_width=width,
        resized_height=resized_height,
        resized_width=resized_width,
        pad_top=placed.pad_top,
        pad_left=placed.pad_left,
        pad_value=rule.pad_value,
        swap_rb=rule.channel_order == "RGB",
        is_half=is_half,
        scale=rule.scale,
    )
    return Launch("letterbox", (_ceil(width, 32), _ceil(height, 8), 1), (32, 8, 1), filled)


def resized_size(placed: Letterbox) -> tuple[int, int]:
    """(height, width) of the picture inside the input."""
    return round(placed.image_size[0] * placed.scale_y), round(placed.image_size[1] * placed.scale_x)


def collect_candidates(
    logits: Head,
    cells: int,
    grid_cells: int,
    score_threshold: float,
    candidates: int,
    count: int,
    is_wanted: int,
    column_of_cell: int,
) -> Launch:
    """Pairs of class and cell above the threshold; `cells` is 0 where the columns are all cells."""
    classes, columns = logits.shape
    check_count("pairs of a class and a cell", classes * max(columns, grid_cells))
    filled = parameters.CollectParameters(
        logits=logits.address,
        cells=cells,
        candidates=candidates,
        count=count,
        is_wanted=is_wanted,
        column_of_cell=column_of_cell,
        classes=classes,
        columns=columns,
        grid_cells=grid_cells,
        is_half=logits.is_half,
        lowest=lowest_passing_logit(score_threshold),
    )
    blocks = _ceil(classes * columns, _COLLECT_THREADS * _COLLECT_ITEMS)
    return Launch("collect_candidates", (blocks, 1, 1), (_COLLECT_THREADS, 1, 1), filled)


def lowest_passing_logit(score_threshold: float) -> float:
    """The smallest float32 logit whose sigmoid is above the threshold; NaN where none is."""
    if score_threshold >= 1:
        return math.nan
    if score_threshold <= 0:
        return -math.inf
    limit = math.log(score_threshold / (1 - score_threshold))
    rounded = np.float32(limit)
    return float(rounded if float(rounded) > limit else np.nextafter(rounded, np.float32(np.inf)))


def decode_cells(
    box_bins: Head,
    cells: int,
    is_wanted: int,
    boxes: int,
    strides: Sequence[int],
    input_size: tuple[int, int],
) -> Launch:
    """Boxes (columns, 4) of the columns that have a candidate, in pixels of the input."""
    rows, columns = box_bins.shape
    check_count("logits of the boxes' sides", rows * columns)
    filled = parameters.DecodeParameters(
        box_bins=box_bins.address,
        cells=cells,
        is_wanted=is_wanted,
        boxes=boxes,
        bins=rows // 4,
        columns=columns,
        grid_cells=sum((input_size[0] // stride) * (input_size[1] // stride) for stride in strides),
        input_height=input_size[0],
        input_width=input_size[1],
        levels=len(strides),
        strides=(ctypes.c_int32 * parameters.MOST_LEVELS)(*strides),
        is_half=box_bins.is_half,
    )
    return Launch("decode_cells", (_ceil(columns, _DECODE_COLUMNS), 1, 1), (_DECODE_COLUMNS, 4, 1), filled)


@dataclass(frozen=True)
class Ranking:
    """Where the best candidates are singled out, if they are more than `select_boxes` should look through itself.

    Attributes:
        state: Address of `state_bytes` bytes that are zero before each picture.
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
        return _ceil(32 + self.index_bits, _RANK_DIGIT)


_RANK_BYTES = 4 << _RANK_DIGIT  # of a pass's histogram


def rank_candidates(candidates: int, count: int, ranking: Ranking, max_candidates: int) -> list[Launch]:
    """The passes that find the last of the best candidates, and the one that gathers those up to it."""
    check_count("candidates", 2 * max_candidates)
    grid = (_ceil(ranking.pairs, _RANK_THREADS * _RANK_ITEMS), 1, 1)
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
) -> Launch:
    """The best boxes into `found`, which has room for `max_detections`; `column_of_cell` is 0 without `cells`."""
    check_picture(placed.image_size)
    height, width = placed.image_size
    tiles = _ceil(height, _MASK_TILE[0]) * _ceil(width, _MASK_TILE[1])
    check_count(f"portions of {max_detections} masks in a picture of {height}x{width} pixels", max_detections * tiles)
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
        iou_threshold=iou_threshold,
    )
    return Launch("select_boxes", (1, 1, 1), (_SELECT_THREADS, 1, 1), filled)


def fill_masks(
    found: Detections,
    prototypes: Head,
    coefficients: Head,
    rows: AxisTables,
    columns: AxisTables,
    tiles: int,
    tile_capacity: int,
    blocks: int,
) -> Launch:
    """All masks one after the other into `tiles`, or nothing where they do not fit; `blocks` at once."""
    channels, grid_height, grid_width = prototypes.shape
    check_count("points of the prototypes", grid_height * grid_width)
    check_count("columns of the mask coefficients", coefficients.shape[1])
    filled = parameters.MaskParameters(
        summary=found.address,
        prototypes=prototypes.address,
        coefficients=coefficients.address,
        columns=found["columns"],
        regions=found["regions"],
        tile_offsets=found["tile_offsets"],
        block_offsets=found["block_offsets"],
        rows=rows.samples,
        columns_of_row=columns.samples,
        tiles=tiles,
        tile_capacity=tile_capacity,
        channels=channels,
        grid_height=grid_height,
        grid_width=grid_width,
        head_columns=coefficients.shape[1],
        prototypes_are_half=prototypes.is_half,
        coefficients_are_half=coefficients.is_half,
    )
    return Launch("fill_masks", (blocks, 1, 1), (_MASK_THREADS, 1, 1), filled)


def fill_semantic(
    logits: Head, leaders: int, rows: AxisTables, columns: AxisTables, semantic_map: int, image_width: int
) -> tuple[Launch, Launch]:
    """The semantic map (H, image_width) uint8; `leaders` holds an int32 a point of the grid."""
    classes, grid_height, grid_width = logits.shape
    points = grid_height * grid_width
    check_count("points of the semantic map's grid", points)
    check_count("pixels in a row of the picture", image_width)
    first = Launch(
        "find_leaders",
        (_ceil(points, _LEADER_POINTS), 1, 1),
        (_LEADER_POINTS, _LEADER_GROUPS, 1),
        parameters.LeadersParameters(logits.address, leaders, classes, points, logits.is_half),
    )
    filled = parameters.SemanticParameters(
        logits=logits.address,
        leaders=leaders,
        rows=rows.samples,
        columns=columns.samples,
        row_begins=rows.begins,
        row_ends=rows.ends,
        column_begins=columns.begins,
        column_ends=columns.ends,
        map=semantic_map,
        classes=classes,
        grid_height=grid_height,
        grid_width=grid_width,
        image_width=image_width,
        is_half=logits.is_half,
    )
    squares = (max(grid_width - 1, 1), max(grid_height - 1, 1), 1)
    return first, Launch("fill_semantic", squares, (_SEMANTIC_THREADS, 1, 1), filled)


def resample_map(
    source: int, rows: int, columns: int, semantic_map: int, input_width: int, image_size: tuple[int, int]
) -> Launch:
    """A map that the graph made, (h, input_width) uint8, cut and resized to the image."""
    height, width = image_size
    check_picture(image_size)
    filled = parameters.ResampleParameters(source, rows, columns, semantic_map, input_width, height, width)
    return Launch("resample_map", (_ceil(width, 32), _ceil(height, 8), 1), (32, 8, 1), filled)


def tap_bytes(pixels: int) -> int:
    """Of the taps of one axis."""
    return TAP_BYTES * pixels


def _line(name: str, threads: int, filled: ctypes.Structure) -> Launch:
    check_count("pixels in a row or column", threads)
    return Launch(name, (_ceil(threads, 256), 1, 1), (256, 1, 1), filled)


def _ceil(count: int, size: int) -> int:
    return max(-(-count // size), 1)
