"""The weight file: what is written is read back, and a spoilt file is refused in one clear line."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from yolor_edge.export.onnx_graphs.caption_weights import (
    dims_of,
    pack_fp32,
    pack_int8,
    quantise_finely,
    quantise_outputs,
)
from yolor_edge.runtime.bundle.caption_weights import ALIGNMENT, PREFIX, open_caption_weights
from yolor_edge.runtime.errors import BundleError

from ..captions.random_decoder import random_decoder


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_written_weights_are_read_back_where_they_lie(precision: str, tmp_path: Path) -> None:
    decoder = random_decoder()
    weights = open_caption_weights(decoder.write(tmp_path / "weights.bin", precision))
    assert weights.precision == precision and weights.norm_epsilon == 1e-5
    assert (weights.dims.layers, weights.dims.hidden, weights.dims.memory) == (2, 29, 21)
    np.testing.assert_array_equal(weights.tensors["words"], decoder.parameters["words.weight"])
    np.testing.assert_array_equal(weights.tensors["memory_positions"], decoder.where)
    for tensor in weights.tensors.values():
        assert isinstance(tensor.base, np.memmap) or isinstance(tensor, np.memmap)
        assert tensor.ctypes.data % ALIGNMENT == 0 and not tensor.flags.writeable
    assert [path.name for path in tmp_path.iterdir()] == ["weights.bin"]


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_a_file_of_gated_layers_holds_only_what_they_have(precision: str, tmp_path: Path) -> None:
    decoder = random_decoder(regions=5, padding=4)
    weights = open_caption_weights(decoder.write(tmp_path / "weights.bin", precision))
    assert (weights.dims.hidden, weights.dims.regions, weights.dims.padding) == (0, 5, 4)
    assert not {"norm.weight", "memory_norm.weight", "memory_positions", "output.0.bias"} & set(weights.tensors)
    assert {"layers.1.gate.weight", "layers.1.region_norm.bias"} <= set(weights.tensors)


def test_layers_with_gates_have_regions_and_others_none() -> None:
    for built, named in ((0, 5), (5, 0)):
        decoder = random_decoder(regions=built)
        with pytest.raises(ValueError, match=f"gated layers, and only those, have regions; got {named}"):
            dims_of(decoder.parameters, 21, 3, named)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"regions": 21}, "dims.regions must be less than memory, got 21 of 21"),
        ({"regions": -1}, "dims.regions must be a whole number from 0 to 16777216, got -1"),
        ({"regions": 0}, "unknown tensor 'layers.0.region_attention.query.weight'"),
        ({"padding": 37}, "dims.padding must be less than vocabulary, got 37 of 37"),
        ({"hidden": None}, "dims.hidden must be a whole number from 0 to 16777216, got None"),
        ({"hidden": 3}, "tensor 'output.1.weight' is missing"),
    ],
)
def test_spoilt_files_of_gated_layers(change: dict[str, Any], message: str, tmp_path: Path) -> None:
    path = random_decoder(regions=5, hidden=0).write(tmp_path / "weights.bin", "fp32")
    path.write_bytes(edited_header(path.read_bytes(), lambda header: header["dims"].update(change)))
    with pytest.raises(BundleError) as caught:
        open_caption_weights(path)
    assert message in str(caught.value)


def test_packing_puts_sixteen_outputs_side_by_side() -> None:
    weight = np.arange(18 * 5, dtype=np.float32).reshape(18, 5)
    packed = pack_fp32(weight)
    assert packed.shape == (2, 5, 16)
    assert packed[1, 3, 1] == weight[17, 3] and packed[1, 3, 2] == 0
    small = (np.arange(18 * 5) % 120).astype(np.int8).reshape(18, 5)
    packed_small = pack_int8(small)
    assert packed_small.shape == (2, 2, 16, 4)
    assert packed_small[1, 1, 1, 0] == small[17, 4] and not packed_small[:, 1, :, 1:].any()


def test_rounding_to_int8_keeps_every_weight_within_its_scale() -> None:
    weight = np.random.default_rng(0).normal(0, 1, (7, 300)).astype(np.float32)
    weight[2] = 0
    weight[3] = np.linspace(-1, 1, 300)
    quantised, scales = quantise_outputs(weight)
    assert quantised.min() >= -127 and not quantised[2].any()
    back = quantised * scales[:, None]
    plain = np.abs(weight).max(1) / 127
    assert (np.square(back - weight).sum(1) <= np.square(np.rint(weight / np.where(plain, plain, 1)[:, None])
        * plain[:, None] - weight).sum(1) * 1.0001).all()  # fmt: skip
    np.testing.assert_allclose(back[3], weight[3], atol=scales[3])


def test_two_digits_are_nearly_sixteen_bits() -> None:
    weight = np.random.default_rng(0).normal(0, 1, (7, 300)).astype(np.float32)
    weight[2] = 0
    digits, scales = quantise_finely(weight)
    assert digits.shape == (2, 7, 300) and digits.min() >= -127 and not digits[:, 2].any()
    back = (255.0 * digits[0] + digits[1]) * scales[:, None]
    np.testing.assert_allclose(back, weight, atol=float(np.abs(weight).max()) / 32512)


def edited_header(data: bytes, change: Callable[[dict[str, Any]], None]) -> bytes:
    magic, version, length = PREFIX.unpack(data[: PREFIX.size])
    header = json.loads(data[PREFIX.size : PREFIX.size + length])
    change(header)
    text = json.dumps(header).encode()
    return PREFIX.pack(magic, version, len(text)) + text + data[PREFIX.size + len(text) :]


def entry(name: str, **values: Any) -> Callable[[dict[str, Any]], None]:
    return lambda header: header["tensors"][name].update(values)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda data: b"", "is not a file of caption weights"),
        (lambda data: b"PK" + data[2:], "is not a file of caption weights"),
        (lambda data: data[:8] + b"\5\0\0\0" + data[12:], "layout 5 of caption weights, this runtime reads 4"),
        (lambda data: edited_header(data, lambda h: h["dims"].pop("regions")), "dims.regions must be a whole number"),
        (lambda data: data[:12] + b"\xff\xff\xff\x7f" + data[16:], "the header of 2147483647 bytes exceeds the file"),
        (lambda data: data[:200], "exceeds the file of 200 bytes"),
        (lambda data: data[:16] + b"x" + data[17:], "its header is not JSON"),
        (lambda data: data[:-70], "ends at byte"),
        (lambda data: edited_header(data, lambda h: h.update(precision="fp8")), "must be one of fp32, int8, got 'fp8'"),
        (lambda data: edited_header(data, lambda h: h.update(norm_epsilon=0)), "norm_epsilon must lie between"),
        (lambda data: edited_header(data, lambda h: h["dims"].pop("heads")), "dims.heads must be a whole number"),
        (lambda data: edited_header(data, lambda h: h["dims"].update(heads=5)), "must be a multiple of heads"),
        (lambda data: edited_header(data, lambda h: h["dims"].update(layers=1 << 23)), "dims.layers must be at most"),
        (lambda data: edited_header(data, lambda h: h["dims"].update(vocabulary=38)), "tensor 'words' is float32"),
        (lambda data: edited_header(data, lambda h: h["tensors"].pop("words")), "tensor 'words' is missing"),
        (lambda data: edited_header(data, lambda h: h["tensors"].update(more={})), "unknown tensor 'more'"),
        (lambda data: edited_header(data, entry("words", offset=-64)), "tensor 'words' starts at -64"),
        (lambda data: edited_header(data, entry("words", offset=65)), "starts at 65, expected a multiple of 64"),
        (lambda data: edited_header(data, entry("words", offset=1 << 40)), "tensor 'words' ends at byte"),
        (lambda data: edited_header(data, entry("words", dtype="int8")), "tensor 'words' is int8"),
    ],
)  # fmt: skip
def test_spoilt_files(spoil: Callable[[bytes], bytes], message: str, tmp_path: Path) -> None:
    path = random_decoder().write(tmp_path / "weights.bin", "fp32")
    path.write_bytes(spoil(path.read_bytes()))
    with pytest.raises(BundleError) as caught:
        open_caption_weights(path)
    text = str(caught.value)
    assert message in text and str(path) in text and "\n" not in text and "again" in text


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"none\.bin: cannot be read \(No such file"):
        open_caption_weights(tmp_path / "none.bin")
