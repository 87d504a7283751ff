"""Imported networks through export and the runtime, against what the official code computed from the same files."""

from __future__ import annotations

import dataclasses
import importlib.util
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray
from yolor_edge.export.onnx_graphs.fold import fold
from yolor_edge.export.onnx_graphs.graph_options import GraphOptions
from yolor_edge.export.parity.fold_proof import prove_fold
from yolor_edge.export.parity.stage_diff import diff
from yolor_edge.export.precision.precisions import PrecisionOptions
from yolor_edge.export.to_onnx import export_bundle
from yolor_edge.runtime import _native
from yolor_edge.runtime.bundle.bundle import Bundle
from yolor_edge.runtime.captions.captioning import CaptionOptions
from yolor_edge.runtime.errors import UsageError
from yolor_edge.runtime.model import Model, load
from yolor_edge.runtime.results import Result
from yolor_edge.runtime.verification.replay import verify_everything
from yolor_edge.train.checkpoint import write_checkpoint
from yolor_edge.train.network.layers import LayerNetwork
from yolor_edge.train.torch_backend import torch_model

from ..train.importing.golden import NAMES, Golden, golden, official_boxes

pytestmark = pytest.mark.usefixtures("one_thread")

IMAGES = Path(__file__).resolve().parents[2] / "demo" / "images"
# One of each kind that the exporter treats otherwise: an export takes torch a quarter of a minute.
EXPORTED = ("gelan-c-pan", "gyolo", "yolor-paper-p6", "yolov7-tiny", "yolov7-u7-seg", "yolov7-w6-aux")
OUTPUTS = {"semantic_logits": "semantic", "prototypes": "proto"}


def case(name: str, folder: Path) -> Golden:
    if not (folder / name).is_dir():
        pytest.skip(f"there is no golden {name}")
    return golden(folder / name)


def folded(found: Golden) -> LayerNetwork:
    """Folded, for images of the size that the golden outputs are of."""
    height, width = found.images.shape[2:]
    network = LayerNetwork(found.network.config.with_input_size((height, width)))
    network.load_state_dict(found.network.state_dict())
    return fold(network.eval())


def pictures(found: Golden) -> Iterator[NDArray[np.uint8]]:
    """The golden inputs as the images that they were made of, (h, w, 3) BGR."""
    for tensor in found.images.numpy():
        yield np.ascontiguousarray(np.rint(tensor * 255).astype(np.uint8).transpose(1, 2, 0)[..., ::-1])


def expected_boxes(found: Golden, index: int, model: Model) -> Any:
    """Boxes, scores, classes and columns that the runtime keeps of the official decoded prediction."""
    spec = model.spec
    corners, scores = official_boxes(found.expected["prediction"], len(spec.class_names), spec.box_coding == "xyxy")
    return _native.decode_boxes(
        np.ascontiguousarray(scores[index].astype(np.float32)),
        np.ascontiguousarray(corners[index].astype(np.float32)),
        strides=list(spec.strides),
        input_size=spec.input_size,
        score_threshold=spec.thresholds.score,
        iou_threshold=spec.thresholds.iou,
        box_coding="xyxy",
        score_coding="probabilities",
        box_count=corners.shape[2],
    )


def assert_official(found: Golden, model: Model, pixels: float) -> None:
    """Every box of the model is an official one, to `pixels`, and none is missing, but for those of equal score."""
    for index, picture in enumerate(pictures(found)):
        result = model.predict(picture, [task for task in model.spec.tasks if task != "caption"])
        boxes, scores, class_ids, _ = expected_boxes(found, index, model)
        height, width = picture.shape[:2]
        boxes = boxes.clip(0, np.array([width, height, width, height]))
        inside = (boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1])
        assert_same_boxes(result, boxes[inside], scores[inside], class_ids[inside], pixels)
        if result.masks is not None:
            assert len(result.masks.crops()) == len(result.scores if result.scores is not None else ())


def assert_same_boxes(result: Result, boxes: Any, scores: Any, class_ids: Any, pixels: float) -> None:
    assert result.boxes is not None and result.scores is not None and result.class_ids is not None
    assert len(result.boxes) == len(boxes)
    left = list(range(len(boxes)))
    for box, score, class_id in zip(result.boxes, result.scores, result.class_ids, strict=True):
        distances = [np.abs(box - boxes[j]).max() + (class_ids[j] != class_id) * 1e6 for j in left]
        nearest = int(np.argmin(distances))
        assert distances[nearest] < pixels and abs(scores[left[nearest]] - score) < 2e-5
        left.pop(nearest)


