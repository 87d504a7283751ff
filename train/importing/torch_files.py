"""Reads the files that `torch.save` writes, both the zip form and the older stream, without torch and without risk."""

from __future__ import annotations

import io
import mmap
import struct
import zipfile
from pathlib import Path
from typing import Any

from ...runtime.errors import CheckpointError
from .pickle_machine import Limits, Machine

LEGACY_START = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19."
"""What every file of the older form begins with: a pickle of torch's magic number."""
PICKLE_BYTES = 256 << 20
ENTRIES = 200_000


def read_torch_file(path: str | Path, limits: Limits = Limits()) -> Any:
    """The object in a file of `torch.save`: dictionaries, lists, numbers, texts, `Record`s and `StoredTensor`s.

    Raises:
        CheckpointError: If it is none, damaged, or holds what checkpoints do not (`pickle_machine`). One line.
    """
    path = Path(path)
    try:
        size = path.stat().st_size
        if path.is_dir():
            raise CheckpointError("is a folder; expected a .pt file")
        if not size:
            raise CheckpointError("is empty; download it again")
        with path.open("rb") as file:
            # The map stays open as long as a storage looks into it.
            return _read(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ), limits)
    except FileNotFoundError:
        raise CheckpointError(f"{path}: no such file; expected a .pt file of an official repository") from None
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from None
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror or error})") from None


def _read(data: mmap.mmap, limits: Limits) -> Any:
    head = data[:512]
    if head.startswith(b"PK"):
        return _read_zip(data, limits)
    if head.startswith(LEGACY_START):
        return _read_legacy(data, limits)
    text = head.lstrip().lower()
    if text.startswith((b"<!doctype", b"<html", b"<?xml")):
        raise CheckpointError("is a web page, not a checkpoint; the download failed, fetch the file itself")
    if text.startswith(b"version https://git-lfs"):
        raise CheckpointError("is a Git LFS pointer, not the file itself; run git lfs pull")
    if len(head) > 9 and head[8:9] == b"{":
        raise CheckpointError("looks like a safetensors file; expected a .pt file of torch.save")
    if head[257:262] == b"ustar":
        raise CheckpointError("is in the tar form of torch before 0.4; load and save it with a newer torch first")
    if (head[:1] == b"\x08" and b"onnx" in head) or b"pytorch" in head[:40]:
        raise CheckpointError(
            "looks like an ONNX file; to make a bundle of it: yolor-edge adopt MODEL.onnx --out BUNDLE"
        )
    raise CheckpointError("is no file of torch.save (neither its zip nor its older form); download it again")


def _read_zip(data: mmap.mmap, limits: Limits) -> Any:
    try:
        archive = zipfile.ZipFile(io.BufferedReader(_View(data)))
        entries = archive.infolist()
    except (zipfile.BadZipFile, NotImplementedError, ValueError, struct.error, OSError, IndexError) as error:
        raise CheckpointError(f"is a truncated or damaged zip file ({error}); download it again") from None
    by_name = _checked_entries(entries, len(data))
    pickles = [name for name in by_name if name == "data.pkl" or name.endswith("/data.pkl")]
    if any(name.endswith("/constants.pkl") for name in by_name):
        raise CheckpointError("is a TorchScript archive, a traced network; import the .pt file that it was traced from")
    if len(pickles) != 1:
        raise CheckpointError(f"is a zip file with {len(pickles)} entries data.pkl; expected the one of torch.save")
    prefix = pickles[0][: -len("data.pkl")]

    def read(name: str, most: int) -> bytes:
        info = by_name[name]
        if info.file_size > most:
            raise CheckpointError(f"has an entry {name} of {info.file_size} bytes; expected at most {most}")
        try:
            return archive.read(info)
        except (zipfile.BadZipFile, RuntimeError, NotImplementedError, EOFError, ValueError, OSError) as error:
            raise CheckpointError(f"is damaged at {name} ({error}); download it again") from None

    order = read(prefix + "byteorder", 16).strip() if prefix + "byteorder" in by_name else b"little"
    if order not in (b"little", b"big"):
        raise CheckpointError(f"has the byte order {order!r}; expected little or big")
    machine = Machine(limits, "<" if order == b"little" else ">")
    value = machine.load(io.BytesIO(read(pickles[0], PICKLE_BYTES)))
    for key, storage in machine.storages.items():
        name = f"{prefix}data/{key}"
        if name not in by_name:
            raise CheckpointError(f"has no entry {name}, which a tensor needs; download it again")
        if by_name[name].file_size != storage.byte_count:
            raise CheckpointError(
                f"has {by_name[name].file_size} bytes in {name}; its tensors need {storage.byte_count} "
                f"({storage.size} of {storage.dtype})"
            )
        storage.data = memoryview(read(name, storage.byte_count))
    return value


