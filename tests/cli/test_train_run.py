"""`yolor-edge train`: a file of settings, and a run that is stopped."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from yolor_edge.commands.train import CHANGEABLE
from yolor_edge.main import main
from yolor_edge.train import loop
from yolor_edge.train.config import TrainConfig


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What `fit` and `resume` are called with."""
    found: dict[str, Any] = {}

    def fit(data: str, out: str, **options: Any) -> SimpleNamespace:
        found.update(options, data=data, out=out)
        return SimpleNamespace(path="there")

    def resume(out: str, *others: Any) -> SimpleNamespace:
        found.update(out=out, others=others)
        return SimpleNamespace(path="there")

    monkeypatch.setattr(loop, "fit", fit)
    monkeypatch.setattr(loop, "resume", resume)
    return found


def test_options_win_over_the_file_and_the_file_over_the_defaults(asked: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text('data = "mine"\ntasks = ["boxes"]\nsize = "s"\nepochs = 5\nseed = 4\nmosaic = 0.5\n', "utf-8")
    line = ["train", "--config", str(path), "--out", "run", "--size", "m", "--epochs", "6", "--set", "seed=7"]
    assert main(line) == 0
    config = asked.pop("config")
    assert asked == {"data": "mine", "out": "run", "size": "m", "tasks": ("boxes",)}
    assert config == TrainConfig(epochs=6, seed=7, mosaic=0.5)


def test_what_may_change_on_the_way(asked: dict[str, Any]) -> None:
    assert set(CHANGEABLE) <= set(TrainConfig().to_json())
    assert main(["train", "--resume", "run", "--set", "batch_size=2", "--set", "workers=0"]) == 0
    assert asked == {"out": "run", "others": (None, None, ["batch_size=2", "workers=0"], None)}


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (["--config", "{}/mine.toml"], "mine.toml: no such file"),
        (["--resume", "run", "--config", "a.toml"], "leave out --config"),
        (["--resume", "run", "--set", "workers=1", "--set", "seed=1"], "leave out --set seed=1\n"),
    ],
)
def test_what_does_not_go_together_is_one_line(
    line: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", *(word.format(tmp_path) for word in line)]) == 2
    said = capsys.readouterr().err
    assert message in said and said.count("\n") == 1


@pytest.mark.parametrize(
    ("number", "code", "word"), [(signal.SIGINT, 130, "interrupted"), (signal.SIGTERM, 143, "terminated")]
)
def test_a_run_that_is_stopped_names_the_command_that_goes_on(
    scenes: Path, tmp_path: Path, number: signal.Signals, code: int, word: str
) -> None:
    out = tmp_path / "my run"
    program = "import sys; from yolor_edge.main import main; sys.exit(main(sys.argv[1:]))"
    options = ["--tasks", "semantic", "--input-size", "64x96", "--threads", "1", "--epochs", "1000"]
    settings = [part for one in ("workers=1", "batch_size=8", "samples_every=0") for part in ("--set", one)]
    command = [sys.executable, "-c", program, "train", "--data", str(scenes), "--out", str(out), *options, *settings]
    # A group of its own, which a terminal sends Ctrl-C to as a whole, workers included.
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if line.startswith("epoch 2/1000 step 1/1 "):
                break
        if number == signal.SIGINT:
            os.killpg(process.pid, number)
        else:
            process.send_signal(number)
        said = process.stderr.read()
        assert process.wait(60) == code, said
    lines = [line for line in said.splitlines() if not line.startswith("epoch ")]
    assert lines == [f"yolor-edge: {word}; go on with: yolor-edge train --resume '{out}'"]
    assert not [path for path in out.rglob("*") if ".part" in path.name or path.suffix == ".old"]
    assert (out / "state.safetensors").is_file() and (out / "checkpoint" / "checkpoint.json").is_file()
