"""What a run leaves behind, whatever stops it: scores after the save, the best epoch, an early end, lack of memory."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import torch
from yolor_edge.evaluation.scenes.scene_files import write_scenes
from yolor_edge.runtime.errors import ImageError, UsageError
from yolor_edge.train import epochs as epochs_module
from yolor_edge.train.checkpoint import Checkpoint
from yolor_edge.train.config import TrainConfig
from yolor_edge.train.config_file import read_config_file
from yolor_edge.train.loop import fit, resume
from yolor_edge.train.run_files import CONFIG, LOG, RUN, read_log
from yolor_edge.train.trainer import Trainer
from yolor_edge.train.trouble import OutOfMemory, first_images, is_out_of_memory
from yolor_edge.train.validation import Validation, evenly_spread

pytestmark = pytest.mark.usefixtures("one_thread")

SIZE = (64, 96)
# One step an epoch.
TRAIN = TrainConfig(epochs=5, batch_size=4, workers=0, augment="none", samples_every=0)


class Killed(BaseException):
    """What nothing in the product catches."""


@dataclass
class Scripted:
    """Scores that are known beforehand."""

    value: float

    def to_json(self) -> dict[str, Any]:
        return {"scores": {"images": 2, "miou": self.value, "iou_by_class": {"sky": self.value}}}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four scenes to train on and three to validate on."""
    folder = tmp_path_factory.mktemp("epochs") / "data"
    write_scenes(folder, count=4, seed=3, size=SIZE)
    write_scenes(folder, count=3, seed=4, split="val", size=SIZE)
    return folder


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[bool]]:
    """script(0.1, 0.3...): the scores of the validations to come; an exception is raised, None kills the process.

    Returns the list of what is validated: whether it is the whole split.
    """

    def arm(*values: float | BaseException) -> list[bool]:
        left, asked = list(values), []

        def score(self: Validation, network: object, on_image: object = None, is_whole: bool = False) -> Scripted:
            asked.append(is_whole)
            value = left.pop(0)
            if isinstance(value, BaseException):
                raise value
            return Scripted(value)

        monkeypatch.setattr(Validation, "score", score)
        return asked

    return arm


def train(data: Path, out: Path, config: TrainConfig = TRAIN) -> Checkpoint:
    return fit(data, out, config=config, input_size=SIZE, tasks=("semantic",))


def kept(out: Path) -> dict[str, Any]:
    """All that two runs of the same result have alike."""
    log = [{k: v for k, v in entry.items() if k != "seconds"} for entry in read_log(out)]
    with (out / "results.csv").open(encoding="utf-8") as stream:
        rows = [{k: v for k, v in row.items() if k != "seconds"} for row in csv.DictReader(stream)]
    best, last = Checkpoint.open(out / "best"), Checkpoint.open(out / "checkpoint")
    facts = [(one.sha256, one.provenance["epochs_done"], one.provenance["validation"]) for one in (best, last)]
    return {"log": log, "rows": rows, "checkpoints": facts}


def test_a_kill_while_scores_are_computed_loses_nothing(
    data: Path, tmp_path: Path, script: Callable[..., list[bool]]
) -> None:
    scores = (0.1, 0.4, 0.3, 0.2, 0.2)
    asked = script(*scores)
    best = train(data, tmp_path / "whole")
    assert asked == [False] * 5  # the split is small, so every validation sees all of it
    assert best.path == tmp_path / "whole" / "best"
    assert best.provenance["epochs_done"] == 2
    expected = kept(tmp_path / "whole")
    assert [row["score"] for row in expected["rows"]] == [str(score) for score in scores]

    out = tmp_path / "killed"
    script(0.1, Killed())
    with pytest.raises(Killed):
        train(data, out)
    assert [entry["epoch"] for entry in read_log(out)] == [1, 2]
    assert Checkpoint.open(out / "checkpoint").provenance["epochs_done"] == 2
    script(0.4, Killed())  # the one that was lost, and that of the third epoch
    with pytest.raises(Killed):
        resume(out)
    script(*scores[2:])
    resume(out)
    assert kept(out) == expected


