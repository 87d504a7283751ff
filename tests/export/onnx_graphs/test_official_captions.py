"""Captions of Generalist YOLO in ONNX and natively: word for word those of the official code."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray
from yolor_edge.export.onnx_graphs.caption_weights import write_caption_weights
from yolor_edge.export.to_onnx import export_part
from yolor_edge.runtime import _native
from yolor_edge.runtime.backends.base import Graph, TensorInfo
from yolor_edge.runtime.backends.onnxruntime_backend import open_graph
from yolor_edge.runtime.bundle.caption_weights import open_caption_weights
from yolor_edge.runtime.bundle.spec import CaptionSpec
from yolor_edge.runtime.captions.captioning import CaptionDecoder, CaptionOptions, CaptionWriter
from yolor_edge.runtime.captions.native_captioning import NativeCaptionDecoder
from yolor_edge.runtime.results import Caption
from yolor_edge.train.torch_backend import PrefillPart, StepPart, TorchGraph

from ...train.importing.golden import Golden, golden

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def case(goldens: Path) -> Golden:
    return golden(goldens / "gyolo")


@pytest.fixture(scope="module")
def memories(case: Golden) -> NDArray[np.float32]:
    """(2, L, D), of both images."""
    with torch.no_grad():
        return case.network(case.images)["caption_memory"].numpy()


@pytest.fixture(scope="module")
def spec(case: Golden) -> CaptionSpec:
    spec = case.imported.config.caption_spec
    assert spec is not None
    return spec


@pytest.fixture(scope="module")
def weights(case: Golden, memories: NDArray[np.float32], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Files of caption weights by precision."""
    folder, decoder = tmp_path_factory.mktemp("weights"), case.network.caption_decoder
    parameters = {name: value.numpy() for name, value in decoder.state_dict().items()}
    assert decoder.padding is not None
    for precision in ("fp32", "int8"):
        write_caption_weights(
            folder / precision, parameters, memories[0], decoder.heads, precision,
            regions=decoder.regions, padding=decoder.padding,
        )  # fmt: skip
    return {precision: folder / precision for precision in ("fp32", "int8")}


@pytest.fixture(scope="module")
def graphs(case: Golden, memories: NDArray[np.float32], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Graph]:
    """Prefill and step in ONNX Runtime."""
    network, decoder = case.network, case.network.caption_decoder
    folder = tmp_path_factory.mktemp("graphs")
    size = (case.images.shape[2], case.images.shape[3])
    layers, heads, depth = len(decoder.layers), decoder.heads, decoder.width // decoder.heads
    words = decoder.words.num_embeddings

    def infos(shapes: Mapping[str, tuple[int | str, ...]]) -> dict[str, TensorInfo]:
        return {key: TensorInfo(key, shape, "int64" if key == "tokens" else "float32") for key, shape in shapes.items()}

    def cache(prefix: str, *shape: int | str) -> dict[str, tuple[int | str, ...]]:
        rows, length = shape
        return {f"{prefix}_{kind}": (layers, rows, heads, length, depth) for kind in ("keys", "values")}

    cross = cache("cross", 1, memories.shape[1])
    parts = {
        "caption_prefill": TorchGraph(
            PrefillPart(network, size),  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
            infos({"caption_memory": (1, *memories.shape[1:]), "tokens": (1,)}),
            infos({"log_probs": (1, words), **cross, **cache("present", 1, 1)}),
        ),
        "caption_step": TorchGraph(
            StepPart(network),  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
            infos({"tokens": ("beam",), **cache("past", "beam", "past"), **cross}),
            infos({"log_probs": ("beam", words), **cache("present", "beam", "past + 1")}),
        ),
    }
    found = {}
    for name, part in parts.items():
        onnx.save(export_part(name, part), folder / f"{name}.onnx")
        found[name] = open_graph(folder / f"{name}.onnx", 1)
    return found


@pytest.fixture(params=["graphs", "fp32"])
def writer(request: pytest.FixtureRequest, spec: CaptionSpec) -> CaptionWriter:
    if request.param == "graphs":
        return CaptionDecoder(spec, *request.getfixturevalue("graphs").values())
    return NativeCaptionDecoder(spec, request.getfixturevalue("weights")[request.param])


