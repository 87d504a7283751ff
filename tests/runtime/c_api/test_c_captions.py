"""The caption decoder behind the C interface: what the Python module writes, from the same file."""

from __future__ import annotations

import ctypes
import dataclasses
import json
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from yolor_edge.runtime import _native
from yolor_edge.runtime.bundle.caption_weights import PREFIX, VERSION, open_caption_weights

from ..captions.random_decoder import random_decoder
from .c_library import CError, CLibrary

IDS = {"bos_id": 2, "eos_id": 3, "pad_id": 0}


@pytest.mark.parametrize("precision", ["fp32", "int8"])
@pytest.mark.parametrize("kernels", _native.decoder_kernels())
@pytest.mark.parametrize("size", [{}, {"regions": 9}], ids=["plain", "gated"])
def test_captions(c: CLibrary, size: dict[str, int], kernels: str, precision: str, tmp_path: Path) -> None:
    decoder, path = random_decoder(**size), tmp_path / "caption.bin"
    decoder.write(path, precision)
    opened = open_decoder(c, path, kernels)
    try:
        assert c.text("caption_decoder_kernels", opened) == kernels
        dims = c.described("caption_decoder_dims", "caption_dims", opened)
        weights = open_caption_weights(path)
        assert {name: getattr(dims, name) for name in dataclasses.asdict(weights.dims)} == dataclasses.asdict(
            weights.dims
        )
        assert dims.is_int8 == (precision == "int8")
        native = _native.CaptionDecoder(
            **dataclasses.asdict(weights.dims), norm_epsilon=weights.norm_epsilon, precision=precision,
            tensors=dict(weights.tensors), kernels=kernels,
        )  # fmt: skip
        memory, tokens = decoder.memory(1), np.array([2, 4, 1, 3, 0, 4], np.int64)
        log_probs = np.zeros((6, 37), np.float32)
        c("caption_log_probs", opened, memory, tokens, 6, log_probs)
        np.testing.assert_array_equal(log_probs, native.log_probs(memory, tokens))
        for options in (
            {},
            {"beam_size": 1},
            {"beam_size": 4, "length_penalty": 0.4, "min_length": 3, "no_repeat_ngram": 2, "repetition_penalty": 1.3},
            {"beam_size": 4, "max_length": 8, "temperature": 1.4, "top_k": 5, "seed": 2**63 + 5},
            {"min_length": 9, "budget_ms": 0.0},
            {"beam_size": 5, "length_penalty": 0.0, "keeps_finished": 1},
        ):
            forbidden = [0, 1, 2, 9] if "keeps_finished" not in options else [9]
            rules: dict[str, Any] = {"beam_size": 3, "max_length": 12, **options}
            expected, _, _, runs, is_cut = native.write(memory, **IDS, **rules, forbidden=forbidden)
            listed = np.array(forbidden, np.int64)
            made = c.made("caption_options", **options, forbidden=listed, forbidden_count=len(listed))
            found, answer = sentences(c, opened, memory, made)
            assert found == [(list(ids), log_prob, score) for ids, log_prob, score in expected]
            assert (answer.runs, answer.is_cut) == (runs, is_cut) and answer.first_token_ns > 0
    finally:
        c.library.yolor_edge_caption_decoder_close(opened)


def open_decoder(c: CLibrary, path: Path, kernels: str | None = None) -> ctypes.c_void_p:
    opened = ctypes.c_void_p()
    c("caption_decoder_open", str(path), kernels, ctypes.byref(opened))
    return opened


def sentences(
    c: CLibrary, decoder: Any, memory: np.ndarray, options: Any, capacity: int = 5
) -> tuple[list[tuple[list[int], float, float]], Any]:
    tokens, lengths = np.zeros((capacity, 12), np.int64), np.zeros(capacity, np.int64)
    log_probs, scores = np.zeros(capacity), np.zeros(capacity)
    captions = c.made(
        "captions", capacity=capacity, token_capacity=12, tokens=tokens, lengths=lengths, log_probs=log_probs,
        scores=scores,
    )  # fmt: skip
    c("caption_write", decoder, memory, options, captions)
    found = [(tokens[i, : lengths[i]].tolist(), log_probs[i], scores[i]) for i in range(captions.count)]
    return found, captions


