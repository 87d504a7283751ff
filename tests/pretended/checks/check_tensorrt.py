"""The TensorRT backend with both flavours, on a pretended GPU: results equal to those of ONNX Runtime, bit by bit."""

from __future__ import annotations

import ctypes
import os
import threading
import warnings
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from yolor_edge.runtime import CaptionOptions, load
from yolor_edge.runtime.backends.base import ClonableGraph, DeviceGraph, DeviceTensor
from yolor_edge.runtime.backends.fastest import choose_fastest, recorded_speeds
from yolor_edge.runtime.backends.registry import graph_files, open_graphs
from yolor_edge.runtime.bundle.bundle import Bundle, write_bundle
from yolor_edge.runtime.bundle.graph_options import GraphOptions
from yolor_edge.runtime.errors import BackendError, EngineMismatchError, UsageError

from ...runtime.tiny_bundle import INPUT_SIZE, write_tiny_bundle
from ..engines import VERSIONS, add_engine

DRIVER = ctypes.CDLL("libcuda.so.1")
DRIVER.fake_cuda_replays.restype = ctypes.c_long
FLAVOURS = {"tensorrt": "tensorrt", "tensorrt-rtx": "tensorrt-rtx"}
PARTS = ("vision", "caption_prefill", "caption_step")


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    return write_tiny_bundle(tmp_path / "tiny")


