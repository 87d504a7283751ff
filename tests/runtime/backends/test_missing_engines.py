"""What a device lacks and what was measured best on it, told without a device."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from yolor_edge.runtime import load
from yolor_edge.runtime.backends.tensorrt.missing_engines import build_if_missing
from yolor_edge.runtime.bundle import device_choices
from yolor_edge.runtime.bundle.bundle import Bundle
from yolor_edge.runtime.bundle.device_choices import CaptionChoice, chosen_caption_decoder, write_choice
from yolor_edge.runtime.environment.cuda_device import CudaDevice
from yolor_edge.runtime.errors import UsageError
from yolor_edge.runtime.model import caption_decoder_name, needed_parts
from yolor_edge.runtime.options import LoadOptions


def test_load_takes_a_builder(tiny_bundle: Bundle) -> None:
    def build(bundle: Bundle, precision: str, flavour: str, parts: Sequence[str], compute_capability: str) -> None:
        raise AssertionError("nothing is to be built")

    with pytest.raises(UsageError, match='backend "onnxruntime" runs the bundle\'s graphs as they are'):
        load(tiny_bundle, build_if_missing=build)
    with pytest.raises(UsageError, match="unknown backend 'abacus'"):
        build_if_missing(tiny_bundle, "abacus", "fp32", ("vision",), build)


def choice_of(bundle: Bundle, **changes: Any) -> CaptionChoice:
    fields: dict[str, Any] = {
        **{"backend": "tensorrt", "precision": "fp16", "device": "Orin", "decoder": "graph", "beam_size": 3},
        **{"measured_ms": {"native": 2.0, "graph": 1.0}, "bundle_sha256": bundle.digest},
    }
    return CaptionChoice(**{**fields, **changes})


def test_a_choice_is_for_one_bundle_backend_precision_and_device(
    own_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = Bundle.open(own_bundle)
    monkeypatch.setattr(device_choices, "cuda_device", lambda: CudaDevice("Orin", "sm_87"))
    assert chosen_caption_decoder(bundle, "tensorrt", "fp16") is None
    write_choice(bundle, choice_of(bundle))
    write_choice(bundle, choice_of(bundle, device="Thor", decoder="native"))
    file = write_choice(bundle, choice_of(bundle, precision="int8", bundle_sha256="of another"))
    assert chosen_caption_decoder(bundle, "tensorrt", "fp16") == "graph"
    assert needed_parts(bundle, LoadOptions("tensorrt", "fp16")) == tuple(bundle.graphs)
    assert chosen_caption_decoder(bundle, "tensorrt", "int8") is None
    assert chosen_caption_decoder(bundle, "tensorrt-rtx", "fp16") is None
    write_choice(bundle, choice_of(bundle, decoder="native"))
    assert chosen_caption_decoder(bundle, "tensorrt", "fp16") == "native"
    assert len(json.loads(file.read_text())["captions"]) == 3
    Bundle.open(own_bundle)  # the choices are no part of it

    monkeypatch.setattr(device_choices, "cuda_device", lambda: None)
    assert chosen_caption_decoder(bundle, "tensorrt", "fp16") is None
    monkeypatch.setattr(device_choices, "cuda_device", lambda: CudaDevice("Orin", "sm_87"))
    for damaged in ("no JSON", "[]", '{"choices_version": 1, "captions": [1, {"backend": 3}]}'):
        file.write_text(damaged)
        assert chosen_caption_decoder(bundle, "tensorrt", "fp16") is None


def test_what_writes_captions_can_be_asked_for(own_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bundle = Bundle.open(own_bundle)
    monkeypatch.setattr(device_choices, "cuda_device", lambda: CudaDevice("Orin", "sm_87"))
    by_itself = "native" if "fp32" in bundle.caption_weights else "graph"
    fastest = "native" if by_itself == "graph" else "graph"
    assert caption_decoder_name(bundle, LoadOptions("tensorrt", "fp32")) == by_itself
    write_choice(bundle, choice_of(bundle, precision="fp32", decoder=fastest))
    assert caption_decoder_name(bundle, LoadOptions("tensorrt", "fp32")) == fastest
    assert caption_decoder_name(bundle, LoadOptions("onnxruntime", "fp32")) == by_itself
    assert caption_decoder_name(bundle, LoadOptions("tensorrt", "fp32", caption_decoder="native-int8")) == "native-int8"