@pytest.mark.parametrize("name", NAMES)
@torch.no_grad()
def test_folded_networks_give_the_official_boxes(name: str, goldens: Path) -> None:
    found = case(name, goldens)
    network = folded(found)
    config = network.config
    outputs = network(found.images)
    corners, scores = official_boxes(
        found.expected["prediction"], len(config.class_names), config.box_count is not None
    )
    for index in range(len(corners)):  # every box before suppression, decoded by the kernel
        heads = (
            [np.ascontiguousarray(outputs[head][index].numpy()) for head in ("class_scores", "boxes")]
            if (config.box_count)
            else [np.ascontiguousarray(outputs[head][index].numpy()) for head in ("class_logits", "box_bins")]
        )
        boxes, found_scores, class_ids, columns = _native.decode_boxes(
            *heads,
            strides=list(config.strides),
            input_size=config.input_size,
            score_threshold=0.0,
            iou_threshold=1.0,
            max_detections=1 << 20,
            max_candidates=1 << 20,
            box_coding=config.box_coding,
            score_coding=config.score_coding,
            box_count=config.box_count,
        )
        assert len(set(columns.tolist())) == corners.shape[2]
        assert np.abs(boxes - corners[index][:, columns].T).max() < 1e-3  # pixels
        assert np.abs(found_scores - scores[index][class_ids, columns]).max() < 1e-5
    boxes_only = LayerNetwork(config.with_tasks(("boxes",)))
    boxes_only.load_state_dict({key: network.state_dict()[key] for key in boxes_only.state_dict()})
    with torch_model(boxes_only.eval()) as model:
        assert model.spec.preprocess.rounding == "half_even"
        assert_official(found, model, 1e-3)


@pytest.fixture(scope="module", params=EXPORTED)
def exported_golden(
    request: pytest.FixtureRequest, goldens: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Golden, Bundle, list[str]]:
    """A golden, its bundle in every precision, and the lines of progress."""
    found = case(request.param, goldens)
    folder = tmp_path_factory.mktemp(request.param)
    checkpoint = write_checkpoint(folder / "checkpoint", found.network, {"licence": "GPL-3.0"})
    lines: list[str] = []
    height, width = found.images.shape[2:]
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        bundle = export_bundle(
            checkpoint,
            folder / "bundle",
            (height, width),
            precisions=PrecisionOptions(("fp16", "int8"), calibration=IMAGES),
            progress=lines.append,
        )
    finally:
        torch.set_num_threads(threads)
    return found, bundle, lines


def test_a_bundle_gives_the_official_boxes_in_fp32(exported_golden: tuple[Golden, Bundle, list[str]]) -> None:
    found, bundle, lines = exported_golden
    assert any(line.startswith("folded: no output") for line in lines)
    with load(bundle.path) as model:
        assert_official(found, model, 2e-3)
    assert bundle.spec.thresholds.iou == (0.7 if bundle.spec.box_coding == "dfl" else 0.65)


@pytest.mark.parametrize("decoder", ["graph", "native"])
@pytest.mark.parametrize("beam_size", [1, 5])
def test_captions_are_the_official_ones(
    exported_golden: tuple[Golden, Bundle, list[str]], beam_size: int, decoder: str
) -> None:
    found, bundle, _ = exported_golden
    if "caption" not in bundle.spec.tasks:
        pytest.skip("writes no captions")
    expected = found.expected[f"caption.beam{beam_size}.ids"].reshape(len(found.images), beam_size, -1)[:, 0]
    with load(bundle.path, caption_decoder=decoder) as model:
        assert model.spec.caption is not None
        end = model.spec.caption.eos_id
        for picture, ids in zip(pictures(found), expected.tolist(), strict=True):
            caption = model.predict(picture, "caption", caption=CaptionOptions(beam_size)).caption
            assert caption is not None
            assert list(caption.token_ids) == (ids[: ids.index(end)] if end in ids else ids)


def test_every_precision_is_verified(exported_golden: tuple[Golden, Bundle, list[str]]) -> None:
    _, bundle, _ = exported_golden
    replay = verify_everything(bundle, threads=1)
    assert replay.passed, replay.table()
    assert {one.precision for one in replay.verifications} == {"fp32", "fp16", "int8"}


def test_boxes_are_decoded_in_fp32_whatever_the_precision(exported_golden: tuple[Golden, Bundle, list[str]]) -> None:
    _, bundle, _ = exported_golden
    for kind in ("fp16", "int8-s8s8", "int8-u8s8"):
        model = onnx.load(bundle.path / bundle.graphs["vision"][kind])
        types = {node.op_type for node in model.graph.node}
        assert not types & {"NonZero", "NonMaxSuppression", "Loop", "If"}
        assert ("QuantizeLinear" in types) == kind.startswith("int8")
        if bundle.spec.box_coding != "xyxy":
            continue
        values = onnx.shape_inference.infer_shapes(model).graph.value_info
        dtypes = {value.name: value.type.tensor_type.elem_type for value in values}
        tail = [node for node in model.graph.node if node.name.startswith("decoding/Sub")]
        assert tail and all(dtypes[node.output[0]] == onnx.TensorProto.FLOAT for node in tail)


