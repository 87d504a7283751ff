"""Bundles in every coding of boxes and scores: the answers are those of the network's own, and each is verified."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from yolor_edge.runtime.backends.registry import open_graphs
from yolor_edge.runtime.bundle.bundle import Bundle, write_bundle
from yolor_edge.runtime.bundle.graph_options import GraphOptions
from yolor_edge.runtime.bundle.spec import BOX_HEADS, SCORE_HEADS, BoxCoding, ModelSpec, ScoreCoding
from yolor_edge.runtime.errors import BundleError
from yolor_edge.runtime.model import Model, load
from yolor_edge.runtime.results import Result
from yolor_edge.runtime.verification.replay import answers_of, verify, write_golden

from .tiny_bundle import CELLS, coloured_patch, tiny_spec, write_tiny_bundle
from .vision.optioned_graph import OptionedGraph

CODINGS: list[tuple[BoxCoding, ScoreCoding]] = list(itertools.product(BOX_HEADS, SCORE_HEADS))  # type: ignore[arg-type]
IMAGES = (
    coloured_patch((64, 96), (16, 32, 48, 64), "green"),
    coloured_patch((200, 150), (60, 40, 120, 110), "red"),
    coloured_patch((66, 201), (10, 20, 40, 90), "blue"),
)


@pytest.fixture(scope="module")
def own_answers(tiny_bundle: Bundle) -> list[Result]:
    with load(tiny_bundle, threads=1) as model:
        return [model.predict(image) for image in IMAGES]


@pytest.fixture(scope="module", params=CODINGS, ids="-".join)
def coded(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return write_tiny_bundle(tmp_path_factory.mktemp("coded") / "tiny", ("boxes", "masks", "semantic"), *request.param)


def assert_same(found: Result, expected: Result) -> None:
    assert found.boxes is not None
    assert found.scores is not None
    assert found.masks is not None
    assert expected.scores is not None
    assert expected.masks is not None
    assert len(found.boxes) > 0
    np.testing.assert_array_equal(found.boxes, expected.boxes)
    np.testing.assert_array_equal(found.class_ids, expected.class_ids)
    np.testing.assert_allclose(found.scores, expected.scores, rtol=0, atol=1e-6)
    np.testing.assert_array_equal(found.masks.full(), expected.masks.full())
    np.testing.assert_array_equal(found.semantic_map, expected.semantic_map)


def test_the_answers_are_the_same(coded: Bundle, own_answers: list[Result]) -> None:
    with load(coded.path, threads=1) as model:
        for image, expected in zip(IMAGES, own_answers, strict=True):
            assert_same(model.predict(image), expected)
        with model.stream(list(IMAGES), drop="none") as stream:
            for answer, expected in zip(stream, own_answers, strict=True):
                assert answer.error is None
                assert answer.result is not None
                assert_same(answer.result, expected)
        with model.stream([IMAGES[0]], tasks=["boxes"], class_agnostic=True) as stream:
            (answer,) = stream
        assert answer.result is not None
        assert answer.result.boxes is not None


@pytest.mark.parametrize("options", [GraphOptions(top_k=60), GraphOptions(batch=2, top_k=CELLS, semantic_map=True)])
def test_graphs_with_options_answer_the_same(coded: Bundle, options: GraphOptions, own_answers: list[Result]) -> None:
    graphs = open_graphs(coded, threads=1)
    graphs["vision"] = OptionedGraph(graphs["vision"], options)
    with Model(replace(coded.spec, graph=options), graphs) as model:
        for image, expected in zip(IMAGES, own_answers, strict=True):
            found = model.predict(image)
            assert_same(replace(found, semantic_map=expected.semantic_map), expected)


def test_golden_answers_are_replayed(coded: Bundle, tmp_path: Path) -> None:
    folder = tmp_path / "bundle"
    write_tiny_bundle(folder, coded.spec.tasks, coded.spec.box_coding, coded.spec.score_coding)
    (folder / "golden" / "one.npz").unlink()
    graphs = open_graphs(coded, threads=1)
    with Model(coded.spec, graphs) as model:
        for i, image in enumerate(IMAGES):
            write_golden(folder / "golden" / f"{i}.npz", image, answers_of(model, graphs["vision"], image))
    bundle = write_bundle(folder, coded.spec, {"vision": {"fp32": "vision.fp32.onnx"}}, provenance={})
    verification = verify(bundle.path)
    assert verification.passed
    assert {check.stage for check in verification.checks} >= {coded.spec.score_head, coded.spec.box_head, "boxes"}


@pytest.mark.parametrize("box_coding", BOX_HEADS)
@pytest.mark.parametrize("score_coding", SCORE_HEADS)
def test_a_spec_reads_back_from_json(box_coding: BoxCoding, score_coding: ScoreCoding) -> None:
    spec = tiny_spec(("boxes",), box_coding, score_coding)
    assert ModelSpec.from_json(spec.to_json()) == spec


def test_the_rounding_of_the_letterbox_travels_in_the_bundle() -> None:
    spec = replace(tiny_spec(), preprocess=replace(tiny_spec().preprocess, rounding="half_even"))
    data = spec.to_json()
    assert ModelSpec.from_json(data) == spec
    del data["preprocess"]["rounding"]
    assert ModelSpec.from_json(data) == tiny_spec()
    data["preprocess"]["rounding"] = "up"
    with pytest.raises(BundleError, match='preprocess: rounding must be "half_up" or "half_even", got "up"'):
        ModelSpec.from_json(data)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"box_coding": "cxcywh"}, "box_coding must be one of dfl, ltrb, xyxy, got 'cxcywh'"),
        ({"score_coding": "softmax"}, "score_coding must be one of logits, probabilities, got 'softmax'"),
        ({"box_coding": "xyxy"}, "box_count goes with the box_coding xyxy, got None with xyxy"),
        ({"box_count": 9}, "box_count goes with the box_coding xyxy, got 9 with dfl"),
    ],
)
def test_codings_that_are_none_are_one_line(change: dict[str, object], complaint: str) -> None:
    with pytest.raises(BundleError) as raised:
        ModelSpec.from_json({**tiny_spec().to_json(), **change})
    assert complaint in str(raised.value)
    assert len(str(raised.value).splitlines()) == 1
