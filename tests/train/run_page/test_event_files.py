"""TensorBoard reads what a run writes for it, and a resume takes back what a kill left."""

from __future__ import annotations

import importlib.util
import warnings
from pathlib import Path
from typing import Any

import pytest
from yolor_edge.train.run_page.event_files import EventFiles


def entry(epoch: int, loss: float, **more: Any) -> dict[str, Any]:
    return {"epoch": epoch, "losses": {"box": loss}, "learning_rate": 0.5, "seconds": 1.0, **more}


def test_losses_and_scores_are_read_back(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    first = EventFiles(tmp_path, 0)
    scores = {"images": 3, "box_ap": 0.25, "mask_ap": None, "box_ap_by_class": {"cat": 0.25}}
    first.add(entry(1, 4.0, score=0.25, validation={"scores": scores}))
    first.add(entry(2, 9.0))  # then it is killed, before epoch 2 was saved
    first.close()
    second = EventFiles(tmp_path, 1)
    second.add(entry(2, 3.0))
    second.close()
    found = EventAccumulator(str(tmp_path))
    found.Reload()
    assert set(found.Tags()["scalars"]) == {"losses/box", "learning_rate", "score", "scores/box_ap"}
    assert [(event.step, event.value) for event in found.Scalars("losses/box")] == [(1, 4.0), (2, 3.0)]
    assert [event.value for event in found.Scalars("scores/box_ap")] == [0.25]


def test_without_the_package_nothing_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    events = EventFiles(tmp_path / "events", 0)
    events.add(entry(1, 4.0))
    events.close()
    assert not (tmp_path / "events").exists()


def test_one_that_does_not_load_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    monkeypatch.setitem(__import__("sys").modules, "torch.utils.tensorboard", None)
    EventFiles(tmp_path / "events", 0).add(entry(1, 4.0))
    said = capsys.readouterr().err
    assert said.startswith("no files for TensorBoard: it does not load (") and said.count("\n") == 1
    assert not (tmp_path / "events").exists()
