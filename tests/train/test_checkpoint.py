"""Checkpoints come back as they were written, and every other folder gets one clear line."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from yolor_edge.runtime.errors import CheckpointError
from yolor_edge.runtime.files import sha256_of
from yolor_edge.train import checkpoint as checkpoint_module
from yolor_edge.train.checkpoint import DESCRIPTION, WEIGHTS, Checkpoint, write_checkpoint
from yolor_edge.train.network.network import Network

from .tiny_network import tiny_config, tiny_network

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def network() -> Network:
    made = tiny_network(seed=3, tasks=("boxes",))
    for name, tensor in made.state_dict().items():  # Statistics that are not those of a new network.
        if "running" in name:
            tensor.uniform_(0.5, 2)
    return made


@pytest.fixture
def folder(network: Network, tmp_path: Path) -> Path:
    return write_checkpoint(tmp_path / "checkpoint", network, {"epochs_done": 3}).path


def test_float32_comes_back_bit_for_bit(network: Network, folder: Path) -> None:
    checkpoint = Checkpoint.open(folder)
    assert checkpoint.config == network.config
    assert checkpoint.provenance["epochs_done"] == 3
    assert checkpoint.provenance["torch"] == torch.__version__
    assert checkpoint.sha256 == sha256_of(folder / WEIGHTS)
    loaded = checkpoint.network()
    assert not loaded.training
    own = network.state_dict()
    for name, tensor in loaded.state_dict().items():
        assert torch.equal(tensor, own[name]), name


def test_a_gated_network_comes_back_with_its_regions(tmp_path: Path) -> None:
    network = tiny_network(seed=3, caption_regions=20)
    checkpoint = Checkpoint.open(write_checkpoint(tmp_path / "checkpoint", network, {}).path)
    assert checkpoint.config == network.config
    loaded = checkpoint.network()
    assert loaded.caption_decoder.regions == 25
    own = network.state_dict()
    assert all(torch.equal(tensor, own[name]) for name, tensor in loaded.state_dict().items())


def test_the_demo_from_before_there_were_captioners_loads() -> None:
    checkpoint = Checkpoint.open(Path(__file__).resolve().parents[2] / "demo" / "checkpoint")
    assert checkpoint.config.captioner == "catr"
    assert checkpoint.network().caption_decoder.regions == 0
    described = json.loads((checkpoint.path / DESCRIPTION).read_text(encoding="utf-8"))["network"]
    assert json.loads(json.dumps(checkpoint.config.to_json())) == described


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"caption_regions": 2.5}, "caption_regions must be a whole number from 0 to 3840, got 2.5"),
        ({"caption_output_layers": 1}, "has no field caption_output_layers"),
        ({"tasks": ["semantic", "caption"]}, "caption_regions, which the captioner grit has, needs the task boxes"),
        (
            {"tasks": ["caption"], "silent_tasks": ["boxes", "x"]},
            "silent_tasks must be of boxes, semantic, and none of",
        ),
        ({"caption_regions": 0}, "caption_decoder.norm.weight is missing"),
    ],
)
def test_a_captioner_that_does_not_fit_is_one_line(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    network = tiny_network(caption_regions=20)
    folder = write_checkpoint(tmp_path / "checkpoint", network, {}).path
    path = folder / DESCRIPTION
    described = json.loads(path.read_text(encoding="utf-8"))
    described["network"].update(changes)
    path.write_text(json.dumps(described), encoding="utf-8")
    with pytest.raises(CheckpointError) as caught:
        Checkpoint.open(folder).network()
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_float16_halves_the_file_and_rounds_matrices_only(network: Network, tmp_path: Path) -> None:
    full = write_checkpoint(tmp_path / "full", network, {})
    half = write_checkpoint(tmp_path / "half", network, {}, weights="float16")
    sizes = [(checkpoint.path / WEIGHTS).stat().st_size for checkpoint in (full, half)]
    assert sizes[1] < 0.55 * sizes[0]
    own = network.state_dict()
    for name, tensor in Checkpoint.open(half.path).network().state_dict().items():
        assert tensor.dtype == own[name].dtype
        expected = own[name].half().to(tensor.dtype) if own[name].ndim >= 2 else own[name]
        assert torch.equal(tensor, expected), name


def test_a_loaded_network_says_the_same(network: Network, folder: Path) -> None:
    image = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        expected, found = network(image), Checkpoint.open(folder).network()(image)
    for name, output in expected.items():
        assert torch.equal(found[name], output)


def test_all_heads_make_the_journey(tmp_path: Path) -> None:
    network = tiny_network(seed=4)
    loaded = write_checkpoint(tmp_path / "all", network, {}).network()
    assert loaded.config == network.config
    assert loaded.config.vocabulary == network.config.vocabulary
    for name, tensor in network.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor), name


def test_the_folder_of_a_run_opens_its_checkpoint(folder: Path) -> None:
    assert Checkpoint.open(folder.parent).path == folder
    assert Checkpoint.open(str(folder)).path == folder


def test_writing_again_replaces(network: Network, folder: Path) -> None:
    with torch.no_grad():
        next(network.parameters()).add_(1)
    write_checkpoint(folder, network, {"epochs_done": 4})
    checkpoint = Checkpoint.open(folder)
    assert checkpoint.provenance["epochs_done"] == 4
    assert torch.equal(next(checkpoint.network().parameters()), next(network.parameters()))
    assert {file.name for file in folder.iterdir()} == {WEIGHTS, DESCRIPTION}


def test_other_files_in_the_folder_stay(network: Network, folder: Path) -> None:
    (folder / "notes.txt").write_text("mine")
    write_checkpoint(folder, network, {"epochs_done": 5})
    assert Checkpoint.open(folder).provenance["epochs_done"] == 5
    assert (folder / "notes.txt").read_text() == "mine"


def test_a_write_that_fails_halfway_leaves_the_old_checkpoint_whole(
    network: Network, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = Checkpoint.open(folder)

    def disk_full(path: Path, content: str) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(checkpoint_module, "write_atomically", disk_full)
    with torch.no_grad():
        next(network.parameters()).add_(1)
    with pytest.raises(OSError, match="no space left"):
        write_checkpoint(folder, network, {})
    assert Checkpoint.open(folder) == before
    assert {file.name for file in folder.parent.iterdir()} == {folder.name}


def change_description(folder: Path, **changes: Any) -> None:
    description = json.loads((folder / DESCRIPTION).read_text(encoding="utf-8"))
    description.update(changes)
    (folder / DESCRIPTION).write_text(json.dumps(description), encoding="utf-8")


def change_network(folder: Path, **changes: Any) -> None:
    network = json.loads((folder / DESCRIPTION).read_text(encoding="utf-8"))["network"]
    change_description(folder, network={**network, **changes})


def put_weights(folder: Path, content: bytes | dict[str, torch.Tensor]) -> None:
    """Replace the weights, with a digest to match."""
    if isinstance(content, bytes):
        (folder / WEIGHTS).write_bytes(content)
    else:
        safetensors.torch.save_file(content, folder / WEIGHTS)
    change_description(folder, sha256=sha256_of(folder / WEIGHTS))


def flip_a_bit(folder: Path) -> None:
    data = bytearray((folder / WEIGHTS).read_bytes())
    data[len(data) // 2] ^= 1
    (folder / WEIGHTS).write_bytes(bytes(data))


def cut_short(folder: Path) -> None:
    data = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).write_bytes(data[: len(data) // 2])


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda f: (f / DESCRIPTION).unlink(), f"is not a checkpoint (no {DESCRIPTION} in it)"),
        (lambda f: (f / WEIGHTS).unlink(), f"{WEIGHTS}: is missing; copy the whole checkpoint folder"),
        (flip_a_bit, "it was altered or belongs to another checkpoint"),
        (cut_short, "it was altered or belongs to another checkpoint"),
        (lambda f: (f / DESCRIPTION).write_text("{"), "is not the description of a checkpoint"),
        (lambda f: (f / DESCRIPTION).write_bytes(b"\xff\xfe\x00"), "is not the description of a checkpoint"),
        (lambda f: (f / DESCRIPTION).write_text("[]"), "is not the description of a checkpoint"),
        (lambda f: (f / DESCRIPTION).write_text("{}"), "is not the description of a checkpoint"),
        (lambda f: change_description(f, network=None), "is not the description of a checkpoint"),
        (lambda f: change_description(f, network={"size": "n"}), "is not the description of a checkpoint"),
        (lambda f: change_description(f, schema=2), "schema 2, this version reads 1; upgrade yolor-edge"),
        (lambda f: change_network(f, depth=2), "NetworkConfig has no field depth"),
        (lambda f: change_network(f, size="xl"), "size must be one of n, s, m, l"),
        (lambda f: change_network(f, class_names=["one"]), "1 class names but 3 category ids"),
        (lambda f: change_network(f, input_size=["a", "b"]), "is not the description of a checkpoint"),
    ],
)
def test_a_folder_that_is_no_checkpoint_is_refused(folder: Path, spoil: Callable[[Path], object], message: str) -> None:
    spoil(folder)
    with pytest.raises(CheckpointError) as caught:
        Checkpoint.open(folder)
    text = str(caught.value)
    assert message in text
    assert str(folder) in text
    assert "\n" not in text


def without(network: Network, name: str) -> dict[str, torch.Tensor]:
    return {key: value.contiguous() for key, value in network.state_dict().items() if key != name}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (lambda n: b"not safetensors at all", "is not a safetensors file"),
        (lambda n: b"", "is not a safetensors file"),
        (lambda n: without(n, "backbone.stem.0.0.weight"), "backbone.stem.0.0.weight is missing"),
        (lambda n: {**without(n, ""), "extra": torch.zeros(1)}, "extra is not part of this network"),
        (
            lambda n: {**without(n, ""), "backbone.stem.0.1.weight": torch.zeros(3)},
            "backbone.stem.0.1.weight has shape (3,), expected (8,)",
        ),
        (
            lambda n: Network(tiny_config("s", tasks=("boxes",))).state_dict(),
            "has shape (32,), expected (16,)",
        ),
    ],
    ids=["text", "empty", "missing", "extra", "shape", "another size"],
)
def test_weights_of_another_network_are_refused(
    network: Network, folder: Path, content: Callable[[Network], Any], message: str
) -> None:
    put_weights(folder, content(network))
    checkpoint = Checkpoint.open(folder)
    with pytest.raises(CheckpointError) as caught:
        checkpoint.network()
    text = str(caught.value)
    assert message in text
    assert str(folder / WEIGHTS) in text
    assert "\n" not in text
    assert len(text) < 600


@pytest.mark.parametrize(
    ("name", "message"), [("absent", "no such folder"), ("file", "is a file, expected the folder of a checkpoint")]
)
def test_a_path_that_is_no_folder_is_refused(tmp_path: Path, name: str, message: str) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(CheckpointError, match=f"{name}: {message}"):
        Checkpoint.open(tmp_path / name)


def test_another_number_of_classes_does_not_fit(folder: Path) -> None:
    change_network(folder, class_names=["a", "b"], category_ids=[1, 2])
    with pytest.raises(CheckpointError, match=r"does not fit the configuration: .* and \d+ more|does not fit"):
        Checkpoint.open(folder).network()
