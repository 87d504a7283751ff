"""A foreign ONNX file, read with suspicion and brought into the form that the rest of export works on.

That form: one graph without functions, float32, opset 18 or newer, one image input of fixed height and width, constants
computed and norms folded where ONNX Runtime's basic rules can, every node with a name of its own.
"""

from __future__ import annotations

import ast
import contextlib
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import TensorProto, helper, inliner, numpy_helper, version_converter

from ...runtime.backends.base import Array
from ...runtime.errors import UsageError
from ..onnx_graphs.graph_cleanup import drop_metadata, drop_unread
from ..onnx_graphs.graph_view import GraphView

OPSET = 18
_NARROW = {TensorProto.FLOAT16, TensorProto.BFLOAT16}
_NUMPY_TYPES: dict[int, np.dtype[Any]] = {
    TensorProto.FLOAT: np.dtype(np.float32),
    TensorProto.FLOAT16: np.dtype(np.float16),
    TensorProto.UINT8: np.dtype(np.uint8),
}
_CONTROL_FLOW = {"If", "Loop", "Scan", "SequenceMap"}
_QUANTISED = {"QuantizeLinear", "DynamicQuantizeLinear", "QLinearConv", "ConvInteger", "MatMulInteger"}
_LONGEST_METADATA = 1 << 20
_MOST_BYTES = 2**31 - 1  # a protobuf message can have
# A picture's bytes divided by this or more, or an offset of this or more, are no numbers from 0 to 1.
_BYTES_DIVISOR, _BYTES_OFFSET = 50.0, 2.0


@dataclass(frozen=True)
class Foreign:
    """A foreign detector.

    Attributes:
        path: The file.
        original: Its graph as it came, external data loaded.
        model: The same in the form described above; inputs and outputs keep their names.
        image: Name of its input.
        layout: Of the input: "nchw" or "nhwc".
        dtype: Of the input of `original`: float32, float16 or uint8.
        size: (height, width) of the input.
        batch: Images that a run takes; None for any number.
        metadata: What the exporter wrote beside the graph.
        takes_bytes: Whether the graph itself scales pixels from 0..255.
    """

    path: Path
    original: onnx.ModelProto = field(repr=False)
    model: onnx.ModelProto = field(repr=False)
    image: str
    layout: Literal["nchw", "nhwc"]
    dtype: np.dtype[Any]
    size: tuple[int, int]
    batch: int | None
    metadata: Mapping[str, str]
    takes_bytes: bool

    @property
    def is_half(self) -> bool:
        return self.dtype == np.float16 or any(w.data_type in _NARROW for w in self.original.graph.initializer)

    @property
    def class_names(self) -> tuple[str, ...] | None:
        """The metadata's "names", a list or a dictionary by number as Python writes it; None where there is none."""
        try:
            names = ast.literal_eval(self.metadata.get("names", "")[:_LONGEST_METADATA].strip())
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            return None
        if isinstance(names, dict):
            names = [names.get(number) for number in range(len(names))]
        found = [one.strip() for one in names if isinstance(one, str)] if isinstance(names, list | tuple) else []
        return tuple(found) if found and all(found) and len(found) == len(names) else None

    @property
    def licence(self) -> str | None:
        """What the metadata calls the licence of the weights; None where it does not."""
        text = " ".join((self.metadata.get("license") or self.metadata.get("licence") or "").split())
        return text[:200] or None

    def feed(self, images: NDArray[np.float32]) -> dict[str, Array]:
        """The input of `original` or `model` for (B, 3, H, W) float32, already scaled as the network wants it."""
        return {self.image: images if self.layout == "nchw" else np.ascontiguousarray(images.transpose(0, 2, 3, 1))}


