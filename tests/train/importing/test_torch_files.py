from __future__ import annotations

import collections
import contextlib
import io
import pickle
import random
import warnings
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from yolor_edge.runtime.errors import CheckpointError
from yolor_edge.train.importing.pickle_machine import Limits, Machine, Record, StoredTensor
from yolor_edge.train.importing.torch_files import read_torch_file

from .torch_zip import Call, Name, pickled, storage, tensor, write_zip

ZEROS = {"0": bytes(16)}


def refused(path: Path, *parts: str) -> None:
    with pytest.raises(CheckpointError) as caught:
        read_torch_file(path)
    message = str(caught.value)
    assert "\n" not in message and message.startswith(str(path)) and len(message) < 600
    for part in parts:
        assert part in message


@pytest.mark.parametrize("zipped", [True, False])
def test_what_torch_saves_is_read(tmp_path: Path, zipped: bool) -> None:
    values = torch.arange(24, dtype=torch.float32).reshape(2, 3, 4)
    content = {
        "transposed": values.transpose(0, 2),
        "part": values[1, 1:, ::2],
        "half": values.half(),
        "bfloat16": values.to(torch.bfloat16),
        "whole": torch.tensor([-5, 1 << 40]),
        "flags": torch.tensor([True, False]),
        "empty": torch.zeros(0, 3),
        "scalar": torch.tensor(2.5),
        "parameter": torch.nn.Parameter(values),
        "state": collections.OrderedDict(weight=values),
        "set": {1, 2},
        "size": values.shape,
        "fitness": np.array([0.25]),
        "number": np.float64(0.5),
        "text": "café",
        "path": Path("runs"),
        "none": None,
    }
    path = tmp_path / "file.pt"
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    found = read_torch_file(path)
    for name in ("transposed", "part", "half", "bfloat16", "whole", "flags", "empty", "scalar", "parameter"):
        expected: torch.Tensor = content[name].detach()
        array = found[name].array()
        assert array.shape == tuple(expected.shape)
        np.testing.assert_array_equal(array, (expected.float() if name == "bfloat16" else expected).numpy())
    np.testing.assert_array_equal(found["state"]["weight"].array(), values.numpy())
    np.testing.assert_array_equal(found["fitness"].state, [0.25])
    assert (found["number"], found["text"], found["set"], found["none"]) == (0.5, "café", {1, 2}, None)
    assert isinstance(found["path"], Record) and found["path"].path.startswith("pathlib")


def test_a_module_becomes_a_record_and_getattr_of_forward_too(tmp_path: Path) -> None:
    path = tmp_path / "file.pt"
    torch.save(torch.nn.Sequential(torch.nn.Conv2d(2, 3, 1), torch.nn.SiLU()), path)
    found = read_torch_file(path)
    assert found.path == "torch.nn.modules.container.Sequential"
    conv = found.state["_modules"]["0"]
    assert conv.path == "torch.nn.modules.conv.Conv2d" and conv.state["stride"] == (1, 1)
    assert isinstance(conv.state["_parameters"]["weight"], StoredTensor)
    method = Call("__builtin__", "getattr", Name("models.yolo Detect"), "forward")
    assert read_torch_file(write_zip(tmp_path / "head.pt", {"detect": method}))["detect"].path == "getattr"


@pytest.mark.parametrize(
    ("value", "part"),
    [
        (Call("os", "system", "touch /tmp/x"), "os.system"),
        (Call("posix", "system", "touch /tmp/x"), "posix.system"),
        (Call("builtins", "eval", "1"), "builtins.eval"),
        (Call("__builtin__", "exec", "1"), "__builtin__.exec"),
        (Call("subprocess", "Popen", ["ls"]), "subprocess.Popen"),
        (Call("torch.storage", "_load_from_bytes", b"x"), "torch.storage._load_from_bytes"),
        (Call("torch", "load", "x"), "torch.load"),
        (Call("torch.hub", "load", "x"), "torch.hub.load"),
        (Call("numpy", "load", "x"), "numpy.load"),
        (Call("importlib", "import_module", "os"), "importlib.import_module"),
        (Call("operator", "attrgetter", "x"), "operator.attrgetter"),
        (Call("models.yolo", "__import__", "os"), "models.yolo.__import__"),
        (Call("ultralytics.nn.tasks", "DetectionModel"), "Ultralytics YOLO"),
        (Call("mmengine.logging.history_buffer", "HistoryBuffer"), "OpenMMLab"),
        (Call("__builtin__", "getattr", Name("models.yolo Detect"), "__globals__"), "__globals__"),
        (Call("__builtin__", "getattr", {}, "forward"), "forward"),
        (Call("_codecs", "encode", "x", "rot13"), "rot13"),
    ],
)
def test_globals_that_may_not_be_named_are_refused(tmp_path: Path, value: Call, part: str) -> None:
    refused(write_zip(tmp_path / "file.pt", {"model": value}), part)


