"""`yolor-edge build` on a tiny bundle: what it prints, and that whatever ends it leaves nothing half-written."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from yolor_edge import main as cli
from yolor_edge.export.engines import to_tensorrt

from ..runtime.tiny_bundle import write_tiny_bundle

pytest.importorskip("tensorrt_rtx", reason="TensorRT for RTX is not there on this platform")

RTX = ("--flavour", "tensorrt-rtx", "--target", "sm_86", "--precision", "fp32")


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return write_tiny_bundle(tmp_path / "boxes", ("boxes",)).path


def build(bundle: Path, *words: str) -> int:
    return cli.main(["build", str(bundle), *RTX, *words])


def test_it_says_what_it_built_and_what_was_there(bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert build(bundle, "--batch-sizes", "1,2") == 0
    out, err = capsys.readouterr()
    head, row, last = out.splitlines()
    assert head.split() == ["graph", "engine", "seconds", "peak", "layers", "file"]
    (engine,) = (bundle / "engines").glob("*.engine")
    assert row.startswith("vision.fp32.onnx ")
    assert " MiB " in row
    assert row.endswith(f" {engine.name}")
    assert last.endswith(f" for sm_86; in {bundle / 'engines'}")
    assert "vision.fp32.onnx: building takes about " in err
    assert "peak memory" in err
    assert build(bundle, "--batch-sizes", "1,2") == 0
    out, err = capsys.readouterr()
    assert out.splitlines()[1].split()[3:5] == ["cached", "-"]
    assert "vision.fp32.onnx: is built already" in err


def test_json_is_all_there_is_on_stdout(bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert build(bundle, "--json", "--low-memory", "--workspace", "64") == 0
    (engine,) = json.loads(capsys.readouterr().out)["engines"]
    assert engine["targets"] == ["sm_86"]
    assert engine["settings"]["workspace_mib"] == 64
    assert engine["settings"]["low_memory"] is True
    assert Path(engine["path"]).is_file()
    assert engine["is_new"] is True


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--input-size", "640"], "yolor-edge export CHECKPOINT --input-size 640x640 --out"),
        (["--target", "sm_87"], "here its targets are sm_75, sm_80, sm_86, sm_89, sm_120"),
        (["--target", "sm_86,,"], "argument --target: expected names with commas between, such as sm_86,sm_89"),
        (["--batch-sizes", "one"], 'expected whole numbers with commas between, such as 1,4, got "one"'),
        (["--batch-sizes", "0"], "--batch-sizes must be from 1 to 256, got 0"),
        (["--max-beam-size", "0"], "--max-beam-size must be from 1 to 256, got 0"),
        (["--workspace", "0"], "--workspace must be from 1 to 1048576, got 0"),
        (["--precision", "fp16"], "has no fp16 graph, it holds fp32"),
        (["--flavour", "openvino"], "unknown flavour 'openvino'; the flavours are tensorrt, tensorrt-rtx"),
    ],
)
def test_misuse_is_one_line(bundle: Path, capsys: pytest.CaptureFixture[str], words: list[str], message: str) -> None:
    assert build(bundle, *words) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert message in err
    assert not (bundle / "engines").exists()


def test_frozen_fails_where_nothing_is_cached(bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert build(bundle, "--frozen") == 1
    assert "so a frozen build makes nothing; build once without --frozen" in capsys.readouterr().err
    assert build(bundle) == 0
    assert build(bundle, "--frozen") == 0


def test_a_full_disk_is_told_in_one_line(
    bundle: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*arguments: object) -> None:
        raise OSError(28, "No space left on device", str(bundle / "engines"))

    monkeypatch.setattr(to_tensorrt, "_run_worker", full)
    assert build(bundle) == 1
    last = capsys.readouterr().err.splitlines()[-1]
    assert last == (
        f"yolor-edge: {bundle / 'engines'}: the disk is full (No space left on device); "
        "free some space and run the command again"
    )
    assert list((bundle / "engines").glob("*")) == []


@pytest.mark.parametrize(
    ("number", "exit_code", "said"), [(signal.SIGINT, 130, "interrupted"), (signal.SIGTERM, 143, "terminated")]
)
def test_an_ended_build_leaves_nothing(bundle: Path, number: signal.Signals, exit_code: int, said: str) -> None:
    code = "import sys; from yolor_edge.main import main; sys.exit(main(sys.argv[1:]))"
    command = [sys.executable, "-c", code, "build", str(bundle), *RTX]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if ": building takes " in line:
                process.send_signal(number)
                break
        _, rest = process.communicate(timeout=60)
    assert process.returncode == exit_code
    assert rest == f"yolor-edge: {said}\n"
    assert list((bundle / "engines").glob("*")) == []
