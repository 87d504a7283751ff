"""A bundle without a trained network: small ONNX graphs that see red, green and blue and name the colour.

Each answer can be told from the image: a coloured patch on grey is a box of its colour's class, its mask is
the patch, the semantic map says the colour, and the caption reads "a <colour> thing here".
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from yolor_edge.runtime.bundle.bundle import Bundle, CaptionSpec, ModelSpec, write_bundle
from yolor_edge.runtime.bundle.spec import BOX_HEADS, SCORE_HEADS, BoxCoding, ScoreCoding
from yolor_edge.runtime.bundle.tokenizer import SPECIALS
from yolor_edge.runtime.images.preprocess import PreprocessRule

from ..reference.boxes import cell_centres

INPUT_SIZE = (64, 96)
STRIDES = (8, 16, 32)
CELLS = sum((INPUT_SIZE[0] // stride) * (INPUT_SIZE[1] // stride) for stride in STRIDES)
REG_MAX = 4
TASKS = ("boxes", "masks", "semantic", "caption")
COLOURS = ("red", "green", "blue")
WORDS = ("a", *COLOURS, "thing", "here")
VOCABULARY = (*SPECIALS, *WORDS)
HEADS = 2
MAX_LENGTH = 6
# Red is the difference of red to the mean of the other two, scaled so that a pure colour gives +5 and grey
# -5.
COLOUR_WEIGHTS = 10 * (1.5 * np.eye(3) - 0.5)
COLOUR_BIAS = np.full(3, -5.0)


def tiny_spec(
    tasks: tuple[str, ...] = TASKS, box_coding: BoxCoding = "dfl", score_coding: ScoreCoding = "logits"
) -> ModelSpec:
    """The spec of the tiny model with a subset of its tasks, and with heads in these codings."""
    return ModelSpec(
        name="tiny",
        tasks=tasks,
        preprocess=PreprocessRule(INPUT_SIZE),
        strides=STRIDES,
        box_coding=box_coding,
        score_coding=score_coding,
        box_count=CELLS if box_coding == "xyxy" else None,
        reg_max=REG_MAX,
        class_names=COLOURS,
        category_ids=(1, 4, 9),
        semantic_names=(*COLOURS, "grey"),
        semantic_category_ids=(1, 4, 9, 200),
        caption=CaptionSpec(VOCABULARY, max_length=MAX_LENGTH) if "caption" in tasks else None,
    )


def write_tiny_bundle(
    folder: Path,
    tasks: tuple[str, ...] = TASKS,
    box_coding: BoxCoding = "dfl",
    score_coding: ScoreCoding = "logits",
) -> Bundle:
    """Write the tiny model to `folder` as a whole bundle; whatever the codings, it answers the same."""
    folder.mkdir(parents=True, exist_ok=True)
    models = {"vision": vision_model(tasks, box_coding=box_coding, score_coding=score_coding)}
    if "caption" in tasks:
        models["caption_prefill"] = prefill_model()
        models["caption_step"] = step_model()
    graphs = {part: {"fp32": f"{part}.fp32.onnx"} for part in models}
    for part, model in models.items():
        onnx.checker.check_model(model)
        (folder / graphs[part]["fp32"]).write_bytes(model.SerializeToString())
    (folder / "golden").mkdir(exist_ok=True)
    np.savez(folder / "golden" / "one.npz", images=np.zeros((1, 3, *INPUT_SIZE), np.float32))
    spec = tiny_spec(tasks, box_coding, score_coding)
    return write_bundle(folder, spec, graphs, provenance={"made_by": "tests"})


class _Graph:
    """Gathers nodes and weights of one graph."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []

    def weight(self, name: str, value: NDArray[np.generic]) -> str:
        self.weights.append(numpy_helper.from_array(value, name))
        return name

    def node(self, kind: str, inputs: list[str], output: str, **attributes: Any) -> str:
        self.nodes.append(helper.make_node(kind, inputs, [output], **attributes))
        return output

    def conv(self, source: str, output: str, matrix: NDArray[np.float64], bias: NDArray[np.float64]) -> str:
        weights = self.weight(f"{output}_w", matrix[:, :, None, None].astype(np.float32))
        return self.node("Conv", [source, weights, self.weight(f"{output}_b", bias.astype(np.float32))], output)

    def reshape(self, source: str, output: str, shape: list[int]) -> str:
        return self.node("Reshape", [source, self.weight(f"{output}_shape", np.array(shape, np.int64))], output)

    def model(
        self, inputs: dict[str, tuple[int, list[int | str]]], outputs: dict[str, list[int | str]]
    ) -> onnx.ModelProto:
        graph = helper.make_graph(
            self.nodes,
            "tiny",
            [helper.make_tensor_value_info(name, kind, shape) for name, (kind, shape) in inputs.items()],
            [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in outputs.items()],
            self.weights,
        )
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