def test_the_training_goes_on_where_an_epoch_cannot_be_scored(
    data: Path, tmp_path: Path, script: Callable[..., list[bool]], capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    script(0.3, ImageError("a.jpg: cannot be read"), 0.2)
    best = train(data, out, replace(TRAIN, epochs=3))
    assert best.provenance["epochs_done"] == 1
    assert "epoch 2 was not scored, the training goes on: a.jpg: cannot be read\n" in capsys.readouterr().err
    assert read_log(out)[1]["validation_error"] == "a.jpg: cannot be read"
    assert "Epoch 2 was not scored: a.jpg: cannot be read" in (out / "index.html").read_text(encoding="utf-8")
    script(ValueError("a mistake"))
    with pytest.raises(ValueError, match="a mistake"):
        resume(out, epochs=4)
    assert Checkpoint.open(out / "checkpoint").provenance["epochs_done"] == 4


def test_a_run_that_gets_no_better_stops_and_goes_on_when_told(
    data: Path, tmp_path: Path, script: Callable[..., list[bool]], capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    config = replace(TRAIN, patience=2, save_every=4)
    script(0.2, 0.1, 0.1)
    best = train(data, out, config)
    assert (best.provenance["epochs_done"], len(read_log(out))) == (1, 3)
    assert "Stopped early after epoch 3" in (out / "index.html").read_text(encoding="utf-8")
    capsys.readouterr()
    resume(out)  # ended is ended
    assert capsys.readouterr().err.startswith("Stopped early after epoch 3: no better score in 2 epochs. For more: ")
    assert len(read_log(out)) == 3
    script(0.1, 0.3)
    assert resume(out, epochs=5).provenance["epochs_done"] == 5
    assert len(read_log(out)) == 5


def test_of_a_large_split_some_images_are_scored_and_all_at_the_end(
    data: Path, tmp_path: Path, script: Callable[..., list[bool]]
) -> None:
    asked = script(0.4, 0.3, 0.25, 0.35)
    best = train(data, tmp_path / "run", replace(TRAIN, epochs=2, validate_images=2))
    assert asked == [False, False, True, True]
    log = read_log(tmp_path / "run")
    assert [entry["score"] for entry in log] == [0.4, 0.3]
    assert log[1]["validation"]["scores"]["miou"] == 0.25
    assert best.provenance["validation"]["scores"]["miou"] == 0.35


def test_images_are_spread_over_a_data_set(data: Path) -> None:
    class Numbers:
        split = "val"

        def __len__(self) -> int:
            return 10

        def __getitem__(self, index: int) -> int:
            return index

    some: Any = evenly_spread(Numbers(), 4)  # type: ignore[arg-type]
    assert ([some[i] for i in range(len(some))], some.split) == ([0, 3, 6, 9], "val")
    assert len(evenly_spread(Numbers(), 99)) == 10  # type: ignore[arg-type]


def test_memory_that_runs_out_names_a_batch_and_the_run_goes_on_with_it(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: Callable[..., list[bool]]
) -> None:
    script(0.1, 0.2, 0.3)
    step = Trainer.step

    def hungry(self: Trainer, batch: Any, *others: Any, **more: Any) -> Any:
        if len(batch.strong) > 2 and self.step_index:
            raise RuntimeError(
                "[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"
            )
        return step(self, batch, *others, **more)

    monkeypatch.setattr(Trainer, "step", hungry)
    out = tmp_path / "run"
    with pytest.raises(OutOfMemory) as caught:
        train(data, out, replace(TRAIN, epochs=3))
    assert str(caught.value) == (
        "out of memory in a step of 4 images at 64x96 on cpu; 2 may fit: "
        f"yolor-edge train --resume {out} --set batch_size=2 (what was saved is kept)"
    )
    resume(out, settings=["batch_size=2"])
    assert [entry["epoch"] for entry in read_log(out)] == [1, 2, 3]
    assert read_config_file(out / CONFIG)[1] == replace(TRAIN, epochs=3, batch_size=2)
    with pytest.raises(UsageError, match="there is no setting 'batch'"):
        resume(out, settings=["batch=2"])


def test_which_errors_mean_memory() -> None:
    assert is_out_of_memory(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate"))
    assert is_out_of_memory(MemoryError())
    assert is_out_of_memory(RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: not enough memory: you"))
    assert not is_out_of_memory(RuntimeError("shapes differ"))
    assert not is_out_of_memory(ValueError("CUDA out of memory"))


def test_a_part_of_a_batch_has_the_truth_of_its_images(
    data: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    seen: list[Any] = []
    monkeypatch.setattr(epochs_module, "write_batch", lambda folder, number, batch, network: seen.append(batch))

    def stop(*_: object, **__: object) -> None:
        raise Killed

    monkeypatch.setattr(Trainer, "step", stop)
    with pytest.raises(Killed):
        fit(data, tmp_path / "run", config=replace(TRAIN, augment="asymmetric"), input_size=SIZE)
    (batch,) = seen
    part = first_images(batch, 2)
    objects = int(batch.truth.valid[:2].sum())
    assert len(part.strong) == len(part.truth.boxes) == len(part.truth.first_mask) == 2
    assert part.truth.masks.shape[0] == objects < batch.truth.masks.shape[0]
    assert torch.equal(part.truth.masks, batch.truth.masks[:objects])
    assert torch.equal(part.owners, batch.owners[batch.owners < 2])
    assert len(part.tokens) == len(part.owners)
    assert part.weak is not None and len(part.weak) == 2


class Links(HTMLParser):
    """What a page refers to."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found += [value or "" for name, value in attrs if name in ("href", "src")]


def test_the_page_shows_what_lies_in_the_folder_and_needs_no_network(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    config = TrainConfig(epochs=2, batch_size=2, workers=0, samples_every=1, plain_epochs=1)
    fit(data, out, config=config, input_size=SIZE, name="<my & net>")
    page = (out / "index.html").read_text(encoding="utf-8")
    assert "<h1>&lt;my &amp; net&gt;</h1><p>All 2 epochs are done." in page
    assert 'http-equiv="refresh"' not in page  # it is done
    links = Links()
    links.feed(page)
    assert all((out / link).exists() and ":" not in link and not link.startswith("/") for link in links.found)
    assert {f"batches/{kind}-{i}.jpg" for kind in ("strong", "weak") for i in (1, 2)} <= set(links.found)
    assert {f"samples/{name}-{i}.jpg" for name in ("truth", "epoch-0001", "epoch-0002") for i in (1, 2, 3)} <= set(
        links.found
    )
    assert {"best/", "checkpoint/", "config.toml", "log.jsonl", "results.csv", "detections.json"} <= set(links.found)
    assert not re.search(r"https?://(?!www\.w3\.org/2000/svg)|@import|<script", page)
    assert "prefers-color-scheme:dark" in page and "width=device-width" in page
    charts = re.findall(r"<figcaption>([^<]+)</figcaption>", page)
    losses = set(read_log(out)[0]["losses"])
    assert losses | {"sum", "learning rate", "Scores, the best epoch marked", "Precision by recall"} <= set(charts)
    assert page.count("<svg") == len(losses) + 5
    # The file of all settings trains alike.
    options, read = read_config_file(out / CONFIG)
    assert read == config
    run = json.loads((out / RUN).read_text(encoding="utf-8"))
    assert (options["data"], options["input_size"], options["size"]) == (run["data"], SIZE, "n")
    assert options["name"] == "<my & net>" and options["captioner"] == "catr" and "start" not in options
    assert (out / LOG).is_file()