def test_a_record_is_not_called(tmp_path: Path) -> None:
    method = Call("__builtin__", "getattr", Name("models.yolo Detect"), "forward")
    body = pickled(method)[:-1] + b")R."
    refused(write_zip(tmp_path / "file.pt", body), "calls getattr")


@pytest.mark.parametrize(
    ("what", "part"),
    [
        (tensor(storage(), 1), "outside of its storage"),
        (tensor(storage(), 0, (5,), (1,)), "outside of its storage"),
        (tensor(storage(), 0, (2, 2), (1 << 40, 1)), "outside of its storage"),
        (tensor(storage(), 0, (1 << 40,), (0,)), "outside of its storage"),
        (tensor(storage(), -1), "are none"),
        (tensor(storage(), 0, (2,), (-1,)), "are none"),
        (tensor(storage(), 0, (2,), (True,)), "are none"),
        (tensor(storage(), 0, (2,), ()), "dimensions"),
        (tensor(storage(), 0, (1,) * 40, (1,) * 40), "dimensions"),
        (tensor(None), "are none"),
        (tensor(storage(size=1 << 40)), "its tensors need"),
        (tensor(storage(size=5)), "its tensors need"),
        (tensor(storage("7")), "has no entry"),
        (tensor(storage("../x")), "key"),
        ([tensor(storage()), tensor(storage(kind="HalfStorage"))], "in two ways"),
        (tensor(storage(kind="QInt8Storage")), "QInt8Storage"),
        (Call("torch._utils", "_rebuild_qtensor"), "quantised"),
    ],
)
def test_tensors_that_cannot_be_are_refused(tmp_path: Path, what: Any, part: str) -> None:
    refused(write_zip(tmp_path / "file.pt", {"x": what}, ZEROS), part)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b".",
        b"\x80\x02",
        b"\x80\x02}",
        b"\x80\x02(((.",
        b"\x80\x02h\x07.",
        b"\x80\x02]q\x00h\x00a",
        b"\x80\x02X\xff\xff\xff\x7fabc.",
        b"\x80\x02\x8a\x40" + bytes(range(1, 65)) + b".",
        b"\x80\x02(i__main__\nX\n.",
        b"\x80\x02}]K\x01s.",
        b"\x80\x02}(K\x01u.",
        b"\x80\x02K\x01K\x02b.",
        b"\x80\x02Pabc\n.",
        b"\x80\x04\x8c\x02os\x8c\x06system\x93.",
        b"\x80\x02cos\nsystem\n.",
        b"\x80\x02c\xff\xfe\n\n.",
        b"\x80\x02" + b"(" * 2000 + b".",
        b"I" + b"9" * 100_000 + b"\n.",
    ],
)
def test_pickles_that_cannot_be_are_refused(tmp_path: Path, body: bytes) -> None:
    refused(write_zip(tmp_path / "file.pt", body))


