"""Reads the pickles of checkpoints without running anything that they name.

Python's own unpickler imports what a pickle names and calls it; here the opcodes are walked by hand. A global becomes
a `Reference`, an object a `Record` of a class name, arguments and state, a tensor a view into its storage's bytes.
Nothing is imported and nothing is called, so the worst that a file can do is to be refused. What it may name is an
allow list; how much it may hold is limited. Nothing here recurses over what the file holds: nesting cannot exhaust the
stack.
"""

from __future__ import annotations

import math
import pickletools
from collections.abc import Callable
from dataclasses import dataclass
from typing import IO, Any, Literal, NoReturn

import numpy as np

from ...runtime.errors import CheckpointError


@dataclass(frozen=True)
class Limits:
    """How much a pickle may hold; real checkpoints of the largest networks stay a factor of five or more below."""

    opcodes: int = 12_000_000
    nesting: int = 400
    string_bytes: int = 16 << 20
    tensors: int = 400_000
    dimensions: int = 16
    integer_bytes: int = 8


@dataclass(frozen=True)
class Reference:
    """A global that a pickle names: a class or function that is never imported."""

    module: str
    name: str

    @property
    def path(self) -> str:
        return f"{self.module}.{self.name}"


@dataclass(eq=False)
class Record:
    """An object as a pickle describes it: its class, the arguments of its making and its state."""

    path: str
    args: tuple[Any, ...] = ()
    state: Any = None


@dataclass(eq=False)
class Storage:
    """The bytes behind tensors; `data` is filled in by the reader of the file."""

    dtype: str
    size: int
    key: str
    data: memoryview | None = None

    @property
    def byte_count(self) -> int:
        return self.size * item_size(self.dtype)