def read_foreign(path: str | Path, input_size: tuple[int, int] | None = None) -> Foreign:
    """Read an ONNX file of another exporter; nothing in it is run but the graph, by ONNX Runtime.

    Args:
        path: The file; external data is looked for beside it.
        input_size: (height, width) where the graph leaves it open; by default the metadata's "imgsz".

    Raises:
        UsageError: If it is no such file, or holds what cannot be adopted; one line.
    """
    path = Path(path)
    original = _load(path)
    if original.functions:
        with _refusing(path, "its functions cannot be inlined"):
            original = inliner.inline_local_functions(original)
    _check_operators(path, original)
    image = _image_input(path, original)
    metadata = {entry.key: entry.value for entry in original.metadata_props}
    layout, batch, size = _input_form(path, image, input_size, _noted_size(metadata))
    model = onnx.ModelProto()
    model.CopyFrom(original)
    _widen(model)
    version = next((o.version for o in model.opset_import if o.domain in ("", "ai.onnx")), 1)
    if version < OPSET:
        with _refusing(path, f"has opset {version}, which cannot be brought to {OPSET}; export it with {OPSET}"):
            model = version_converter.convert_version(model, OPSET)
    takes_bytes = image.type.tensor_type.elem_type == TensorProto.UINT8 or _scales_bytes(model, image.name)
    dtype = _NUMPY_TYPES[image.type.tensor_type.elem_type]
    prepared = _prepared(path, model, image.name, layout, batch, size)
    if batch is None and not _runs(prepared, image.name, layout, size, dtype):
        batch, prepared = 1, _prepared(path, model, image.name, layout, 1, size)
    return Foreign(path, original, prepared, image.name, layout, dtype, size, batch, metadata, takes_bytes)


@contextlib.contextmanager
def _refusing(path: Path, what: str) -> Iterator[None]:
    """Whatever a library raises in the block is one line about the file."""
    try:
        yield
    except Exception as error:  # onnx and ONNX Runtime raise a dozen types without a common class
        raise UsageError(f"{path}: {what} ({_one_line(error)})") from None


def _one_line(error: Exception) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 160 else f"{text[:157]}..."


def _load(path: Path) -> onnx.ModelProto:
    if path.is_dir():
        raise UsageError(f"{path}: is a folder, expected an ONNX file", argument="model")
    if not path.is_file():
        raise UsageError(f"{path}: no such file; expected an ONNX model", argument="model")
    if path.suffix.lower() in (".pt", ".pth"):
        raise UsageError(
            f"{path}: is no ONNX file; official checkpoints are read with yolor-edge import {path} --out CHECKPOINT",
            argument="model",
        )
    if path.stat().st_size > _MOST_BYTES:
        raise UsageError(f"{path}: larger than 2 GiB, which no ONNX file can be; expected an ONNX model")
    with _refusing(path, "is not an ONNX model, or is cut short"):
        model = onnx.load(path, load_external_data=False)
    if not model.graph.node:
        raise UsageError(f"{path}: is not an ONNX model (it holds no graph), or is empty; export it again")
    with _refusing(path, "its external data is missing or cut short; copy all files of the model beside it"):
        onnx.load_external_data_for_model(model, str(path.parent))
    if model.ByteSize() > _MOST_BYTES:
        raise UsageError(f"{path}: holds more than 2 GiB of weights; expected a network for an edge device")
    constants = {weight.name for weight in model.graph.initializer}
    real = [value for value in model.graph.input if value.name not in constants]  # old exporters list weights too
    if len(real) != len(model.graph.input):
        del model.graph.input[:]
        model.graph.input.extend(real)
    model.graph.name = "foreign"  # a file is called so for a while, and theirs can hold anything
    return model


def _check_operators(path: Path, model: onnx.ModelProto) -> None:
    graph = model.graph
    custom = sorted({f"{n.domain}.{n.op_type}" for n in graph.node if n.domain not in ("", "ai.onnx")})
    if custom:
        raise UsageError(
            f"{path}: has operators that are not of ONNX ({', '.join(custom[:5])}), which only one runtime knows; "
            "export it without plugins and without its own post-processing"
        )
    for what, kinds in (("is quantised already", _QUANTISED), ("has control flow", _CONTROL_FLOW)):
        held = sorted({node.op_type for node in graph.node} & kinds)
        if held:
            raise UsageError(f"{path}: {what} ({', '.join(held)}); expected a plain float network")
    values = {v.name: v.type.tensor_type.elem_type for v in (*graph.input, *graph.output)}
    doubles = [name for name, kind in values.items() if kind == TensorProto.DOUBLE]
    doubles += [weight.name for weight in graph.initializer if weight.data_type == TensorProto.DOUBLE and weight.dims]
    if doubles:
        raise UsageError(f"{path}: computes in float64 ({', '.join(doubles[:3])}); export it in float32")
    with _refusing(path, "is not a sound ONNX graph, or is cut short"):
        onnx.checker.check_model(model)


