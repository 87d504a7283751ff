"""Outputs of foreign detectors are recognised by shapes and values, and rewired to what numpy makes of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper
from yolor_edge.export.adopting.adopt import layout_of
from yolor_edge.export.adopting.foreign import Foreign, read_foreign
from yolor_edge.export.adopting.layouts import Said, recognise
from yolor_edge.export.adopting.wiring import depends_on_data, rewired, run_all
from yolor_edge.export.destination import reference_images
from yolor_edge.export.onnx_graphs.probe import open_model
from yolor_edge.runtime.backends.base import Graph
from yolor_edge.runtime.errors import UsageError
from yolor_edge.runtime.images.preprocess import PreprocessRule, preprocess

from .foreign_graphs import CELLS, CLASSES, MASKS, SIZE, Builder, corners, detector, model_of, network, saved

NOTHING = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
LAYOUTS = [
    (form, coding, units, scores, masks)
    for form, scores in (
        *(
            (form, scores)
            for form in ("classes", "objectness", "pair", "pair4d")
            for scores in ("probabilities", "logits")
        ),
        ("detections", "probabilities"),
    )
    for coding in ("cxcywh", "xyxy")
    for units in ("pixels", "normalised")
    for masks in (False, True)
    if (form, coding) != ("detections", "cxcywh")
]


def opened(model: onnx.ModelProto) -> Graph:
    model.graph.name = "graph"  # what open_model calls its file
    return open_model(model)


def inputs(foreign: Foreign) -> list[dict[str, np.ndarray]]:
    images = reference_images(None, foreign.size).values()
    return [foreign.feed(preprocess(image, PreprocessRule(foreign.size))[0][np.newaxis]) for image in images]


@pytest.mark.parametrize(("form", "coding", "units", "scores", "masks"), LAYOUTS)
def test_a_layout_is_recognised_and_rewired(
    form: str, coding: str, units: str, scores: str, masks: bool, tmp_path: Path
) -> None:
    model = detector(form, coding, units, scores, masks)
    foreign = read_foreign(saved(model, tmp_path))
    feeds = inputs(foreign)
    layout = layout_of(foreign, feeds, CLASSES, Said())
    assert (layout.form, layout.coding, layout.units, layout.scores) == (form.removesuffix("4d"), coding, units, scores)
    graph = open_model(rewired(foreign, layout, *NOTHING))
    for feed in feeds:
        (images,) = feed.values()
        found = graph.run({"images": images})
        expected = layout.decode(run_all(foreign.original, [feed], [v.name for v in foreign.original.graph.output]))
        assert found.keys() == expected.keys()
        assert ("mask_coefficients" in found) == masks
        for name, value in found.items():
            np.testing.assert_allclose(value, expected[name], rtol=1e-4, atol=1e-4)
        # What the contract means: the same network with its boxes as corners in pixels and its classes apart.
        truth = opened(detector("pair", "xyxy", "pixels", "probabilities", transposed=False))
        assert found["boxes"].shape[1] == 4 and (found["boxes"][:, 2:] >= found["boxes"][:, :2] - 1e-3).all()
        if form != "detections" and not masks and form != "objectness":
            boxes, classes = truth.run({"input.1": images}).values()
            np.testing.assert_allclose(found["boxes"], boxes, atol=1e-2)
            own = found.get("class_scores")
            own = 1 / (1 + np.exp(-found["class_logits"])) if own is None else own
            np.testing.assert_allclose(own, classes, atol=1e-4)
            assert boxes.shape == (1, 4, CELLS)


def test_scores_of_detections_stand_in_the_row_of_their_class(tmp_path: Path) -> None:
    foreign = read_foreign(saved(detector("detections", "xyxy"), tmp_path))
    feed = inputs(foreign)[0]
    layout = layout_of(foreign, [feed], CLASSES, Said())
    rows = next(iter(run_all(foreign.original, [feed], layout.tensors).values()))[0]
    scores = open_model(rewired(foreign, layout, *NOTHING)).run({"images": next(iter(feed.values()))})["class_scores"][
        0
    ]
    assert ((scores > 0).sum(0) == 1).all()
    np.testing.assert_array_equal(scores.argmax(0), rows[:, 5])
    np.testing.assert_allclose(scores.max(0), rows[:, 4])


@pytest.mark.parametrize("said", ["yxyx", "pair,yxyx,pixels,logits"])
def test_what_is_said_is_not_looked_for(said: str, tmp_path: Path) -> None:
    foreign = read_foreign(saved(detector("pair", "yxyx", scores="logits"), tmp_path))
    assert layout_of(foreign, inputs(foreign), CLASSES, Said.of(said)).coding == "yxyx"


@pytest.mark.parametrize(
    ("coding", "units", "said", "message"),
    [
        ("cxcywh", "pixels", "xyxy", "its boxes are not xyxy: some would have a negative size"),
        ("cxcywh", "pixels", "yxyx", "its boxes are not yxyx: some would have a negative size"),
        ("xyxy", "pixels", "normalised", r"its boxes reach to \d+.*, so they are no shares of the image"),
        ("xyxy", "pixels", "normalised,cxcywh", r"its boxes reach to \d+.*, so they are no shares of the image"),
    ],
)
def test_what_is_said_against_the_values_is_refused(
    coding: str, units: str, said: str, message: str, tmp_path: Path
) -> None:
    foreign = read_foreign(saved(detector("classes", coding, units, "probabilities", False), tmp_path))
    with pytest.raises(UsageError, match=message):
        layout_of(foreign, inputs(foreign), CLASSES, Said.of(said))


def test_two_ways_to_read_outputs_are_told_with_the_words_that_choose() -> None:
    random = np.random.default_rng(0)
    first = np.array(np.mgrid[0:60:6, 0:60:6]).reshape(2, -1)
    boxes = np.concatenate([first, first + 5])[np.newaxis].astype(np.float32)
    values = {"a": np.concatenate([boxes, random.random((1, 3, 100), np.float32)], 1)}
    values["b"] = values["a"].copy()
    with pytest.raises(UsageError, match=r"can be read in 2 ways; choose one with layout: .*boxes=a or .*boxes=b"):
        recognise(values, 3, (64, 64), Said())
    assert recognise(values, 3, (64, 64), Said.of("boxes=b")).boxes.tensor == "b"


def test_few_boxes_that_can_be_corners_or_centres_are_asked_about() -> None:
    boxes = np.array([[10, 10, 20, 24], [30, 30, 44, 40], [12, 20, 30, 30]], np.float32).T[np.newaxis]
    values = {"out": np.concatenate([boxes, np.full((1, 3, 3), 0.5, np.float32)], 1)}
    with pytest.raises(UsageError, match=r"classes,xyxy,.* or classes,cxcywh,"):
        recognise(values, 3, (64, 64), Said())


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("boxes", "unknown word 'boxes'; the words are classes|objectness|detections|pair; xyxy"),
        ("xyxy,cxcywh", "'cxcywh' contradicts 'xyxy'"),
        ("pixels,,logits", "unknown word ''"),
    ],
)
def test_words_that_say_nothing_are_refused(words: str, message: str) -> None:
    with pytest.raises(UsageError, match=message.replace("|", r"\|")):
        Said.of(words)


def test_outputs_that_are_no_head_are_listed_with_what_was_tried(tmp_path: Path) -> None:
    foreign = read_foreign(saved(detector(), tmp_path))
    feeds = inputs(foreign)
    with pytest.raises(UsageError) as caught:
        layout_of(foreign, feeds, 8, Said())
    told = str(caught.value)
    assert "no head for 8 classes" in told and f"(3, 7, {CELLS})" in told
    assert "fits 3 classes, or 2 with an objectness" in told
    b = Builder()
    b.add("Reshape", b.conv("input.1", 3, 7, 8), b.const([0, 7, -1], np.int64), out="features")
    foreign = read_foreign(saved(model_of(b, ["features"]), tmp_path))
    with pytest.raises(UsageError, match="features as classes: its first four rows are neither corners nor centre"):
        layout_of(foreign, feeds, CLASSES, Said())


def test_an_empty_answer_tells_nothing_of_the_units() -> None:
    values = {"out": np.zeros((2, 10, 6), np.float32)}
    with pytest.raises(UsageError, match=r"finds nothing on these images.*give images with objects"):
        recognise(values, 7, (64, 64), Said())
    layout = recognise(values, 7, (64, 64), Said.of("detections,xyxy,pixels"))
    assert layout.form == "detections"


def suppressed(kind: str, masks: bool = False) -> onnx.ModelProto:
    """A detector that ends in its own NMS: over two tensors, or over slices of one."""
    b = Builder()
    boxes, logits, maps = network(b, "input.1", extra=MASKS if masks else 0, prototypes=masks)
    scores = b.add("Sigmoid", b.rows(logits, 0, CLASSES))
    if kind == "one":
        parts = [boxes, scores, *([b.rows(logits, CLASSES, CLASSES + MASKS)] if masks else [])]
        whole = b.add("Concat", *parts, axis=1, out="whole")
        boxes, scores = b.rows(whole, 0, 4), b.rows(whole, 4, 4 + CLASSES)
    if kind != "centre":
        boxes = corners(b, boxes)
    boxes = b.add("Transpose", boxes, perm=[0, 2, 1], out="nms_boxes")
    limits = [b.const(10, np.int64), b.const(0.5), b.const(0.3)]
    chosen = b.add("NonMaxSuppression", boxes, scores, *limits, center_point_box=int(kind == "centre"))
    index = b.add("Gather", chosen, b.const([2], np.int64), axis=1)
    found = b.add(
        "GatherND", boxes, b.add("Concat", b.add("Gather", chosen, b.const([0], np.int64), axis=1), index, axis=1)
    )
    b.nodes.append(helper.make_node("Identity", [found], ["found"]))
    outputs = ["found", *([maps] if maps else [])]
    return model_of(b, outputs, shape=(1, 3, *SIZE))


@pytest.mark.parametrize(("kind", "masks"), [("two", False), ("centre", False), ("one", False), ("one", True)])
def test_a_suppression_inside_is_cut_off(kind: str, masks: bool, tmp_path: Path) -> None:
    foreign = read_foreign(saved(suppressed(kind, masks), tmp_path))
    assert depends_on_data(foreign.model) == ["NonMaxSuppression"]
    layout = layout_of(foreign, inputs(foreign), CLASSES, Said())
    graph = rewired(foreign, layout, *NOTHING)
    assert depends_on_data(graph) == []
    assert layout.count == CELLS and (layout.coefficients is not None) == masks
    feed = inputs(foreign)[0]
    found = open_model(graph).run({"images": next(iter(feed.values()))})
    if not masks:
        truth = opened(detector("pair", "xyxy", transposed=False)).run({"input.1": next(iter(feed.values()))})
        boxes, classes = truth.values()
        np.testing.assert_allclose(found["boxes"], boxes, atol=1e-2)
        np.testing.assert_allclose(found["class_scores"], classes, atol=1e-5)