@dataclass(frozen=True, eq=False)
class StoredTensor:
    """A tensor: a strided window of a storage, checked to lie inside it."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    byte_order: Literal["<", ">"] = "<"

    @property
    def dtype(self) -> str:
        return self.storage.dtype

    def array(self) -> np.ndarray:
        """A copy of the values, contiguous; bfloat16 comes as float32."""
        data = self.storage.data
        if data is None:
            raise CheckpointError(f"storage {self.storage.key} was never read")
        stored = "u2" if self.dtype == "bfloat16" else _NUMPY_NAMES[self.dtype]
        flat = np.frombuffer(data, np.dtype(stored).newbyteorder(self.byte_order), self.storage.size)
        if math.prod(self.shape):
            steps = [stride * flat.itemsize for stride in self.strides]
            flat = np.lib.stride_tricks.as_strided(flat[self.offset :], self.shape, steps, writeable=False)
        else:
            flat = flat[:0].reshape(self.shape)
        values = np.ascontiguousarray(flat.astype(stored, copy=True)).reshape(self.shape)
        if self.dtype == "bfloat16":
            values = (values.astype("u4") << 16).view("f4")
        return values


_NUMPY_NAMES = {
    "float64": "f8",
    "float32": "f4",
    "float16": "f2",
    "int64": "i8",
    "int32": "i4",
    "int16": "i2",
    "int8": "i1",
    "uint8": "u1",
    "bool": "?",
}
_STORAGES = {
    "DoubleStorage": "float64",
    "FloatStorage": "float32",
    "HalfStorage": "float16",
    "BFloat16Storage": "bfloat16",
    "LongStorage": "int64",
    "IntStorage": "int32",
    "ShortStorage": "int16",
    "CharStorage": "int8",
    "ByteStorage": "uint8",
    "BoolStorage": "bool",
}
_TORCH_DTYPES = {*_NUMPY_NAMES, "bfloat16", "half", "float", "double", "long", "int", "short"}


def item_size(dtype: str) -> int:
    return 2 if dtype == "bfloat16" else np.dtype(_NUMPY_NAMES[dtype]).itemsize


# Classes under these become records. Their code is never looked for.
_RECORD_MODULES = (
    "models",
    "yolov7",
    "yolov9",
    "yolor",
    "utils",
    "torch.nn.functional",
    "torch.nn.modules",
    "torch.nn.parallel",
    "torch.optim",
    "torch.torch_version",
    "pathlib",
    "argparse",
    "datetime",
)
_RECORD_PATHS = {
    "torch.Size",
    "torch.device",
    "torch.dtype",
    "torch.nn.parameter.Parameter",
    "collections.defaultdict",
    "collections.Counter",
    "collections.deque",
    "__main__.Model",
    "__builtin__.object",
    "builtins.object",
}
_PROJECTS = {
    "ultralytics": "Ultralytics YOLO",
    "mmdet": "MMDetection",
    "mmcv": "OpenMMLab",
    "mmengine": "OpenMMLab",
    "detectron2": "Detectron2",
    "yolox": "YOLOX",
    "nanodet": "NanoDet",
    "damo": "DAMO-YOLO",
    "yolov6": "YOLOv6",
    "ppdet": "PaddleDetection",
    "paddle": "PaddlePaddle",
    "super_gradients": "SuperGradients",
    "rfdetr": "RF-DETR",
    "transformers": "Hugging Face Transformers",
    "timm": "timm",
    "torchvision": "torchvision",
    "pytorch_lightning": "PyTorch Lightning",
    "lightning": "PyTorch Lightning",
    "omegaconf": "a project that uses OmegaConf",
    "fastai": "fastai",
    "sklearn": "scikit-learn",
    "pandas": "pandas",
}
_BUILTIN = ("__builtin__", "builtins")


def _smell(module: str) -> str:
    project = _PROJECTS.get(module.split(".")[0])
    if project:
        return f"which belongs to {project}; only checkpoints of YOLOv7, YOLOR, YOLOv9 and Generalist YOLO are imported"
    return "which no weights need: the file is damaged, foreign or made to run code; do not load it elsewhere either"


def find_global(module: str, name: str) -> Reference:
    """The reference to a global that may be named.

    Raises:
        CheckpointError: For any other.
    """
    if not all(part.isidentifier() for part in (*module.split("."), *name.split("."))):
        raise CheckpointError(f"names {f'{module}.{name}'[:100]!r}, which is no name of a class")
    reference = Reference(module, name)
    path = reference.path
    known = (
        path in _RECORD_PATHS
        or path in _FUNCTIONS
        or any(module == root or module.startswith(root + ".") for root in _RECORD_MODULES)
        or (module == "torch" and (name in _STORAGES or name in _TORCH_DTYPES))
        or path in ("numpy.ndarray", "torch.storage.UntypedStorage", "torch.storage.TypedStorage")
    )
    if not known or "__" in name:
        raise CheckpointError(f"names {path}, {_smell(module)}")
    return reference


class Machine:
    """Runs one pickle, or several from one stream that share storages.

    Args:
        limits: How much the file may hold.
        byte_order: Of the storages, "<" or ">".
    """

    def __init__(self, limits: Limits = Limits(), byte_order: Literal["<", ">"] = "<") -> None:
        self.limits = limits
        self.byte_order: Literal["<", ">"] = byte_order
        self.storages: dict[str, Storage] = {}
        self.opcodes = self.tensors = 0

    def load(self, stream: IO[bytes]) -> Any:
        """The object that the pickle at the stream's position describes.

        Raises:
            CheckpointError: If it is no pickle, names what is not allowed, or holds more than the limits.
        """
        try:
            return self._run(stream)
        except CheckpointError:
            raise
        except RecursionError:
            raise CheckpointError("is nested too deeply") from None
        except (ValueError, IndexError, KeyError, TypeError, AttributeError, OverflowError, UnicodeError) as error:
            reason = " ".join(str(error).split())[:120]
            raise CheckpointError(f"its pickle is damaged or made up ({type(error).__name__}: {reason})") from None

    def _run(self, stream: IO[bytes]) -> Any:
        stack: list[Any] = []
        marks: list[list[Any]] = []
        memo: dict[int, Any] = {}
        limits, opcodes = self.limits, self.opcodes
        while True:
            code = stream.read(1)
            opcode = _OPCODES.get(code)
            if opcode is None:
                raise ValueError(f"it ends early, or holds the byte {code!r} where an instruction should be")
            op = opcode.name
            arg: Any = None if opcode.arg is None else opcode.arg.reader(stream)
            opcodes += 1
            if opcodes > limits.opcodes:
                raise CheckpointError(f"holds more than {limits.opcodes} pickle instructions")
            if op in ("BINGET", "LONG_BINGET"):
                stack.append(memo[arg])
            elif op in ("BINPUT", "LONG_BINPUT"):
                memo[arg] = stack[-1]
            elif op == "MEMOIZE":
                memo[len(memo)] = stack[-1]
            elif op in ("REDUCE", "NEWOBJ"):
                args, called = stack.pop(), stack.pop()
                stack.append(self._made(called, args))
            elif op == "NEWOBJ_EX":
                keywords, args, called = stack.pop(), stack.pop(), stack.pop()
                if keywords:
                    raise CheckpointError("makes an object with keyword arguments")
                stack.append(self._made(called, args))
            elif op in _CONSTANTS:
                stack.append(_CONSTANTS[op])
            elif op in _LITERALS:
                if isinstance(arg, str | bytes):
                    if len(arg) > limits.string_bytes:
                        raise CheckpointError(f"holds a text of {len(arg)} bytes")
                elif isinstance(arg, int) and arg.bit_length() > 8 * limits.integer_bytes:
                    raise CheckpointError(f"holds an integer of {arg.bit_length()} bits")
                stack.append(arg)
            elif op in _EMPTY:
                stack.append(_EMPTY[op]())
            elif op in _TUPLES:
                count = _TUPLES[op]
                if len(stack) < count:
                    raise IndexError("stack is empty")
                stack[-count:] = [tuple(stack[-count:])]
            elif op == "MARK":
                if len(marks) >= limits.nesting:
                    raise CheckpointError(f"is nested more than {limits.nesting} deep")
                marks.append(stack)
                stack = []
            elif op in ("TUPLE", "LIST", "DICT", "FROZENSET", "APPENDS", "SETITEMS", "ADDITEMS", "POP_MARK"):
                items, stack = stack, marks.pop()
                if op == "TUPLE":
                    stack.append(tuple(items))
                elif op == "LIST":
                    stack.append(items)
                elif op == "DICT":
                    stack.append({})
                    _set_items(stack[-1], items)
                elif op == "FROZENSET":
                    stack.append(frozenset(_key(item) for item in items))
                elif op == "APPENDS":
                    _listed(stack[-1]).extend(items)
                elif op == "SETITEMS":
                    _set_items(stack[-1], items)
                elif op == "ADDITEMS":
                    if not isinstance(stack[-1], set):
                        raise TypeError("adds items to what is no set")
                    stack[-1].update(_key(item) for item in items)
            elif op == "SETITEM":
                value, key = stack.pop(), stack.pop()
                _set_items(stack[-1], [key, value])
            elif op == "APPEND":
                value = stack.pop()
                _listed(stack[-1]).append(value)
            elif op == "BUILD":
                state = stack.pop()
                stack[-1] = self._built(stack[-1], state, memo)
            elif op == "GLOBAL":
                module, _, name = arg.partition(" ")
                stack.append(find_global(module, name))
            elif op == "STACK_GLOBAL":
                name, module = stack.pop(), stack.pop()
                if not (isinstance(name, str) and isinstance(module, str)):
                    raise TypeError("a global that is no text")
                stack.append(find_global(module, name))
            elif op == "BINPERSID":
                stack.append(self._storage(stack.pop()))
            elif op == "DUP":
                stack.append(stack[-1])
            elif op == "POP":
                stack.pop()
            elif op == "STOP":
                self.opcodes = opcodes
                if marks or len(stack) != 1:
                    raise ValueError("things are left over")
                return stack[0]
            elif op not in ("PROTO", "FRAME"):
                raise CheckpointError(f"holds the pickle instruction {op}, which checkpoints do not need")

    def _made(self, called: Any, args: Any) -> Any:
        if not isinstance(args, tuple):
            raise TypeError("arguments that are no tuple")
        if not isinstance(called, Reference):
            what = called.path if isinstance(called, Record) else type(called).__name__
            raise CheckpointError(f"calls {what}, which is no class")
        function = _FUNCTIONS.get(called.path)
        if function is not None:
            return function(self, *args)
        if called.module == "torch" and called.name not in ("Size", "device"):
            raise CheckpointError(f"calls {called.path}, which is a name of a type")
        return Record(called.path, args)

    def _built(self, target: Any, state: Any, memo: dict[int, Any]) -> Any:
        """`target` with its state; a numpy dtype or array is replaced, in the memo too."""
        if isinstance(target, Record):
            if target.path == "numpy.dtype" and isinstance(state, tuple) and len(state) > 1:
                target.state = state[1]
            elif target.path == "numpy.ndarray":
                target.state = _numpy_array(state)
            else:
                target.state = state
            return target
        if isinstance(target, dict) and isinstance(state, dict):
            return target  # An OrderedDict with attributes, as state dicts have (`_metadata`): no values of its own.
        raise TypeError(f"gives state to a {type(target).__name__}")

    def _storage(self, what: Any) -> Storage | Reference:
        """What a persistent id names: a storage or, in torch's older form, a class beside its source code."""
        if isinstance(what, tuple) and len(what) == 4 and what[0] == "module" and isinstance(what[1], Reference):
            return what[1]
        if not (isinstance(what, tuple) and len(what) >= 5 and what[0] == "storage"):
            raise CheckpointError("refers to something outside of it that is no storage")
        kind, key, size = what[1], what[2], what[4]
        if isinstance(kind, Reference) and kind.path in ("torch.storage.UntypedStorage", "torch.storage.TypedStorage"):
            raise CheckpointError(f"holds a storage of the kind {kind.name}, which has no type")
        if not (isinstance(kind, Reference) and kind.module == "torch" and kind.name in _STORAGES):
            raise CheckpointError("holds a storage of an unknown kind")
        if len(what) > 5 and what[5] is not None:
            raise CheckpointError("holds a storage that is a part of another one")
        if not (isinstance(key, str) and key.isalnum() and key.isascii() and len(key) < 40 and _whole(size)):
            raise CheckpointError(f"holds a storage with the key {key!r:.60} and the size {size!r:.40}")
        storage = Storage(_STORAGES[kind.name], size, key)
        known = self.storages.setdefault(key, storage)
        if (known.dtype, known.size) != (storage.dtype, size):
            raise CheckpointError(f"describes storage {key} in two ways")
        return known

    def tensor(self, storage: Any, offset: Any, shape: Any, strides: Any, *_: Any) -> StoredTensor:
        self.tensors += 1
        if self.tensors > self.limits.tensors:
            raise CheckpointError(f"holds more than {self.limits.tensors} tensors")
        shape, strides = _sizes(shape), _sizes(strides)
        if not isinstance(storage, Storage) or not _whole(offset) or shape is None or strides is None:
            raise CheckpointError("holds a tensor whose storage, shape or strides are none")
        if len(shape) != len(strides) or len(shape) > self.limits.dimensions:
            raise CheckpointError(f"holds a tensor of {len(shape)} dimensions with {len(strides)} strides")
        count = math.prod(shape)
        last = offset + sum((size - 1) * stride for size, stride in zip(shape, strides, strict=True))
        if count and (last >= storage.size or count > storage.size):
            raise CheckpointError(
                f"holds a tensor of shape {shape} outside of its storage {storage.key}, which has {storage.size} values"
            )
        return StoredTensor(storage, offset, shape, strides, self.byte_order)


