"""The file the native caption decoder reads its weights from: made to be mapped into memory and shared by processes.

Layout, all numbers little-endian:

    0   8 bytes   magic, b"YECAPTN\\0"
    8   uint32    version of the layout, 4
    12  uint32    length of the header in bytes
    16  header    JSON: "precision" ("fp32" or "int8"), "dims", "norm_epsilon", and "tensors", which maps a name to its
                  "dtype", "shape" and "offset" from the start of the file
    ... tensors   each at a multiple of 64 bytes

A linear layer is stored packed, 16 outputs together (`runtime/csrc/captions/decoder_kernels.hpp` says why), outputs
filled up with zeros to whole blocks: in fp32 as `weight` (out / 16, in, 16); in int8 as `weight` (out / 16, in / 4,
16, 4) with `scales` and `sums` of each output. `bias` is float32 in both, as is everything that is no linear layer. An
int8 file keeps the first two output layers in nearly 16 bits, since their errors go straight into the choice of words:
two such matrices one after the other, weight = (255 * first + second) * scale, with the sums of both. The last layer
it has twice: packed in int8, to find the likeliest words, and as plain rows `output.2.exact`, to compute those few
from. A decoder with one output layer has `output.0` and `output.0.exact` alone.

A decoder with gated layers (dims.regions) has neither norms of words and memory nor positions of the memory, one gate a
layer for both of its looks, and no bias in its last layer.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import BundleError

MAGIC = b"YECAPTN\0"
VERSION = 4
ALIGNMENT = 64
BLOCK = 16
PRECISIONS = ("fp32", "int8")
PREFIX = struct.Struct("<8sII")
_LARGEST_HEADER = 1 << 24

# What a tensor must be: dtype and shape.
TensorShape = tuple[str, tuple[int, ...]]


@dataclass(frozen=True)
class CaptionDims:
    """The sizes of a caption decoder.

    Attributes:
        vocabulary: Words it chooses from.
        width: Of a word's vector, and of the memory's vectors.
        layers: Decoder layers.
        heads: Attention heads of a layer; they share the width.
        feed_forward: Width inside a layer's feed-forward part.
        hidden: Width of the two layers before the last one; 0 where the last one is alone.
        positions: Tokens it can be fed at most.
        memory: Vectors an image gives.
        regions: How many of those, the last ones, stand for regions of the image, and have an attention of their own in
            gated layers; 0 for plain layers.
        padding: Id of the word that gated layers mask.
    """

    vocabulary: int
    width: int
    layers: int
    heads: int
    feed_forward: int
    hidden: int
    positions: int
    memory: int
    regions: int = 0
    padding: int = 0

    @property
    def last_layer(self) -> str:
        """Name of the layer that gives the words' logits."""
        return "output.2" if self.hidden else "output.0"


@dataclass(frozen=True)
class CaptionWeights:
    """An opened weight file; its tensors lie in the file, mapped into memory."""

    path: Path
    precision: str
    dims: CaptionDims
    norm_epsilon: float
    tensors: Mapping[str, NDArray[Any]]