def test_layers_are_named_as_in_the_checkpoint(exported_golden: tuple[Golden, Bundle, list[str]]) -> None:
    _, bundle, _ = exported_golden
    model = onnx.load(bundle.path / bundle.graphs["vision"]["fp32"])
    names = {node.name for node in model.graph.node if node.op_type == "Conv"}
    assert all(name.endswith(".conv") and name[0].isdigit() for name in names)
    found = diff(f"{bundle.path}:fp32", f"{bundle.path}:int8", tolerance=10.0, threads=1)
    assert all(stage.stage.isdigit() for stage in found.stages if not stage.stage.startswith("captioner"))
    assert 5 < len(found.stages) < 130


def test_engines_are_built(exported_golden: tuple[Golden, Bundle, list[str]]) -> None:
    if importlib.util.find_spec("tensorrt_rtx") is None:
        pytest.skip("TensorRT for RTX is not there on this platform")
    from yolor_edge.export.engines.to_tensorrt import build_engines

    _, bundle, _ = exported_golden
    for precision in ("fp16", "int8"):
        assert build_engines(bundle, precision, ["sm_86"], flavour="tensorrt-rtx")


def test_graph_options_are_for_imported_networks_too(goldens: Path, tmp_path: Path) -> None:
    found = case("gelan-c-pan", goldens)
    checkpoint = write_checkpoint(tmp_path / "checkpoint", found.network, {})
    height, width = size = (found.images.shape[2], found.images.shape[3])
    bundle = export_bundle(
        checkpoint, tmp_path / "bundle", size, ["boxes", "semantic"], options=GraphOptions(2, 250, True)
    )
    assert bundle.spec.tasks == ("boxes", "semantic")
    with load(bundle.path) as model:
        assert_official(found, model, 2e-3)
        result = model.predict(next(pictures(found)))
    logits = torch.nn.functional.interpolate(
        torch.from_numpy(found.expected["semantic"]), (height, width), mode="bilinear", align_corners=False
    )
    assert result.semantic_map is not None
    assert np.mean(result.semantic_map == logits.argmax(1)[0].numpy()) > 0.999


def test_tasks_that_are_left_out_take_their_layers_along(goldens: Path) -> None:
    config = case("gyolo", goldens).network.config
    everything = config.with_tasks(config.tasks)
    assert everything.layers == config.layers and everything.tasks == config.tasks
    seen = {
        tasks: config.with_tasks(tasks)  # type: ignore[arg-type]
        for tasks in (("boxes",), ("boxes", "masks"), ("semantic",), ("caption",))
    }
    assert all(found.tasks == tasks for tasks, found in seen.items())
    counts = {tasks: len(found.layers) for tasks, found in seen.items()}
    assert counts["boxes",] < counts["boxes", "masks"] < len(config.layers)
    assert counts["semantic",] < counts["caption",] < len(config.layers)
    assert seen["caption",].heads == ("boxes", "semantic", "caption")
    images = torch.zeros(1, 3, 64, 64)
    for tasks, found in seen.items():
        names = set(LayerNetwork(dataclasses.replace(found, input_size=(64, 64))).eval()(images))
        assert ("class_logits" in names, "prototypes" in names) == ("boxes" in tasks, "masks" in tasks)
        assert ("semantic_logits" in names, "caption_memory" in names) == ("semantic" in tasks, "caption" in tasks)
    with pytest.raises(UsageError, match="masks needs the task boxes"):
        config.with_tasks(("masks",))


@pytest.mark.parametrize(("name", "size"), [("yolov7-w6-aux", (96, 128)), ("gelan-c", (100, 128))])
def test_sizes_are_multiples_of_the_largest_stride(name: str, size: tuple[int, int], goldens: Path) -> None:
    config = case(name, goldens).network.config
    with pytest.raises(UsageError, match=f"multiples of {max(config.strides)} "):
        config.with_input_size(size)


def test_a_fold_with_another_epsilon_is_found_out(goldens: Path) -> None:
    network = case("gelan-c", goldens).network
    wrong = fold(network)
    with torch.no_grad():
        next(iter(wrong.parameters())).mul_(1.001)
    from yolor_edge.runtime.errors import ParityError

    small = LayerNetwork(network.config.with_input_size((64, 64)))
    small.load_state_dict(network.state_dict())
    other = LayerNetwork(dataclasses.replace(wrong.config, input_size=(64, 64)))
    other.load_state_dict(wrong.state_dict())
    with pytest.raises(ParityError, match="folded network"):
        prove_fold(small.eval(), other.eval())
