"""OpenVINO answers as ONNX Runtime does, in float32 unless asked, and complains in one line."""

from __future__ import annotations

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import helper
from yolor_edge.export.precision.calibration import CalibrationSet, calibrate
from yolor_edge.export.precision.to_int8 import quantize
from yolor_edge.runtime.backends.base import Graph
from yolor_edge.runtime.backends.onnxruntime_backend import OnnxRuntimeGraph
from yolor_edge.runtime.backends.registry import graph_files, open_graphs
from yolor_edge.runtime.bundle.bundle import Bundle
from yolor_edge.runtime.captions.captioning import CaptionOptions
from yolor_edge.runtime.errors import BackendError, UsageError
from yolor_edge.runtime.model import load
from yolor_edge.runtime.verification.replay import verify

from ..tiny_bundle import COLOURS, HEADS, INPUT_SIZE, VOCABULARY, coloured_patch

if TYPE_CHECKING:
    from ...export.exported import Exported

openvino = pytest.importorskip("openvino")

from yolor_edge.runtime.backends.openvino_backend import OpenVinoGraph  # noqa: E402  it imports openvino

ALL_PARTS = ("vision", "caption_prefill", "caption_step")


def part(bundle: Bundle, name: str) -> Path:
    return bundle.path / f"{name}.fp32.onnx"


def images(batch: int, seed: int = 0) -> dict[str, NDArray[np.float32]]:
    return {"images": np.random.default_rng(seed).random((batch, 3, *INPUT_SIZE), dtype=np.float32)}


def step_feed(beam: int, past: int) -> dict[str, NDArray[Any]]:
    rng = np.random.default_rng(beam * 10 + past)
    depth = len(VOCABULARY) // HEADS
    cache = {name: rng.random((1, beam, HEADS, past, depth), dtype=np.float32) for name in ("past_keys", "past_values")}
    cross = {name: rng.random((1, 1, HEADS, 6, depth), dtype=np.float32) for name in ("cross_keys", "cross_values")}
    return {"tokens": rng.integers(0, len(VOCABULARY), beam), **cache, **cross}


def assert_same(found: dict[str, NDArray[Any]], expected: dict[str, NDArray[Any]]) -> None:
    assert list(found) == list(expected)
    for name, value in expected.items():
        assert found[name].shape == value.shape
        assert found[name].dtype == value.dtype
        np.testing.assert_allclose(found[name], value, rtol=1e-5, atol=1e-5)


# Answers.


@pytest.mark.parametrize("colour", COLOURS)
def test_the_pipeline_answers_as_with_onnx_runtime(tiny_bundle: Bundle, colour: str) -> None:
    image = coloured_patch((200, 150), (60, 40, 120, 110), colour)
    with load(tiny_bundle, "openvino", threads=1) as model, load(tiny_bundle, threads=1) as reference:
        for options in (CaptionOptions(), CaptionOptions(beam_size=1)):
            found, expected = model.predict(image, caption=options), reference.predict(image, caption=options)
            assert found.boxes is not None and expected.boxes is not None
            assert len(expected.boxes) > 0
            np.testing.assert_allclose(found.boxes, expected.boxes, atol=1e-3)
            assert np.array_equal(found.class_ids, expected.class_ids)  # type: ignore[arg-type]
            np.testing.assert_allclose(found.scores, expected.scores, atol=1e-5)  # type: ignore[arg-type]
            assert found.masks is not None and expected.masks is not None
            assert np.array_equal(found.masks.full(), expected.masks.full())
            # Where two classes tie, rounding decides.
            assert np.mean(found.semantic_map == expected.semantic_map) > 0.99
            assert found.caption is not None and expected.caption is not None
            assert found.caption.text == f"a {colour} thing here"
            assert found.caption.token_ids == expected.caption.token_ids


def test_an_exported_network_verifies(exported: Exported) -> None:
    pytest.importorskip("torch")
    assert verify(exported.bundle, "openvino", threads=1).passed


@pytest.mark.parametrize("name", ALL_PARTS)
def test_inputs_and_outputs_are_those_of_the_file(tiny_bundle: Bundle, name: str) -> None:
    found, expected = OpenVinoGraph(part(tiny_bundle, name), 1), OnnxRuntimeGraph(part(tiny_bundle, name), 1)
    for ours, theirs in ((found.inputs, expected.inputs), (found.outputs, expected.outputs)):
        assert list(ours) == list(theirs)
        for info in ours.values():
            assert info.dtype == theirs[info.name].dtype
            assert [isinstance(axis, int) for axis in info.shape] == [
                isinstance(axis, int) for axis in theirs[info.name].shape
            ]


def test_a_free_batch_takes_any_number_of_images(tiny_bundle: Bundle) -> None:
    graph, reference = (kind(part(tiny_bundle, "vision"), 1) for kind in (OpenVinoGraph, OnnxRuntimeGraph))
    for batch in (1, 3, 2):
        assert_same(graph.run(images(batch)), reference.run(images(batch)))