def tensor_shapes(dims: CaptionDims, precision: str) -> dict[str, TensorShape]:
    """Every tensor of a file by name, with its dtype and shape."""
    width = dims.width
    shapes: dict[str, TensorShape] = {
        "words": ("float32", (dims.vocabulary, width)),
        "positions": ("float32", (dims.positions, width)),
    }
    if not dims.regions:
        shapes["memory_positions"] = ("float32", (dims.memory, width))

    def norm(name: str) -> None:
        shapes[f"{name}.weight"] = shapes[f"{name}.bias"] = ("float32", (width,))

    def linear(name: str, inputs: int, outputs: int, kind: str = precision, bias: bool = True) -> None:
        blocks = math.ceil(outputs / BLOCK)
        if kind == "two digits":
            shapes[f"{name}.weight"] = ("int8", (2, blocks, math.ceil(inputs / 4), BLOCK, 4))
            shapes[f"{name}.scales"] = ("float32", (blocks * BLOCK,))
            shapes[f"{name}.sums"] = ("int32", (2, blocks * BLOCK))
        elif kind == "int8":
            shapes[f"{name}.weight"] = ("int8", (blocks, math.ceil(inputs / 4), BLOCK, 4))
            shapes[f"{name}.scales"] = ("float32", (blocks * BLOCK,))
            shapes[f"{name}.sums"] = ("int32", (blocks * BLOCK,))
        else:
            shapes[f"{name}.weight"] = ("float32", (blocks, inputs, BLOCK))
        if bias:
            shapes[f"{name}.bias"] = ("float32", (blocks * BLOCK,))

    if not dims.regions:
        norm("norm")
        norm("memory_norm")
    for i in range(dims.layers):
        layer = f"layers.{i}"
        linear(f"{layer}.self_attention.in", width, 3 * width)
        linear(f"{layer}.self_attention.output", width, width)
        for name in ("query", "key", "value", "output"):
            linear(f"{layer}.cross_attention.{name}", width, width)
        if dims.regions:
            for name in ("query", "key", "value", "output"):
                linear(f"{layer}.region_attention.{name}", width, width)
            linear(f"{layer}.gate", 2 * width, width)
            norm(f"{layer}.region_norm")
        linear(f"{layer}.feed_forward.in", width, dims.feed_forward)
        linear(f"{layer}.feed_forward.out", dims.feed_forward, width)
        for n in range(3):
            norm(f"{layer}.norms.{n}")
    if dims.hidden:
        fine = "two digits" if precision == "int8" else precision
        linear("output.0", width, dims.hidden, fine)
        linear("output.1", dims.hidden, dims.hidden, fine)
    last, inputs = dims.last_layer, dims.hidden or width
    linear(last, inputs, dims.vocabulary, bias=not dims.regions)
    if precision == "int8":
        shapes[f"{last}.exact"] = ("float32", (dims.vocabulary, inputs))
    return shapes


def header_of(dims: CaptionDims, precision: str, norm_epsilon: float) -> tuple[bytes, dict[str, int]]:
    """The bytes up to the first tensor, and where each tensor starts."""
    shapes = tensor_shapes(dims, precision)
    # Offsets are written relative to the first tensor at first, since their own length moves it.
    start = 0
    while True:
        offset, offsets = start, {}
        for name, (dtype, shape) in shapes.items():
            offsets[name] = offset
            offset = _aligned(offset + np.dtype(dtype).itemsize * math.prod(shape))
        tensors = {
            name: {"dtype": dtype, "shape": list(shape), "offset": offsets[name]}
            for name, (dtype, shape) in shapes.items()
        }
        content = {"precision": precision, "dims": asdict(dims), "norm_epsilon": norm_epsilon, "tensors": tensors}
        text = json.dumps(content).encode()
        needed = _aligned(PREFIX.size + len(text))
        if needed <= start:
            text += b" " * (start - PREFIX.size - len(text))
            return PREFIX.pack(MAGIC, VERSION, len(text)) + text, offsets
        start = needed