def _checked_entries(entries: list[zipfile.ZipInfo], size: int) -> dict[str, zipfile.ZipInfo]:
    if len(entries) > ENTRIES:
        raise CheckpointError(f"is a zip file of {len(entries)} entries; expected at most {ENTRIES}")
    by_name: dict[str, zipfile.ZipInfo] = {}
    total = 0
    for info in entries:
        name = info.filename
        if name.startswith("/") or "\\" in name or ".." in name.split("/") or ":" in name:
            raise CheckpointError(f"has an entry {name!r:.80} that points outside of it; do not open it elsewhere")
        if name in by_name:
            raise CheckpointError(f"has two entries {name!r:.80}")
        if info.flag_bits & 1:
            raise CheckpointError("is encrypted")
        if info.compress_type != zipfile.ZIP_STORED:
            raise CheckpointError(
                f"was packed again (its entry {name!r:.80} is compressed, torch.save compresses nothing); "
                "use the file as it was downloaded"
            )
        total += info.file_size
        by_name[name] = info
    if total > size:
        raise CheckpointError(f"claims to hold {total} bytes in a file of {size}")
    return by_name


def _read_legacy(data: mmap.mmap, limits: Limits) -> Any:
    stream: Any = _View(data)
    stream.seek(len(LEGACY_START))
    machine = Machine(limits)
    version, system = machine.load(stream), machine.load(stream)
    if version != 1001 or not isinstance(system, dict):
        raise CheckpointError(f"is in a form of torch.save that is not known ({version!r:.40})")
    machine.byte_order = "<" if system.get("little_endian", True) else ">"
    value, keys = machine.load(stream), machine.load(stream)
    if not isinstance(keys, list) or len(keys) > len(set(map(str, keys))) or set(keys) != set(machine.storages):
        raise CheckpointError("has a list of storages that is not the one its tensors need")
    whole = memoryview(data)
    for key in keys:
        storage, position = machine.storages[key], stream.tell()
        (size,) = struct.unpack("<q", data[position : position + 8].ljust(8, b"\xff"))
        if size != storage.size or position + 8 + storage.byte_count > len(data):
            raise CheckpointError(f"is truncated or damaged at storage {key}; download it again")
        storage.data = whole[position + 8 : position + 8 + storage.byte_count]
        stream.seek(position + 8 + storage.byte_count)
    return value


class _View(io.RawIOBase):
    """A reader of its own over a map, so that two readers do not share a position."""

    def __init__(self, data: mmap.mmap) -> None:
        self.data, self.position = data, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = 0) -> int:
        position = offset + (0, self.position, len(self.data))[whence]
        if position < 0:
            raise OSError("negative position")
        self.position = position
        return position

    def tell(self) -> int:
        return self.position

    def readinto(self, buffer: Any) -> int:
        part = self.data[self.position : self.position + len(buffer)]
        buffer[: len(part)] = part
        self.position += len(part)
        return len(part)

    def read(self, size: int = -1) -> bytes:
        end = len(self.data) if size is None or size < 0 else self.position + size
        part = self.data[self.position : end]
        self.position += len(part)
        return part

    def readline(self, size: int | None = -1) -> bytes:  # pickletools reads text arguments by line
        end = self.data.find(b"\n", self.position)
        return self.read(-1 if end < 0 else end + 1 - self.position)
