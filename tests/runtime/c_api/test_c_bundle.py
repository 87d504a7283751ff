"""A bundle read behind the C interface: what Python reads, and one line where it is none."""

from __future__ import annotations

import ctypes
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from yolor_edge.runtime.bundle.bundle import Bundle
from yolor_edge.runtime.bundle.spec import BOX_HEADS, SCORE_HEADS, BoxCoding, ScoreCoding
from yolor_edge.runtime.bundle.tokenizer import Tokenizer

from ..tiny_bundle import write_tiny_bundle
from .c_library import CError, CLibrary


def open_bundle(c: CLibrary, folder: Path) -> ctypes.c_void_p:
    opened = ctypes.c_void_p()
    c("bundle_open", str(folder), ctypes.byref(opened))
    return opened


def test_a_bundle(c: CLibrary, tiny_bundle: Bundle) -> None:
    spec = tiny_bundle.spec
    assert spec.caption is not None
    opened = open_bundle(c, tiny_bundle.path)
    info = c.described("bundle_describe", "bundle_info", opened)
    assert info.name.decode() == spec.name
    assert info.tasks == 15
    assert (info.input_height, info.input_width) == spec.input_size
    rule = spec.preprocess
    assert (info.pad_value, info.scale, info.swap_rb) == (rule.pad_value, rule.scale, 1)
    assert ctypes.cast(info.strides, ctypes.POINTER(ctypes.c_int64))[: info.stride_count] == list(spec.strides)
    assert (info.bins, info.max_detections) == (spec.reg_max, spec.thresholds.max_detections)
    assert (info.score_threshold, info.iou_threshold) == (spec.thresholds.score, spec.thresholds.iou)
    assert (info.batch, info.top_k, info.is_map_in_graph) == (0, 0, 0)
    assert (info.box_coding, info.score_coding, info.box_count, info.rounding, info.semantic_stride) == (0, 0, 0, 0, 8)
    assert (info.box_head, info.score_head) == (b"box_bins", b"class_logits")
    names = [c.text("bundle_class_name", opened, i) for i in range(-1, info.class_count + 1)]
    assert names == [None, *spec.class_names, None]
    names = [c.text("bundle_semantic_name", opened, i) for i in range(info.semantic_count)]
    assert names == list(spec.semantic_names)
    assert [c.text("bundle_word", opened, i) for i in range(info.word_count)] == list(spec.caption.vocabulary)
    ids = (info.pad_id, info.unk_id, info.bos_id, info.eos_id, info.max_length)
    assert ids == (0, 1, 2, 3, spec.caption.max_length)
    assert (info.beam_size, info.length_penalty, info.keeps_finished) == (3, 1.0, 0)
    assert c.text("bundle_file", opened, "vision", "fp32") == str(tiny_bundle.path / "vision.fp32.onnx")
    assert c.text("bundle_file", opened, "vision", "int8") is None
    tokens = np.array([2, 4, 1, 0, 6, 3], np.int64)
    length, text = ctypes.c_size_t(), ctypes.create_string_buffer(100)
    c("bundle_text", opened, tokens, 6, text, 100, ctypes.byref(length))
    assert text.value.decode() == Tokenizer(spec.caption.vocabulary).decode(tokens.tolist())
    assert length.value == len(text.value)
    with pytest.raises(CError, match=r"INVALID_ARGUMENT: tokens must lie in 0..9, got 10"):
        c("bundle_text", opened, np.array([10]), 1, text, 100, ctypes.byref(length))
    for extreme in (-1, -(2**63), 2**31, 2**32, 2**63 - 1):
        with pytest.raises(CError, match=rf"INVALID_ARGUMENT: tokens must lie in 0\.\.9, got {extreme}$"):
            c("bundle_text", opened, np.array([extreme]), 1, text, 100, ctypes.byref(length))
        with pytest.raises(CError, match=rf"INVALID_ARGUMENT: count must lie in 0\.\.16777216, got {extreme}$"):
            c("bundle_text", opened, tokens, extreme, text, 100, ctypes.byref(length))
        assert c.text("bundle_word", opened, extreme) is None
    c.library.yolor_edge_bundle_close(opened)
    c.library.yolor_edge_bundle_close(None)


