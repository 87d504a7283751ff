"""NaN and infinity in what a network gives: seen, counted, and told once."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from yolor_edge.main import main
from yolor_edge.runtime.backends import registry
from yolor_edge.runtime.backends.base import Array
from yolor_edge.runtime.backends.registry import open_graphs
from yolor_edge.runtime.bundle.bundle import Bundle
from yolor_edge.runtime.images.image_files import write_image
from yolor_edge.runtime.model import Model
from yolor_edge.runtime.vision.head_check import HeadCheck, is_finite

IMAGE = np.full((64, 96, 3), 114, np.uint8)


class Breaking:
    """A graph with one number of its own in an output, for the first images."""

    def __init__(self, graph: Any, output: str, value: float, images: int) -> None:
        self._graph, self._output, self._value, self._left = graph, output, value, images
        self.inputs, self.outputs, self.close = graph.inputs, graph.outputs, graph.close

    def run(self, feed: Mapping[str, Array], wanted: Sequence[str] | None = None) -> dict[str, Array]:
        found = self._graph.run(feed, wanted)
        if self._left:
            self._left -= 1
            found[self._output][..., -1] = self._value
        return found


def breaking(bundle: Bundle, output: str, value: float, images: int = 9) -> Model:
    graphs = open_graphs(bundle, threads=1)
    return Model(bundle.spec, {**graphs, "vision": Breaking(graphs["vision"], output, value, images)})


def predict(model: Model, images: int, tasks: tuple[str, ...] | None = None) -> None:
    for _ in range(images):
        model.predict(IMAGE, tasks)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_broken_scores_are_seen_in_every_image_and_told_once(tiny_bundle: Bundle, value: float) -> None:
    with breaking(tiny_bundle, "class_logits", value, images=2) as model:
        with pytest.warns(RuntimeWarning, match="the output 'class_logits' holds NaN or infinity") as told:
            predict(model, 3, ("boxes",))
        assert len(told) == 1
        assert model.not_finite == model.clone().not_finite == 2


def test_other_heads_are_looked_at_in_turn(tiny_bundle: Bundle) -> None:
    with breaking(tiny_bundle, "prototypes", np.nan) as model:
        with pytest.warns(RuntimeWarning, match="'prototypes'"):
            predict(model, 6)
        assert 1 <= model.not_finite <= 3


def test_a_stream_counts_its_own(tiny_bundle: Bundle) -> None:
    with breaking(tiny_bundle, "class_logits", np.nan, images=3) as model:
        with pytest.warns(RuntimeWarning):
            predict(model, 1, ("boxes",))
        with model.stream([IMAGE] * 4, ("boxes",)) as answers:
            assert sum(answer.result is not None for answer in answers) == 4
        assert answers.statistics.not_finite == 2


def test_finite_heads_are_no_matter(tiny_bundle: Bundle) -> None:
    with breaking(tiny_bundle, "class_logits", -60.0) as model:
        model.predict(IMAGE)
        assert model.not_finite == 0


def test_run_tells_in_one_line(
    tiny_bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    opened = registry.open_graphs

    def broken(*arguments: Any) -> dict[str, Any]:
        graphs = opened(*arguments)
        return {**graphs, "vision": Breaking(graphs["vision"], "class_logits", np.nan, 9)}

    monkeypatch.setattr("yolor_edge.runtime.model.open_graphs", broken)
    write_image(tmp_path / "a.png", IMAGE)
    arguments = [str(tiny_bundle.path), str(tmp_path / "a.png"), "--out", str(tmp_path / "out"), "--no-pictures"]
    with warnings.catch_warnings():
        warnings.simplefilter("default")
        assert main(["run", *arguments]) == 0
    captured = capsys.readouterr()
    assert captured.err.count("warning: tiny: the output 'class_logits' holds NaN or infinity") == 1
    assert "1 answered, 1 with NaN or infinity from the network" in captured.out


def test_on_a_device_one_image_of_a_hundred_is_looked_at(tiny_bundle: Bundle) -> None:
    check = HeadCheck(tiny_bundle.spec)
    assert [i for i in range(250) if check.is_due()] == [0, 100, 200]
    with pytest.warns(RuntimeWarning):
        check.look_at_all({"prototypes": np.array([1, np.inf], np.float32)})
    assert check.images == 1


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_what_is_finite(dtype: str) -> None:
    head = np.linspace(-60000, 60000, 1000, dtype=dtype).reshape(4, 250)
    assert is_finite(head) and is_finite(head[:, ::3]) and is_finite(head[:0])
    assert is_finite(np.arange(5, dtype=np.uint8))
    for value in (np.nan, np.inf, -np.inf):
        head[2, 9] = value
        assert not is_finite(head) and not is_finite(head[:, ::3])
