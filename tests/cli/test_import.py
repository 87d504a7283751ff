"""The command `import`: an official file becomes a checkpoint, or one line says why not and nothing is written."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from yolor_edge.evaluation.scenes.scene_files import write_scenes
from yolor_edge.main import main

IMAGES = Path(__file__).resolve().parents[2] / "demo" / "images"


def test_an_official_file_becomes_a_checkpoint(
    goldens: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "checkpoint"
    assert main(["import", str(goldens / "yolov7" / "checkpoint.pt"), "--out", str(out), "--licence", "GPL-3.0"]) == 0
    printed = capsys.readouterr().out
    assert "licence of the weights: GPL-3.0" in printed and printed.endswith(f"checkpoint: {out}\n")
    assert json.loads((out / "checkpoint.json").read_text())["provenance"]["licence"] == "GPL-3.0"
    assert main(["inspect", str(out), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)


def test_what_was_imported_is_told_and_nothing_is_replaced_unasked(
    goldens: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, out = str(goldens / "yolov7-u7-seg" / "checkpoint.pt"), tmp_path / "checkpoint"
    assert main(["import", file, "--out", str(out), "--json"]) == 0
    told, warned = capsys.readouterr()
    facts = json.loads(told)
    assert (facts["tasks"], facts["strides"], facts["licence"]) == (["boxes", "masks"], [8, 16, 32], "unknown")
    assert facts["classes"] == 5 and facts["folded_parameters"] < facts["parameters"]
    assert "the licence of the weights is unknown" in warned
    assert main(["import", file, "--out", str(out)]) == 2
    assert "exists already; choose another --out or replace it with --force" in capsys.readouterr().err
    assert main(["import", file, "--out", str(out), "--force", "--licence", "GPL-3.0"]) == 0
    printed = capsys.readouterr()
    assert "boxes, masks; 5 classes; strides 8, 16, 32; boxes as xyxy, scores as probabilities" in printed.out
    assert not printed.err
    for name in ("bundle.json", "run.json"):  # of a bundle, of a run: never mixed up
        other = tmp_path / name.partition(".")[0]
        other.mkdir()
        (other / name).write_text("{}")
        assert main(["import", file, "--out", str(other), "--force"]) == 2
        assert "exists and is no checkpoint, so it is not replaced" in capsys.readouterr().err
        assert [found.name for found in other.iterdir()] == [name]


def test_lists_of_names_are_read_alike(goldens: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file, names = str(goldens / "yolov7" / "checkpoint.pt"), tmp_path / "names.txt"
    line = ["import", file, "--names", str(names), "--licence", "x", "--out"]
    names.write_bytes(b"\xef\xbb\xbfone\r\ntwo\nthree\nfour\nfive\n\n")
    assert main([*line, str(tmp_path / "a")]) == 0
    content = json.loads((tmp_path / "a" / "checkpoint.json").read_text())
    assert content["network"]["class_names"] == ["one", "two", "three", "four", "five"]
    capsys.readouterr()
    for text, complaint in (
        ("one\ntwo\n", f"--names {names}: holds 2 names, but {file} has 5 classes; give one name for each"),
        ("one\n\nthree\n", f"--names {names}: line 2 is empty; expected one name a line"),
        ("", f"--names {names}: holds no name; expected one a line"),
    ):
        names.write_text(text)
        assert main([*line, str(tmp_path / "b")]) == 2
        assert capsys.readouterr().err == f"yolor-edge: {complaint}\n"
    names.unlink()
    assert main([*line, str(tmp_path / "b")]) == 2
    assert f"--names {names}: cannot be read (No such file or directory); expected text" in capsys.readouterr().err
    assert not (tmp_path / "b").exists()


@pytest.mark.parametrize(
    ("line", "hint"),
    [
        ("run FILE.pt x.png", "official checkpoints are read with yolor-edge import"),
        ("run FILE.onnx x.png", "to make a bundle of an ONNX detector: yolor-edge adopt"),
        ("export FILE.pt --out b", "to make a checkpoint of an official one: yolor-edge import"),
        ("adopt FILE.pt --out b", "official checkpoints are read with yolor-edge import"),
        ("adopt . --out b", "is a folder, expected an ONNX file"),
        ("inspect FILE.pt", "to make a checkpoint of an official one: yolor-edge import"),
    ],
)
def test_a_file_for_another_command_names_that_command(
    line: str, hint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for suffix in (".pt", ".onnx"):
        (tmp_path / f"FILE{suffix}").write_bytes(b"something")
    assert main(line.split()) == 2
    complaint = capsys.readouterr().err
    assert hint in complaint and complaint.count("\n") == 1
    assert sorted(found.name for found in tmp_path.iterdir()) == ["FILE.onnx", "FILE.pt"]


def data_of_five_classes(folder: Path) -> Path:
    """Two scenes with the boxes of five of their classes, beside a file of those names."""
    data = write_scenes(folder / "scenes", count=2, seed=3, size=(96, 128))
    for file in ("captions_train.json", "panoptic_train.json"):
        (data / "annotations" / file).unlink()
    shutil.rmtree(data / "annotations" / "panoptic_train")
    file = data / "annotations" / "instances_train.json"
    truth = json.loads(file.read_text())
    truth["categories"] = truth["categories"][:5]
    truth["annotations"] = [one for one in truth["annotations"] if one["category_id"] <= 5]
    file.write_text(json.dumps(truth))
    (folder / "names.txt").write_text("".join(f"{one['name']}\n" for one in truth["categories"]))
    return data


def test_what_was_imported_goes_through_every_command(
    goldens: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    places = {"t": tmp_path, "g": goldens, "d": data_of_five_classes(tmp_path), "i": IMAGES}

    def ran(line: str) -> str:
        assert main(line.format(**places).split()) == 0
        return capsys.readouterr().out

    ran("import {g}/yolov7-u7-seg/checkpoint.pt --out {t}/c --names {t}/names.txt --licence GPL-3.0")
    assert "folded" in ran("inspect {t}/c --input-size 64")
    whole, boxes = (json.loads(ran(f"inspect {{t}}/c --json {more}")) for more in ("", "--tasks boxes"))
    assert boxes["folded_parameters"] < whole["folded_parameters"]
    checkpoint = json.loads(ran("evaluate {t}/c --data {d} --split train --json"))
    exported = ran(
        "export {t}/c --out {t}/b --input-size 96x128 --precision fp16,int8 --calibration {i} --top-k 700 --batch 1"
    )
    assert exported == f"bundle: {tmp_path}/b\n"
    bundle = json.loads((tmp_path / "b" / "bundle.json").read_text())
    assert bundle["model"]["preprocess"]["rounding"] == "half_even"
    scored = json.loads(ran("evaluate {t}/b --data {d} --split train --json"))
    assert scored["scores"].keys() == checkpoint["scores"].keys()
    assert "verified" in ran("verify {t}/b --backend onnxruntime --precision fp32")
    assert "105" in ran("diff {t}/b:fp32 {t}/b:fp16 --tolerance 10")
    ran("run {t}/b {i} --out {t}/run --no-pictures")
    lines = (tmp_path / "run" / "results.jsonl").read_text().splitlines()
    assert len(lines) == 8 and "masks" in lines[0]
    assert "onnxruntime" in ran("bench {t}/b --out {t}/report --runs 3 --warmup-seconds 0")
    assert ran("doctor {t}/b")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("import nowhere.pt --out {out}", "nowhere.pt"),
        ("import {text} --out {out}", "notes.pt"),
        ("import {golden} --out {out} --vocabulary {text}", "leave --vocabulary away"),
        ("import {golden} --out {out} --config yolov7", "--config is for files that hold a state dict alone"),
    ],
)
def test_what_cannot_be_imported_is_one_line(
    line: str, message: str, goldens: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text, out = tmp_path / "notes.pt", tmp_path / "out"
    text.write_text("a\nb\n")
    words = line.format(text=text, out=out, golden=goldens / "gelan-c" / "checkpoint.pt").split()
    assert main(words) == 2
    told = capsys.readouterr().err
    assert message in told and told.count("\n") == 1
    assert not out.exists()