@pytest.fixture(autouse=True)
def _nothing_is_left(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.delenv("PRETENDED_TENSORRT", raising=False)
    yield
    import pretended_tensorrt  # pyright: ignore[reportMissingImports]

    assert pretended_tensorrt.contexts_living == 0
    assert DRIVER.fake_cuda_living() == 0
    assert DRIVER.fake_cuda_contexts() == 0


@pytest.fixture
def images() -> np.ndarray[Any, Any]:
    return np.random.default_rng(1).random((4, 3, *INPUT_SIZE), np.float32)


def picture() -> np.ndarray[Any, Any]:
    image = np.full((50, 70, 3), 114, np.uint8)
    image[10:30, 20:40] = (0, 0, 255)
    return image


def device_graph(bundle: Bundle, backend: str = "tensorrt") -> DeviceGraph:
    graph = open_graphs(bundle, backend, parts=("vision",))["vision"]
    assert isinstance(graph, DeviceGraph)
    return graph


@pytest.mark.parametrize("backend", FLAVOURS)
def test_a_model_answers_as_with_onnxruntime(bundle: Bundle, backend: str) -> None:
    for part in PARTS:
        add_engine(bundle, part, FLAVOURS[backend])
    options = CaptionOptions(beam_size=3)
    with load(bundle, threads=1) as model:
        expected: Any = model.predict(picture(), caption=options)
    with load(bundle, backend) as model:
        for _ in range(3):  # plain, captured, launched
            found: Any = model.predict(picture(), caption=options)
            assert np.array_equal(found.boxes, expected.boxes) and len(found.boxes) > 0
            assert np.array_equal(found.scores, expected.scores)
            assert np.array_equal(found.masks.full(), expected.masks.full())
            assert np.array_equal(found.semantic_map, expected.semantic_map)
            assert found.caption == expected.caption


@pytest.mark.parametrize("integrated", [False, True])
@pytest.mark.parametrize("batch", [1, 2, 4])
def test_every_batch_it_was_built_for(
    bundle: Bundle, images: np.ndarray[Any, Any], batch: int, integrated: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    add_engine(bundle, batches=(1, 2, 4))
    if integrated:
        monkeypatch.setenv("FAKE_CUDA_INTEGRATED", "1")
    plain = open_graphs(bundle, threads=1)["vision"]
    graph = device_graph(bundle)
    assert graph.device.info.is_integrated is integrated
    assert graph.inputs["images"].shape == ("?", 3, *INPUT_SIZE)
    for shift in range(4):
        feed = {"images": np.roll(images, shift, 0)[:batch]}
        expected, found = plain.run(feed), graph.run(feed)
        assert set(found) == set(expected) == set(graph.outputs)
        assert all(np.array_equal(found[name], expected[name]) for name in expected)
        assert all(found[name].dtype == graph.outputs[name].dtype for name in found)
    graph.close()
    with pytest.raises(BackendError, match="the graph is closed"):
        graph.run({"images": images[:1]})


def test_outputs_keep_their_types_and_a_fixed_batch_its_number(tmp_path: Path) -> None:
    bundle = write_tiny_bundle(tmp_path / "tiny", ("boxes",))
    file = bundle.path / "vision.fp32.onnx"
    model = onnx.load(file)
    for name, kind in (("half", 10), ("byte", 2), ("whole", 6), ("flag", 9)):
        model.graph.node.append(onnx.helper.make_node("Cast", ["class_logits"], [name], to=kind))
        model.graph.output.append(onnx.helper.make_tensor_value_info(name, kind, [2, 3, None]))
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = 2
    onnx.save(model, file)
    spec = replace(bundle.spec, graph=GraphOptions(batch=2))
    bundle = write_bundle(bundle.path, spec, bundle.graphs, provenance={})
    add_engine(bundle, batches=(1,))
    graph, plain = device_graph(bundle), open_graphs(bundle, threads=1)["vision"]
    assert graph.inputs["images"].shape == (2, 3, *INPUT_SIZE)
    kinds = {name: info.dtype for name, info in graph.outputs.items()}
    assert kinds["half"] == "float16" and kinds["byte"] == "uint8"
    assert kinds["whole"] == "int32" and kinds["flag"] == "bool"
    feed = {"images": np.random.default_rng(3).random((2, 3, *INPUT_SIZE), np.float32)}
    expected = plain.run(feed)
    for _ in range(3):
        found = graph.run(feed)
        assert all(np.array_equal(found[n], expected[n]) and found[n].dtype == expected[n].dtype for n in expected)
    graph.close()
    with load(bundle, threads=1) as one, load(bundle, "tensorrt") as other:
        boxes: list[Any] = [model.predict(picture()).boxes for model in (one, other)]
    assert np.array_equal(*boxes) and len(boxes[0]) > 0


def test_only_wanted_outputs_come_and_stay_the_callers(bundle: Bundle, images: np.ndarray[Any, Any]) -> None:
    add_engine(bundle)
    graph = device_graph(bundle)
    first = graph.run({"images": images[:1]}, ["prototypes"])
    kept = first["prototypes"].copy()
    graph.run({"images": images[1:2]})
    assert list(first) == ["prototypes"] and np.array_equal(first["prototypes"], kept)
    graph.close()


def test_launches_are_captured_after_the_first_run(bundle: Bundle, images: np.ndarray[Any, Any]) -> None:
    add_engine(bundle, batches=(1, 2))
    graph = device_graph(bundle)
    replays = DRIVER.fake_cuda_replays()
    facts: Any = graph
    for batch, expected in ((1, 0), (1, 1), (1, 2), (2, 2), (2, 3), (1, 4)):
        graph.run({"images": images[:batch]})
        assert DRIVER.fake_cuda_replays() - replays == expected
    assert facts.facts["cuda_graph"] == "captured"
    assert facts.facts["device"] == "Pretended GPU" and facts.facts["engine"].startswith("vision.fp32.tensorrt-10")
    graph.close()


def test_where_capturing_fails_it_runs_on_and_says_so(
    bundle: Bundle, images: np.ndarray[Any, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    add_engine(bundle)
    expected = open_graphs(bundle, threads=1)["vision"].run({"images": images[:1]})
    graph = device_graph(bundle)
    monkeypatch.setenv("PRETENDED_TENSORRT", "capture")
    graph.run({"images": images[:1]})
    with pytest.warns(RuntimeWarning, match=r"runs without a CUDA graph, .* \(cuStreamEndCapture failed"):
        graph.run({"images": images[:1]})
    found = graph.run({"images": images[:1]})  # told once
    assert all(np.array_equal(found[name], expected[name]) for name in expected)
    facts: Any = graph
    assert facts.facts["cuda_graph"].startswith("not captured: cuStreamEndCapture failed")
    graph.close()


def test_each_lane_tells_of_itself(
    bundle: Bundle, images: np.ndarray[Any, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One profile cannot be captured and another can: neither hides the other; nor do clones."""
    add_engine(bundle, batches=(1, 2))
    graph: Any = device_graph(bundle)
    assert graph.facts["cuda_graph"] == "not captured yet"
    monkeypatch.setenv("PRETENDED_TENSORRT", "capture")
    graph.run({"images": images[:1]})
    with pytest.warns(RuntimeWarning, match="runs without a CUDA graph"):
        graph.run({"images": images[:1]})
    monkeypatch.delenv("PRETENDED_TENSORRT")
    assert graph.facts["cuda_graph"].startswith("not captured: cuStreamEndCapture failed")
    for _ in range(2):
        graph.run({"images": images[:2]})
    told = graph.facts["cuda_graph"]
    assert told.startswith("1 of 2 captured, 1 of 2 not captured: cuStreamEndCapture failed")
    clone = graph.clone()  # has not run, and says nothing
    assert graph.facts["cuda_graph"] == told
    for _ in range(2):
        clone.run({"images": images[:2]})
    assert clone.facts == graph.facts
    assert graph.facts["cuda_graph"].startswith("2 of 3 captured, 1 of 3 not captured: ")
    clone.close()
    assert graph.facts["cuda_graph"] == told
    graph.close()


def test_free_shapes_are_not_captured(bundle: Bundle) -> None:
    add_engine(bundle, "caption_step")
    step = open_graphs(bundle, "tensorrt", parts=("caption_step",))["caption_step"]
    plain = open_graphs(bundle, threads=1)["caption_step"]
    replays = DRIVER.fake_cuda_replays()
    rng = np.random.default_rng(2)
    for beam, past in ((1, 1), (3, 2), (2, 5), (3, 8)):
        free = {"batch": beam, "T": past}
        feed: dict[str, Any] = {}
        for name, info in plain.inputs.items():
            shape = tuple(free.get(axis, 1) if isinstance(axis, str) else axis for axis in info.shape)
            feed[name] = np.full(shape, 4, np.int64) if name == "tokens" else rng.random(shape, np.float32)
        expected, found = plain.run(feed), step.run(feed)
        assert all(np.array_equal(found[name], expected[name]) for name in expected)
    assert DRIVER.fake_cuda_replays() == replays
    facts: Any = step
    assert facts.facts["cuda_graph"] == "not captured: shapes are free"
    feed = {name: np.repeat(v, 2, 0 if name == "tokens" else 1) for name, v in feed.items() if "cross" not in name} | {
        name: v for name, v in feed.items() if "cross" in name
    }
    with pytest.raises(UsageError, match=r"was built for at most 3 sentences, .*; build with: .* --max-beam-size 6"):
        step.run(feed)
    step.close()


def test_a_batch_it_was_not_built_for_is_told_how_to_build(bundle: Bundle, images: np.ndarray[Any, Any]) -> None:
    add_engine(bundle, batches=(1, 4))
    graph = device_graph(bundle)
    command = f"yolor-edge build {bundle.path} --precision fp32 --flavour tensorrt --batch-sizes 1,2,4"
    with pytest.raises(UsageError) as error:
        graph.run({"images": images[:2]})
    assert str(error.value).endswith(f"was built for batches of 1, 4, got images (2, 3, 64, 96); build with: {command}")
    with pytest.raises(UsageError, match="input 'images' must be float32, got float64"):
        graph.run({"images": images[:1].astype(np.float64)})
    with pytest.raises(UsageError, match="there is no output 'depth'"):
        graph.run({"images": images[:1]}, ["depth"])
    graph.close()


def test_a_kernel_may_write_the_input_and_read_the_outputs(bundle: Bundle, images: np.ndarray[Any, Any]) -> None:
    add_engine(bundle, batches=(1, 2))
    graph, plain = device_graph(bundle), open_graphs(bundle, threads=1)["vision"]
    device = graph.device
    stream = device.stream()
    with device.allocate(images[:1].nbytes) as elsewhere:
        own = graph.input_on_device("images", (1, 3, *INPUT_SIZE))
        foreign = DeviceTensor(elsewhere.address, own.shape, own.dtype)
        assert own.dtype == "float32" and own.shape == (1, 3, *INPUT_SIZE)
        answers: dict[str, DeviceTensor] = {}
        for i, tensor in enumerate((own, own, own, foreign, own, foreign)):
            image = images[i % 4 : i % 4 + 1]
            device.to_device(tensor.address, image, stream)
            answers = graph.run_on_device(stream, {"images": tensor})
            expected = plain.run({"images": image})
            for name, answer in answers.items():
                back = np.empty(answer.shape, answer.dtype)
                device.to_host(back, answer.address, stream)
                stream.synchronize()
                assert np.array_equal(back, expected[name])
            assert np.array_equal(graph.run({"images": image})["prototypes"], expected["prototypes"])
        # A caller may capture all of its own work with the graph's in it.
        captured = device.capture(stream, lambda: graph.run_on_device(stream, {"images": own}, captured=True))
        device.to_device(own.address, images[3:], stream)
        captured.launch(stream)
        answer = answers["prototypes"]
        back = np.empty(answer.shape, answer.dtype)
        device.to_host(back, answer.address, stream)
        stream.synchronize()
        assert np.array_equal(back, plain.run({"images": images[3:]})["prototypes"])
        captured.close()
        with pytest.raises(UsageError, match="input 'images' is missing"):
            graph.run_on_device(stream, {})
        with pytest.raises(UsageError, match="must be float32, got float16"):
            graph.run_on_device(stream, {"images": DeviceTensor(own.address, own.shape, "float16")})
        with pytest.raises(UsageError, match=r"was built for batches of 1, 2, got images \(3, "):
            graph.input_on_device("images", (3, 3, *INPUT_SIZE))
        with pytest.raises(UsageError, match="'tokens' is not its only input of free shape"):
            graph.input_on_device("tokens", (1,))
    stream.close()
    graph.close()


def test_a_picture_is_letterboxed_into_memory_that_the_device_takes_as_it_is(
    bundle: Bundle, images: np.ndarray[Any, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    add_engine(bundle)
    plain = open_graphs(bundle, threads=1)["vision"]
    for integrated in (False, True):
        if integrated:
            monkeypatch.setenv("FAKE_CUDA_INTEGRATED", "1")
        graph: Any = device_graph(bundle)
        memory = graph.host_input("images", (1, 3, *INPUT_SIZE))
        assert (memory.ctypes.data == graph.input_on_device("images", memory.shape).address) is integrated
        for image in (images[:1], images[1:2]):
            memory[...] = image
            monkeypatch.setattr(np, "copyto", None)
            found = graph.run({"images": memory})
            monkeypatch.undo()
            assert np.array_equal(found["prototypes"], plain.run({"images": image})["prototypes"])
        graph.close()


def test_clones_share_the_engine_and_nothing_else(bundle: Bundle, images: np.ndarray[Any, Any]) -> None:
    add_engine(bundle)
    graph, plain = device_graph(bundle), open_graphs(bundle, threads=1)["vision"]
    clone = graph.clone()
    graph.run({"images": images[:1]})
    graph.close()
    found = clone.run({"images": images[1:2]})
    assert np.array_equal(found["prototypes"], plain.run({"images": images[1:2]})["prototypes"])
    clone.close()
    clone.close()


def test_two_threads_in_one_graph_are_refused(bundle: Bundle, images: np.ndarray[Any, Any]) -> None:
    add_engine(bundle)
    graph: Any = device_graph(bundle)
    told: list[str] = []

    def other() -> None:
        try:
            graph.run({"images": images[:1]})
        except UsageError as error:
            told.append(str(error))

    with graph._at_work.entered("this test"):
        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
    assert len(told) == 1 and "at work in another thread; give every thread its own with model.clone()" in told[0]
    graph.run({"images": images[:1]})
    graph.close()


def test_slots_at_work_at_once_have_a_context_each(bundle: Bundle) -> None:
    from yolor_edge.runtime.vision.host_vision import HostVision

    add_engine(bundle)
    graph = device_graph(bundle)
    assert isinstance(graph, ClonableGraph)
    vision = HostVision(bundle.spec, graph)
    one, other = vision.context(), vision.context()
    for context in (one, other, one):
        context.prepare(picture())
    one.infer(("boxes",))
    other.infer(("semantic",))
    one.close()
    with pytest.raises(BackendError, match="tiny: the model is closed"):
        one.prepare(picture())  # its memory is the next one's
    again = vision.context()
    again.prepare(picture())
    again.infer(("boxes",))
    other.close()
    vision.close()
    with pytest.raises(BackendError, match="tiny: the model is closed"):
        again.prepare(picture())  # its memory is gone


def test_clones_of_a_model_caption_with_graphs_at_once(bundle: Bundle) -> None:
    for part in PARTS:
        add_engine(bundle, part)
    with load(bundle, threads=1) as model:
        expected = model.predict(picture(), ("caption",)).caption
    with load(bundle, "tensorrt", caption_decoder="graph") as model, model.clone() as clone:
        captions: Any = model._parts._captions
        with captions._acquired() as one, captions._acquired() as other:
            assert one[0] is not other[0] and one[1] is not other[1]
        assert model.predict(picture(), ("caption",)).caption == expected
        assert clone.predict(picture(), ("caption",)).caption == expected
        assert set(model.facts) == set(PARTS)


def test_a_missing_engine_names_the_command(bundle: Bundle) -> None:
    for flavour, target in (("tensorrt", ""), ("tensorrt-rtx", " --target sm_86")):
        backend = flavour.replace("_", "-")
        command = f"yolor-edge build {bundle.path} --precision fp32 --flavour {flavour}{target} --batch-sizes 1"
        with pytest.raises(EngineMismatchError) as error:
            load(bundle, backend)
        assert str(error.value) == f"{bundle.path}: has no fp32 engine of vision yet; build it with: {command}"


def test_an_engine_for_another_gpu_is_never_loaded(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    add_engine(bundle, targets=("sm_87",), gpu="Orin")
    monkeypatch.setenv("PRETENDED_TENSORRT", "deserialise")
    with pytest.raises(
        EngineMismatchError, match=r"built for sm_87, here it is sm_86; built on the GPU Orin, here it is P"
    ):
        open_graphs(bundle, "tensorrt", parts=("vision",))


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("runtime", r"TensorRT 10\.13\.0\.35 cannot load it \(pybind11::init\(\): factory function returned nullptr\)"),
        (
            "deserialise",
            r"TensorRT 10\.13\.0\.35 cannot load it \(IRuntime::deserializeCudaEngine: Error Code 1: Version tag",
        ),
        (
            "context",
            r"cannot make an execution context \(.*out of memory\); 64 of 64 MiB of Pretended GPU are free, end",
        ),
    ],
)
def test_an_engine_that_does_not_load_is_one_line(
    bundle: Bundle, how: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = add_engine(bundle)
    monkeypatch.setenv("PRETENDED_TENSORRT", how)
    with pytest.raises(BackendError, match=message) as error:
        open_graphs(bundle, "tensorrt", parts=("vision",))
    assert str(error.value).startswith(f"{engine.path.name}: TensorRT ") and "\n" not in str(error.value)


def test_a_run_that_fails_is_one_line(
    bundle: Bundle, images: np.ndarray[Any, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    add_engine(bundle)
    graph = device_graph(bundle)
    monkeypatch.setenv("PRETENDED_TENSORRT", "enqueue")
    with pytest.raises(BackendError, match=r"TensorRT cannot run it \(IExecutionContext::enqueueV3: Error Code 1"):
        graph.run({"images": images[:1]})
    monkeypatch.delenv("PRETENDED_TENSORRT")
    graph.run({"images": images[:1]})
    graph.close()


def test_too_little_memory_is_told(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    add_engine(bundle, batches=(1, 500))
    monkeypatch.setenv("FAKE_CUDA_MIB", "20")
    graph = device_graph(bundle)
    with pytest.raises(
        BackendError, match=r"allocating 35\.2 MiB of GPU memory for images of vision\.fp32.* failed: 19\.\d"
    ):
        graph.run({"images": np.zeros((500, 3, *INPUT_SIZE), np.float32)})
    graph.run({"images": np.zeros((1, 3, *INPUT_SIZE), np.float32)})
    graph.close()


def test_kernels_compiled_for_the_gpu_are_kept(bundle: Bundle) -> None:
    engine = add_engine(bundle, flavour="tensorrt-rtx")
    kept = engine.path.with_suffix(".Pretended-GPU.kernels")
    open_graphs(bundle, "tensorrt-rtx", parts=("vision",))["vision"].close()
    assert kept.read_bytes() == b"kernels compiled"
    kept.write_bytes(b"kernels of much more than before")
    graph: Any = device_graph(bundle, "tensorrt-rtx")
    assert graph.facts["cuda_graph"] == "captured by TensorRT for RTX itself"
    graph.close()
    assert kept.read_bytes() == b"kernels of much more than before"
    kept.write_bytes(b"of another driver")
    open_graphs(bundle, "tensorrt-rtx", parts=("vision",))["vision"].close()
    assert kept.read_bytes() == b"kernels compiled"
    assert Bundle.open(bundle.path).digest == bundle.digest


def test_no_gpu_is_no_fallback(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    add_engine(bundle)
    monkeypatch.setenv("FAKE_CUDA_NONE", "1")
    with pytest.raises(
        BackendError, match=r"there is no GPU 0 here .*no CUDA-capable device.*; yolor-edge doctor says"
    ):
        load(bundle, "tensorrt")


def test_graph_files_are_those_that_engines_are_built_from(bundle: Bundle) -> None:
    assert {part: path.name for part, path in graph_files(bundle, "tensorrt").items()} == {
        part: f"{part}.fp32.onnx" for part in PARTS
    }
    with pytest.raises(UsageError, match="has no fp16 graph"):
        graph_files(bundle, "tensorrt", "fp16")


def test_nothing_warns_by_itself(bundle: Bundle, images: np.ndarray[Any, Any]) -> None:
    add_engine(bundle)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        graph = device_graph(bundle)
        for _ in range(3):
            graph.run({"images": images[:1]})
        graph.close()
    assert os.environ["PRETENDED_BINDING"] in ("cuda-python", "pycuda")


def test_auto_is_the_fastest_of_the_engines_that_are_built(bundle: Bundle) -> None:
    vision = bundle.graphs["vision"]["fp32"]
    graphs = {**bundle.graphs, "vision": {"fp32": vision, "fp16": vision}}
    scores = {"fp16": {"scores": {"mIoU": 1.0}}}
    weights = bundle.caption_weights
    both = write_bundle(bundle.path, bundle.spec, graphs, provenance={}, accuracy=scores, caption_weights=weights)
    assert choose_fastest(both, "tensorrt").precision == "fp16"  # which is to be built
    add_engine(both)
    found = choose_fastest(both, "tensorrt")
    assert (found.precision, found.speeds) == ("fp32", ())
    add_engine(both, precision="fp16")
    found = choose_fastest(both, "tensorrt")
    assert {one.name for one in found.speeds} == {"tensorrt fp32", "tensorrt fp16"}
    assert {(one.machine, one.version) for one in recorded_speeds(both)} == {("Pretended GPU", VERSIONS["tensorrt"])}
    for part in PARTS[1:]:
        add_engine(both, part)
    with load(both, "tensorrt", "auto") as model:
        assert model.predict(picture(), ("boxes",)).boxes is not None
