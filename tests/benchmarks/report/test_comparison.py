"""Two reports beside each other: what is called a difference, what is told, what is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from yolor_edge.benchmarks.report.benchmark import bench
from yolor_edge.benchmarks.report.comparison import LEAST_BLOCKS, compare, ratio_interval
from yolor_edge.benchmarks.report.measure import WarmUp
from yolor_edge.benchmarks.report.report import Report
from yolor_edge.benchmarks.report.report_page import save
from yolor_edge.main import main
from yolor_edge.runtime import UsageError
from yolor_edge.runtime.bundle.bundle import Bundle
from yolor_edge.runtime.options import LoadOptions

Write = Callable[..., Path]


@pytest.fixture(scope="module")
def report(tiny_bundle: Bundle, pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> Report:
    folder = tmp_path_factory.mktemp("compared")
    return bench(
        tiny_bundle.path,
        folder,
        pictures,
        runs=60,
        load=LoadOptions(threads=1),
        warmup=WarmUp(0.0, 1.0, tolerance=10.0),
    )


@pytest.fixture
def write(report: Report, tmp_path: Path) -> Write:
    """Writes the report with all its times multiplied, drawn noise on top and other things changed."""

    def one(name: str, factor: float = 1.0, seed: int = 0, **changed: Any) -> Path:
        rng = np.random.default_rng(seed)
        runs = []
        for run in report.measurement.runs:
            scale = 10.0 * (1 + run.picture) * factor * rng.normal(1, 0.02)
            runs.append(replace(run, end_to_end_ms=scale, stages_ms={stage: scale / 8 for stage in run.stages_ms}))
        other = replace(report, measurement=replace(report.measurement, runs=tuple(runs)), **changed)
        save(other, tmp_path / name)
        return tmp_path / name

    return one


def test_a_slower_run_is_called_slower_and_an_equal_one_not(write: Write) -> None:
    base, again, slower = write("a"), write("b", seed=1), write("c", factor=1.1, seed=2)
    assert compare([base, again]).end_to_end.verdict == "no difference"
    found = compare([base, slower])
    assert {ratio.verdict for ratio in found.ratios} == {"slower"}
    assert found.ratios[0].value == pytest.approx(1.1, abs=0.02)
    assert compare([slower, base]).end_to_end.verdict == "faster"
    assert found.is_slower_by(5)
    assert not found.is_slower_by(15)


def test_pictures_that_differ_do_not_widen_the_interval(write: Write) -> None:
    found = compare([write("a"), write("b", seed=1)]).end_to_end
    assert found.low is not None
    assert found.high is not None
    assert found.high - found.low < 0.05  # the images' own times are up to three times apart


def test_pairs_that_disagree_are_no_difference(write: Write) -> None:
    pairs = [write("a"), write("b", factor=1.2, seed=1), write("c", factor=1.2, seed=2), write("d", seed=3)]
    assert compare(pairs[:2]).end_to_end.verdict == "slower"
    found = compare(pairs)
    assert found.end_to_end.verdict == "no difference"
    assert found.end_to_end.value == pytest.approx(1.0, abs=0.02)
    assert "from one run to the next" not in " ".join(found.cautions)
    assert "from one run to the next" in " ".join(compare(pairs[:2]).cautions)


def test_the_interval_holds_the_true_ratio_about_as_often_as_it_says() -> None:
    held = 0
    for seed in range(100):
        rng = np.random.default_rng(seed)
        a, b = rng.gamma(9, 1, 200), rng.gamma(9, 1.05, 200)
        interval = ratio_interval([(a, b)], 4, seed)
        assert interval is not None
        held += interval[0] <= 1.05 <= interval[1]
    assert 88 <= held <= 100


def test_too_few_runs_have_no_interval() -> None:
    few = np.ones(4 * LEAST_BLOCKS - 1)
    assert ratio_interval([(few, few)], 4) is None
    assert ratio_interval([(np.ones(4 * LEAST_BLOCKS), np.zeros(4 * LEAST_BLOCKS))], 4) == (0.0, 0.0)
    assert ratio_interval([(np.zeros(4 * LEAST_BLOCKS), few)] * 2, 1) is None


def test_what_differs_is_told(write: Write, report: Report) -> None:
    machine = {**report.machine, "cpu": {**report.machine["cpu"], "model": "another"}}
    protocol = {**report.protocol, "threads": 3}
    other = write("b", machine=machine, protocol=protocol, identity={**report.identity, "precision": "int8"})
    told = {name: (x, y) for name, x, y in compare([write("a"), other]).differences}
    assert told == {
        "precision": ("fp32", "int8"),
        "threads": ("1", "3"),
        "machine cpu.model": (str(report.machine["cpu"]["model"]), "another"),
    }


def test_scores_of_the_same_data_stand_beside(write: Write) -> None:
    def accuracy(ap: float, data: str = "data") -> dict[str, Any]:
        scores = {"images": 9, "boxes": {"AP": ap, "images": 9}}
        return {"data": data, "split": "val", "scores": scores, "table": "", "score_threshold": 0.001}

    a, b = write("a", accuracy=accuracy(0.5)), write("b", accuracy=accuracy(0.49))
    found = compare([a, b])
    assert found.to_json()["scores"] == {"boxes.AP": {"a": 0.5, "b": 0.49}}
    assert "boxes.AP  0.5000  0.4900  -0.0100" in found.table()
    assert compare([a, write("c", accuracy=accuracy(0.4, "other"))]).to_json()["scores"] == {}


def test_reports_measured_in_another_way_are_refused(write: Write, report: Report) -> None:
    protocol = {**report.protocol, "tasks": ["boxes"], "score_threshold": 0.5}
    other = write("b", protocol=protocol)
    with pytest.raises(UsageError, match=r"cannot be compared: tasks \(.* v boxes\), score_threshold \(.* v 0\.5\)"):
        compare([write("a"), other])
    pictures = report.measurement.pictures
    measurement = replace(report.measurement, pictures=(replace(pictures[0], name="x.jpg"), *pictures[1:]))
    save(replace(report, measurement=measurement), other)
    with pytest.raises(UsageError, match=r"images .* of other names or sizes"):
        compare([write("a"), other])
    with pytest.raises(UsageError, match=r"expected reports in pairs.*, got 3"):
        compare([other, other, other])


def test_the_command(write: Write, capsys: pytest.CaptureFixture[str]) -> None:
    a, b = str(write("a")), str(write("b", factor=1.1, seed=1))
    assert main(["compare", a, b]) == 0
    assert "slower" in capsys.readouterr().out
    assert main(["compare", a, b, "--max-slower", "5", "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["stages"]["end to end"]["verdict"] == "slower"
    assert main(["compare", a, b, "--max-slower", "15"]) == 0
    capsys.readouterr()
    assert main(["compare", a, str(Path(a) / "none")]) == 2
    assert "none: no such file; expected one written by yolor-edge bench" in capsys.readouterr().err
    assert main(["compare", a, b, "--max-slower", "-1"]) == 2
    assert "invalid number of percent value" in capsys.readouterr().err