def test_bombs_stay_small(tmp_path: Path) -> None:
    # 40 lists, each twice the one before: a billion leaves by name, 40 lists in memory.
    steps = b"".join(b"0]q%c(h%ch%ce" % (i, i - 1, i - 1) for i in range(1, 41))
    doubling = b"\x80\x02]q\x00" + steps + b"."
    assert len(read_torch_file(write_zip(tmp_path / "doubling.pt", doubling))) == 2
    # A list that holds itself, and tuples a hundred thousand deep, as a value and as a key.
    assert read_torch_file(write_zip(tmp_path / "ring.pt", b"\x80\x02]q\x00h\x00a."))
    deep = b")" + b"\x85" * 100_000
    assert read_torch_file(write_zip(tmp_path / "deep.pt", b"\x80\x02" + deep + b"."))
    refused(write_zip(tmp_path / "key.pt", b"\x80\x02}" + deep + b"K\x01s."), "as a key")
    many = b"\x80\x02" + b"N0" * 600 + b"N."
    with pytest.raises(CheckpointError, match="more than 1000 pickle instructions"):
        Machine(Limits(opcodes=1000)).load(io.BytesIO(many))
    with pytest.raises(CheckpointError, match="more than 3 tensors"):
        Machine(Limits(tensors=3)).load(io.BytesIO(pickled([tensor(storage())] * 4)))


def test_zips_that_torch_does_not_write_are_refused(tmp_path: Path) -> None:
    good = {"x": tensor(storage())}
    path = tmp_path / "file.pt"
    assert read_torch_file(write_zip(path, good, ZEROS))["x"].array().tolist() == [0.0] * 4
    refused(write_zip(path, good, ZEROS, compression=zipfile.ZIP_DEFLATED), "packed again")
    refused(write_zip(path, good, ZEROS, more={"../../x": b""}), "outside of it")
    refused(write_zip(path, good, ZEROS, more={"/etc/x": b""}), "outside of it")
    refused(write_zip(path, good, ZEROS, more={"archive/constants.pkl": b""}), "TorchScript")
    refused(write_zip(path, good, ZEROS, more={"other/data.pkl": b""}), "2 entries data.pkl")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        refused(write_zip(path, good, ZEROS, more={"archive/data/0": bytes(16)}), "two entries")
    whole = write_zip(path, good, ZEROS).read_bytes()
    for cut in (1, 3, 30, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:cut])
        refused(path)
    path.write_bytes(whole.replace(bytes(16), b"x" * 16, 1))
    refused(path, "damaged")


@pytest.mark.parametrize(
    ("content", "part"),
    [
        (b"", "is empty"),
        (b"<!DOCTYPE html><html>", "web page"),
        (b"version https://git-lfs.github.com/spec/v1\n", "Git LFS"),
        (b"\x50\x00\x00\x00\x00\x00\x00\x00{" + b'"x":1}' * 20, "safetensors"),
        (bytes(257) + b"ustar" + bytes(300), "tar form"),
        (b"\x08\x08\x12\x07pytorch" + bytes(100), "ONNX"),
        (pickle.dumps({"a": 1}), "no file of torch.save"),
        (b"PK\x03\x04" + bytes(100), "zip"),
    ],
)
def test_other_files_are_named(tmp_path: Path, content: bytes, part: str) -> None:
    path = tmp_path / "file.pt"
    path.write_bytes(content)
    refused(path, part)
    refused(tmp_path, "is a folder")
    refused(tmp_path / "none.pt", "no such file")


@pytest.mark.parametrize("zipped", [True, False])
def test_mutations_are_read_or_refused(tmp_path: Path, zipped: bool) -> None:
    path = tmp_path / "file.pt"
    content = {"model": torch.nn.Sequential(torch.nn.Conv2d(2, 3, 1), torch.nn.BatchNorm2d(3)), "epoch": 3, "f": [0.5]}
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    whole = path.read_bytes()
    chance = random.Random(5)
    body, storages = b"", {}
    if zipped:
        with zipfile.ZipFile(path) as archive:
            body = archive.read("file/data.pkl")
            storages = {n.rpartition("/")[2]: archive.read(n) for n in archive.namelist() if "/data/" in n}
    read = 0
    for trial in range(400):
        changed = bytearray(body if zipped and trial % 2 else whole)
        for _ in range(chance.choice((1, 1, 2, 8))):
            place = chance.randrange(len(changed))
            if chance.random() < 0.2:
                del changed[place : place + chance.randrange(1, 40)]
            else:
                changed[place] = chance.randrange(256)
        if zipped and trial % 2:
            write_zip(path, bytes(changed), storages, "file/")
        else:
            path.write_bytes(changed)
        with contextlib.suppress(CheckpointError):
            read_torch_file(path)
            read += 1
    assert read  # some changes hit values alone