def test_two_threads_share_a_decoder(c: CLibrary, tmp_path: Path) -> None:
    decoder, path = random_decoder(width=48, heads=3, memory=64), tmp_path / "caption.bin"
    decoder.write(path, "int8")
    opened = open_decoder(c, path)
    alone = [sentences(c, opened, decoder.memory(i), None)[0] for i in range(4)]
    wrong: list[int] = []

    def work() -> None:
        for i in range(40):
            if sentences(c, opened, decoder.memory(i % 4), None)[0] != alone[i % 4]:
                wrong.append(i)

    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    c.library.yolor_edge_caption_decoder_close(opened)
    assert wrong == []


def test_one_sentence_of_nothing_where_there_are_no_numbers(c: CLibrary, tmp_path: Path) -> None:
    decoder, path = random_decoder(), tmp_path / "caption.bin"
    decoder.write(path, "fp32")
    opened = open_decoder(c, path)
    assert sentences(c, opened, np.full((21, 24), np.nan, np.float32), None)[0] == [([], 0.0, 0.0)]
    assert len(sentences(c, opened, decoder.memory(0), None, capacity=2)[0]) == 2
    c.library.yolor_edge_caption_decoder_close(opened)
    c.library.yolor_edge_caption_decoder_close(None)


def spoilt(content: bytes, **changes: Any) -> bytes:
    """A weight file whose header says something else, padded so that the tensors stay where they are."""
    magic, version, length = PREFIX.unpack(content[: PREFIX.size])
    header = json.loads(content[PREFIX.size : PREFIX.size + length])
    for name, value in changes.items():
        *path, last = name.split("__")
        target = header
        for key in path:
            target = target[key]
        target[last] = value
    text = json.dumps(header, separators=(",", ":")).encode()
    assert len(text) <= length
    return PREFIX.pack(magic, version, length) + text.ljust(length) + content[PREFIX.size + length :]


@pytest.mark.parametrize(
    ("spoil", "complaint"),
    [
        (lambda b: b[:9], "is not a file of caption weights (it does not begin with YECAPTN); copy the bundle again"),
        (lambda b: b"PK" + b[2:], "is not a file of caption weights"),
        (
            lambda b: b[:8] + bytes([VERSION + 1]) + b[9:],
            f"layout {VERSION + 1} of caption weights, this library reads {VERSION}; link",
        ),
        (lambda b: spoilt(b, dims__regions=-1), "dims.regions must be a whole number from 0 to 16777216"),
        (lambda b: spoilt(b, dims__regions=3), "hidden must be 0 with gated layers, which have one output layer"),
        (lambda b: spoilt(b, dims__padding=37), "padding must be at least 0 and less than vocabulary, got 37 of 37"),
        (lambda b: b[:12] + b"\xff\xff\xff\0" + b[16:], "the header of 16777215 bytes exceeds the file of"),
        (lambda b: b[:16] + b"[" + b[17:], "its header is no JSON, expected"),
        (lambda b: b[:-8192], "ends at byte"),
        (lambda b: spoilt(b, precision="fp64"), "precision must be one of fp32, int8"),
        (lambda b: spoilt(b, norm_epsilon=2), "norm_epsilon must lie between 0 and 1"),
        (lambda b: spoilt(b, dims__width=2.5), "dims.width must be a whole number from 1 to 16777216"),
        (lambda b: spoilt(b, dims__layers=9999), "dims.layers must be a whole number from 1 to 4096"),
        (lambda b: spoilt(b, dims__heads=5), "width must be a multiple of heads, got 24 and 5"),
        (
            lambda b: spoilt(b, precision="int8", dims__memory=65001),
            "must be at most 65000 with int8 weights, got 65001",
        ),
        (lambda b: spoilt(b, dims__layers=3), "tensor 'layers.2.self_attention.in.bias' is missing"),
        (lambda b: spoilt(b, dims__memory=20), "tensor 'memory_positions' is not the 1920 bytes of float32"),
        (lambda b: spoilt(b, tensors__words__offset=4), "tensor 'words' must start at a multiple of 64"),
        (lambda b: spoilt(b, tensors__words__offset=64000000), "tensor 'words' ends at byte"),
    ],
)
def test_weight_files_that_are_none(c: CLibrary, tmp_path: Path, spoil: Any, complaint: str) -> None:
    path = tmp_path / "caption.bin"
    random_decoder().write(path, "fp32")
    path.write_bytes(spoil(path.read_bytes()))
    opened = ctypes.c_void_p(1)
    with pytest.raises(CError) as raised:
        c("caption_decoder_open", str(path), None, ctypes.byref(opened))
    assert str(raised.value).startswith(f"BAD_FILE: {path}: ") and complaint in str(raised.value)
    assert opened.value is None