def _whole(value: Any) -> bool:
    return type(value) is int and 0 <= value < 1 << 62


def _sizes(value: Any) -> tuple[int, ...] | None:
    if isinstance(value, Record) and value.path == "torch.Size" and value.args:
        value = value.args[0]
    return tuple(value) if isinstance(value, tuple | list) and all(map(_whole, value)) else None


def _listed(value: Any) -> list[Any]:
    if isinstance(value, Record) and value.path == "collections.deque":
        return []  # Histories and the like: nothing that a network needs.
    if not isinstance(value, list):
        raise TypeError(f"appends to a {type(value).__name__}")
    return value


def _key(value: Any) -> Any:
    """`value` if it may be a key: flat, so that hashing it takes no time and no stack."""
    plain = (str, int, float, bytes, type(None))
    if isinstance(value, (*plain, Reference, Record)):
        return value
    if isinstance(value, tuple) and len(value) < 20 and all(isinstance(item, plain) for item in value):
        return value
    raise CheckpointError(f"uses a {type(value).__name__} as a key")


def _set_items(target: Any, items: list[Any]) -> None:
    if isinstance(target, Record) and target.path in ("collections.defaultdict", "collections.Counter"):
        return
    if not isinstance(target, dict) or len(items) % 2:
        raise TypeError("sets items of what is no dictionary")
    for key, value in zip(items[::2], items[1::2], strict=True):
        target[_key(key)] = value