def native(path: Path, kernels: str) -> _native.CaptionDecoder:
    opened = open_caption_weights(path)
    dims: dict[str, Any] = vars(opened.dims)
    return _native.CaptionDecoder(
        **dims, norm_epsilon=opened.norm_epsilon, precision=opened.precision, tensors=dict(opened.tensors),
        kernels=kernels,
    )  # fmt: skip


def test_forced_words_in_onnx(case: Golden, memories: NDArray[np.float32], graphs: dict[str, Graph]) -> None:
    for memory, ids, expected in zip(
        memories, case.expected["caption.forced.ids"], case.expected["caption.forced.log_probs"], strict=True
    ):
        state = graphs["caption_prefill"].run({"caption_memory": memory[np.newaxis], "tokens": ids[:1]})
        cross = {name: state[name] for name in ("cross_keys", "cross_values")}
        found = [state["log_probs"][0]]
        for i in range(1, len(ids)):
            past = {"past_keys": state["present_keys"], "past_values": state["present_values"]}
            state = graphs["caption_step"].run({"tokens": ids[i : i + 1], **past, **cross})
            found.append(state["log_probs"][0])
        assert np.abs(np.stack(found) - expected).max() < 1e-5


@pytest.mark.parametrize("kernels", _native.decoder_kernels())
def test_forced_words_natively(
    case: Golden, memories: NDArray[np.float32], weights: dict[str, Path], kernels: str
) -> None:
    expected = case.expected["caption.forced.log_probs"]
    for precision, allowed in (("fp32", 1e-5), ("int8", 0.25)):
        decoder = native(weights[precision], kernels)
        for memory, ids, log_probs in zip(memories, case.expected["caption.forced.ids"], expected, strict=True):
            assert np.abs(decoder.log_probs(memory, ids) - log_probs).max() < allowed


@pytest.mark.parametrize("beams", [1, 5])
def test_a_search_finds_the_official_sentences(
    case: Golden, memories: NDArray[np.float32], writer: CaptionWriter, beams: int
) -> None:
    """In this order and with these sums."""
    expected = case.expected[f"caption.beam{beams}.ids"].reshape(2, beams, 20)
    for i, memory in enumerate(memories):
        caption, times = writer.write(memory[np.newaxis], CaptionOptions(beam_size=beams, n_best=beams))
        captions: list[Caption] = [caption, *caption.others]
        found = [list(one.token_ids) for one in captions]
        assert found == [written(ids) for ids in expected[i].tolist()]
        sums = [one.log_prob for one in captions]
        assert np.abs(sums - case.expected[f"caption.beam{beams}.sum_log_prob"][i]).max() < 3e-5
        assert [one.score for one in captions] == sums
        assert times.tokens == min(20, max(len(ids) for ids in found) + 1)


def test_int8_finds_nearly_the_same_sentences(
    case: Golden, memories: NDArray[np.float32], spec: CaptionSpec, weights: dict[str, Path]
) -> None:
    """Most of the beam; words that are nearly as likely as each other (0.03 apart in one place) may change places."""
    writer, options = NativeCaptionDecoder(spec, weights["int8"]), CaptionOptions(beam_size=5, n_best=5)
    shared = 0
    for memory, expected in zip(memories, case.expected["caption.beam5.ids"].tolist(), strict=True):
        caption, _ = writer.write(memory[np.newaxis], options)
        found = [list(one.token_ids) for one in (caption, *caption.others)]
        assert found[0] == written(expected[0])
        shared += sum(written(ids) in found for ids in expected)
    assert shared >= 8


def written(ids: list[int]) -> list[int]:
    """The words before the end; after it the official code fills up."""
    if 3 not in ids:
        return ids
    end = ids.index(3)
    assert not any(ids[end + 1 :])
    return ids[:end]


def test_the_models_own_search_is_the_official_one(
    spec: CaptionSpec, memories: NDArray[np.float32], writer: CaptionWriter
) -> None:
    own = CaptionOptions().for_model(spec)
    assert (own.beam_size, own.length_penalty, own.max_length) == (5, 0.0, 20)
    assert own.search_arguments(spec)["forbidden"] == [] and own.search_arguments(spec)["keeps_finished"]
    caption, _ = writer.write(memories[:1], CaptionOptions())
    assert caption == writer.write(memories[:1], CaptionOptions(5, 0.0, max_length=20))[0]
    assert caption.text == spec.vocabulary[9].capitalize()