def test_a_fixed_batch_is_held_to(tiny_bundle: Bundle, tmp_path: Path) -> None:
    model = onnx.load(part(tiny_bundle, "vision"))
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = 2
    onnx.save(model, tmp_path / "fixed.onnx")
    graph, reference = (kind(tmp_path / "fixed.onnx", 1) for kind in (OpenVinoGraph, OnnxRuntimeGraph))
    assert graph.inputs["images"].shape == (2, 3, *INPUT_SIZE)
    assert_same(graph.run(images(2)), reference.run(images(2)))
    with pytest.raises(UsageError, match=r"must have shape \(2, 3, 64, 96\), got \(1, 3, 64, 96\)"):
        graph.run(images(1))


def test_a_caption_step_takes_any_beam_and_any_past(tiny_bundle: Bundle) -> None:
    """A past of length 0 included, though the prefill gives one of length 1."""
    graph, reference = (kind(part(tiny_bundle, "caption_step"), 1) for kind in (OpenVinoGraph, OnnxRuntimeGraph))
    for beam, past in ((1, 1), (3, 2), (3, 0), (1, 0), (2, 5), (1, 1)):
        assert_same(graph.run(step_feed(beam, past)), reference.run(step_feed(beam, past)))


@pytest.mark.parametrize("instructions", ["AVX2", "AVX512_CORE", "AVX512_CORE_VNNI"])
def test_an_int8_graph_gives_the_same_on_every_cpu(exported: Exported, tmp_path: Path, instructions: str) -> None:
    """With instructions that add in 16 bits, and by plain OpenVINO, as ONNX Runtime's float operators say."""
    vision = onnx.load(part(exported.bundle, "vision"))
    pictures = CalibrationSet(sorted((exported.data / "train").iterdir()), exported.bundle.spec.preprocess)
    quantised = quantize(vision, calibrate(vision, pictures, "minmax").ranges, "openvino").model
    name = "backbone.stage2.exit.act/Mul"  # later on a network that was never trained multiplies all rounding
    quantised.graph.output.append(helper.make_tensor_value_info(name, 1, [None] * 4))
    onnx.save(quantised, tmp_path / "int8.onnx")
    image = next(iter(pictures.tensors()))
    np.save(tmp_path / "image.npy", image)
    code = (
        "import sys, numpy, openvino as ov; core = ov.Core(); model = core.read_model(sys.argv[1]);"
        'exact = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1};'
        'compiled = core.compile_model(model, "CPU", exact);'
        "numpy.save(sys.argv[3], compiled(numpy.load(sys.argv[2]))[compiled.output(sys.argv[4])])"
    )
    files = [str(tmp_path / file) for file in ("int8.onnx", "image.npy", "found.npy")]
    environment = {**os.environ, "ONEDNN_MAX_CPU_ISA": instructions}
    subprocess.run([sys.executable, "-c", code, *files, name], env=environment, check=True, timeout=60)
    found, ours = np.load(tmp_path / "found.npy"), OpenVinoGraph(tmp_path / "int8.onnx", 1).run({"images": image})
    expected = OnnxRuntimeGraph(tmp_path / "int8.onnx", 1).run({"images": image})[name]
    for one in (found, ours[name]):
        # A value halfway between two levels may go to either.
        assert np.linalg.norm(one - expected) < 0.01 * np.linalg.norm(expected)


def test_int8_is_read_in_its_own_dialect(tiny_bundle: Bundle) -> None:
    graphs = {"vision": {"fp32": "v.onnx", "int8-s8s8": "signed.onnx", "int8-openvino": "own.onnx"}}
    bundle = Bundle(tiny_bundle.path, tiny_bundle.spec, graphs)
    assert graph_files(bundle, "openvino", "int8")["vision"].name == "own.onnx"
    assert graph_files(bundle, "tensorrt", "int8")["vision"].name == "signed.onnx"


# Precision and threads.


def setting(graph: OpenVinoGraph, name: str) -> Any:
    assert graph._compiled is not None
    return graph._compiled.get_property(name)


def test_float32_is_computed_in_float32_unless_asked(tiny_bundle: Bundle) -> None:
    path = part(tiny_bundle, "vision")
    plain = OpenVinoGraph(path, 1)
    assert setting(plain, "INFERENCE_PRECISION_HINT") == openvino.Type.f32
    if "BF16" not in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        pytest.skip("this processor has no bfloat16")
    short = OpenVinoGraph(path, 1, "bf16")
    assert setting(short, "INFERENCE_PRECISION_HINT") == openvino.Type.bf16