def _numpy_dtype(record: Any) -> np.dtype[Any] | None:
    """The dtype of a record of `numpy.dtype`; None for all but plain numbers."""
    if not (isinstance(record, Record) and record.path == "numpy.dtype" and record.args):
        return None
    code = record.args[0]
    if code not in ("f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "b1"):
        return None
    return np.dtype(code).newbyteorder(">" if record.state == ">" else "<")


def _numpy_array(state: Any) -> np.ndarray | None:
    _, shape, record, fortran, data = state
    dtype, sizes = _numpy_dtype(record), _sizes(shape)
    if dtype is None or not isinstance(data, bytes) or sizes is None or len(sizes) > 32:
        return None  # Texts and objects: nothing that a network needs.
    if math.prod(sizes) * dtype.itemsize != len(data):
        raise CheckpointError(f"holds a numpy array of shape {sizes} with {len(data)} bytes")
    return np.frombuffer(data, dtype).reshape(sizes, order="F" if fortran else "C").astype(dtype.newbyteorder("="))


def _numpy_scalar(machine: Machine, record: Any, data: Any = None) -> Any:
    dtype = _numpy_dtype(record)
    if dtype is None or not isinstance(data, bytes) or len(data) != dtype.itemsize:
        return Record("numpy.generic")
    return np.frombuffer(data, dtype)[0].item()


def _encode(machine: Machine, text: Any, encoding: Any = "latin1") -> bytes:
    if not isinstance(text, str) or encoding not in ("latin1", "latin-1"):
        raise CheckpointError(f"encodes bytes as {encoding!r:.40}")
    return text.encode("latin1")


def _getattr(machine: Machine, target: Any, name: Any, *more: Any) -> Record:
    # Heads derived from another one keep the parent's method as an attribute.
    if more or name not in ("forward", "fuseforward", "forward_fuse") or not isinstance(target, Reference | Record):
        raise CheckpointError(f"asks for an attribute {name!r:.60} of something")
    return Record("getattr", (target, name))


def _container(kind: Callable[..., Any]) -> Callable[..., Any]:
    def build(machine: Machine, *args: Any) -> Any:
        if not args:
            return kind()
        values: Any = args[0]
        if len(args) > 1 or not isinstance(values, list | tuple | set | frozenset):
            raise TypeError("a container made of no list")
        if kind is dict:
            made: dict[Any, Any] = {}
            for pair in values:
                key, value = pair
                made[_key(key)] = value
            return made
        return kind(map(_key, values)) if kind in (set, frozenset) else kind(values)

    return build


def _parameter(machine: Machine, data: Any, *_: Any) -> Any:
    if not isinstance(data, StoredTensor):
        raise CheckpointError("holds a parameter that is no tensor")
    return data


def _from_type(machine: Machine, function: Any, kind: Any, args: Any, *_: Any) -> Any:
    return machine._made(function, args)


def _refuse(machine: Machine, *_: Any) -> NoReturn:
    raise CheckpointError("holds a quantised or sparse tensor; import the float checkpoint it was made from")


_FUNCTIONS: dict[str, Callable[..., Any]] = {
    "torch._utils._rebuild_tensor": Machine.tensor,
    "torch._utils._rebuild_tensor_v2": Machine.tensor,
    "torch._utils._rebuild_tensor_v3": _refuse,
    "torch._utils._rebuild_qtensor": _refuse,
    "torch._utils._rebuild_sparse_tensor": _refuse,
    "torch._utils._rebuild_parameter": _parameter,
    "torch._utils._rebuild_parameter_with_state": _parameter,
    "torch._tensor._rebuild_from_type_v2": _from_type,
    "collections.OrderedDict": _container(dict),
    "_codecs.encode": _encode,
    "numpy.dtype": lambda machine, *args: Record("numpy.dtype", args),
    **{
        f"{module}.{name}": function
        for module in ("numpy.core.multiarray", "numpy._core.multiarray")
        for name, function in (
            ("_reconstruct", lambda machine, *args: Record("numpy.ndarray")),
            ("scalar", _numpy_scalar),
        )
    },
    **{
        f"{module}.{kind.__name__}": _container(kind)
        for module in _BUILTIN
        for kind in (set, frozenset, list, dict, tuple)
    },
    **{f"{module}.getattr": _getattr for module in _BUILTIN},
}
# Text forms of the oldest protocols, whose arguments cost time to decode, and what makes objects of other kinds. Torch
# has never written them; they are not even decoded.
_NEEDLESS = {
    "PERSID", "INST", "OBJ", "EXT1", "EXT2", "EXT4", "STRING", "UNICODE", "INT", "LONG", "FLOAT", "GET", "PUT",
    "NEXT_BUFFER", "READONLY_BUFFER", "BYTEARRAY8",
}  # fmt: skip
_OPCODES = {op.code.encode("latin1"): op for op in pickletools.opcodes if op.name not in _NEEDLESS}
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_EMPTY: dict[str, Callable[[], Any]] = {"EMPTY_DICT": dict, "EMPTY_LIST": list, "EMPTY_TUPLE": tuple, "EMPTY_SET": set}
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
_LITERALS = {
    "BININT", "BININT1", "BININT2", "LONG1", "LONG4", "BINFLOAT", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8",
    "BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BINSTRING", "SHORT_BINSTRING",
}  # fmt: skip
