"""Networks that a file describes in words of its own: what is taken from it, and what is refused."""

from __future__ import annotations

import contextlib
import random
import zipfile
from pathlib import Path
from typing import Any

import pytest
from yolor_edge.runtime.errors import CheckpointError, UsageError
from yolor_edge.train.importing.graph import Graph, Module
from yolor_edge.train.importing.importer import build, chosen_model, import_checkpoint, read_checkpoint
from yolor_edge.train.importing.pickle_machine import Record, Storage, StoredTensor

from .golden import arguments
from .torch_zip import write_zip


def module(path: str, children: dict[str, Record] | None = None, **attributes: Any) -> Record:
    tensors = {name: value for name, value in attributes.items() if isinstance(value, StoredTensor)}
    others = {name: value for name, value in attributes.items() if name not in tensors}
    return Record(path, (), {"_modules": children or {}, "_parameters": tensors, "_buffers": {}, **others})


def tensor(*shape: int) -> StoredTensor:
    count, strides = 1, []
    for side in reversed(shape):
        strides.insert(0, count)
        count *= side
    return StoredTensor(Storage("float32", count, "0", memoryview(bytes(4 * count))), 0, shape, tuple(strides))


def conv(inner: int, out: int, kernel: int = 1) -> Record:
    return module("torch.nn.modules.conv.Conv2d", weight=tensor(out, inner, kernel, kernel), padding=kernel // 2)


def model(*layers: Record) -> Module:
    for index, layer in enumerate(layers):
        layer.state.setdefault("f", -1)
        layer.state["i"] = index
    inner = module("torch.nn.modules.container.Sequential", {str(i): layer for i, layer in enumerate(layers)})
    return Module(module("models.yolo.Model", {"model": inner}), "the model")


def test_averaged_weights_are_taken_before_others() -> None:
    plain, averaged = module("models.yolo.Model"), module("models.yolo.Model")
    assert chosen_model({"model": plain, "ema": averaged}) == (averaged, "ema")
    assert chosen_model({"model": plain, "ema": None}) == (plain, "model")
    assert chosen_model({"model": plain, "optimizer": {"state": {}}}) == (plain, "model")
    state = {"model.0.conv.weight": tensor(1, 1, 1, 1)}
    assert chosen_model({"state_dict": state}) == (state, "state_dict")
    assert chosen_model(state) == (state, "the file")
    for content, part in (({"a": 1}, "its keys are a"), ({}, "holds a dict"), ([], "holds a list"), (3, "holds a int")):
        with pytest.raises(CheckpointError, match=part):
            chosen_model(content)


def test_a_small_file_does_not_make_a_large_network() -> None:
    shared = conv(3, 3, 3)
    with pytest.raises(CheckpointError, match="hold more weights than the file"):
        Graph(100).conv2d(Module(conv(3, 64), "layer 0"), "image")
    # A hundred layers are one module: the weights would be a hundred times those of the file.
    layers = [module("torch.nn.modules.container.Sequential", {"0": shared}) for _ in range(100)]
    head = module("models.yolo.Detect", {"m": module("torch.nn.modules.container.ModuleList", {"0": conv(3, 18)})})
    head.state |= {"nl": 1, "nc": 1, "f": [99], "anchors": tensor(1, 3, 2)}
    with pytest.raises(CheckpointError, match="hold more weights than the file"):
        build(model(*layers, head), 1000)


def test_modules_that_hold_themselves_are_refused() -> None:
    ring = module("torch.nn.modules.container.Sequential")
    ring.state["_modules"]["0"] = ring
    double = conv(3, 3)
    for _ in range(20):
        double = module("torch.nn.modules.container.Sequential", {"0": double, "1": double})
    for layer in (ring, double):
        head = module("models.yolo.Detect", {"m": module("torch.nn.modules.container.ModuleList")}, nl=1, f=[0])
        with pytest.raises(CheckpointError, match=r"nested too deeply|more than \d+ modules"):
            build(model(layer, head))


@pytest.mark.parametrize("name", ["yolov7-tiny", "gyolo"])
def test_changed_files_are_read_or_refused(name: str, goldens: Path, tmp_path: Path) -> None:
    folder, chance = goldens / name, random.Random(7)
    with zipfile.ZipFile(folder / "checkpoint.pt") as archive:
        body = archive.read("checkpoint/data.pkl")
        storages = {n.rpartition("/")[2]: archive.read(n) for n in archive.namelist() if "/data/" in n}
    for _ in range(12):
        changed = bytearray(body)
        for _ in range(chance.choice((1, 1, 3))):
            place = chance.randrange(len(changed))
            changed[place] = (changed[place] + chance.choice((1, -1, 2, 100))) % 256
        file = write_zip(tmp_path / "file.pt", bytes(changed), storages, "checkpoint/")
        with contextlib.suppress(CheckpointError, UsageError):
            read_checkpoint(file, **arguments(folder))


def test_nothing_is_written_over_a_file(goldens: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.write_text("mine", encoding="utf-8")
    with pytest.raises(UsageError):
        import_checkpoint(goldens / "yolov7-tiny" / "checkpoint.pt", out)
    assert out.read_text(encoding="utf-8") == "mine"
