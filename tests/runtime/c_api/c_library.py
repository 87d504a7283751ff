"""The library with the C interface, called through ctypes with the structs that its header declares."""

from __future__ import annotations

import ctypes
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from yolor_edge.runtime.images.preprocess import Letterbox, Rounding

ROOT = Path(__file__).resolve().parents[3]
HEADER = ROOT / "runtime" / "csrc" / "c_api" / "yolor_edge.h"
STATUSES = {1: "INVALID_ARGUMENT", 2: "BAD_FILE", 3: "TOO_SMALL", 4: "OUT_OF_MEMORY", 5: "INTERNAL"}
_TYPES = {"size_t": ctypes.c_size_t, "int64_t": ctypes.c_int64, "uint64_t": ctypes.c_uint64, "double": ctypes.c_double}


def build_library(folder: Path) -> None:
    """Make libyolor_edge.so and libyolor_edge.a in a folder, hardly optimised, for speed of building."""
    missing = [tool for tool in ("make", "g++", "objcopy") if shutil.which(tool) is None]
    if missing:
        pytest.skip(f"needs {', '.join(missing)}")
    command = ["make", "library", f"BUILD={folder}", "CXXFLAGS=-O1"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]


def header_text() -> str:
    """The header without its comments."""
    return re.sub(r"/\*.*?\*/", "", HEADER.read_text(), flags=re.DOTALL)


def _structs() -> dict[str, type[ctypes.Structure]]:
    """Every struct of the header by its name without the prefix."""
    found: dict[str, type[ctypes.Structure]] = {}
    for name, body in re.findall(r"typedef struct yolor_edge_(\w+) \{(.*?)\}", header_text(), re.DOTALL):
        fields: list[tuple[str, Any]] = []
        for kind, field in re.findall(r"([\w ]+\*?) (\w+);", body):
            if kind.strip() == "const char*":
                fields.append((field, ctypes.c_char_p))
            else:
                fields.append((field, ctypes.c_void_p if kind.endswith("*") else _TYPES[kind.strip()]))
        found[name] = type(name, (ctypes.Structure,), {"_fields_": fields})
    return found


class CError(Exception):
    """A status that is not OK, with what the library says about it."""


class CLibrary:
    """Calls by the names of the header, without the prefix; raises CError where a status says so."""

    def __init__(self, path: Path):
        self.library = ctypes.CDLL(str(path))
        self.structs = _structs()
        self._held: list[Any] = []  # what pointers in structs point to

    def __call__(self, name: str, *arguments: Any) -> None:
        status = getattr(self.library, f"yolor_edge_{name}")(*map(self._passed, arguments))
        if status:
            raise CError(f"{STATUSES[status]}: {self.text('last_error')}")

    def text(self, name: str, *arguments: Any) -> str | None:
        """What a function that answers with a text says."""
        function = getattr(self.library, f"yolor_edge_{name}")
        function.restype = ctypes.c_char_p
        answer = function(*map(self._passed, arguments))
        return None if answer is None else answer.decode()

    def made(self, kind: str, *arguments: Any, **values: Any) -> Any:
        """A struct filled by its `_init`, then changed."""
        struct = self.structs[kind]()
        self(f"{kind}_init", struct, ctypes.sizeof(struct), *arguments)
        for name, value in values.items():
            setattr(struct, name, self.address(value) if isinstance(value, np.ndarray) else value)
        return struct

    def described(self, function: str, kind: str, thing: Any) -> Any:
        """A struct that a function fills."""
        struct = self.structs[kind]()
        self(function, thing, struct, ctypes.sizeof(struct))
        return struct

    def head(self, array: np.ndarray, scale: float = 1.0, zero_point: int = 0) -> Any:
        """A head of one image, (C, N) or (C, h, w), of any strides."""
        cube = array if array.ndim == 3 else array[:, np.newaxis]
        dtypes = ["float32", "float16", "uint8", "int8"]
        head = self.made("head", array, *cube.shape, dtype=dtypes.index(array.dtype.name), scale=scale)
        self._held.append(array)
        head.zero_point = zero_point
        steps = [stride // array.itemsize for stride in cube.strides]
        head.channel_stride, head.row_stride, head.column_stride = steps
        return head

    def frame(self, image_size: tuple[int, int], input_size: tuple[int, int], rounding: Rounding = "half_up") -> Any:
        frame = self.structs["frame"]()
        self("frame_of", *image_size, *input_size, ["half_up", "half_even"].index(rounding), frame)
        letterbox = Letterbox.of(image_size, input_size, rounding)
        assert (frame.scale_y, frame.scale_x, frame.pad_top, frame.pad_left) == letterbox.geometry
        return frame

    def detections(self, capacity: int) -> tuple[Any, dict[str, np.ndarray]]:
        arrays = {
            "boxes": np.zeros((capacity, 4), np.float32),
            "scores": np.zeros(capacity, np.float32),
            "class_ids": np.zeros(capacity, np.int32),
            "columns": np.zeros(capacity, np.int32),
        }
        return self.structs["detections"](capacity, 0, *map(self.address, arrays.values())), arrays

    def address(self, array: np.ndarray) -> int:
        self._held.append(array)
        return array.ctypes.data

    @staticmethod
    def _passed(value: Any) -> Any:
        if value is None or isinstance(value, ctypes._SimpleCData):
            return value
        if isinstance(value, np.ndarray):
            return ctypes.c_void_p(value.ctypes.data)
        if isinstance(value, ctypes.Structure):
            return ctypes.byref(value)
        if isinstance(value, int):
            return ctypes.c_int64(value)
        if isinstance(value, str):
            return value.encode()
        return value
