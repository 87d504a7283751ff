"""The measurement and its report: what is kept, what is said, what is refused."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from yolor_edge.benchmarks.report.benchmark import bench
from yolor_edge.benchmarks.report.measure import STAGES, MeasuredImage, Measurement, Run, WarmUp, measure
from yolor_edge.benchmarks.report.report import Report
from yolor_edge.benchmarks.report.report_page import object_table, page, save
from yolor_edge.runtime import UsageError, load
from yolor_edge.runtime.backends.registry import BACKENDS
from yolor_edge.runtime.bundle.bundle import Bundle
from yolor_edge.runtime.errors import ImageError
from yolor_edge.runtime.images.image_files import write_image
from yolor_edge.runtime.options import LoadOptions, PredictOptions
from yolor_edge.runtime.verification.replay import Answers, write_golden

from ...runtime.tiny_bundle import COLOURS, coloured_patch, write_tiny_bundle

QUICK = WarmUp(0.0, 1.0, tolerance=10.0)


@pytest.fixture(scope="module")
def report(tiny_bundle: Bundle, pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> Report:
    return bench(
        tiny_bundle.path,
        tmp_path_factory.mktemp("report"),
        pictures,
        runs=30,
        load=LoadOptions(threads=1),
        warmup=QUICK,
        command="yolor-edge bench tiny",
    )


def write_dataset(root: Path) -> Path:
    """Three images of a coloured patch with boxes and captions, one split "val"."""
    (root / "annotations").mkdir(parents=True)
    images, annotations, captions = [], [], []
    for i, colour in enumerate(COLOURS):
        write_image(root / "val" / f"{i}.png", coloured_patch((64, 96), (16, 32, 48, 64), colour))
        images.append({"id": i + 1, "file_name": f"{i}.png", "height": 64, "width": 96})
        annotations.append(
            {
                "id": i + 1,
                "image_id": i + 1,
                "category_id": (1, 4, 9)[i],
                "bbox": [32, 16, 32, 32],
                "area": 1024,
                "iscrowd": 0,
                "segmentation": [[32, 16, 64, 16, 64, 48, 32, 48]],
            }
        )
        captions.append({"id": i + 1, "image_id": i + 1, "caption": f"A {colour} thing here."})
    names = [{"id": number, "name": colour} for number, colour in zip((1, 4, 9), COLOURS, strict=True)]
    instances = {"images": images, "annotations": annotations, "categories": names}
    (root / "annotations" / "instances_val.json").write_text(json.dumps(instances))
    (root / "annotations" / "captions_val.json").write_text(json.dumps({"images": images, "annotations": captions}))
    return root


def test_every_run_is_kept_with_its_stages(report: Report) -> None:
    measured = report.measurement
    assert len(measured.runs) == 30
    assert len(measured.warmup) >= 1
    assert [run.picture for run in measured.runs[:4]] == [0, 1, 2, 0]
    assert [picture.name for picture in measured.pictures] == ["blue.png", "green.png", "red.png"]
    assert [picture.size for picture in measured.pictures] == [(128, 192), (64, 96), (64, 96)]
    for run in measured.runs:
        assert set(STAGES) <= set(run.stages_ms)
        assert run.objects is not None
        assert run.objects >= 1
        assert run.caption_tokens == 5  # a, colour, thing, here, end
        assert 0 < run.stage_sum_ms <= run.end_to_end_ms
    starts = [run.started_s for run in (*measured.warmup, *measured.runs)]
    assert starts == sorted(starts)
    assert set(measured.states) == {"start", "middle", "end"}


def test_both_files_are_written_and_the_json_reads_back(report: Report, tmp_path: Path) -> None:
    paths = save(report, tmp_path / "deep" / "er")
    data = json.loads(paths[0].read_text())
    assert data["schema_version"] == 1
    assert data["backend"] == "onnxruntime-cpu"
    assert data["is_cpu_only"] is True
    assert data["identity"]["command"] == "yolor-edge bench tiny"
    assert set(data["identity"]["files_sha256"]) == {
        "vision.fp32.onnx",
        "caption_prefill.fp32.onnx",
        "caption_step.fp32.onnx",
    }
    assert len(data["measurement"]["runs"]["stages_ms"]["masks"]) == 30
    assert data["summary"]["end_to_end_ms"]["p99"] == "too few samples"
    for once in (tmp_path / "deep" / "er", paths[0]):
        again = Report.load(once)
        assert again.to_json()["measurement"] == data["measurement"]
        assert again.identity == report.identity
    assert re.sub(r"[\d.]+", "", page(Report.load(paths[0]))) == re.sub(r"[\d.]+", "", page(report))
    assert sorted(path.name for path in (tmp_path / "deep" / "er").iterdir()) == ["report.json", "report.md"]


def test_the_markdown_says_what_a_report_must(report: Report, tiny_bundle: Bundle) -> None:
    text = page(report)
    assert text.startswith("# Latency of tiny: CPU only (onnxruntime-cpu, fp32)\n")
    assert "it says nothing about a GPU" in text
    assert tiny_bundle.digest in text
    for heading in (
        "Where the time goes",
        "End to end",
        "By number of objects",
        "Accuracy of the same bundle",
        "Cold costs, memory and size",
        "Protocol",
        "Machine",
        "State of the machine",
        "Identity",
    ):
        assert f"\n## {heading}\n" in text
    assert "p99 needs 100" not in text.split("**Beware:**")[0]
    assert "30 runs are too few for p99, which needs 100" in text
    assert "Not measured: no data set was given" in text
    assert re.search(
        r"\| caption per token \| 30 \| [\d.]+ \| [\d.]+ \| too few samples \|", text.replace("|   ", "| ")
    )
    assert "None" not in text
    assert "nan" not in text.replace("nano", "")


def test_tables_for_the_terminal_are_aligned(report: Report) -> None:
    lines = report.table().splitlines()
    assert lines[0] == report.title()
    rows = lines[2 : 2 + len(report.stage_table())]
    assert rows[0].startswith("stage")
    assert len({len(row.rstrip()) for row in rows if row.endswith("%")}) == 1


def made_report(times: list[float], **changes: Any) -> Report:
    """A report on one image with the given end-to-end times."""
    stages = {"decode": 0.0, "preprocess": 0.0, "network": 0.0}
    runs = tuple(Run(0, i * 1.0, time, {**stages, "network": time * 0.9}, None, None) for i, time in enumerate(times))
    measured = Measurement((MeasuredImage("a.png", (8, 8), 100),), runs[:1], runs, is_steady=True, states={})
    machine = {"cpu": {"model": "Test CPU", "usable_cores": 2}, "versions": {"yolor-edge": "0"}}
    state = {"load_average_1min": 0.1, "cpu_busy_share": 0.0}
    protocol = {"threads": 1, "tasks": ["boxes"], "input_size": [64, 96], "state_before": state}
    values: dict[str, Any] = {
        "identity": {"name": "made", "backend": "onnxruntime-cpu", "precision": "fp32"},
        "machine": machine,
        "protocol": protocol,
        "cold": {},
        "memory": {},
        "measurement": measured,
    }
    return Report(**{**values, **changes})


def test_a_steady_measurement_has_nothing_to_beware_of() -> None:
    assert made_report([10.0 + 0.01 * (i % 7) for i in range(120)]).warnings() == []


def test_noise_slow_runs_load_and_a_cold_start_are_told() -> None:
    noisy = made_report([10.0 * (1 + 0.4 * (i % 2)) for i in range(120)])
    assert any(text.startswith("noisy: runs on the same image spread by 1") for text in noisy.warnings())
    slow = made_report([10.0] * 119 + [30.0])
    assert "1 of 120 runs took more than 1.5 times the median of their image, at 119.0 s" in slow.warnings()[0]
    cold = made_report([10.0] * 120)
    cold = replace(cold, measurement=replace(cold.measurement, is_steady=False))
    assert cold.warnings() == ["the warm-up ended before the model had become steady"]
    busy = {"load_average_1min": 3.0, "cpu_busy_share": 0.5}
    loaded = made_report([10.0] * 120, protocol={**cold.protocol, "state_before": busy})
    assert loaded.warnings() == ["the machine was not idle: others used 50% of its cores before the measurement"]
    assert "too few runs of the same image" in made_report([10.0] * 2).warnings()[0]


def test_the_sum_of_stages_stands_against_end_to_end() -> None:
    rows = {row[0]: row for row in made_report([10.0] * 120).stage_table()}
    assert rows["sum of stages"][2] == "9.00"
    assert rows["end to end"][2] == "10.0"
    assert rows["end to end less sum"][2] == "1.00"
    assert rows["end to end less sum"][5] == "10.0%"
    assert rows["network"][5] == "90.0%"


def test_cost_by_number_of_objects() -> None:
    report = made_report([10.0] * 4)
    objects = (0, 4, 5, 250)
    runs = tuple(
        replace(run, objects=count, stages_ms={**run.stages_ms, "boxes": 1.0 + i})
        for i, (run, count) in enumerate(zip(report.measurement.runs, objects, strict=True))
    )
    report = replace(report, measurement=replace(report.measurement, runs=runs))
    rows = [line.split(" | ") for line in object_table(report).splitlines()[2:]]
    assert [row[1] for row in rows] == ["1", "1", "1", "0", "0", "1"]
    assert rows[-1][0] == "| 100 and more"
    assert rows[-1][2] == "4.00"
    assert rows[3][2] == "-"


def test_accuracy_of_the_same_bundle_stands_beside(tiny_bundle: Bundle, tmp_path: Path) -> None:
    data = write_dataset(tmp_path / "data")
    seen: list[tuple[str, int, int]] = []
    found = bench(
        tiny_bundle,
        tmp_path / "out",
        data=data,
        runs=3,
        limit=2,
        load=LoadOptions(threads=1),
        warmup=QUICK,
        progress=lambda what, done, total: seen.append((what, done, total)),
    )
    assert found.accuracy is not None
    assert found.accuracy["scores"]["images"] == 2
    assert found.accuracy["scores"]["bleu4"] == pytest.approx(1.0)
    assert found.accuracy["score_threshold"] == 0.001
    assert found.protocol["pictures"]["origin"] == "data set"
    assert ("timing", 3, 3) in seen
    assert ("scoring", 2, 2) in seen
    text = (tmp_path / "out" / "report.md").read_text()
    assert "split val, 2 images" in text
    assert "BLEU-4 1.000" in text
    assert json.loads((tmp_path / "out" / "report.json").read_text())["accuracy"]["table"] in text


def test_golden_inputs_are_the_pictures_where_none_are_given(tmp_path: Path) -> None:
    tiny = write_tiny_bundle(tmp_path / "first")
    image = coloured_patch((64, 96), (16, 32, 48, 64), "green")
    with load(tiny, threads=1) as model:
        answers = Answers(np.zeros((64, 96, 3), np.uint8), {}, model.predict(image), {})
    folder = tmp_path / "first"
    (folder / "golden" / "one.npz").unlink()
    write_golden(folder / "golden" / "patch.npz", image, answers)
    sealed = json.loads((folder / "bundle.json").read_text())
    from yolor_edge.runtime.bundle.bundle import write_bundle

    again = write_bundle(folder, tiny.spec, sealed["graphs"], provenance={})
    found = bench(
        again, tmp_path / "out", runs=2, load=LoadOptions(threads=1), warmup=QUICK, predict=PredictOptions(["boxes"])
    )
    assert found.measurement.pictures[0].name == "patch.jpg"
    assert found.measurement.pictures[0].size == (64, 96)
    assert found.cold["bundle_open_ms"] == "unknown"
    assert "caption" not in found.stages
    assert "| caption |" not in page(found)


def test_the_warm_up_ends_when_steady_or_when_its_time_is_up(tiny_bundle: Bundle, pictures: Path) -> None:
    files = sorted(pictures.iterdir())
    with load(tiny_bundle, threads=1) as model:
        steady = measure(model, files, 1, warmup=WarmUp(0.05, 5.0, tolerance=10.0))
        never = measure(model, files, 1, warmup=WarmUp(0.0, 0.1, tolerance=-1.0))
        short = measure(model, files, 10**6, warmup=QUICK, maximum_seconds=0.05)
    assert steady.is_steady
    assert len(steady.warmup) >= 10
    assert steady.warmup[-1].started_s + 0.05 >= 0.05
    assert not never.is_steady
    assert 1 < len(short.runs) < 10**6


def test_a_caption_of_one_token_has_no_time_per_token(tiny_bundle: Bundle, pictures: Path) -> None:
    from yolor_edge.runtime import CaptionOptions

    with load(tiny_bundle, threads=1) as model:
        found = measure(
            model,
            sorted(pictures.iterdir()),
            2,
            warmup=QUICK,
            predict=PredictOptions(caption=CaptionOptions(beam_size=1, max_length=1)),
        )
    assert found.runs[0].caption_tokens == 1
    assert found.samples("caption_per_token") == []
    assert len(found.samples("caption_first_token")) == 2


def test_a_backend_is_imported_under_the_name_of_its_package(
    tiny_bundle: Bundle, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(BACKENDS, "abacus", BACKENDS["onnxruntime"])
    load(tiny_bundle, threads=1).close()  # which imports the package
    report = bench(tiny_bundle, tmp_path, pictures, 1, load=LoadOptions("abacus", threads=1), warmup=QUICK)
    assert report.cold["first_load_imports_backend"] is False
    assert report.protocol["post_processing"] == "cpu"
    assert "| pre- and post-processing | on the CPU |" in page(report)


def test_arguments_and_files_that_cannot_be_used(tiny_bundle: Bundle, pictures: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="runs must be at least 1, got 0"):
        bench(tiny_bundle, tmp_path / "out", pictures, runs=0)
    for seconds in (float("nan"), -1.0):
        with pytest.raises(UsageError, match="maximum_seconds must be at least 0, got"):
            bench(tiny_bundle, tmp_path / "out", pictures, maximum_seconds=seconds)
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match=r"file/out: cannot be written, .*/file is no folder; choose another place"):
        bench(tiny_bundle, tmp_path / "file" / "out", pictures)
    with pytest.raises(UsageError, match="file: is a file, expected a folder to write the report to"):
        bench(tiny_bundle, tmp_path / "file", pictures)
    with pytest.raises(UsageError, match="a split was named without a data set"):
        bench(tiny_bundle, tmp_path / "out", pictures, split="val")
    with pytest.raises(UsageError, match="limit must be at least 1"):
        bench(tiny_bundle, tmp_path / "out", pictures, limit=0)
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "empty.jpg").touch()
    with pytest.raises(ImageError, match=r"empty\.jpg: the file is empty"):
        bench(tiny_bundle, tmp_path / "out", tmp_path / "bad")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("not json", "is not a latency report"),
        ('{"kind": "something else"}', "is not a latency report"),
        ('{"kind": "yolor-edge latency report", "schema_version": 99}', "has schema 99, this version reads 1"),
    ],
)
def test_a_foreign_report_is_refused(content: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "report.json").write_text(content)
    with pytest.raises(UsageError, match=message):
        Report.load(tmp_path)
    with pytest.raises(UsageError, match="no such file"):
        Report.load(tmp_path / "gone.json")


def test_no_torch_is_imported_even_for_the_accuracy(tiny_bundle: Bundle, tmp_path: Path) -> None:
    data = write_dataset(tmp_path / "data")
    code = "import sys\nsys.modules['torch'] = None\nfrom yolor_edge.main import main\nprint(main(sys.argv[1:]))"
    command = [sys.executable, "-c", code, "bench", str(tiny_bundle.path), "--data", str(data), "--out"]
    options = [str(tmp_path / "out"), "--runs", "2", "--warmup-seconds", "0", "--threads", "1", "--json"]
    done = subprocess.run([*command, *options], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    printed, _, code_line = done.stdout.rstrip("\n").rpartition("\n")
    assert code_line == "0"
    assert json.loads(printed)["accuracy"]["scores"]["images"] == 3
