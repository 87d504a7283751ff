"""Each CUDA kernel with its grid, its block and its structure, from addresses on the device and sizes.

Nothing here needs a device: a `Launch` says what to run, and whoever has a stream runs it.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass

from ...errors import UsageError
from ...images.preprocess import Letterbox, PreprocessRule
from . import kernel_parameters as parameters
from .detections import Detections
from .kernel_parameters import MOST_COUNTED, SAMPLE_BYTES, TAP_BYTES

# As in csrc/cuda/masks.cuh and semantic.cuh.
_MASK_THREADS = 256
_LEADER_POINTS, _LEADER_GROUPS = 32, 8
_SEMANTIC_THREADS = 64

# What every GPU takes.
_MOST_BLOCKS = ((1 << 31) - 1, 65535, 65535)

LAYOUTS = {"bgr": 0, "nv12": 1, "yuyv": 2}
Extent = tuple[int, int, int]
_OTHER_SIDE = "take post-processing on the CPU"


def check_count(what: str, count: int) -> None:
    """Refuse what the kernels, which count in 32 bits, would lose count of.

    Raises:
        UsageError: If it is too much.
    """
    if count > MOST_COUNTED:
        raise UsageError(f"{what}: {count} are too many for the GPU's kernels, at most {MOST_COUNTED}; {_OTHER_SIDE}")


def check_image_size(image_size: tuple[int, int]) -> None:
    """Refuse an image of too many bytes, (height, width), in three channels.

    Raises:
        UsageError: If it has too many.
    """
    height, width = image_size
    check_count(f"bytes of an image of {height}x{width} pixels", 3 * height * width)


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


def fill_taps(taps: int, length_in: int, length_out: int) -> Launch:
    """What the letterbox reads along one axis, (length_out,) `Tap`."""
    check_count("pixels in a row or column of the image", length_in)
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
    """An image into the network's input; `rows` and `columns` are the taps."""
    height, width = rule.input_size
    check_image_size(placed.image_size)
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
    return Launch("letterbox", (blocks_for(width, 32), blocks_for(height, 8), 1), (32, 8, 1), filled)


def resized_size(placed: Letterbox) -> tuple[int, int]:
    """(height, width) of the image inside the input."""
    return round(placed.image_size[0] * placed.scale_y), round(placed.image_size[1] * placed.scale_x)


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
    check_count("pixels in a row of the image", image_width)
    first = Launch(
        "find_leaders",
        (blocks_for(points, _LEADER_POINTS), 1, 1),
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
    check_image_size(image_size)
    filled = parameters.ResampleParameters(source, rows, columns, semantic_map, input_width, height, width)
    return Launch("resample_map", (blocks_for(width, 32), blocks_for(height, 8), 1), (32, 8, 1), filled)


def tap_bytes(pixels: int) -> int:
    """Of the taps of one axis."""
    return TAP_BYTES * pixels


def _line(name: str, threads: int, filled: ctypes.Structure) -> Launch:
    check_count("pixels in a row or column", threads)
    return Launch(name, (blocks_for(threads, 256), 1, 1), (256, 1, 1), filled)


def blocks_for(count: int, size: int) -> int:
    """Blocks of a size that so many need, at least one."""
    return max(-(-count // size), 1)