def vision_model(
    tasks: tuple[str, ...], classes: int = 3, box_coding: BoxCoding = "dfl", score_coding: ScoreCoding = "logits"
) -> onnx.ModelProto:
    """images -> raw heads of the tasks asked for."""
    graph = _Graph()
    height, width = INPUT_SIZE
    pooled = {
        s: graph.node("AveragePool", ["images"], f"pool{s}", kernel_shape=[s, s], strides=[s, s]) for s in (4, *STRIDES)
    }
    outputs: dict[str, list[int | str]] = {}

    def over_levels(name: str, matrix: NDArray[np.float64], bias: NDArray[np.float64], relu: bool = False) -> None:
        levels = []
        for s in STRIDES:
            level = graph.conv(pooled[s], f"{name}_conv{s}", matrix, bias)
            if relu:
                level = graph.node("Relu", [level], f"{name}_relu{s}")
            levels.append(graph.reshape(level, f"{name}_level{s}", [0, len(bias), -1]))
        graph.node("Concat", levels, name, axis=2)
        outputs[name] = ["batch", len(bias), CELLS]

    if "boxes" in tasks:
        over_levels("class_logits", COLOUR_WEIGHTS[:classes], COLOUR_BIAS[:classes])
        if score_coding == "probabilities":
            graph.node("Sigmoid", ["class_logits"], SCORE_HEADS[score_coding])
            outputs[SCORE_HEADS[score_coding]] = outputs.pop("class_logits")
        # One stride each way.
        if box_coding == "dfl":
            over_levels("box_bins", np.zeros((4 * REG_MAX, 3)), np.tile([-20.0, 20.0, -20.0, -20.0], 4))
        else:
            over_levels("box_distances", np.zeros((4, 3)), np.ones(4))
        if box_coding == "xyxy":
            x, y, stride = cell_centres(list(STRIDES), INPUT_SIZE).T
            centres = graph.weight("centres", np.stack([x, y, x, y]).astype(np.float32))
            steps = graph.weight("steps", np.stack([-stride, -stride, stride, stride]).astype(np.float32))
            graph.node("Mul", ["box_distances", steps], "offsets")
            graph.node("Add", ["offsets", centres], BOX_HEADS[box_coding])
            outputs[BOX_HEADS[box_coding]] = outputs.pop("box_distances")
    if "masks" in tasks:
        over_levels("mask_coefficients", COLOUR_WEIGHTS, COLOUR_BIAS, relu=True)
        graph.conv(pooled[4], "prototypes", COLOUR_WEIGHTS, COLOUR_BIAS)
        outputs["prototypes"] = ["batch", 3, height // 4, width // 4]
    if "semantic" in tasks:
        with_grey = np.vstack([COLOUR_WEIGHTS, np.zeros(3)])
        graph.conv(pooled[8], "semantic_logits", with_grey, np.append(COLOUR_BIAS, 0.0))
        outputs["semantic_logits"] = ["batch", 4, height // 8, width // 8]
    if "caption" in tasks:
        words = len(VOCABULARY)
        to_words = np.zeros((words, 3))
        for channel, colour in enumerate(COLOURS):
            to_words[VOCABULARY.index(colour)] = COLOUR_WEIGHTS[channel]
        graph.conv(pooled[32], "memory_map", to_words, np.zeros(words))
        graph.reshape("memory_map", "memory_rows", [0, words, -1])
        graph.node("Transpose", ["memory_rows"], "caption_memory", perm=[0, 2, 1])
        outputs["caption_memory"] = ["batch", (height // 32) * (width // 32), words]
    return graph.model({"images": (TensorProto.FLOAT, ["batch", 3, height, width])}, outputs)


def bigram_logits() -> NDArray[np.float64]:
    """(V, V): which word likes to follow which, in logits; a little seeded noise avoids ties."""
    table = np.random.default_rng(5).normal(0, 0.3, (len(VOCABULARY), len(VOCABULARY)))
    word = VOCABULARY.index
    table[word("<bos>"), word("a")] += 4
    for colour in COLOURS:
        table[word("a"), word(colour)] += 4
        table[word(colour), word("thing")] += 4
    table[word("thing"), word("here")] += 4
    table[word("here"), word("<eos>")] += 5
    return table


def prefill_model() -> onnx.ModelProto:
    """caption_memory, tokens -> log_probs and caches; the memory, split into heads, is the cross cache."""
    graph = _Graph()
    words = len(VOCABULARY)
    depth = words // HEADS
    graph.reshape("caption_memory", "memory_heads", [1, 1, -1, HEADS, depth])
    graph.node("Transpose", ["memory_heads"], "cross_keys", perm=[0, 1, 3, 2, 4])
    graph.node("Identity", ["cross_keys"], "cross_values")
    _decode_token(graph, past=None)
    return graph.model(
        {
            "caption_memory": (TensorProto.FLOAT, [1, "L", words]),
            "tokens": (TensorProto.INT64, [1]),
        },
        {
            "log_probs": [1, words],
            "cross_keys": [1, 1, HEADS, "L", depth],
            "cross_values": [1, 1, HEADS, "L", depth],
            "present_keys": [1, 1, HEADS, 1, depth],
            "present_values": [1, 1, HEADS, 1, depth],
        },
    )


def step_model() -> onnx.ModelProto:
    """tokens, past and cross caches -> log_probs and the past with these tokens."""
    graph = _Graph()
    words = len(VOCABULARY)
    depth = words // HEADS
    _decode_token(graph, past="past_keys")
    past: list[int | str] = [1, "batch", HEADS, "T", depth]
    cross: list[int | str] = [1, 1, HEADS, "L", depth]
    present: list[int | str] = [1, "batch", HEADS, "T_plus_1", depth]
    return graph.model(
        {
            "tokens": (TensorProto.INT64, ["batch"]),
            "past_keys": (TensorProto.FLOAT, past),
            "past_values": (TensorProto.FLOAT, past),
            "cross_keys": (TensorProto.FLOAT, cross),
            "cross_values": (TensorProto.FLOAT, cross),
        },
        {"log_probs": ["batch", words], "present_keys": present, "present_values": present},
    )


def _decode_token(graph: _Graph, past: str | None) -> None:
    """log_softmax(bigrams of the token + mean memory - 3 x how often each word was written, by the cache)."""
    words = len(VOCABULARY)
    depth = words // HEADS
    one_hot = graph.weight("one_hot", np.eye(words, dtype=np.float32))
    graph.node("Gather", [one_hot, "tokens"], "token_rows", axis=0)
    graph.reshape("token_rows", "token_keys", [1, -1, HEADS, 1, depth])
    if past is None:
        graph.node("Identity", ["token_keys"], "present_keys")
        graph.node("Identity", ["token_keys"], "present_values")
    else:
        graph.node("Concat", [past, "token_keys"], "present_keys", axis=3)
        graph.node("Concat", ["past_values", "token_keys"], "present_values", axis=3)
    graph.node("ReduceMean", ["present_values"], "mean_past", axes=[0, 3], keepdims=0)
    # A mean over T loses the count, so the count is taken from the keys by a sum.
    graph.node(
        "ReduceSum",
        ["present_keys", graph.weight("past_axes", np.array([0, 3], np.int64))],
        "sum_past",
        keepdims=0,
    )
    graph.reshape("sum_past", "counts", [-1, words])
    graph.reshape("mean_past", "means", [-1, words])
    graph.node("ReduceMean", ["cross_keys"], "mean_memory", axes=[0, 3], keepdims=0)
    graph.reshape("mean_memory", "context", [1, words])
    table = graph.weight("bigrams", bigram_logits().astype(np.float32))
    graph.node("Gather", [table, "tokens"], "bigram_rows", axis=0)
    three = graph.weight("three", np.array(3, np.float32))
    half = graph.weight("half", np.array(0.5, np.float32))
    graph.node("Mul", ["counts", three], "penalty")
    graph.node("Mul", ["means", half], "habit")
    graph.node("Add", ["bigram_rows", "context"], "raw")
    graph.node("Sub", ["raw", "penalty"], "fresh")
    graph.node("Add", ["fresh", "habit"], "logits")
    graph.node("LogSoftmax", ["logits"], "log_probs", axis=1)


def log_probs_of(history: list[int], context: NDArray[np.float64]) -> NDArray[np.float64]:
    """The same decoder in numpy: log probabilities after `history`, which begins with bos.

    Args:
        history: Tokens fed so far.
        context: (V,) mean of the caption memory over its rows.
    """
    words = len(VOCABULARY)
    counts = np.bincount(history, minlength=words)
    logits = bigram_logits()[history[-1]] + context - 3 * counts + 0.5 * counts / len(history)
    shifted = logits - logits.max()
    return shifted - np.log(np.exp(shifted).sum())


def coloured_patch(size: tuple[int, int], patch: tuple[int, int, int, int], colour: str = "red") -> NDArray[np.uint8]:
    """A grey BGR image of `size` with a pure patch y1, x1, y2, x2."""
    image = np.full((*size, 3), 114, np.uint8)
    y1, x1, y2, x2 = patch
    image[y1:y2, x1:x2] = {"red": (0, 0, 255), "green": (0, 255, 0), "blue": (255, 0, 0)}[colour]
    return image
