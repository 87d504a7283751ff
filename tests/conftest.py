"""Fixtures shared by all tests."""

from __future__ import annotations

import json
import os
import shutil
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from .export.exported import Exported


_cache = tempfile.TemporaryDirectory(prefix="yolor-edge-tests-")


def pytest_configure() -> None:
    os.environ["XDG_CACHE_HOME"] = _cache.name  # what is remembered of data sets is not left in the user's home
    # A shell starts what runs in the background with Ctrl-C ignored, for all its children; here it is sent on purpose.
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_unconfigure() -> None:
    _cache.cleanup()


@pytest.fixture(scope="session")
def coco_tiny() -> Path:
    """The folder of coco-tiny, 100 photographs: YOLOR_EDGE_COCO_TINY, or the one beside the repository."""
    beside = Path(__file__).resolve().parents[2] / "shared" / "data" / "coco-tiny"
    folder = Path(os.environ.get("YOLOR_EDGE_COCO_TINY", beside))
    if not (folder / "annotations").is_dir():
        pytest.skip(f"coco-tiny is not at {folder}; set YOLOR_EDGE_COCO_TINY to its folder")
    return folder


@pytest.fixture(scope="session")
def goldens() -> Path:
    """The folder of official checkpoints with their outputs: YOLOR_EDGE_GOLDENS, or the one beside the repository."""
    beside = Path(__file__).resolve().parents[2] / "shared" / "goldens"
    folder = Path(os.environ.get("YOLOR_EDGE_GOLDENS", beside))
    if not folder.is_dir():
        pytest.skip(f"the golden checkpoints are not at {folder}; set YOLOR_EDGE_GOLDENS to their folder")
    return folder


@pytest.fixture(scope="session")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    """A random four-task network as checkpoint and bundle, with the scenes whose classes it has: not to be changed."""
    from .export.exported import export_random_network  # here, since it takes torch

    return export_random_network(tmp_path_factory.mktemp("exported"))


@pytest.fixture(scope="session")
def pretended_driver(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a driver of CUDA that needs no GPU."""
    from .pretended.gpu import build_driver

    return build_driver(tmp_path_factory.mktemp("driver"))


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

    return write_scenes(tmp_path_factory.mktemp("data") / "scenes", count=8, seed=3, size=(64, 96))


@pytest.fixture
def scenes_with_one_caption(scenes: Path, tmp_path: Path) -> Path:
    """A copy of `scenes` in which one image has one caption, and the others none."""
    copy = tmp_path / "scenes"
    shutil.copytree(scenes, copy)
    path = copy / "annotations" / "captions_train.json"
    captions = json.loads(path.read_text(encoding="utf-8"))
    captions["annotations"] = captions["annotations"][:1]
    path.write_text(json.dumps(captions), encoding="utf-8")
    return copy
