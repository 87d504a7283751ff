"""Bundles whose heads are coded as imported networks have them, through the commands."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from yolor_edge import main as cli
from yolor_edge.runtime.backends.registry import open_graphs
from yolor_edge.runtime.bundle.bundle import write_bundle
from yolor_edge.runtime.bundle.spec import BoxCoding, ScoreCoding
from yolor_edge.runtime.images.image_files import write_image
from yolor_edge.runtime.model import Model
from yolor_edge.runtime.verification.replay import answers_of, write_golden

from ..runtime.tiny_bundle import coloured_patch, write_tiny_bundle

IMAGE = coloured_patch((64, 96), (16, 32, 48, 64), "green")


@pytest.mark.parametrize(("box_coding", "score_coding"), [("xyxy", "probabilities"), ("ltrb", "logits")])
def test_run_verify_and_bench(
    box_coding: BoxCoding, score_coding: ScoreCoding, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "bundle"
    tiny = write_tiny_bundle(folder, ("boxes", "masks"), box_coding, score_coding)
    (folder / "golden" / "one.npz").unlink()
    graphs = open_graphs(tiny, threads=1)
    with Model(tiny.spec, graphs) as model:
        write_golden(folder / "golden" / "green.npz", IMAGE, answers_of(model, graphs["vision"], IMAGE))
    write_bundle(folder, tiny.spec, tiny.graphs, provenance={"made_by": "tests"})
    write_image(tmp_path / "in" / "green.png", IMAGE)

    assert cli.main(["verify", str(folder), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    stages = {check["stage"] for one in report["verifications"] for check in one["checks"]}
    assert {tiny.spec.score_head, tiny.spec.box_head} <= stages

    assert cli.main(["run", str(folder), str(tmp_path / "in"), "--out", str(tmp_path / "out")]) == 0
    (line,) = [json.loads(text) for text in (tmp_path / "out" / "results.jsonl").read_text().splitlines()]
    assert {found["class_name"] for found in line["objects"]} == {"green"}

    command = ["bench", str(folder), "--images", str(tmp_path / "in"), "--out", str(tmp_path / "report")]
    assert cli.main([*command, "--runs", "3", "--warmup-seconds", "0", "--threads", "1"]) == 0
    assert list((tmp_path / "report").glob("*.json"))