def open_caption_weights(path: Path) -> CaptionWeights:
    """Map a weight file into memory, every tensor checked against the file's own dims.

    Raises:
        BundleError: If it is not such a file, is newer than this runtime, or is not whole.
    """
    try:
        size = path.stat().st_size
        with path.open("rb") as stream:
            prefix = stream.read(PREFIX.size)
            if len(prefix) < PREFIX.size or not prefix.startswith(MAGIC):
                raise _unfit(path, "is not a file of caption weights (it does not begin with YECAPTN)")
            _, version, length = PREFIX.unpack(prefix)
            if version != VERSION:
                raise BundleError(
                    f"{path}: layout {version} of caption weights, this runtime reads {VERSION}; upgrade the runtime "
                    "or export again"
                )
            if length > min(size - PREFIX.size, _LARGEST_HEADER):
                raise _unfit(path, f"the header of {length} bytes exceeds the file of {size} bytes")
            text = stream.read(length)
    except OSError as error:
        raise BundleError(f"{path}: cannot be read ({error.strerror or error})") from error
    try:
        header = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise _unfit(path, f"its header is not JSON ({error})") from error
    dims, precision, epsilon = _described(path, header)
    expected = tensor_shapes(dims, precision)
    listed = header.get("tensors")
    listed = listed if isinstance(listed, dict) else {}
    complaints = [f"unknown tensor {name!r}" for name in listed if name not in expected]
    data = np.memmap(path, np.uint8, "r")
    tensors: dict[str, NDArray[Any]] = {}
    for name, (dtype, shape) in expected.items():
        entry = listed.get(name)
        if not isinstance(entry, dict):
            complaints.append(f"tensor {name!r} is missing")
            continue
        offset = entry.get("offset")
        if entry.get("dtype") != dtype or entry.get("shape") != list(shape):
            found = f"{entry.get('dtype')} {entry.get('shape')}"
            complaints.append(f"tensor {name!r} is {found}, its dims ask for {dtype} {list(shape)}")
        elif type(offset) is not int or offset < 0 or offset % ALIGNMENT:
            complaints.append(f"tensor {name!r} starts at {offset!r}, expected a multiple of {ALIGNMENT}")
        else:
            end = offset + np.dtype(dtype).itemsize * math.prod(shape)
            if end > size:
                complaints.append(f"tensor {name!r} ends at byte {end} of {size}")
                continue
            little = np.dtype(dtype).newbyteorder("<")
            tensors[name] = data[offset:end].view(little).reshape(shape)
    if complaints:
        rest = f" (and {len(complaints) - 3} more)" if len(complaints) > 3 else ""
        raise _unfit(path, "; ".join(complaints[:3]) + rest)
    return CaptionWeights(path, precision, dims, epsilon, tensors)


def _described(path: Path, header: Any) -> tuple[CaptionDims, str, float]:
    """Dims, precision and epsilon of a header.

    Raises:
        BundleError: If they are missing or make no sense.
    """
    if not isinstance(header, dict):
        raise _unfit(path, "its header is not a JSON object")
    precision, epsilon, dims = header.get("precision"), header.get("norm_epsilon"), header.get("dims")
    complaints = []
    if precision not in PRECISIONS:
        complaints.append(f"precision must be one of {', '.join(PRECISIONS)}, got {precision!r}")
    if not isinstance(epsilon, float) or not 0 < epsilon < 1:
        complaints.append(f"norm_epsilon must lie between 0 and 1, got {epsilon!r}")
    values = {}
    for field in fields(CaptionDims):
        value = dims.get(field.name) if isinstance(dims, dict) else None
        least = 0 if field.name in ("hidden", "regions", "padding") else 1
        if type(value) is not int or not least <= value <= 1 << 24:
            complaints.append(f"dims.{field.name} must be a whole number from {least} to 16777216, got {value!r}")
        else:
            values[field.name] = value
    if not complaints and values["width"] % values["heads"]:
        complaints.append(f"dims.width must be a multiple of heads, got {values['width']} and {values['heads']}")
    if not complaints and values["regions"] >= values["memory"]:
        found = f"{values['regions']} of {values['memory']}"
        complaints.append(f"dims.regions must be less than memory, got {found}")
    if not complaints and values["padding"] >= values["vocabulary"]:
        found = f"{values['padding']} of {values['vocabulary']}"
        complaints.append(f"dims.padding must be less than vocabulary, got {found}")
    # Each layer has its tensors listed: no header that fits the file describes more than this.
    if not complaints and values["layers"] > 1 << 12:
        complaints.append(f"dims.layers must be at most 4096, got {values['layers']}")
    if complaints or not isinstance(epsilon, float):
        raise _unfit(path, "; ".join(complaints))
    return CaptionDims(**values), str(precision), float(epsilon)


def _unfit(path: Path, complaint: str) -> BundleError:
    return BundleError(f"{path}: {complaint}; copy the bundle again or export it again")


def _aligned(size: int) -> int:
    return -(-size // ALIGNMENT) * ALIGNMENT
