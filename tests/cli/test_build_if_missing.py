"""Engines are built only where that is asked for, and only those that are missing; on a pretended GPU."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from yolor_edge.main import main
from yolor_edge.runtime.bundle.bundle import Bundle
from yolor_edge.runtime.cuda import installed_bindings
from yolor_edge.runtime.images.image_files import write_image

from ..export.exported import Exported
from ..pretended import gpu

PARTS = ("caption_prefill", "caption_step", "vision")
TENSORRT = ("--backend", "tensorrt", "--precision", "fp32")


@pytest.fixture
def bundle(exported: Exported, tmp_path: Path) -> Bundle:
    if "cuda-python" not in installed_bindings():
        pytest.skip("cuda-python is not installed")
    return Bundle.open(shutil.copytree(exported.bundle.path, tmp_path / "bundle"))


def engines_of(bundle: Bundle) -> list[str]:
    """The parts that have an engine."""
    return sorted(file.name.partition(".")[0] for file in bundle.path.glob("engines/*.engine"))


def test_a_command_builds_what_it_lacks_and_only_if_told(
    bundle: Bundle, pretended_driver: Path, tmp_path: Path
) -> None:
    picture = tmp_path / "picture.png"
    write_image(picture, np.full((40, 60, 3), 90, np.uint8))
    run = ("run", str(bundle.path), str(picture), "--force", "--out", str(tmp_path / "out"), *TENSORRT)
    done = gpu.run(pretended_driver, *run)
    assert done.returncode == 3 and "has no fp32 engine of vision yet; build it with: yolor-edge build" in done.stderr
    assert engines_of(bundle) == []

    native = ("--build-if-missing", "--caption-decoder", "native")
    done = gpu.run(pretended_driver, *run, *native)
    assert done.returncode == 0, done.stderr
    assert "vision.fp32.onnx: building" in done.stderr and "captions" not in done.stderr
    assert engines_of(bundle) == ["vision"]  # more was not asked for

    done = gpu.run(pretended_driver, *run, *native)
    assert done.returncode == 0 and done.stderr.startswith("[1/1] picture.png: ")
    assert done.stderr.count("\n") == 1

    verify = ("verify", str(bundle.path), *TENSORRT, "--json")
    done = gpu.run(pretended_driver, *verify, "--build-if-missing")
    assert done.returncode == 0, done.stderr
    assert "vision.fp32.onnx" not in done.stderr and "caption_step.fp32.onnx: building" in done.stderr
    assert engines_of(bundle) == list(PARTS)
    replay = json.loads(done.stdout)
    assert replay["passed"] and replay["skipped"] == []
    assert {one["backend"] for one in replay["verifications"]} == {"tensorrt"}


def test_what_is_built_if_missing_is_measured_as_a_build_is(
    bundle: Bundle, pretended_driver: Path, tmp_path: Path
) -> None:
    picture = tmp_path / "picture.png"
    write_image(picture, np.full((40, 60, 3), 90, np.uint8))
    run = (
        "run",
        str(bundle.path),
        str(picture),
        "--force",
        "--out",
        str(tmp_path / "out"),
        *TENSORRT,
        "--build-if-missing",
    )
    done = gpu.run(pretended_driver, *run, "--tasks", "boxes", FAKE_CUDA_MIB="256")
    assert done.returncode == 0, done.stderr
    assert engines_of(bundle) == ["vision"] and "captions" not in done.stderr  # no caption was asked for

    done = gpu.run(pretended_driver, *run, FAKE_CUDA_MIB="256")
    assert done.returncode == 0, done.stderr
    assert "captions by native: " in done.stderr and "captions by graph: " in done.stderr
    assert engines_of(bundle) == list(PARTS)
    file = bundle.path / "engines" / "caption-decoders.choices"
    (choice,) = json.loads(file.read_text())["captions"]
    assert (choice["backend"], choice["precision"], choice["beam_size"]) == ("tensorrt", "fp32", 3)

    done = gpu.run(pretended_driver, *run, FAKE_CUDA_MIB="256")
    assert done.returncode == 0 and done.stderr.startswith("[1/1] picture.png: ")
    assert done.stderr.count("\n") == 1  # once is enough


def test_engines_from_elsewhere_are_measured_where_they_run(bundle: Bundle, pretended_driver: Path) -> None:
    command = ("build", str(bundle.path), "--precision", "fp32", "--flavour", "tensorrt")
    assert gpu.run(pretended_driver, *command, FAKE_CUDA_MIB="256").returncode == 0
    file = bundle.path / "engines" / "caption-decoders.choices"
    file.unlink()
    done = gpu.run(pretended_driver, *command, FAKE_CUDA_MIB="256")
    assert done.returncode == 0, done.stderr
    assert "is built already" in done.stderr and "captions by native: " in done.stderr
    assert file.is_file()


def test_a_checkpoint_has_no_engines(exported: Exported, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    checkpoint = str(exported.checkpoint.path)
    for options in ((), TENSORRT):
        command = ["evaluate", checkpoint, "--data", str(tmp_path), "--build-if-missing", *options]
        assert main(command) == 2
        told = capsys.readouterr().err
        assert told.count("\n") == 1
        assert f"{checkpoint}: is a checkpoint, which runs in torch without engines; leave out" in told
        assert f"yolor-edge export {checkpoint} --out BUNDLE" in told


def test_a_build_measures_captions_and_load_follows(bundle: Bundle, pretended_driver: Path, tmp_path: Path) -> None:
    command = ("build", str(bundle.path), "--precision", "fp32", "--flavour", "tensorrt")
    done = gpu.run(pretended_driver, *command, FAKE_CUDA_MIB="256")
    assert done.returncode == 0, done.stderr
    assert "captions by native: " in done.stderr and "captions by graph: " in done.stderr
    file = bundle.path / "engines" / "caption-decoders.choices"
    (choice,) = json.loads(file.read_text())["captions"]
    assert choice["backend"] == "tensorrt" and choice["device"] == "Pretended GPU"
    assert choice["decoder"] == min(choice["measured_ms"], key=choice["measured_ms"].__getitem__)
    assert Bundle.open(bundle.path).digest == bundle.digest

    done = gpu.run(pretended_driver, *command, FAKE_CUDA_MIB="256")
    assert done.returncode == 0 and "captions by" not in done.stderr  # nothing is new

    out = tmp_path / "report"
    bench = ("bench", str(bundle.path), "--out", str(out), "--runs", "3", "--warmup-seconds", "0", *TENSORRT)
    done = gpu.run(pretended_driver, *bench, FAKE_CUDA_MIB="256")
    assert done.returncode == 0, done.stderr
    report = json.loads((out / "report.json").read_text())
    assert report["identity"]["backend"] == "tensorrt"
    assert report["protocol"]["transfers"].startswith("the image's bytes to the GPU")
    assert report["protocol"]["post_processing"] == "gpu"
    assert report["protocol"]["on_device"]["vision"]["cuda_graph"] == "captured"

    done = gpu.run(pretended_driver, *bench, "--processing", "cpu", FAKE_CUDA_MIB="256")
    assert done.returncode == 0, done.stderr
    report = json.loads((out / "report.json").read_text())
    assert report["protocol"]["post_processing"] == "cpu"
    assert report["protocol"]["transfers"].startswith("the letterboxed image to the GPU and raw heads back")


def test_what_runs_no_engines_is_refused(bundle: Bundle, pretended_driver: Path) -> None:
    done = gpu.run(pretended_driver, "run", str(bundle.path), "x.png", "--build-if-missing")
    assert done.returncode == 2 and len(done.stderr.splitlines()) == 1
    assert 'backend "onnxruntime" runs the bundle\'s graphs as they are and needs no engines' in done.stderr
    done = gpu.run(pretended_driver, "verify", str(bundle.path), "--build-if-missing")
    assert done.returncode == 2 and "give --backend and --precision as well" in done.stderr


def test_without_a_gpu_nothing_is_built(bundle: Bundle, pretended_driver: Path) -> None:
    command = ("bench", str(bundle.path), "--out", "none", *TENSORRT, "--build-if-missing")
    done = gpu.run(pretended_driver, *command, FAKE_CUDA_NONE="1")
    assert done.returncode == 1 and "there is no GPU 0 here" in done.stderr and len(done.stderr.splitlines()) == 1
    assert engines_of(bundle) == []