def _image_input(path: Path, model: onnx.ModelProto) -> onnx.ValueInfoProto:
    inputs = list(model.graph.input)
    if len(inputs) != 1:
        told = ", ".join(f"{value.name} {shape_text(value)}" for value in inputs) or "none"
        raise UsageError(f"{path}: has {len(inputs)} inputs ({told}); expected one image alone")
    kind = inputs[0].type.tensor_type.elem_type
    if kind not in _NUMPY_TYPES or len(inputs[0].type.tensor_type.shape.dim) != 4:
        name = helper.tensor_dtype_to_string(kind).removeprefix("TensorProto.").lower()
        raise UsageError(
            f"{path}: its input {inputs[0].name} is {name} {shape_text(inputs[0])}; expected an image (B, 3, H, W) or "
            "(B, H, W, 3) in float32, float16 or uint8"
        )
    return inputs[0]


def shape_text(value: onnx.ValueInfoProto) -> str:
    """The shape of an input or output as a file states it, "(batch, 3, ?, ?)"."""
    axes = value.type.tensor_type.shape.dim
    return f"({', '.join(str(a.dim_value) if a.HasField('dim_value') else a.dim_param or '?' for a in axes)})"


def _axes(value: onnx.ValueInfoProto) -> list[int | None]:
    return [
        axis.dim_value if axis.HasField("dim_value") and axis.dim_value > 0 else None
        for axis in value.type.tensor_type.shape.dim
    ]


def _noted_size(metadata: Mapping[str, str]) -> tuple[int, int] | None:
    """The metadata's "imgsz", one number or (height, width)."""
    try:
        noted = ast.literal_eval(metadata.get("imgsz", "")[:100])
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return None
    sides = [noted] * 2 if type(noted) is int else noted
    is_size = isinstance(sides, list | tuple) and len(sides) == 2 and all(type(s) is int and s > 0 for s in sides)
    return (sides[0], sides[1]) if is_size else None


def _input_form(
    path: Path, image: onnx.ValueInfoProto, asked: tuple[int, int] | None, noted: tuple[int, int] | None
) -> tuple[Literal["nchw", "nhwc"], int | None, tuple[int, int]]:
    """Layout, batch (None where free) and size of the input."""
    batch, *rest = _axes(image)
    layout: Literal["nchw", "nhwc"] = "nhwc" if rest[2] == 3 and rest[0] != 3 else "nchw"
    if rest[2 if layout == "nhwc" else 0] not in (3, None):
        raise UsageError(f"{path}: its input {image.name} is {shape_text(image)}; expected three channels")
    fixed = (rest[0], rest[1]) if layout == "nhwc" else (rest[1], rest[2])
    wanted = asked or noted or (None, None)
    if asked and (min(asked) < 1 or any(f not in (None, w) for f, w in zip(fixed, asked, strict=True))):
        raise UsageError(
            f"{path}: its input is {shape_text(image)}, which {asked[0]}x{asked[1]} does not fit; leave <input_size> "
            "out or export it for that size",
            argument="input_size",
        )
    height, width = fixed[0] or wanted[0], fixed[1] or wanted[1]
    if height is None or width is None:
        raise UsageError(
            f"{path}: its input {image.name} is {shape_text(image)}, which leaves the size open; give <input_size>",
            argument="input_size",
        )
    return layout, batch, (height, width)


