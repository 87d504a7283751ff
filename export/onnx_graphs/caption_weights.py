"""From a caption decoder's parameters to the file that the native decoder maps into memory."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...runtime.bundle.caption_weights import BLOCK, CaptionDims, header_of, tensor_shapes
from ...runtime.files import replacing_file

Floats = NDArray[np.float32]


def write_caption_weights(
    path: Path,
    parameters: Mapping[str, Floats],
    memory_positions: Floats,
    heads: int,
    precision: str,
    norm_epsilon: float = 1e-5,
    regions: int = 0,
    padding: int = 0,
) -> CaptionDims:
    """Write one weight file; `runtime/bundle/caption_weights.py` describes it.

    Args:
        path: Of the file.
        parameters: Of the network's `caption_decoder`, by their names there.
        memory_positions: (L, width), the positions of the image memory; gated layers have none, and take its length.
        heads: Attention heads of a layer.
        precision: "fp32", or "int8" for weights of the layers rounded to 8 bits, symmetric about zero and with a scale
            for each output.
        norm_epsilon: Of every layer norm.
        regions: How many of the memory's last vectors are regions of the image; 0 for plain layers.
        padding: Id of the word that gated layers mask.

    Returns:
        The sizes found in the parameters.

    Raises:
        ValueError: If there are regions and plain layers, or gated layers and no regions.
    """
    dims = dims_of(parameters, len(memory_positions), heads, regions, padding)
    tensors: dict[str, NDArray[Any]] = {}
    for name in ("words", "positions"):
        tensors[name] = parameters[f"{name}.weight"]

    def norm(name: str) -> None:
        for part in ("weight", "bias"):
            tensors[f"{name}.{part}"] = parameters[f"{name}.{part}"]

    def linear(name: str, *sources: str, kind: str = precision) -> None:
        weight = np.concatenate([parameters[f"{source}.weight"] for source in sources])
        if f"{sources[0]}.bias" in parameters:
            bias = np.concatenate([parameters[f"{source}.bias"] for source in sources])
            tensors[f"{name}.bias"] = in_whole_blocks(bias)
        if kind == "two digits":
            digits, scales = quantise_finely(weight)
            tensors[f"{name}.weight"] = np.stack([pack_int8(digit) for digit in digits])
            tensors[f"{name}.scales"] = in_whole_blocks(scales)
            tensors[f"{name}.sums"] = np.stack([in_whole_blocks(digit.sum(1, dtype=np.int32)) for digit in digits])
        elif kind == "int8":
            quantised, scales = quantise_outputs(weight)
            tensors[f"{name}.weight"] = pack_int8(quantised)
            tensors[f"{name}.scales"] = in_whole_blocks(scales)
            tensors[f"{name}.sums"] = in_whole_blocks(quantised.sum(1, dtype=np.int32))
        else:
            tensors[f"{name}.weight"] = pack_fp32(weight)

    if not regions:
        tensors["memory_positions"] = memory_positions
        norm("norm")
        norm("memory_norm")
    for i in range(dims.layers):
        at = f"layers.{i}"
        own = f"{at}.self_attention"
        linear(f"{own}.in", f"{own}.query", f"{own}.key", f"{own}.value")
        linear(f"{own}.output", f"{own}.output")
        for part in ("query", "key", "value", "output"):
            linear(f"{at}.cross_attention.{part}", f"{at}.cross_attention.{part}")
        if regions:
            for part in ("query", "key", "value", "output"):
                linear(f"{at}.region_attention.{part}", f"{at}.region_attention.{part}")
            linear(f"{at}.gate", f"{at}.gate")
            norm(f"{at}.region_norm")
        linear(f"{at}.feed_forward.in", f"{at}.feed_forward.0")
        linear(f"{at}.feed_forward.out", f"{at}.feed_forward.3")
        for n in range(3):
            norm(f"{at}.norms.{n}")
    if dims.hidden:
        fine = "two digits" if precision == "int8" else precision
        linear("output.0", "output.0", kind=fine)
        linear("output.1", "output.2", kind=fine)
    source = "output" if regions else "output.4" if dims.hidden else "output.0"
    linear(dims.last_layer, source)
    if precision == "int8":
        tensors[f"{dims.last_layer}.exact"] = parameters[f"{source}.weight"]

    header, offsets = header_of(dims, precision, norm_epsilon)
    with replacing_file(path) as temporary, temporary.open("wb") as stream:
        stream.write(header)
        for name, (dtype, shape) in tensor_shapes(dims, precision).items():
            stream.write(b"\0" * (offsets[name] - stream.tell()))
            values = np.ascontiguousarray(tensors[name], np.dtype(dtype).newbyteorder("<"))
            if values.shape != shape:
                raise ValueError(f"{name} has shape {values.shape}, expected {shape}")
            stream.write(values.tobytes())
    return dims


def dims_of(
    parameters: Mapping[str, Floats], memory: int, heads: int, regions: int = 0, padding: int = 0
) -> CaptionDims:
    """The sizes of a decoder with these parameters.

    Raises:
        ValueError: If there are regions and plain layers, or gated layers and no regions.
    """
    if ("layers.0.gate.weight" in parameters) != (regions > 0):
        raise ValueError(f"gated layers, and only those, have regions; got {regions}")
    vocabulary, width = parameters["words.weight"].shape
    layers = 0
    while f"layers.{layers}.norms.0.weight" in parameters:
        layers += 1
    return CaptionDims(
        vocabulary=vocabulary,
        width=width,
        layers=layers,
        heads=heads,
        feed_forward=len(parameters["layers.0.feed_forward.0.weight"]),
        hidden=len(parameters["output.0.weight"]) if "output.2.weight" in parameters else 0,
        positions=len(parameters["positions.weight"]),
        memory=memory,
        regions=regions,
        padding=padding,
    )


def in_whole_blocks(values: NDArray[Any]) -> NDArray[Any]:
    """`values` with zeros after them in the first axis, up to a whole number of blocks."""
    return np.concatenate([values, np.zeros((-len(values) % BLOCK, *values.shape[1:]), values.dtype)])


def pack_fp32(weight: Floats) -> Floats:
    """(out, in) to (out / 16, in, 16)."""
    padded = in_whole_blocks(weight)
    return padded.reshape(-1, BLOCK, weight.shape[1]).transpose(0, 2, 1)


def pack_int8(quantised: NDArray[np.int8]) -> NDArray[np.int8]:
    """(out, in) to (out / 16, in / 4, 16, 4)."""
    padded = np.pad(in_whole_blocks(quantised), ((0, 0), (0, -quantised.shape[1] % 4)))
    return padded.reshape(-1, BLOCK, padded.shape[1] // 4, 4).transpose(0, 2, 1, 3)


def quantise_outputs(weight: Floats) -> tuple[NDArray[np.int8], Floats]:
    """(out, in) weights as int8 in -127..127, and what each output (out,) is to be multiplied by.

    The scale of an output is the one with the least squared error: a few large weights are better cut a little than
    allowed to make all others coarse.
    """
    peaks = np.abs(weight).max(1)
    peaks[peaks == 0] = 127
    scales = peaks / np.float32(127)
    least = np.full(len(weight), np.inf, np.float32)
    for share in np.linspace(1.0, 0.7, 31, dtype=np.float32):
        tried = peaks * share / np.float32(127)
        rounded = np.clip(np.rint(weight / tried[:, None]), -127, 127)
        errors = np.square(rounded * tried[:, None] - weight).sum(1)
        scales = np.where(errors < least, tried, scales)
        least = np.minimum(errors, least)
    quantised = np.clip(np.rint(weight / scales[:, None]), -127, 127).astype(np.int8)
    return quantised, scales.astype(np.float32)


def quantise_finely(weight: Floats) -> tuple[NDArray[np.int8], Floats]:
    """(out, in) weights as two digits (2, out, in) in -127..127 and a scale (out,): (255 * first + second) * scale."""
    peaks = np.abs(weight).max(1)
    peaks[peaks == 0] = 32512
    scales = (peaks / np.float32(32512)).astype(np.float32)
    whole = np.clip(np.rint(weight / scales[:, None]), -32512, 32512)
    first = np.rint(whole / 255)
    return np.stack([first, whole - 255 * first]).astype(np.int8), scales
