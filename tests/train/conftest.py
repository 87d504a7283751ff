"""Fixtures of the training tests."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """Run torch on one thread, and leave its random state, thread count and determinism as they were."""
    import torch

    settings: Any = torch.utils.deterministic  # A module that pretends to be an object with properties.

    threads, state = torch.get_num_threads(), torch.get_rng_state()
    deterministic = torch.are_deterministic_algorithms_enabled()
    filled = settings.fill_uninitialized_memory
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
    torch.set_rng_state(state)
    torch.use_deterministic_algorithms(deterministic)
    settings.fill_uninitialized_memory = filled


@pytest.fixture(scope="session")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set of eight drawn scenes of 64 x 96 with all four kinds of truth, split "train"."""
    from yolor_edge.evaluation.scenes.scene_files import write_scenes

    return write_scenes(tmp_path_factory.mktemp("data") / "scenes", images=8, seed=3, size=(64, 96))


@pytest.fixture
def scenes_with_one_caption(scenes: Path, tmp_path: Path) -> Path:
    """A copy of `scenes` in which one picture has one caption, and the others none."""
    copy = tmp_path / "scenes"
    shutil.copytree(scenes, copy)
    path = copy / "annotations" / "captions_train.json"
    captions = json.loads(path.read_text(encoding="utf-8"))
    captions["annotations"] = captions["annotations"][:1]
    path.write_text(json.dumps(captions), encoding="utf-8")
    return copy