def test_weight_files_that_are_not_there(c: CLibrary, tmp_path: Path) -> None:
    with pytest.raises(CError, match=r"BAD_FILE: .*/nothing: cannot be read \(No such file or directory\)"):
        open_decoder(c, tmp_path / "nothing")
    with pytest.raises(CError, match=r"BAD_FILE: .* is no file; name caption.fp32.bin or"):
        open_decoder(c, tmp_path)
    random_decoder().write(tmp_path / "caption.bin", "fp32")
    with pytest.raises(CError, match="INVALID_ARGUMENT: kernels must be one that this processor runs, got mmx"):
        open_decoder(c, tmp_path / "caption.bin", "mmx")


def test_captions_say_what_does_not_fit(c: CLibrary, tmp_path: Path) -> None:
    decoder = random_decoder()
    decoder.write(tmp_path / "caption.bin", "fp32")
    opened = open_decoder(c, tmp_path / "caption.bin")

    def refused(complaint: str, **options: Any) -> None:
        with pytest.raises(CError) as raised:
            sentences(c, opened, decoder.memory(0), c.made("caption_options", **options))
        assert complaint in str(raised.value)

    refused("INVALID_ARGUMENT: options.beam_size must lie in 1..37, got 38", beam_size=38)
    refused("options.max_length must lie in 0..12, got 13", max_length=13)
    refused("options.budget_ms must be a number, got nan", budget_ms=float("nan"))
    refused("min_length", min_length=13)
    refused("options.forbidden must be given", forbidden_count=1)
    captions = c.made("captions", capacity=1, token_capacity=11, tokens=np.zeros(11), lengths=np.zeros(1))
    with pytest.raises(CError, match=r"TOO_SMALL: captions.token_capacity must be at least max_length, 12, got 11"):
        c("caption_write", opened, decoder.memory(0), None, captions)
    c.library.yolor_edge_caption_decoder_close(opened)


@pytest.mark.parametrize("size", [{}, {"regions": 9}], ids=["plain", "gated"])
@pytest.mark.parametrize("extreme", [37, -1, -(2**63), 2**31, 2**32, 2**62, 2**63 - 1])
def test_captions_refuse_numbers_far_out_of_range(
    c: CLibrary, tmp_path: Path, extreme: int, size: dict[str, int]
) -> None:
    decoder = random_decoder(**size)
    decoder.write(tmp_path / "caption.bin", "fp32")
    opened, memory = open_decoder(c, tmp_path / "caption.bin"), decoder.memory(0)
    listed = np.array([1, extreme], np.int64)

    def refused(complaint: str, function: str, *arguments: Any) -> None:
        with pytest.raises(CError, match=rf"^INVALID_ARGUMENT: {complaint}, got {extreme}$"):
            c(function, opened, memory, *arguments)

    def captions(**values: Any) -> Any:
        rooms = {
            "capacity": 2,
            "token_capacity": 12,
            "tokens": np.zeros(24, np.int64),
            "lengths": np.zeros(2, np.int64),
        }
        return c.made("captions", **{**rooms, **values})

    for name in ("bos_id", "eos_id", "pad_id"):
        options = c.made("caption_options", **{name: extreme})
        refused(rf"{name} must lie in 0\.\.36", "caption_write", options, captions())
    options = c.made("caption_options", forbidden=listed, forbidden_count=2)
    refused(r"forbidden ids must lie in 0\.\.36", "caption_write", options, captions())
    refused(r"tokens must lie in 0\.\.36", "caption_log_probs", listed, 2, np.zeros((2, 37), np.float32))
    complaint = "count must be at least 0" if extreme < 0 else "tokens must be at most the decoder's 12 positions"
    refused(complaint, "caption_log_probs", listed, extreme, np.zeros((2, 37), np.float32))
    up_to_37 = [] if extreme == 37 else ["beam_size", "forbidden_count"]
    for name in ("max_length", "min_length", *up_to_37):
        options = c.made("caption_options", **{"forbidden": listed, name: extreme})
        refused(rf"(options\.)?{name} must lie in \S+", "caption_write", options, captions())
    if extreme < 0 or extreme >= 2**62:
        refused(r"captions\.capacity must lie in 1\.\.1099511627776", "caption_write", None, captions(capacity=extreme))
    if extreme >= 2**62:
        rooms = captions(token_capacity=extreme)
        refused(r"captions\.token_capacity must lie in 12\.\.1099511627776", "caption_write", None, rooms)
    c.library.yolor_edge_caption_decoder_close(opened)
