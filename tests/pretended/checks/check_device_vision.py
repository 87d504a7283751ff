"""Pre- and post-processing by the GPU's kernels around TensorRT, all pretended, against the CPU's around ONNX Runtime.

The driver is lazy: work in a stream is done when it is waited for, so an answer that is read too early, a buffer that
is freed or reused too early, or an order that is not asked for shows.
"""

from __future__ import annotations

import ctypes
import dataclasses
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from yolor_edge.runtime import CaptionOptions, Model, load
from yolor_edge.runtime.backends.base import DeviceGraph
from yolor_edge.runtime.backends.registry import open_graphs
from yolor_edge.runtime.bundle.bundle import Bundle
from yolor_edge.runtime.bundle.graph_options import GraphOptions
from yolor_edge.runtime.bundle.spec import BOX_HEADS, SCORE_HEADS, BoxCoding, ScoreCoding
from yolor_edge.runtime.cuda import open_device
from yolor_edge.runtime.errors import BackendError, UsageError
from yolor_edge.runtime.images.preprocess import KernelLayout
from yolor_edge.runtime.options import PredictOptions
from yolor_edge.runtime.vision.contexts import ExecutionContext, Request, Vision
from yolor_edge.runtime.vision.device_vision import DeviceVision
from yolor_edge.runtime.vision.host_vision import HostVision

from ...runtime.tiny_bundle import write_tiny_bundle
from ...runtime.vision.optioned_graph import OptionedGraph
from ..engines import add_engine
from ..graph_on_device import GraphOnDevice

DRIVER = ctypes.CDLL("libcuda.so.1")
DRIVER.fake_cuda_replays.restype = ctypes.c_long
DRIVER.fake_cuda_launches.restype = ctypes.c_long
TASKS = ("boxes", "masks", "semantic", "caption")


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    bundle = write_tiny_bundle(tmp_path / "tiny")
    for part in ("vision", "caption_prefill", "caption_step"):
        add_engine(bundle, part)
    return bundle


@pytest.fixture(autouse=True)
def _nothing_is_left() -> Iterator[None]:
    yield
    assert DRIVER.fake_cuda_living() == 0
    assert DRIVER.fake_cuda_contexts() == 0