def test_a_bundle_with_graph_options_and_strange_words(c: CLibrary, own_bundle: Path) -> None:
    def change(data: dict[str, Any]) -> None:
        data["model"]["graph"] = {"batch": 4, "top_k": 50, "semantic_map": True}
        data["model"]["preprocess"]["channel_order"] = "BGR"
        data["model"]["caption"]["vocabulary"][4:7] = ["näve", '日本\t"\\', "🙂"]
        data["caption_weights"] = {"int8": "caption.int8.bin", "fp32": "../outside.bin"}

    rewrite(own_bundle, change)
    opened = open_bundle(c, own_bundle)
    info = c.described("bundle_describe", "bundle_info", opened)
    assert (info.batch, info.top_k, info.is_map_in_graph, info.swap_rb) == (4, 50, 1, 0)
    assert [c.text("bundle_word", opened, i) for i in (4, 5, 6)] == ["näve", '日本\t"\\', "🙂"]
    assert c.text("bundle_file", opened, "caption_weights", "int8") == f"{own_bundle}/caption.int8.bin"
    assert c.text("bundle_file", opened, "caption_weights", "fp32") is None
    c.library.yolor_edge_bundle_close(opened)


@pytest.mark.parametrize("box_coding", BOX_HEADS)
@pytest.mark.parametrize("score_coding", SCORE_HEADS)
def test_codings(c: CLibrary, tmp_path: Path, box_coding: BoxCoding, score_coding: ScoreCoding) -> None:
    bundle = write_tiny_bundle(tmp_path, ("boxes", "semantic"), box_coding, score_coding)

    def change(data: dict[str, Any]) -> None:
        data["model"]["preprocess"]["rounding"] = "half_even"
        data["model"]["semantic_stride"] = 4

    rewrite(bundle.path, change)
    opened = open_bundle(c, bundle.path)
    info = c.described("bundle_describe", "bundle_info", opened)
    assert (info.box_coding, info.score_coding) == (
        [*BOX_HEADS].index(box_coding), [*SCORE_HEADS].index(score_coding),
    )  # fmt: skip
    assert (info.box_head.decode(), info.score_head.decode()) == (bundle.spec.box_head, bundle.spec.score_head)
    assert info.box_count == (bundle.spec.box_count or 0)
    assert (info.rounding, info.semantic_stride) == (1, 4)
    c.library.yolor_edge_bundle_close(opened)


def test_a_vocabulary_and_a_search_of_another_kind(c: CLibrary, own_bundle: Path) -> None:
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "", "man", "'s", "hat", "##band", ".", "Hat", "man"]
    search = {"text": "bert", "beam_size": 5, "length_penalty": 0.0, "finished": "stay", "max_length": 20}
    rewrite(own_bundle, lambda data: data["model"]["caption"].update(vocabulary=words, **search))
    opened = open_bundle(c, own_bundle)
    options = c.described("bundle_caption_options", "caption_options", opened)
    named = ("beam_size", "max_length", "bos_id", "eos_id", "pad_id", "length_penalty", "keeps_finished")
    assert [getattr(options, name) for name in named] == [5, 20, 2, 3, 0, 0.0, 1]
    assert (options.forbidden_count, options.repetition_penalty, options.budget_ms) == (0, 1.0, -1.0)
    length, text = ctypes.c_size_t(), ctypes.create_string_buffer(200)
    tokenizer = Tokenizer(words, "bert")
    for ids in ([2, 5, 13, 8, 12, 10, 11, 3, 0], [7, 6, 1, 4, 9, 10], [10, 5], [], [3], [*range(14)]):
        tokens = np.array(ids or [0], np.int64)
        c("bundle_text", opened, tokens, len(ids), text, 200, ctypes.byref(length))
        assert text.value.decode() == tokenizer.decode(ids)
    c.library.yolor_edge_bundle_close(opened)


def test_the_models_own_search_never_writes_special_words(c: CLibrary, tiny_bundle: Bundle) -> None:
    opened = open_bundle(c, tiny_bundle.path)
    options = c.described("bundle_caption_options", "caption_options", opened)
    assert ctypes.cast(options.forbidden, ctypes.POINTER(ctypes.c_int64))[: options.forbidden_count] == [0, 1, 2]
    assert (options.beam_size, options.length_penalty, options.keeps_finished) == (3, 1.0, 0)
    c.library.yolor_edge_bundle_close(opened)


