"""`inspect` of a bundle: everything that it knows, as text and as JSON; and the licence on its way there."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from yolor_edge.main import main
from yolor_edge.runtime import inspect_bundle

if TYPE_CHECKING:
    from ..export.exported import Exported

pytest.importorskip("torch")


def test_a_bundle_tells_what_it_knows(exported: Exported, capsys: pytest.CaptureFixture[str]) -> None:
    bundle = exported.bundle
    assert main(["inspect", str(bundle.path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"{bundle.path}: random, sha256 {bundle.digest[:12]}"
    entries = {line[:13].strip(): line[14:] for line in lines[1:] if line[0] != " "}
    assert entries["licence"] == "CC-BY-4.0"
    assert entries["tasks"] == "boxes, masks, semantic, caption"
    assert entries["input"].startswith("64x96 RGB, pixels times 0.00392157, padded with 114")
    assert entries["boxes"] == "126 at strides 8, 16, 32, coded dfl, logits"
    assert entries["thresholds"] == "score 0.25, IoU 0.65, at most 300 boxes"
    assert entries["classes"].startswith(f"{len(bundle.spec.class_names)}: {bundle.spec.class_names[0]}, ")
    assert entries["captions"].startswith("47 words, at most ") or "words, at most " in entries["captions"]
    assert "vision.fp32.onnx" in entries["fp32"] and " comparisons passed" in "".join(lines)
    assert any(line.startswith("file") and "vision.fp32.onnx" in line and " MB sha256 " in line for line in lines)
    assert max(map(len, lines)) <= 120


def test_json_has_every_word_and_digest(exported: Exported, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", str(exported.bundle.path), "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts == json.loads(json.dumps(inspect_bundle(exported.bundle).to_json()))
    assert facts["model"]["caption"]["vocabulary"][:4] == ["<pad>", "<unk>", "<bos>", "<eos>"]
    assert facts["files"] == dict(exported.bundle.files) and facts["digest"] == exported.bundle.digest
    assert facts["provenance"]["checkpoint"]["data"] == "scenes"


def test_engines_of_the_cache_are_listed_and_damaged_ones_told(exported: Exported, tmp_path: Path) -> None:
    folder = tmp_path / "bundle"
    shutil.copytree(exported.bundle.path, folder)
    (folder / "engines").mkdir(exist_ok=True)
    (folder / "engines" / "vision.fp16.engine").write_bytes(b"engine")
    facts = inspect_bundle(folder)
    assert [engine.file for engine in facts.engines] == ["vision.fp16.engine"]
    assert "no such file" in facts.table().replace("\n" + " " * 14, " ")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--tasks boxes", "is a bundle, which is what it is; leave out --tasks"),
        ("--input-size 64 --classes 3", "leave out --input-size, --classes"),
    ],
)
def test_options_of_networks_are_not_for_bundles(
    options: str, message: str, exported: Exported, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["inspect", str(exported.bundle.path), *options.split()]) == 2
    assert message in capsys.readouterr().err


def test_a_damaged_bundle_is_one_line(exported: Exported, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "bundle"
    shutil.copytree(exported.bundle.path, folder)
    (folder / "vision.fp32.onnx").write_bytes(b"other")
    assert main(["inspect", str(folder)]) == 2
    told = capsys.readouterr().err
    assert "vision.fp32.onnx was altered" in told and told.count("\n") == 1


def test_an_imported_checkpoint_shows_its_licence(
    goldens: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["import", str(goldens / "yolov7" / "checkpoint.pt"), "--out", str(tmp_path / "checkpoint")]) == 0
    capsys.readouterr()
    assert main(["inspect", str(tmp_path / "checkpoint")]) == 0
    assert "licence of the weights: unknown" in capsys.readouterr().out


def test_export_warns_of_an_unknown_licence(
    exported: Exported, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from yolor_edge.export import to_onnx

    assert exported.checkpoint.licence == exported.bundle.licence == "CC-BY-4.0"
    assert not any("licence" in step for step in exported.steps)

    def stop(network: object) -> None:
        raise InterruptedError

    monkeypatch.setattr(to_onnx, "fold", stop)
    lines: list[str] = []
    unknown = dataclasses.replace(exported.checkpoint, provenance={"licence": "unknown"})
    with pytest.raises(InterruptedError):
        to_onnx.export_bundle(unknown, tmp_path / "out", progress=lines.append)
    assert lines[0] == "warning: the licence of the weights is unknown"
