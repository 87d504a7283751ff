"""What a training run says while it goes on."""

from __future__ import annotations

import sys

import pytest
from yolor_edge.train.progress import Progress, duration


class Clock:
    """Seconds that pass when told to."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_a_file_gets_a_line_every_half_minute_and_one_at_the_end(capsys: pytest.CaptureFixture[str]) -> None:
    clock = Clock()
    progress = Progress(epochs=3, steps=50, clock=clock)
    progress.begin_epoch()
    for step in range(1, 51):
        clock.now += 2.0
        progress.tell(0, step, {"box": 1.25, "caption": 3.0})
    assert capsys.readouterr().err.splitlines() == [
        "epoch 1/3 step 15/50 box 1.250 caption 3.000 | 0.50 steps/s, 4 min left",
        "epoch 1/3 step 30/50 box 1.250 caption 3.000 | 0.50 steps/s, 4 min left",
        "epoch 1/3 step 45/50 box 1.250 caption 3.000 | 0.50 steps/s, 4 min left",
        "epoch 1/3 step 50/50 box 1.250 caption 3.000 | 0.50 steps/s, 3 min left",
    ]


def test_after_a_resume_the_epochs_before_it_count_for_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    clock = Clock()
    progress = Progress(epochs=4, steps=10, first_epoch=2, clock=clock)
    progress.begin_epoch()
    clock.now += 40.0
    progress.tell(2, 4, {"box": 1.0})  # ten seconds a step, sixteen steps to go
    assert capsys.readouterr().err == "epoch 3/4 step 4/10 box 1.000 | 0.10 steps/s, 3 min left\n"
    clock.now += 1.0
    progress.tell(2, 5, {"box": 1.0})
    assert capsys.readouterr().err == ""
    progress.begin_epoch()
    progress.tell(3, 10, {"box": 1.0})
    assert "left" not in capsys.readouterr().err


def test_a_terminal_gets_every_step_on_one_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    progress = Progress(epochs=1, steps=2, clock=Clock())
    progress.tell(0, 1, {"box": 1.0})
    progress.tell(0, 2, {"box": 1.0})
    said = capsys.readouterr().err
    assert said.count("\r\x1b[Kepoch 1/1 step ") == 2
    assert said.endswith("\n") and said.count("\n") == 1


def test_durations_are_rounded_as_people_do() -> None:
    assert [duration(s) for s in (0.4, 89, 91, 3600, 5400, 12_000)] == [
        *("0 s", "89 s", "2 min", "60 min", "1 h 30 min", "3 h 20 min"),
    ]