def rewrite(folder: Path, change: Any) -> None:
    path = folder / "bundle.json"
    data = json.loads(path.read_text())
    change(data)
    path.write_text(json.dumps(data))


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (lambda d: d.update(schema_version=99), "schema 99 is newer than this library reads (1); link a newer one"),
        (lambda d: d.pop("schema_version"), 'bundle: "schema_version" must be a whole number'),
        (lambda d: d.update(schema_version=1e300), '"schema_version" must be a whole number from 0 to 16777216'),
        (lambda d: d.pop("model"), 'bundle: "model" must be an object'),
        (lambda d: d["model"].update(strides=[8, "x"]), 'model: "strides" must be a whole number from 1 to'),
        (lambda d: d["model"].update(class_names="x"), 'model: "class_names" must be a list of strings'),
        (lambda d: d["model"].update(tasks=["smell"]), 'model: "tasks" must be of boxes, masks, semantic and caption'),
        (lambda d: d["model"]["preprocess"].update(input_size=[1]), '"input_size" must be (height, width)'),
        (lambda d: d["model"].update(box_coding="cxcywh"), '"box_coding" must be one of dfl, ltrb, xyxy'),
        (lambda d: d["model"].pop("score_coding"), '"score_coding" must be a string'),
        (lambda d: d["model"].update(box_coding="xyxy"), '"box_count" must be a number with the box_coding xyxy'),
        (lambda d: d["model"].update(box_count=9), '"box_count" must be a number with the box_coding xyxy'),
        (lambda d: d["model"]["preprocess"].update(rounding="up"), '"rounding" must be one of half_up, half_even'),
        (lambda d: d["model"]["caption"].update(eos_id=10), '"eos_id" must be a whole number from 0 to 9'),
        (lambda d: d["model"]["caption"].update(text="x"), 'caption: "text" must be "words" or "bert"'),
        (lambda d: d["model"]["caption"].update(finished=1), 'caption: "finished" must be a string'),
        (lambda d: d["model"]["caption"].update(finished="x"), 'caption: "finished" must be "leave" or "stay"'),
    ],
)
def test_bundles_that_are_none(c: CLibrary, own_bundle: Path, change: Any, complaint: str) -> None:
    rewrite(own_bundle, change)
    with pytest.raises(CError) as raised:
        open_bundle(c, own_bundle)
    assert str(raised.value).startswith(f"BAD_FILE: {own_bundle}/bundle.json: ")
    assert complaint in str(raised.value)


@pytest.mark.parametrize(
    "text", ["", "{", '{"a":1,}', '{"a":tru}', "[" * 100, '{"a":"\\ud800"}', '{"a":"\n"}', "{}{}", '{"a":1e999}', "nul"]
)
def test_bundles_that_are_no_json(c: CLibrary, own_bundle: Path, text: str) -> None:
    (own_bundle / "bundle.json").write_text(text)
    with pytest.raises(CError, match=r"BAD_FILE: .*bundle.json: no JSON, expected .* at byte \d+"):
        open_bundle(c, own_bundle)


@pytest.mark.parametrize(
    "number", ["01", "-01", "00", "1.", ".5", "-.5", "-", "1.e5", "1e", "1e+", "+1", "0x10", "-inf", "NaN"]
)
def test_numbers_that_json_has_not(c: CLibrary, own_bundle: Path, number: str) -> None:
    (own_bundle / "bundle.json").write_text(f'{{"a":{number}}}')
    with pytest.raises(CError, match=r"BAD_FILE: .*bundle.json: no JSON, expected .* at byte [56]"):
        open_bundle(c, own_bundle)


@pytest.mark.parametrize("number", ["0", "-0", "0.5", "-0.25e+1", "1e5", "10E-2", "0e0"])
def test_numbers_that_json_has(c: CLibrary, own_bundle: Path, number: str) -> None:
    assert isinstance(json.loads(number), int | float)
    text = (own_bundle / "bundle.json").read_text()
    (own_bundle / "bundle.json").write_text('{"a":' + number + "," + text.lstrip()[1:])
    open_bundle(c, own_bundle)


def test_a_bundle_that_is_not_there(c: CLibrary, tmp_path: Path) -> None:
    with pytest.raises(CError, match=r"BAD_FILE: .* cannot be read \(No such .*name a folder as `yolor-edge export`"):
        open_bundle(c, tmp_path)
