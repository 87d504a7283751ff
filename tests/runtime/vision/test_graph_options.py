"""Vision graphs with a fixed batch, some cells only, or a finished semantic map: same answers, and said so."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from yolor_edge.runtime.backends.base import Array, Graph
from yolor_edge.runtime.backends.registry import open_graphs
from yolor_edge.runtime.bundle.bundle import Bundle, describe_tensors
from yolor_edge.runtime.bundle.graph_options import GraphOptions
from yolor_edge.runtime.bundle.spec import ModelSpec
from yolor_edge.runtime.errors import BundleError
from yolor_edge.runtime.images.preprocess import Letterbox
from yolor_edge.runtime.model import Model
from yolor_edge.runtime.verification.replay import Answers, Tolerances, answers_of, compare, compare_heads
from yolor_edge.runtime.vision.graph_outputs import map_to_image, run_one

from ..tiny_bundle import coloured_patch, tiny_spec, write_tiny_bundle
from .optioned_graph import OptionedGraph

CELLS = 8 * 12 + 4 * 6 + 2 * 3
ALL = GraphOptions(batch=2, top_k=60, semantic_map=True)
IMAGE = coloured_patch((90, 110), (16, 32, 48, 64), "blue")


def with_options(bundle: Bundle, options: GraphOptions) -> tuple[Model, Graph]:
    graphs: dict[str, Graph] = open_graphs(bundle, threads=1)
    vision = OptionedGraph(graphs["vision"], options)
    return Model(replace(tiny_spec(), graph=options), {**graphs, "vision": vision}), vision


def answers(bundle: Bundle, options: GraphOptions, image: Array = IMAGE) -> Answers:
    model, vision = with_options(bundle, options)
    with model:
        return answers_of(model, vision, image)


# Answers.


@pytest.mark.parametrize(
    "options",
    [GraphOptions(batch=1), GraphOptions(batch=4), GraphOptions(top_k=60), GraphOptions(top_k=CELLS), ALL],
)
def test_the_answers_are_those_of_the_plain_graph(tiny_bundle: Bundle, options: GraphOptions) -> None:
    for size, colour in (((64, 96), "red"), ((200, 150), "green"), ((66, 201), "blue")):
        image = coloured_patch(size, (10, 20, size[0] // 2, size[1] // 2), colour)
        expected = answers(tiny_bundle, GraphOptions(), image)
        found = answers(tiny_bundle, options, image)
        assert found.captions == expected.captions
        assert expected.result.boxes is not None
        assert len(expected.result.boxes) > 0
        for name in ("boxes", "scores", "class_ids"):
            np.testing.assert_array_equal(getattr(found.result, name), getattr(expected.result, name))
        assert found.result.masks is not None
        assert expected.result.masks is not None
        np.testing.assert_array_equal(found.result.masks.full(), expected.result.masks.full())
        assert found.result.semantic_map is not None
        assert found.result.semantic_map.dtype == np.uint8
        same = np.mean(found.result.semantic_map == expected.result.semantic_map)
        assert same == 1 or (options.semantic_map and same > 0.95)


def test_equal_logits_are_ranked_by_cell_though_the_columns_are_not(tiny_bundle: Bundle) -> None:
    image = np.full((64, 96, 3), (0, 0, 255), np.uint8)  # red all over: the same logits everywhere
    expected = answers(tiny_bundle, GraphOptions(), image).result
    options = GraphOptions(top_k=CELLS)

    class Shuffled(OptionedGraph):
        def run(self, feed: Mapping[str, Array], wanted: Any = None) -> dict[str, Array]:
            heads = super().run(feed, wanted)
            order = np.random.default_rng(0).permutation(CELLS)
            for name in ("class_logits", "box_bins", "mask_coefficients", "cells"):
                heads[name] = heads[name][..., order]
            return heads

    graphs = open_graphs(tiny_bundle, threads=1)
    graphs["vision"] = Shuffled(graphs["vision"], options)
    with Model(replace(tiny_spec(), graph=options), graphs) as shuffled:
        found = shuffled.predict(image, ["masks"])
    np.testing.assert_array_equal(found.boxes, expected.boxes)
    assert found.masks is not None
    assert expected.masks is not None
    np.testing.assert_array_equal(found.masks.full(), expected.masks.full())


def test_too_few_cells_lose_the_weakest_boxes_only(tiny_bundle: Bundle) -> None:
    image = coloured_patch((64, 96), (0, 0, 64, 40), "red")
    expected = answers(tiny_bundle, GraphOptions(), image).result
    found = answers(tiny_bundle, GraphOptions(top_k=4), image).result
    assert found.boxes is not None
    assert expected.boxes is not None
    assert 0 < len(found.boxes) < len(expected.boxes)
    assert found.scores is not None
    assert expected.scores is not None
    assert found.scores[0] == expected.scores[0]


def test_one_image_in_a_batch_leaves_the_other_places_empty(tiny_bundle: Bundle) -> None:
    plain = open_graphs(tiny_bundle, threads=1)["vision"]
    images = np.random.default_rng(0).random((1, 3, 64, 96), dtype=np.float32)
    expected = plain.run({"images": images})
    for options in (GraphOptions(), GraphOptions(batch=1), GraphOptions(batch=3)):
        found = run_one(OptionedGraph(plain, options), images)
        assert list(found) == list(expected)
        for name, value in expected.items():
            np.testing.assert_allclose(found[name], value, rtol=1e-5, atol=1e-5)
    assert list(run_one(OptionedGraph(plain, ALL), images, ["cells"])) == ["cells"]


@pytest.mark.parametrize("size", [(64, 96), (1, 1), (37, 91), (200, 150), (3, 500), (500, 3), (640, 961)])
def test_a_map_is_taken_to_the_image_by_the_nearest_pixel(size: tuple[int, int]) -> None:
    letterbox = Letterbox.of(size, (64, 96))
    of_input = np.random.default_rng(0).integers(0, 9, (64, 96)).astype(np.uint8)
    found = map_to_image(of_input, letterbox)
    assert found.dtype == np.uint8
    assert found.shape == size
    for y, x in np.random.default_rng(1).integers(0, size, (40, 2)):
        row = min(63, int((y + 0.5) * letterbox.scale_y + letterbox.pad_top))
        column = min(95, int((x + 0.5) * letterbox.scale_x + letterbox.pad_left))
        assert found[y, x] == of_input[row, column]
    if size == (64, 96):
        np.testing.assert_array_equal(found, of_input)


# Verification.


@pytest.mark.parametrize("options", [GraphOptions(top_k=60), GraphOptions(semantic_map=True), ALL])
def test_goldens_of_the_network_judge_a_graph_with_options(tiny_bundle: Bundle, options: GraphOptions) -> None:
    expected, found = answers(tiny_bundle, GraphOptions()), answers(tiny_bundle, options)
    checks = compare("g", expected, found, Tolerances())
    assert [check for check in checks if not check.passed] == []
    stages = {check.stage for check in checks}
    assert ("cells" in stages) == (options.top_k is not None)
    assert ("semantic_map" in stages) == ("semantic_logits" not in stages) == options.semantic_map
    assert {"class_logits", "box_bins", "mask_coefficients", "prototypes", "boxes", "masks", "semantic map"} <= stages


def spoilt(found: Answers, name: str, change: Any) -> Answers:
    head = found.heads[name].copy()
    change(head)
    return replace(found, heads={**found.heads, name: head})


def test_what_differs_in_a_graph_with_options_is_found(tiny_bundle: Bundle) -> None:
    expected, found = answers(tiny_bundle, GraphOptions()), answers(tiny_bundle, ALL)

    def failures(answer: Answers) -> dict[str, str]:
        checks = compare("g", expected, answer, Tolerances())
        return {check.stage: check.measured for check in checks if not check.passed}

    def write(place: Any, value: Any) -> Any:
        return lambda head: head.__setitem__(place, value)

    assert failures(found) == {}
    assert set(failures(spoilt(found, "box_bins", write((0, 5, 7), 99.0)))) == {"box_bins"}
    assert set(failures(spoilt(found, "semantic_map", write((0, slice(0, 32)), 1)))) == {"semantic_map"}
    two_of_one = failures(spoilt(found, "cells", lambda cells: cells.__setitem__((0, 1), cells[0, 0])))
    assert two_of_one["cells"] == "cells out of range, or one of them twice"
    outside = failures(spoilt(found, "cells", write((0, 1), CELLS)))
    assert outside["cells"] == "cells out of range, or one of them twice"


def test_a_worse_cell_in_place_of_a_better_is_found(tiny_bundle: Bundle) -> None:
    expected, found = answers(tiny_bundle, GraphOptions()), answers(tiny_bundle, GraphOptions(top_k=3))
    heads = {name: head.copy() for name, head in found.heads.items()}
    best = expected.heads["class_logits"][0].max(axis=0)
    worse = int(best.argmin())
    heads["cells"][0, 2] = worse
    for name in ("class_logits", "box_bins", "mask_coefficients"):
        heads[name][0, :, 2] = expected.heads[name][0, :, worse]  # the right values, of a cell that has no place here
    failures = [
        check for check in compare("g", expected, replace(found, heads=heads), Tolerances()) if not check.passed
    ]
    assert "cells" in {check.stage for check in failures}
    assert not {"class_logits", "box_bins", "mask_coefficients"} & {check.stage for check in failures}


def test_heads_of_a_whole_batch_are_compared(tiny_bundle: Bundle) -> None:
    plain = open_graphs(tiny_bundle, threads=1)["vision"]
    images = np.random.default_rng(0).random((2, 3, 64, 96), dtype=np.float32)
    expected = plain.run({"images": images})
    found = OptionedGraph(plain, ALL).run({"images": images})
    checks = compare_heads("batch of 2", expected, found, Tolerances())
    assert [check for check in checks if not check.passed] == []
    found["class_logits"][1, 0, 3] += 9
    assert [check.stage for check in compare_heads("b", expected, found, Tolerances()) if not check.passed] == [
        "class_logits"
    ]


# What the bundle says.


def test_the_spec_keeps_them(tiny_bundle: Bundle) -> None:
    for options in (GraphOptions(), ALL, GraphOptions(top_k=5)):
        spec = replace(tiny_spec(), graph=options)
        assert ModelSpec.from_json(json.loads(json.dumps(spec.to_json()))) == spec


def test_a_bundle_from_before_there_were_options_opens(tmp_path: Path) -> None:
    folder = write_tiny_bundle(tmp_path / "old").path
    file = folder / "bundle.json"
    content = json.loads(file.read_text())
    assert content["model"].pop("graph") == {"batch": None, "top_k": None, "semantic_map": False}
    file.write_text(json.dumps(content))
    opened = Bundle.open(folder)
    assert opened.spec == tiny_spec()
    assert opened.spec.graph == GraphOptions()


def test_tensors_are_described_as_they_are() -> None:
    vision = describe_tensors(replace(tiny_spec(), graph=ALL))["vision"]
    axes = {name: tensor["axes"] for name, tensor in {**vision["inputs"], **vision["outputs"]}.items()}
    assert axes == {
        "images": [2, 3, 64, 96],
        "class_logits": [2, 3, 60],
        "box_bins": [2, 16, 60],
        "cells": [2, 60],
        "mask_coefficients": [2, "K", 60],
        "prototypes": [2, "K", 16, 24],
        "semantic_map": [2, 64, 96],
        "caption_memory": [2, "L", "D"],
    }
    assert vision["outputs"]["cells"]["dtype"] == "int32"
    assert vision["outputs"]["semantic_map"]["dtype"] == "uint8"
    plain = describe_tensors(tiny_spec())["vision"]["outputs"]
    assert "cells" not in plain
    assert plain["class_logits"]["axes"] == ["batch", 3, CELLS]


def test_a_graph_that_is_not_as_the_bundle_says(tiny_bundle: Bundle) -> None:
    graphs = open_graphs(tiny_bundle, threads=1)
    spec = replace(tiny_spec(), graph=ALL)
    with pytest.raises(BundleError, match=r"no output 'cells'.*no output 'semantic_map'") as caught:
        Model(spec, graphs)
    assert r"'class_logits' has shape ('batch', 3, 126), expected (2, 3, 60)" in str(caught.value)
    two = OptionedGraph(graphs["vision"], GraphOptions(batch=2))
    with pytest.raises(BundleError, match=r"'images' has shape \(2, 3, 64, 96\), expected \(4, 3, 64, 96\)"):
        Model(replace(tiny_spec(), graph=GraphOptions(batch=4)), {**graphs, "vision": two})


@pytest.mark.parametrize(
    ("graph", "message"),
    [
        (
            {"batch": "2", "top_k": None, "semantic_map": False},
            'model.graph: "batch" must be a whole number, got a str',
        ),
        (
            {"batch": None, "top_k": True, "semantic_map": False},
            'model.graph: "top_k" must be a whole number, got true',
        ),
        ({"batch": None, "top_k": None, "semantic_map": 1}, 'model.graph: "semantic_map" must be true or false, got a'),
        ({"batch": 0, "top_k": None, "semantic_map": False}, "batch must be from 1 to 1024, got 0"),
        ({"batch": None, "top_k": 127, "semantic_map": False}, r"top_k must be from 1 to 126 \(the cells"),
        ([], 'model: "graph" must be an object, got a list'),
    ],
)
def test_a_description_that_is_none(graph: Any, message: str) -> None:
    data = {**tiny_spec().to_json(), "graph": graph}
    with pytest.raises(BundleError, match=message):
        ModelSpec.from_json(data)


@pytest.mark.parametrize(
    ("options", "tasks", "message"),
    [
        (GraphOptions(batch=0), ("boxes",), "batch must be from 1 to 1024, got 0"),
        (GraphOptions(batch=-3), ("boxes",), "batch must be from 1 to 1024, got -3"),
        (GraphOptions(batch=10**9), ("boxes",), "batch must be from 1 to 1024, got 1000000000"),
        (GraphOptions(top_k=0), ("boxes",), r"top_k must be from 1 to 126 \(the cells of a 64x96 input\), got 0"),
        (GraphOptions(top_k=10), ("semantic",), "top_k needs the task boxes"),
        (GraphOptions(semantic_map=True), ("boxes",), "semantic_map needs the task semantic"),
    ],
)
def test_options_that_cannot_be(options: GraphOptions, tasks: tuple[str, ...], message: str) -> None:
    (complaint,) = replace(tiny_spec(tasks), graph=options).complaints()
    assert complaint == message.replace("\\", "")


def test_options_beyond_what_tensorrt_takes() -> None:
    many = GraphOptions(top_k=4000).complaints(("boxes",), (640, 640), 8400, 0)
    assert many == {"top_k": "must be from 1 to 3840 (the most that TensorRT takes), got 4000"}
    large = GraphOptions(batch=1024).complaints(("boxes",), (1024, 1024), 9000, 0)
    assert list(large.values()) == [
        "must be smaller: 1024 images of 1024x1024 make a tensor of 3.2e+09 values, more than TensorRT's 2.1e+09; "
        "take a smaller batch or input size"
    ]
    maps = GraphOptions(batch=64, semantic_map=True)
    assert maps.complaints(("semantic",), (640, 640), 8400, 93)
    assert not replace(maps, semantic_map=False).complaints(("semantic",), (640, 640), 8400, 93)
