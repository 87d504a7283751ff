"""Official checkpoints become checkpoints of ours: the network as a list of layers, the weights as safetensors."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ...runtime.bundle.name_lists import read_lines, read_names
from ...runtime.errors import CheckpointError, UsageError
from ...runtime.files import sha256_of
from ..checkpoint import DESCRIPTION, WEIGHTS, Checkpoint, write_checkpoint
from ..network.layers import LayerNetwork, LayersConfig
from .build import build
from .graph import Graph, Module
from .heads import Heads
from .pickle_machine import Record, StoredTensor
from .state_dicts import graph_of_state_dict
from .torch_files import read_torch_file

# The 80 classes of COCO as every official data file lists them, and the ids that COCO's annotations give them.
_COCO_NAMES = (
    "person bicycle car motorcycle airplane bus train truck boat traffic light fire hydrant stop sign parking meter "
    "bench bird cat dog horse sheep cow elephant bear zebra giraffe backpack umbrella handbag tie suitcase frisbee "
    "skis snowboard sports ball kite baseball bat baseball glove skateboard surfboard tennis racket bottle wine glass "
    "cup fork knife spoon bowl banana apple sandwich orange broccoli carrot hot dog pizza donut cake chair couch "
    "potted plant bed dining table toilet tv laptop mouse remote keyboard cell phone microwave oven toaster sink "
    "refrigerator book clock vase scissors teddy bear hair drier toothbrush"
)
_COCO_GAPS = {12, 26, 29, 30, 45, 66, 68, 69, 71, 83}
_COCO_IDS = tuple(index for index in range(1, 91) if index not in _COCO_GAPS)


@dataclasses.dataclass(frozen=True)
class Imported:
    """A network as it was read: configuration, weights by name (float32), and what else the file says.

    Attributes:
        config: The network.
        weights: Named as `LayerNetwork` names them.
        half: Whether the file holds the weights in half precision.
        source: Facts for the provenance.
    """

    config: LayersConfig
    weights: dict[str, np.ndarray]
    half: bool
    source: dict[str, Any]

    def network(self) -> LayerNetwork:
        """The network with its weights, float32, in evaluation mode."""
        network = LayerNetwork(self.config)
        state = {name: torch.from_numpy(value.copy()) for name, value in self.weights.items()}
        for name, value in network.state_dict().items():
            if name.endswith("num_batches_tracked"):
                state[name] = value
        network.load_state_dict(state)
        return network.eval()


def import_checkpoint(
    path: str | Path,
    out: str | Path,
    *,
    config: str | Path | None = None,
    vocabulary: str | Path | Sequence[str] | None = None,
    licence: str | None = None,
    names: str | Path | Sequence[str] | None = None,
    overwrite: bool = False,
) -> Checkpoint:
    """Read an official checkpoint of YOLOv7, YOLOR, YOLOv9, GELAN or Generalist YOLO and write it as one of ours.

    No code of the file is run, and neither the official code nor the GPU is needed. Auxiliary heads and what only they
    use are left out. Exponentially averaged weights are taken where the file holds them.

    Args:
        path: The .pt file.
        out: Folder of the checkpoint to write.
        config: For a file that holds a state dict alone: the name of its configuration, such as "yolov7", or the
            Darknet .cfg file (of YOLOR), also as a JSON list of its sections.
        vocabulary: Words of the captions, one a line, or the file that holds them; needed by a network with captions.
        licence: Of the weights, as it is recorded and shown.
        names: Names of the classes, in place of those in the file; a list, or a file with one a line.
        overwrite: Replace a checkpoint that lies at `out`.

    Raises:
        CheckpointError: If the file is none of these, damaged, hostile, or holds modules that are not known. Nothing
            is written then.
        UsageError: If an argument does not fit the file, or something else lies at `out`.
    """
    _check_out(Path(out), overwrite)
    imported = read_checkpoint(path, config=config, vocabulary=vocabulary, names=names)
    provenance = {**imported.source, "licence": licence or "unknown"}
    try:
        network = imported.network()
    except _MADE_UP as error:
        reason = " ".join(str(error).split())[:120]
        raise CheckpointError(f"{path}: its layers make no network ({type(error).__name__}: {reason})") from None
    return write_checkpoint(Path(out), network, provenance, "float16" if imported.half else "float32")


def _check_out(out: Path, overwrite: bool) -> None:
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    if not (out / DESCRIPTION).is_file() or {file.name for file in out.iterdir()} - {DESCRIPTION, WEIGHTS}:
        raise UsageError(f"{out}: exists and is no checkpoint, so it is not replaced; choose another <out>", "out")
    if not overwrite:
        raise UsageError(
            f"{out}: exists already; choose another <out> or replace it with <overwrite>", argument=("out", "overwrite")
        )


def read_checkpoint(
    path: str | Path,
    *,
    config: str | Path | None = None,
    vocabulary: str | Path | Sequence[str] | None = None,
    names: str | Path | Sequence[str] | None = None,
) -> Imported:
    """What `import_checkpoint` writes, in memory."""
    path = Path(path)
    content = read_torch_file(path)
    try:
        return _read(path, content, config, vocabulary, names)
    except (CheckpointError, UsageError) as error:
        where = "" if str(error.args[0]).startswith("<") else f"{path}: "
        raise type(error)(f"{where}{error.args[0]}", error.arguments) from None
    except _MADE_UP as error:
        # Attributes of a hostile or damaged file can be of any type; what no check above names ends here.
        reason = " ".join(str(error).split())[:120]
        raise CheckpointError(f"{path}: its network is damaged or made up ({type(error).__name__}: {reason})") from None


_MADE_UP = (
    ArithmeticError,
    AttributeError,
    IndexError,
    KeyError,
    MemoryError,
    RecursionError,
    RuntimeError,
    TypeError,
    ValueError,
)


def _read(
    path: Path,
    content: Any,
    config: str | Path | None,
    vocabulary: str | Path | Sequence[str] | None,
    names: str | Path | Sequence[str] | None,
) -> Imported:
    model, which = chosen_model(content)
    source = {"imported_from": path.name, "imported_sha256": sha256_of(path), "weights": which}
    if isinstance(content, dict):
        source |= {key: content[key] for key in ("epoch", "date") if isinstance(content.get(key), int | str)}
    tensors: dict[str, StoredTensor] | None = None
    if isinstance(model, dict):
        tensors = {name: value for name, value in model.items() if isinstance(value, StoredTensor)}
        if config is None:
            raise UsageError(
                f"holds a state dict, tensors without the network that they belong to{_smell(tensors)}; say which with "
                "<config>: the name of its configuration or its Darknet .cfg file",
                argument="config",
            )
    elif config is not None:
        raise UsageError(
            "holds its network itself; <config> is for files that hold a state dict alone", argument="config"
        )
    class_names: Sequence[str] | None = read_names(names, "names") if isinstance(names, str | os.PathLike) else names
    if tensors is not None:
        graph, heads, family, name = graph_of_state_dict(tensors, config or "", path.stat().st_size)
        inner_names = None
    else:
        module = Module(model, "the model")
        graph, heads = build(module, path.stat().st_size)
        family, name = _family(module, heads), _stem(module, path)
        inner_names = _names_of(module, heads.classes)
    if class_names is None:
        class_names = inner_names or [f"class {index}" for index in range(heads.classes)]
    if len(class_names) != heads.classes:
        where = f"<names> {os.fspath(names)}: holds" if isinstance(names, str | os.PathLike) else "<names>: there are"
        raise UsageError(
            f"{where} {len(class_names)} names, but {path} has {heads.classes} classes; give one name for each",
            argument="names",
        )
    words: Sequence[str] | None = vocabulary if not isinstance(vocabulary, str | os.PathLike) else None
    if isinstance(vocabulary, str | os.PathLike):
        words = read_lines(vocabulary, "vocabulary")
    if words is not None and heads.caption is None:
        raise UsageError("writes no captions; leave <vocabulary> away", argument="vocabulary")
    if heads.caption is not None:
        if words is None:
            raise UsageError(
                f"writes captions of {heads.caption['words']} words, and the words are not in the file; give the "
                "official vocabulary file as <vocabulary>",
                argument="vocabulary",
            )
        if len(words) != heads.caption["words"]:
            given = os.fspath(vocabulary) if isinstance(vocabulary, str | os.PathLike) else "of the captions"
            raise UsageError(
                f"<vocabulary> {given}: holds {len(words)} words, but {path} writes captions of "
                f"{heads.caption['words']}; give the vocabulary that it was trained with",
                argument="vocabulary",
            )
    side = _training_side(content, heads.boxes["strides"])
    return imported_network(graph, heads, family, name, class_names, words or (), source, _is_half(model), side)


def imported_network(
    graph: Graph,
    heads: Heads,
    family: str,
    name: str,
    class_names: Sequence[str],
    words: Sequence[str],
    source: dict[str, Any],
    half: bool,
    side: int | None = None,
) -> Imported:
    """The built graph, without what no head needs, as configuration and weights, for images of `side` pixels."""
    strides = heads.boxes["strides"]
    side = side or (1280 if max(strides) >= 64 else 640)
    semantic = graph.channels(heads.semantic) if heads.semantic else 0
    if semantic > 255:
        raise CheckpointError(f"has {semantic} semantic channels; a semantic map holds at most 255")
    config = LayersConfig(
        name=name,
        family=family,
        layers=tuple(graph.layers),
        boxes=heads.boxes,
        class_names=tuple(class_names),
        category_ids=_COCO_IDS if " ".join(class_names) == _COCO_NAMES else (),
        input_size=(side, side),
        masks=heads.masks,
        semantic=heads.semantic,
        caption=heads.caption,
        semantic_names=tuple(f"semantic {index}" for index in range(semantic)),
        vocabulary=tuple(words),
        preprocess={"pad_value": 114, "rounding": "half_even", "stride_multiple": max(32, *strides)},
    )
    layers, weights = graph.pruned(config.outputs)
    return Imported(dataclasses.replace(config, layers=tuple(layers)), {**weights, **heads.weights}, half, source)


def chosen_model(content: Any) -> tuple[Record | dict[Any, Any], str]:
    """The network or state dict in a file, and under which key: averaged weights before others."""
    if isinstance(content, Record):
        return content, "the file"
    if not isinstance(content, dict) or not content:
        raise CheckpointError(f"holds a {type(content).__name__}, expected a checkpoint (a dictionary with a model)")
    for key in ("ema", "model", "state_dict", "model_state_dict"):
        value = content.get(key)
        if isinstance(value, Record) or (isinstance(value, dict) and _is_state_dict(value)):
            return (value, key)
    if _is_state_dict(content):
        return content, "the file"
    keys = ", ".join(str(key)[:30] for key in list(content)[:8])
    raise CheckpointError(f"holds no network: its keys are {keys}; expected model or ema")


def _is_state_dict(value: dict[Any, Any]) -> bool:
    tensors = [item for item in value.values() if isinstance(item, StoredTensor)]
    return bool(tensors) and all(isinstance(key, str) for key in value)


_STATE_DICTS = {
    "backbone.backbone.": "YOLOX",
    "bbox_head.": "MMDetection",
    "backbone.body.": "torchvision",
    "backbone.0.body.": "DETR",
    "backbone.ERBlock": "YOLOv6",
    "roi_heads.": "torchvision or Detectron2",
}


def _smell(tensors: Mapping[str, StoredTensor]) -> str:
    found = {project for name in tensors for start, project in _STATE_DICTS.items() if name.startswith(start)}
    return f" (by their names of {' or '.join(sorted(found))}, which is not imported)" if found else ""


def _is_half(model: Record | dict[Any, Any]) -> bool:
    """Whether the kernels are in half precision (float32 ones lose nothing by staying so)."""
    if isinstance(model, dict):
        found = {v.dtype for k, v in model.items() if isinstance(v, StoredTensor) and len(v.shape) >= 2}
    else:
        found = set()
        for module in Module(model, "the model").walk():
            value = module._part("_parameters").get("weight")
            if isinstance(value, StoredTensor):
                found.add(value.dtype)
    return found == {"float16"}


def _names_of(module: Module, classes: int) -> list[str] | None:
    """Class names as the file has them: a list, or a dictionary by number."""
    names = module.get("names")
    if isinstance(names, dict):
        names = [names[index] for index in range(len(names))] if set(names) == set(range(len(names))) else None
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        return None
    if len(names) != classes:
        raise CheckpointError(
            f"has {classes} classes, but {len(names)} names; give the names as <names>", argument="names"
        )
    return names


def _training_side(content: Any, strides: Sequence[int]) -> int | None:
    """The image size that the options of the training state, if they do and the network can take it."""
    options = content.get("opt") if isinstance(content, dict) else None
    side = options.get("imgsz") if isinstance(options, dict) else None
    fits = type(side) is int and 64 <= side <= 4096 and side % max(32, *strides) == 0
    return side if fits else None


def _family(module: Module, heads: Heads) -> str:
    if heads.caption is not None:
        return "generalist"
    if heads.boxes["coding"] == "dfl":
        return "yolov9"
    paper = {"SPPCSP", "BottleneckCSP2", "BottleneckCSPF", "BottleneckCSPB"}
    return "yolor" if any(layer.kind in paper for layer in module.child("model").children()) else "yolov7"


def _stem(module: Module, path: Path) -> str:
    file = module.get("yaml_file")
    return Path(file).stem[:60] if isinstance(file, str) and Path(file).stem else path.stem[:60]