def _widen(model: onnx.ModelProto) -> None:
    """Turn 16-bit floats into float32 everywhere: weights, constants, casts and the types of values."""

    def wide(tensor: onnx.TensorProto) -> None:
        if tensor.data_type in _NARROW:
            values = numpy_helper.to_array(tensor).astype(np.float32)
            tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))

    graph = model.graph
    for weight in graph.initializer:
        wide(weight)
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.TENSOR:
                wide(attribute.t)
            if attribute.name in ("to", "dtype") and attribute.i in _NARROW:
                attribute.i = TensorProto.FLOAT
    for value in (*graph.input, *graph.output, *graph.value_info):
        if value.type.tensor_type.elem_type in _NARROW:
            value.type.tensor_type.elem_type = TensorProto.FLOAT


def _prepared(
    path: Path, source: onnx.ModelProto, image: str, layout: str, batch: int | None, size: tuple[int, int]
) -> onnx.ModelProto:
    """A copy with a fixed size, simplified by the basic rules of ONNX Runtime, and names for all nodes."""
    model = onnx.ModelProto()
    model.CopyFrom(source)
    shape = [batch or "batch", 3, *size] if layout == "nchw" else [batch or "batch", *size, 3]
    kind = model.graph.input[0].type.tensor_type.elem_type
    model.graph.input[0].CopyFrom(helper.make_tensor_value_info(image, kind, shape))
    del model.graph.value_info[:]
    for value in model.graph.output:  # shapes of another size would contradict it
        value.type.tensor_type.ClearField("shape")
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.log_severity_level = 4
    with tempfile.TemporaryDirectory(prefix="yolor-edge-") as folder:
        options.optimized_model_filepath = str(Path(folder) / "simple.onnx")
        with _refusing(path, "ONNX Runtime cannot load it"):
            onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
            model = onnx.load(options.optimized_model_filepath)
    for opset in [opset for opset in model.opset_import if opset.domain not in ("", "ai.onnx")]:
        model.opset_import.remove(opset)
    drop_metadata(model)
    drop_unread(model)
    _name_nodes(model)
    del model.metadata_props[:]
    with _refusing(path, "its shapes cannot be inferred"):
        return onnx.shape_inference.infer_shapes(model, data_prop=True)


def _name_nodes(model: onnx.ModelProto) -> None:
    taken: set[str] = set()
    for node in model.graph.node:
        name = wanted = node.name or f"{node.op_type}"
        count = 1
        while name in taken:
            count += 1
            name = f"{wanted}.{count}"
        taken.add(name)
        node.name = name


def _runs(model: onnx.ModelProto, image: str, layout: str, size: tuple[int, int], dtype: np.dtype[Any]) -> bool:
    """Whether a graph that calls its batch free takes two images, and gives two answers."""
    shape = (2, 3, *size) if layout == "nchw" else (2, *size, 3)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    try:
        session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        kind = np.dtype(np.float32) if dtype == np.float16 else dtype
        answers: Any = session.run(None, {image: np.zeros(shape, kind)})
    except Exception:  # whatever ONNX Runtime says, the batch is not free
        return False
    return all(answer.ndim and len(answer) == 2 for answer in answers)


def _scales_bytes(model: onnx.ModelProto, image: str) -> bool:
    """Whether the nodes before the first convolution divide or shift as only pixels from 0 to 255 need it."""
    view = GraphView(model)
    values = {w.name: w for w in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type == "Constant" and node.attribute and node.attribute[0].type == onnx.AttributeProto.TENSOR:
            values[node.output[0]] = node.attribute[0].t
    name = image
    while True:
        readers = view.consumers.get(name, [])
        if len(readers) != 1 or readers[0].op_type not in ("Cast", "Transpose", "Identity", "Div", "Mul", "Sub", "Add"):
            return False
        node = readers[0]
        others = [numpy_helper.to_array(values[other]) for other in node.input if other in values]
        most = max((float(np.abs(other).max(initial=0)) for other in others), default=0.0)
        if (
            (node.op_type == "Div" and most >= _BYTES_DIVISOR)
            or (node.op_type == "Mul" and 0 < most <= 1 / _BYTES_DIVISOR)
            or (node.op_type in ("Sub", "Add") and most >= _BYTES_OFFSET)
        ):
            return True
        name = node.output[0]
