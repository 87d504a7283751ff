"""The command `yolor-edge diff`: what it prints and writes, and with which exit code it ends."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from yolor_edge.main import main
from yolor_edge.runtime.bundle.bundle import write_bundle
from yolor_edge.runtime.results import Result
from yolor_edge.runtime.verification.golden import Answers, write_golden

from ..runtime.tiny_bundle import INPUT_SIZE, coloured_patch, tiny_spec, write_tiny_bundle

onnx = pytest.importorskip("onnx")


def reseal(folder: Path) -> Path:
    write_bundle(folder, tiny_spec(("boxes",)), {"vision": {"fp32": "vision.fp32.onnx"}}, provenance={})
    return folder


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The tiny bundle, and one whose class logits of the coarsest level are others: not to be changed."""
    folder = tmp_path_factory.mktemp("diff")
    write_tiny_bundle(folder / "a", ("boxes",))
    (folder / "a" / "golden" / "one.npz").unlink()
    answers = Answers(np.zeros((*INPUT_SIZE, 3), np.uint8), {}, Result(INPUT_SIZE), {})
    write_golden(folder / "a" / "golden" / "red.npz", coloured_patch(INPUT_SIZE, (8, 8, 40, 60)), answers)
    reseal(folder / "a")
    shutil.copytree(folder / "a", folder / "b")
    model = onnx.load(folder / "b" / "vision.fp32.onnx")
    weight = next(one for one in model.graph.initializer if one.name == "class_logits_conv32_w")
    changed = onnx.numpy_helper.to_array(weight) * np.float32(1.5)
    weight.CopyFrom(onnx.numpy_helper.from_array(changed, weight.name))
    onnx.save(model, folder / "b" / "vision.fp32.onnx")
    return folder / "a", reseal(folder / "b")


def test_two_that_are_the_same(bundles: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    a, _ = bundles
    assert main(["diff", str(a), f"{a}:fp32", "--threads", "1"]) == 0
    printed, progress = capsys.readouterr()
    assert printed.splitlines()[-1].startswith("every stage is within the tolerance")
    assert progress == "comparing 1/1\n"


def test_two_that_differ(bundles: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    a, b = map(str, bundles)
    out = tmp_path / "lists" / "keep.txt"
    assert main(["diff", a, b, "--threads", "1", "--out", str(out)]) == 1
    assert "first over the tolerance: class_logits_conv32 " in capsys.readouterr().out
    assert out.read_text() == "class_logits_conv32\n"
    assert main(["diff", a, b, "--threads", "1", "--json"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert (found["first"], found["keep_float"], found["passed"]) == (
        "class_logits_conv32",
        ["class_logits_conv32"],
        False,
    )
    assert main(["diff", a, b, "--threads", "1", "--tolerance", "1", "--out", str(out)]) == 0
    assert out.read_text() == ""


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("diff", "the following arguments are required: A, B"),
        ("diff nowhere elsewhere", "nowhere: no such folder"),
        ("diff {a} {a}:fp16", "has no fp16 graph, it holds fp32"),
        ("diff {a} {a} --tolerance 0", "--tolerance must be a number above 0, got 0"),
        ("diff {a} {a} --threads 0", "--threads must be at least 1, got 0"),
        ("diff {a} {a}/bundle.json", "bundle.json: is a file, expected a bundle folder"),
    ],
)
def test_misuse_is_one_line(
    bundles: tuple[Path, Path], line: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(line.format(a=bundles[0]).split()) == 2
    printed, complaint = capsys.readouterr()
    assert printed == ""
    assert message in complaint
    assert complaint.count("\n") == 1
