"""A loss that is no number leaves what led to it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from torch import Tensor
from yolor_edge.evaluation.dataset.coco import CocoDataset
from yolor_edge.runtime.images.image_files import read_image
from yolor_edge.train.config import TrainConfig
from yolor_edge.train.loop import fit, resume
from yolor_edge.train.run_files import STATE
from yolor_edge.train.trainer import NonFiniteLoss, Trainer

pytestmark = pytest.mark.usefixtures("one_thread")

TRAIN = TrainConfig(epochs=2, batch_size=4, workers=0, mosaic=0, mixup=0, color=0, samples_every=0)


@pytest.fixture
def data(scenes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Scenes of which one is white, and losses that are no numbers for a batch with it."""
    copy = Path(shutil.copytree(scenes, tmp_path / "data"))
    truth = CocoDataset.open(copy)[5]
    cv2.imwrite(str(truth.path), np.full((*truth.size, 3), 255, np.uint8))
    losses_of = Trainer._losses

    def losses(self: Trainer, batch: Any, *others: Any) -> dict[str, Tensor]:
        found = losses_of(self, batch, *others)
        whitest = batch.strong.float().flatten(1).median(1).values.max()
        return {**found, "mask": found["mask"] * float("nan")} if whitest > 254 else found

    monkeypatch.setattr(Trainer, "_losses", losses)
    return copy


def test_the_image_that_gives_no_number_is_found_and_drawn(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    with pytest.raises(NonFiniteLoss) as caught:
        fit(data, out, config=TRAIN, input_size=(64, 96))
    white = CocoDataset.open(data)[5].path
    said = str(caught.value)
    assert f"the loss is no number (mask) at step {caught.value.step}, epoch 1; look at {white.name} in {out}" in said
    assert f"yolor-edge train --resume {out} --set learning_rate=0.0005" in said
    assert "\n" not in said
    facts = json.loads((out / "nan" / "nan.json").read_text(encoding="utf-8"))
    assert (facts["epoch"], facts["step"], facts["losses"]["mask"]) == (1, caught.value.step, "nan")
    (image,) = facts["images"]
    assert (image["index"], image["files"], image["losses"]["mask"]) == (5, [str(white)], "nan")
    assert image["losses"]["class"] > 0
    assert {path.name for path in (out / "nan").iterdir()} == {"nan.json", image["picture"]}
    assert read_image(out / "nan" / image["picture"]).shape[2] == 3
    assert not (out / STATE).exists()
    # Once the picture is there, the run goes on.
    shutil.copy(CocoDataset.open(data)[4].path, white)
    assert resume(out, settings=["learning_rate=0.0005"]).provenance["train"]["learning_rate"] == 0.0005


def test_weights_that_ran_away_name_the_images_of_the_step(
    scenes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    losses_of = Trainer._losses

    def losses(self: Trainer, batch: Any, *others: Any) -> dict[str, Tensor]:
        found = losses_of(self, batch, *others)
        return {name: loss * (float("inf") if len(batch.strong) > 1 else 1) for name, loss in found.items()}

    monkeypatch.setattr(Trainer, "_losses", losses)
    with pytest.raises(NonFiniteLoss, match=r"at step 1, epoch 1; look at .* and 1 more in "):
        fit(scenes, tmp_path / "run", config=TRAIN, input_size=(64, 96))
    facts = json.loads((tmp_path / "run" / "nan" / "nan.json").read_text(encoding="utf-8"))
    assert len(facts["images"]) == 4
    assert facts["note"].startswith("no image alone gives such a loss")
