"""Files of torch.save made by hand, whole or broken; not a test itself."""

from __future__ import annotations

import io
import pickle
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any


class Call:
    """Pickled as a call of any function: what a hostile file does."""

    def __init__(self, module: str, name: str, *args: Any) -> None:
        self.module, self.name, self.args = module, name, args


class Name(str):
    """Pickled as a global by its "module name"."""


_PYTHONS: Any = pickle._Pickler  # type: ignore[attr-defined]  # in Python: its opcodes can be written by hand


class _Pickler(_PYTHONS):
    def save(self, obj: Any, save_persistent_id: bool = True) -> None:
        if isinstance(obj, Name):
            self.write(b"c" + "\n".join(obj.split(" ")).encode() + b"\n")
        elif isinstance(obj, Call):
            self.save(Name(f"{obj.module} {obj.name}"))
            self.save(obj.args)
            self.write(b"R")
        elif isinstance(obj, _Storage):
            self.save(("storage", Name(f"torch {obj.kind}"), obj.key, "cpu", obj.size))
            self.write(b"Q")
        else:
            super().save(obj, save_persistent_id)


class _Storage:
    def __init__(self, kind: str, key: str, size: int) -> None:
        self.kind, self.key, self.size = kind, key, size


def storage(key: str = "0", size: int = 4, kind: str = "FloatStorage") -> _Storage:
    return _Storage(kind, key, size)


def tensor(what: Any, offset: Any = 0, shape: Any = (4,), strides: Any = (1,)) -> Call:
    return Call("torch._utils", "_rebuild_tensor_v2", what, offset, shape, strides, False, None)


def pickled(value: Any) -> bytes:
    stream = io.BytesIO()
    _Pickler(stream, protocol=2).dump(value)
    return stream.getvalue()


def write_zip(
    path: Path,
    content: Any,
    storages: Mapping[str, bytes] | None = None,
    prefix: str = "archive/",
    compression: int = zipfile.ZIP_STORED,
    more: Mapping[str, bytes] | None = None,
) -> Path:
    """Write `content`, pickled bytes or a value, and its storages as torch.save lays them out."""
    data = content if isinstance(content, bytes) else pickled(content)
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.writestr(f"{prefix}data.pkl", data)
        archive.writestr(f"{prefix}byteorder", "little")
        archive.writestr(f"{prefix}version", "3\n")
        for key, value in (storages or {}).items():
            archive.writestr(f"{prefix}data/{key}", value)
        for name, value in (more or {}).items():
            archive.writestr(name, value)
    return path