@pytest.fixture(params=[False, True], ids=["discrete", "integrated"])
def _memory(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param:
        monkeypatch.setenv("FAKE_CUDA_INTEGRATED", "1")


def picture(seed: int, size: tuple[int, int] = (50, 70), grey: bool = False) -> np.ndarray[Any, Any]:
    """Patches of pure colours on noise."""
    generator = np.random.default_rng(seed)
    height, width = size
    image = generator.integers(80, 150, (height, width, 3), np.uint8)
    for _ in range(4):
        y, x = int(generator.integers(0, height - 4)), int(generator.integers(0, width - 4))
        colour = np.zeros(3, np.uint8)
        colour[generator.integers(0, 3)] = 255
        image[y : y + height // 3, x : x + width // 3] = colour
    return np.ascontiguousarray(image[:, :, 0]) if grey else image


def visions(bundle: Bundle) -> tuple[DeviceVision, HostVision]:
    graph = open_graphs(bundle, "tensorrt", parts=("vision",))["vision"]
    assert isinstance(graph, DeviceGraph)
    plain = open_graphs(bundle, threads=1, parts=("vision",))["vision"]
    return DeviceVision(bundle.spec, graph), HostVision(bundle.spec, plain)


def answers_of(
    context: ExecutionContext, image: np.ndarray[Any, Any], request: Request, layout: KernelLayout = "bgr"
) -> dict[str, Any]:
    context.prepare(image, layout)
    context.infer(request.tasks)
    laps: list[str] = []
    answers = context.finish(request, laps.append)
    assert laps == [task for task in TASKS[:3] if task in request.tasks]
    if "caption" in request.tasks:
        answers["caption_memory"] = context.caption_memory.copy()
    return answers


def assert_same(found: dict[str, Any], expected: dict[str, Any]) -> None:
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        if name == "masks":
            assert len(found[name]) == len(value)
            for (y, x, crop), (y0, x0, other) in zip(found[name].crops(), value.crops(), strict=True):
                assert (y, x) == (y0, x0)
                np.testing.assert_array_equal(crop, other)
        else:
            assert found[name].dtype == value.dtype
            np.testing.assert_array_equal(found[name], value)


@pytest.mark.usefixtures("_memory")
def test_the_bytes_of_a_camera(bundle: Bundle) -> None:
    device, host = visions(bundle)
    request = Request.of(bundle.spec, PredictOptions(score_threshold=0.2))
    context, other = device.context(), host.context()
    taken: list[tuple[np.ndarray[Any, Any], KernelLayout]] = [
        (picture(1, (90, 70), grey=True), "nv12"),
        (picture(2, (50, 70))[:, :, :2].copy(), "yuyv"),
        (picture(3, (60, 70)), "bgr"),
        (picture(4, (60, 70), grey=True), "nv12"),
    ]
    for image, layout in taken:
        assert_same(answers_of(context, image, request, layout), answers_of(other, image, request, layout))
    device.close()
    host.close()


@pytest.mark.usefixtures("_memory")
def test_answers_are_those_of_the_cpu_whatever_comes(bundle: Bundle) -> None:
    """Sizes that change and come again, requests of all kinds, images in colour and grey and in any strides."""
    device, host = visions(bundle)
    ours, theirs = device.context(), host.context()
    requests = [
        Request.of(bundle.spec),
        Request.of(bundle.spec, PredictOptions({"masks"}, score_threshold=0.0, iou_threshold=0.9, max_detections=5)),
        Request.of(bundle.spec, PredictOptions({"semantic"})),
        Request.of(bundle.spec, PredictOptions({"boxes", "caption"}, class_agnostic=True, score_threshold=0.6)),
        Request.of(bundle.spec, PredictOptions(score_threshold=0.001, max_detections=1000)),
    ]
    found_any = 0
    for seed in range(24):
        size = [(50, 70), (50, 70), (50, 70), (64, 96), (31, 200), (150, 40)][seed // 4]
        image = picture(seed, size, grey=seed % 7 == 3)
        if seed % 5 == 4:
            image = image[::-1, ::-1]
        request = requests[seed % len(requests)] if seed >= 12 else requests[0]
        expected = answers_of(theirs, image, request)
        found = answers_of(ours, image, request)
        assert_same(found, expected)
        found_any += len(expected.get("boxes", ()))
    assert found_any > 20
    ours.close()
    device.close()
    host.close()


class OnHost:
    """The same graph for what gives images in float32, and wants heads in memory of the host."""

    def __init__(self, graph: GraphOnDevice):
        self.graph, self.outputs = graph, graph.outputs
        self.inputs = {n: dataclasses.replace(info, dtype="float32") for n, info in graph.inputs.items()}

    def run(self, feed: Any, wanted: Any = None) -> dict[str, Any]:
        return self.graph.run({n: array.astype(self.graph.inputs[n].dtype) for n, array in feed.items()}, wanted)

    def close(self) -> None:
        pass


@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize(
    "options", [GraphOptions(), GraphOptions(batch=2), GraphOptions(top_k=60), GraphOptions(2, 60, True)]
)
def test_graphs_with_options_and_heads_in_float16(bundle: Bundle, options: GraphOptions, half: bool) -> None:
    spec = dataclasses.replace(bundle.spec, graph=options)
    plain = open_graphs(bundle, threads=1, parts=("vision",))["vision"]
    with open_device() as gpu:
        graph = GraphOnDevice(OptionedGraph(plain, options) if options != GraphOptions() else plain, gpu, half)
        device, host = DeviceVision(spec, graph), HostVision(spec, OnHost(graph))
        ours, theirs = device.context(), host.context()
        request = Request.of(spec, PredictOptions(score_threshold=0.01))
        for seed in range(4):
            expected = answers_of(theirs, picture(seed), request)
            expected["caption_memory"] = expected["caption_memory"].astype(np.float32)
            assert_same(answers_of(ours, picture(seed), request), expected)
            assert len(expected["boxes"]) > 0
        device.close()


@pytest.mark.parametrize("options", [GraphOptions(), GraphOptions(2, 60, True)])
@pytest.mark.parametrize("score_coding", SCORE_HEADS)
@pytest.mark.parametrize("box_coding", BOX_HEADS)
def test_every_coding_of_boxes_and_scores(
    box_coding: BoxCoding, score_coding: ScoreCoding, options: GraphOptions, tmp_path: Path
) -> None:
    coded = write_tiny_bundle(tmp_path / "coded", ("boxes", "masks", "semantic"), box_coding, score_coding)
    rule = dataclasses.replace(coded.spec.preprocess, rounding="half_even")
    spec = dataclasses.replace(coded.spec, graph=options, preprocess=rule)
    plain = open_graphs(coded, threads=1, parts=("vision",))["vision"]
    with open_device() as gpu:
        graph = GraphOnDevice(OptionedGraph(plain, options) if options != GraphOptions() else plain, gpu, False)
        device, host = DeviceVision(spec, graph), HostVision(spec, OnHost(graph))
        ours, theirs = device.context(), host.context()
        for seed, limits in enumerate((PredictOptions(), PredictOptions(score_threshold=0.01), PredictOptions())):
            request = Request.of(spec, limits)
            image = picture(seed, (67, 192))  # of half a pixel too many
            expected = answers_of(theirs, image, request)
            assert_same(answers_of(ours, image, request), expected)
            assert len(expected["boxes"]) > 0
        device.close()


def test_what_is_asked_for_again_is_one_launch_a_stage(bundle: Bundle) -> None:
    device, host = visions(bundle)
    context, request = device.context(), Request.of(bundle.spec)
    for seed in range(3):
        answers_of(context, picture(seed), request)
    launches, replays = DRIVER.fake_cuda_launches(), DRIVER.fake_cuda_replays()
    answers_of(context, picture(3), request)
    assert DRIVER.fake_cuda_replays() - replays == 4  # the engine, boxes, masks, map
    assert DRIVER.fake_cuda_launches() - launches >= 1
    context.close()
    device.close()
    host.close()


def test_answers_belong_to_the_caller(bundle: Bundle) -> None:
    device, host = visions(bundle)
    context, request = device.context(), Request.of(bundle.spec)
    first = answers_of(context, picture(1), request)
    kept = {name: np.copy(value) for name, value in first.items() if name != "masks"}
    masks = first["masks"].full().copy()
    for seed in range(2, 5):
        answers_of(context, picture(seed), request)
    for name, value in kept.items():
        np.testing.assert_array_equal(first[name], value)
    np.testing.assert_array_equal(first["masks"].full(), masks)
    context.close()
    device.close()
    host.close()


def test_the_picture_is_not_looked_at_after_prepare(bundle: Bundle) -> None:
    device, host = visions(bundle)
    context, other, request = device.context(), host.context(), Request.of(bundle.spec)
    image = picture(2)
    expected = answers_of(other, image, request)
    context.prepare(image)
    image[:] = 0
    context.infer(request.tasks)
    found = context.finish(request, lambda stage: None)
    found["caption_memory"] = context.caption_memory.copy()
    assert_same(found, expected)
    context.close()
    device.close()
    host.close()


@pytest.mark.usefixtures("_memory")
def test_masks_that_need_more_room_get_it(bundle: Bundle) -> None:
    """A threshold of 0 lets hundreds of boxes overlap, whose masks are many times the image."""
    device, host = visions(bundle)
    ours, theirs = device.context(), host.context()
    request = Request.of(bundle.spec, PredictOptions({"masks"}, score_threshold=0.0, iou_threshold=1.0))
    for seed in range(4):
        expected = answers_of(theirs, picture(seed, (40, 60)), request)
        if seed == 0:
            assert sum(crop.size for _, _, crop in expected["masks"].crops()) > 4 * 40 * 60
        assert_same(answers_of(ours, picture(seed, (40, 60)), request), expected)
    ours.close()
    device.close()
    host.close()


def test_the_caption_memory_is_there_before_the_rest_is_asked_for(bundle: Bundle) -> None:
    device, host = visions(bundle)
    context, other = device.context(), host.context()
    request = Request.of(bundle.spec)
    for one in (context, other):
        one.prepare(picture(5))
        one.infer(request.tasks)
    np.testing.assert_array_equal(context.caption_memory, other.caption_memory)
    context.prepare(picture(6))  # without `finish`, as after a caption alone
    with pytest.raises(BackendError, match="tiny: no caption memory was computed"):
        _ = context.caption_memory
    context.close()
    device.close()
    host.close()


def test_several_slots_are_in_flight_at_once(bundle: Bundle) -> None:
    device, host = visions(bundle)
    request = Request.of(bundle.spec, PredictOptions({"masks", "semantic"}))
    expected = [answers_of(host.context(), picture(seed), request) for seed in range(6)]
    contexts = [device.context() for _ in range(3)]
    for start in (0, 3):
        for i, context in enumerate(contexts):
            context.prepare(picture(start + i))
            context.infer(request.tasks)
        for i, context in reversed(list(enumerate(contexts))):
            assert_same(context.finish(request, lambda stage: None), expected[start + i])
    contexts[1].close()
    again = device.context()  # takes the graph of the closed one
    assert_same(answers_of(again, picture(0), request), expected[0])
    for context in (*contexts, again):
        context.close()
    device.close()
    host.close()


def test_slots_work_in_threads_of_their_own(bundle: Bundle) -> None:
    device, host = visions(bundle)
    request = Request.of(bundle.spec, PredictOptions({"masks", "semantic"}))
    expected = [answers_of(host.context(), picture(seed), request) for seed in range(4)]
    errors: list[BaseException] = []

    def work(context: ExecutionContext) -> None:
        try:
            for seed in (0, 1, 2, 3, 0, 1):
                assert_same(answers_of(context, picture(seed), request), expected[seed])
        except BaseException as error:
            errors.append(error)

    contexts: list[ExecutionContext] = [device.context() for _ in range(2)]
    threads = [threading.Thread(target=work, args=(context,)) for context in contexts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    for context in contexts:
        context.close()
    device.close()
    host.close()


def test_a_stage_out_of_its_order_is_one_line(bundle: Bundle) -> None:
    device, host = visions(bundle)
    context, request = device.context(), Request.of(bundle.spec)
    with pytest.raises(BackendError, match="tiny: no image was prepared"):
        context.finish(request, lambda stage: None)
    with pytest.raises(BackendError, match="tiny: no image was prepared"):
        context.infer(request.tasks)
    context.close()
    context.close()
    device.close()
    device.close()
    with pytest.raises(BackendError, match="tiny: the model is closed"):
        device.context()
    host.close()


def test_too_little_memory_is_one_line_and_leaves_nothing(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    device, host = visions(bundle)
    context = device.context()
    monkeypatch.setenv("FAKE_CUDA_MIB", "1")
    with pytest.raises(BackendError, match=r"allocating 2\.\d MiB of GPU memory for the image failed") as error:
        context.prepare(np.zeros((1000, 900, 3), np.uint8))
    assert "\n" not in str(error.value)
    monkeypatch.delenv("FAKE_CUDA_MIB")
    request = Request.of(bundle.spec)
    assert_same(answers_of(context, picture(1), request), answers_of(host.context(), picture(1), request))
    context.close()
    device.close()
    host.close()


def test_heads_that_the_kernels_do_not_read_are_refused(bundle: Bundle) -> None:
    graph = open_graphs(bundle, "tensorrt", parts=("vision",))["vision"]
    assert isinstance(graph, DeviceGraph)
    graph.outputs = {  # type: ignore[misc]
        **graph.outputs,
        "prototypes": dataclasses.replace(graph.outputs["prototypes"], dtype="int64", shape=(1, 999, 16, 24)),
    }
    with pytest.raises(
        BackendError, match=r"'prototypes' is int64, the GPU's kernels take float32 or float16; 999 pro"
    ):
        DeviceVision(bundle.spec, graph)
    graph.close()


def test_a_picture_that_the_kernels_would_lose_count_of_is_one_line(bundle: Bundle) -> None:
    vast = np.broadcast_to(np.uint8(7), (40000, 40000, 3))  # of one byte
    with load(bundle, "tensorrt") as model:
        with pytest.raises(UsageError, match="bytes of an image of 40000x40000 pixels: 4800000000 are too many"):
            model.predict(vast)
        assert model.predict(picture(0)).boxes is not None  # which goes on


@pytest.mark.usefixtures("_memory")
def test_a_model_uses_them_where_its_graph_is_on_the_gpu(bundle: Bundle) -> None:
    options = CaptionOptions(beam_size=3)
    with load(bundle, threads=1) as model:
        expected = [model.predict(picture(seed), caption=options) for seed in range(3)]
    for processing, kind in ((None, DeviceVision), ("gpu", DeviceVision), ("cpu", HostVision)):
        with load(bundle, "tensorrt", processing=processing) as model:
            assert isinstance(_vision_of(model), kind)
            for seed in range(3):
                found = model.predict(picture(seed), caption=options)
                assert found.to_json().keys() == expected[seed].to_json().keys()
                for key, value in expected[seed].to_json().items():
                    assert key == "timings_ms" or found.to_json()[key] == value, key
    with load(bundle, threads=1) as model:
        assert isinstance(_vision_of(model), HostVision)
    with pytest.raises(UsageError, match='the GPU needs a network whose outputs stay there, and backend "onnxruntime"'):
        load(bundle, threads=1, processing="gpu")
    with pytest.raises(UsageError, match="processing must be one of gpu, cpu, got 'npu'"):
        load(bundle, threads=1, processing="npu")


def _vision_of(model: Model) -> Vision:
    return model._parts._vision