def test_the_thread_count_is_respected(tiny_bundle: Bundle) -> None:
    graphs = open_graphs(tiny_bundle, "openvino", threads=1)
    for graph in graphs.values():
        assert isinstance(graph, OpenVinoGraph)
        assert setting(graph, "INFERENCE_NUM_THREADS") == 1
        graph.close()


@pytest.mark.parametrize("name", ["vision", "caption_step"])
def test_threads_may_share_a_graph(tiny_bundle: Bundle, name: str) -> None:
    graph, reference = (kind(part(tiny_bundle, name), 1) for kind in (OpenVinoGraph, OnnxRuntimeGraph))
    feeds = [images(1 + i % 3, seed=i) if name == "vision" else step_feed(1 + i % 3, i % 5) for i in range(40)]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(graph.run, feeds))
    for one, feed in zip(found, feeds, strict=True):
        assert_same(one, reference.run(feed))


# Manners.


def test_only_what_is_wanted_is_returned(tiny_bundle: Bundle) -> None:
    graph = OpenVinoGraph(part(tiny_bundle, "vision"), 1)
    assert list(graph.run(images(1), ["prototypes", "box_bins"])) == ["prototypes", "box_bins"]


def test_inputs_stay_as_they_are_and_answers_stay_after_the_next_run(tiny_bundle: Bundle) -> None:
    graph = OpenVinoGraph(part(tiny_bundle, "vision"), 1)
    feed = images(2)
    before = feed["images"].copy()
    feed["images"].flags.writeable = False
    answers = graph.run(feed)
    kept = {name: value.copy() for name, value in answers.items()}
    graph.run(images(2, seed=1))
    assert np.array_equal(feed["images"], before)
    assert all(np.array_equal(answers[name], value) for name, value in kept.items())


def test_an_input_need_not_be_contiguous(tiny_bundle: Bundle) -> None:
    graph = OpenVinoGraph(part(tiny_bundle, "vision"), 1)
    straight = images(2)
    strided = {"images": np.asfortranarray(straight["images"])}
    assert_same(graph.run(strided), graph.run(straight))


# Complaints.


@pytest.mark.parametrize(
    ("feed", "wanted", "message"),
    [
        ({}, None, r"vision\.fp32\.onnx: input 'images' is missing"),
        ({**images(1), "depth": np.zeros(1)}, None, "there is no input 'depth', the inputs are images"),
        ({"images": images(1)["images"].astype(np.float64)}, None, "'images' must be float32, got float64"),
        ({"images": images(1)["images"][0]}, None, r"must have shape \(\?, 3, 64, 96\), got \(3, 64, 96\)"),
        (images(0), None, "input 'images' is empty"),
        (images(1), ["depth"], "there is no output 'depth'"),
    ],
)
def test_a_feed_that_does_not_fit(tiny_bundle: Bundle, feed: Any, wanted: Any, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        OpenVinoGraph(part(tiny_bundle, "vision"), 1).run(feed, wanted)


def test_a_closed_graph_says_so(tiny_bundle: Bundle) -> None:
    graph: Graph = OpenVinoGraph(part(tiny_bundle, "vision"), 1)
    graph.run(images(1))
    graph.close()
    graph.close()
    with pytest.raises(BackendError, match=r"vision\.fp32\.onnx: the graph is closed"):
        graph.run(images(1))


def unknown_operation(model: onnx.ModelProto) -> bytes:
    model.graph.node[0].op_type = "Divine"
    return model.SerializeToString()


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda model: b"not a graph", "Model can't be parsed"),
        (lambda model: model.SerializeToString()[:2000], "Model can't be parsed"),
        (unknown_operation, "No conversion rule found for operations: Divine"),
    ],
    ids=["foreign", "cut short", "unknown operation"],
)
def test_a_graph_that_cannot_be_loaded(
    tiny_bundle: Bundle, tmp_path: Path, spoil: Any, message: str, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "bad.onnx").write_bytes(spoil(onnx.load(part(tiny_bundle, "vision"))))
    with pytest.raises(BackendError, match=rf"bad\.onnx: OpenVINO cannot load it \({message}") as caught:
        OpenVinoGraph(tmp_path / "bad.onnx", 1)
    assert "\n" not in str(caught.value)
    assert capfd.readouterr() == ("", "")


def test_what_goes_wrong_while_running_is_one_line(tiny_bundle: Bundle) -> None:
    class Failing:
        def infer(self, *_: Any, **__: Any) -> None:
            raise RuntimeError("Exception from src/inference/src/cpp/infer_request.cpp:226:\nout of memory\n\n")

    graph = OpenVinoGraph(part(tiny_bundle, "vision"), 1)
    graph._idle.append(Failing())  # type: ignore[arg-type]
    with pytest.raises(BackendError, match=r"^vision\.fp32\.onnx: OpenVINO failed \(out of memory\)$"):
        graph.run(images(1))
    # A request that failed is not used again.
    assert graph.run(images(1))["prototypes"].shape[0] == 1
