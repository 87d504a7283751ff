"""Captions against other runtimes: the native decoder, ONNX Runtime on the exported step graphs and, where it is
installed (extra `peers`), CTranslate2 on the same layers, interleaved in one process.

    python -m yolor_edge.benchmarks.studies.caption_decoder --out benchmarks/results/caption-decoder.json
    python -m yolor_edge.benchmarks.studies.caption_decoder --agreement demo/checkpoint --scenes 500 --out ...
    python -m yolor_edge.benchmarks.studies.caption_decoder --kernels portable avx2 --out ...

All write the same number of tokens (the end of sentence is forbidden until the last one); ours and ONNX Runtime search
with the same state machine. What counts is the ratio within a round: the machine may be busy with other things. Beside
them stands the floor: what reading the weights once a step and multiplying would take at the speeds measured here.
`--kernels` sets the native decoder's own instruction sets beside each other instead. To hold all to AVX2, set
YOLOR_EDGE_SIMD, CT2_FORCE_CPU_ISA and ONEDNN_MAX_CPU_ISA (CTranslate2's products are oneDNN's) to it; ONNX Runtime has
no such switch.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from ...evaluation.scenes.scene_drawing import draw_scene
from ...export.onnx_graphs.caption_weights import dims_of, write_caption_weights
from ...export.to_onnx import export_part
from ...runtime.bundle.bundle import CaptionSpec
from ...runtime.bundle.caption_weights import CaptionDims, tensor_shapes
from ...runtime.bundle.tokenizer import PAD_ID, SPECIALS
from ...runtime.captions.captioning import CaptionDecoder, CaptionOptions, CaptionWriter
from ...runtime.captions.native_captioning import NativeCaptionDecoder
from ...runtime.files import write_atomically
from ...runtime.images.preprocess import preprocess
from ...train.checkpoint import Checkpoint
from ...train.network.caption_decoder import CaptionDecoder as PlainDecoder
from ...train.network.caption_decoder import Decoder, sine_positions
from ...train.network.gated_captioner import GatedDecoder
from ...train.torch_backend import TorchGraph, parts_of, spec_of
from ..report.machine import describe_machine
from ..report.report_files import output_file
from . import ctranslate2_peer
from .onnxruntime_peer import OnnxRuntimeDecoder


@dataclass(frozen=True)
class Size:
    """Of a decoder, with the grid (height, width) before the regions, which gated layers have."""

    vocabulary: int
    width: int
    layers: int
    heads: int
    feed_forward: int
    grid: tuple[int, int]
    regions: int = 0
    output_layers: int = 3

    @property
    def memory(self) -> int:
        return self.grid[0] * self.grid[1] + self.regions

    def decoder(self, tokens: int) -> Decoder:
        """With weights that are random, but the same every time."""
        torch.manual_seed(0)
        sizes = (self.vocabulary, self.width, self.layers, self.heads, self.feed_forward, tokens + 1)
        if self.regions:
            return GatedDecoder(*sizes, self.regions, PAD_ID).eval()
        return PlainDecoder(*sizes, output_layers=self.output_layers).eval()

    def where(self) -> torch.Tensor:
        """(memory, width), zero for the regions."""
        return F.pad(sine_positions(*self.grid, self.width), (0, 0, 0, self.regions))


# 256x1-gated is Generalist YOLO's decoder at 640 x 640 (300 cells and 171 semantic channels); 256x1 has plain layers of
# these sizes, 256x1-catr is as wide in the default network's form.
SIZES = {
    "demo": Size(47, 128, 3, 4, 512, (7, 9)),
    "256x1": Size(10202, 256, 1, 8, 512, (20, 20), output_layers=1),
    "256x1-gated": Size(10202, 256, 1, 8, 512, (20, 20), regions=471),
    "256x1-catr": Size(10202, 256, 1, 8, 2048, (20, 20)),
    "512x6": Size(10202, 512, 6, 8, 2048, (20, 20)),
}
OURS = ("native", "native-int8")
# What limits the instructions of one runtime or another; noted in the report.
LIMITS = ("YOLOR_EDGE_SIMD", "YOLOR_EDGE_CAPTION_KERNELS", "CT2_FORCE_CPU_ISA", "ONEDNN_MAX_CPU_ISA")
PEERS = ("onnxruntime", "onnxruntime-int8")
# Of a CTranslate2 model with an encoder layer more than it needs.
DEEPER = " with a layer more"


class _Prefill(torch.nn.Module):
    """The decoder's first run, its memory's positions a constant."""

    def __init__(self, decoder: Decoder, where: torch.Tensor) -> None:
        super().__init__()
        self.decoder, self.where = decoder, where

    def forward(self, caption_memory: torch.Tensor, tokens: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return self.decoder.prefill(tokens, caption_memory, self.where)


class _Step(torch.nn.Module):
    """The decoder's run for every later word."""

    def __init__(self, decoder: Decoder) -> None:
        super().__init__()
        self.decoder = decoder

    def forward(self, tokens: Any, past_keys: Any, past_values: Any, cross_keys: Any, cross_values: Any) -> Any:
        return self.decoder.step(tokens, past_keys, past_values, cross_keys, cross_values)


def build(
    name: str, folder: Path, tokens: int
) -> tuple[CaptionDims, dict[str, NativeCaptionDecoder], dict[str, OnnxRuntimeDecoder], NDArray[np.float32]]:
    """Of one size its dims, our decoders, ONNX Runtime's with the same random weights, and an image memory."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    from ...runtime.backends.base import TensorInfo

    size = SIZES[name]
    vocabulary, width, layers, heads, memory = size.vocabulary, size.width, size.layers, size.heads, size.memory
    decoder, where = size.decoder(tokens), size.where()
    depth = width // heads

    def infos(shapes: Mapping[str, tuple[int | str, ...]]) -> dict[str, TensorInfo]:
        kinds = {key: "int64" if key == "tokens" else "float32" for key in shapes}
        return {key: TensorInfo(key, shape, kinds[key]) for key, shape in shapes.items()}

    cross = {key: (layers, 1, heads, memory, depth) for key in ("cross_keys", "cross_values")}

    def cache(prefix: str, rows: int | str, length: int | str) -> dict[str, tuple[int | str, ...]]:
        return {f"{prefix}_{kind}": (layers, rows, heads, length, depth) for kind in ("keys", "values")}

    parts = {
        "caption_prefill": TorchGraph(
            _Prefill(decoder, where),
            infos({"caption_memory": (1, memory, width), "tokens": (1,)}),
            infos({"log_probs": (1, vocabulary), **cross, **cache("present", 1, 1)}),
        ),
        "caption_step": TorchGraph(
            _Step(decoder),
            infos({"tokens": ("beam",), **cache("past", "beam", "past"), **cross}),
            infos({"log_probs": ("beam", vocabulary), **cache("present", "beam", "past + 1")}),
        ),
    }
    graphs: dict[str, list[Path]] = {peer: [] for peer in PEERS}
    for part, graph in parts.items():
        plain, small = folder / f"{part}.onnx", folder / f"{part}.int8.onnx"
        onnx.save(export_part(part, graph), plain)
        quantize_dynamic(plain, small, per_channel=True, weight_type=QuantType.QInt8)
        graphs["onnxruntime"].append(plain)
        graphs["onnxruntime-int8"].append(small)
    spec = CaptionSpec((*SPECIALS, *(f"w{i}" for i in range(vocabulary - len(SPECIALS)))), max_length=tokens)
    others = {peer: OnnxRuntimeDecoder(spec, *pair) for peer, pair in graphs.items()}
    parameters = {key: value.numpy() for key, value in decoder.state_dict().items()}
    dims = dims_of(parameters, memory, heads, size.regions)
    writers = {}
    for ours, precision in zip(OURS, ("fp32", "int8"), strict=True):
        path = folder / f"{precision}.bin"
        write_caption_weights(path, parameters, where.numpy(), heads, precision, regions=size.regions, padding=PAD_ID)
        writers[ours] = NativeCaptionDecoder(spec, path)
    image = np.random.default_rng(0).normal(0, 1, (1, memory, width)).astype(np.float32)
    return dims, writers, others, image


def peers(name: str, folder: Path, tokens: int) -> dict[str, ctranslate2_peer.CTranslate2Decoder]:
    """CTranslate2 in both precisions; once more with an encoder layer more. None for gated layers, which it lacks."""
    size = SIZES[name]
    if size.regions or not ctranslate2_peer.is_installed():
        return {}
    parameters = {key: value.numpy() for key, value in size.decoder(tokens).state_dict().items()}
    image = np.random.default_rng(0).normal(0, 1, (size.memory, size.width)).astype(np.float32)
    found = {}
    for extra, suffix in ((1, ""), (2, DEEPER)):
        model = folder / f"ctranslate2{suffix}"
        ctranslate2_peer.write_model(model, parameters, size.layers, size.heads, image, extra)
        for kind, key in (("float32", "ctranslate2"), ("int8", "ctranslate2-int8")):
            found[key + suffix] = ctranslate2_peer.CTranslate2Decoder(model, kind, size.memory, size.vocabulary, tokens)
    return found


def read_speed(size: int) -> float:
    """Bytes a second at which one core reads `size` bytes over and over."""
    halves = np.ones((2, max(size // 8, 1 << 12)), np.float32)
    return halves.nbytes / _least_seconds(lambda: np.dot(halves[0], halves[1]), 15)


def product_speed() -> float:
    """Float32 multiplications a second, each with an addition, of one core."""
    size = 768
    matrix = np.ones((size, size), np.float32)
    return size**3 / _least_seconds(lambda: matrix @ matrix, 7)


def _least_seconds(work: Callable[[], Any], repetitions: int) -> float:
    times = []
    for _ in range(repetitions):
        started = time.perf_counter_ns()
        work()
        times.append(time.perf_counter_ns() - started)
    return min(times) / 1e9


def floor_ms(dims: CaptionDims, precision: str, beam: int, tokens: int) -> float:
    """What cannot be undercut: each step reads its weights, keys and values once or multiplies, whichever takes longer.

    In int8 a register holds four times as many factors, and the instruction for them is taken to be as fast.
    """
    prefill = tuple(f".{look}_attention.{n}.weight" for look in ("cross", "region") for n in ("key", "value"))
    elements = items = 0
    for name, (dtype, shape) in tensor_shapes(dims, precision).items():
        if name.endswith(".weight") and len(shape) > 2 and not name.endswith(prefill):
            elements += int(np.prod(shape))
            items = np.dtype(dtype).itemsize
    elements += 2 * dims.layers * dims.memory * dims.width
    products = product_speed() * (4 if precision == "int8" else 1)
    step = max(elements * items / read_speed(elements * items), beam * elements / products)
    first = 2 * dims.layers * dims.memory * dims.width**2 / products
    return 1e3 * (first + tokens * step)


def compare_speed(name: str, beams: tuple[int, ...], tokens: int, rounds: int) -> list[dict[str, Any]]:
    """Milliseconds of each writer in turn, round after round; the ratio is the median of the rounds' ratios."""
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        dims, writers, graphs, memory = build(name, Path(folder), tokens)
        others = peers(name, Path(folder), tokens)
        for beam in beams:
            options = CaptionOptions(beam_size=beam, min_length=tokens - 1)
            calls: dict[str, Callable[[], Any]] = {
                key: partial(one.write, memory, options) for key, one in writers.items()
            }
            calls |= {key: partial(one.write, memory, options) for key, one in graphs.items()}
            calls |= {key: partial(one.write, beam) for key, one in others.items()}
            ours, theirs = writers["native"].write(memory, options)[0], graphs["onnxruntime"].write(memory, options)
            times: dict[str, list[float]] = {key: [] for key in calls}
            for call in calls.values():
                call()
            for _ in range(rounds):
                for key, call in calls.items():
                    started = time.perf_counter_ns()
                    call()
                    times[key].append((time.perf_counter_ns() - started) / 1e6)
            taken_off = {}
            for key in others:
                if key.endswith(DEEPER):
                    deeper, plain = times.pop(key), key.removesuffix(DEEPER)
                    taken_off[plain] = max(
                        0.0, statistics.median(a - b for a, b in zip(deeper, times[plain], strict=True))
                    )
            for key, layer in taken_off.items():
                times[key] = [value - layer for value in times[key]]
            ratios = {
                f"{ours} / {peer}": statistics.median(a / b for a, b in zip(times[ours], times[peer], strict=True))
                for ours in OURS
                for peer in times
                if peer not in OURS and peer.endswith("-int8") == ours.endswith("-int8")
            }
            floors = {ours: floor_ms(dims, key, beam, tokens) for ours, key in zip(OURS, ("fp32", "int8"), strict=True)}
            rows.append(
                {
                    "decoder": name,
                    "beam_size": beam,
                    "tokens": tokens,
                    "rounds": rounds,
                    "median_ms": {key: round(statistics.median(values), 3) for key, values in times.items()},
                    "least_ms": {key: round(min(values), 3) for key, values in times.items()},
                    "encoder_layer_taken_off_ms": {key: round(value, 3) for key, value in taken_off.items()},
                    "median_ratio": {pair: round(value, 3) for pair, value in ratios.items()},
                    "floor_ms": {ours: round(value, 3) for ours, value in floors.items()},
                    "fp32_same_tokens": ours.token_ids == theirs.token_ids,
                }
            )
            print(json.dumps(rows[-1]), flush=True)
    return rows


def compare_kernels(
    name: str, beams: tuple[int, ...], tokens: int, rounds: int, kernels: tuple[str, ...]
) -> list[dict[str, Any]]:
    """Milliseconds of the native decoder in each of these instruction sets in turn, round after round."""
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        dims, _, _, image = build(name, Path(folder), tokens)
        words = (f"w{i}" for i in range(dims.vocabulary - len(SPECIALS)))
        spec = CaptionSpec((*SPECIALS, *words), max_length=tokens)
        for precision in ("fp32", "int8"):
            path = Path(folder) / f"{precision}.bin"
            writers = {one: NativeCaptionDecoder(spec, path, one) for one in kernels}
            for beam in beams:
                options = CaptionOptions(beam_size=beam, min_length=tokens - 1)
                answers = {one: writer.write(image, options)[0].token_ids for one, writer in writers.items()}
                times: dict[str, list[float]] = {one: [] for one in writers}
                for _ in range(rounds):
                    for one, writer in writers.items():
                        started = time.perf_counter_ns()
                        writer.write(image, options)
                        times[one].append((time.perf_counter_ns() - started) / 1e6)
                rows.append(
                    {
                        "decoder": name,
                        "precision": precision,
                        "beam_size": beam,
                        "tokens": tokens,
                        "rounds": rounds,
                        "median_ms": {one: round(statistics.median(values), 3) for one, values in times.items()},
                        "least_ms": {one: round(min(values), 3) for one, values in times.items()},
                        "same_tokens": len(set(answers.values())) == 1,
                    }
                )
                print(json.dumps(rows[-1]), flush=True)
    return rows


def compare_answers(checkpoint: Path, scenes: int, beams: tuple[int, ...]) -> dict[str, Any]:
    """The share of drawn scenes whose caption is, token by token, that of the network."""
    network = Checkpoint.open(checkpoint).network()
    spec = spec_of(network.config)
    assert spec.caption is not None
    own = parts_of(network)
    writers: dict[str, CaptionWriter] = {}
    with tempfile.TemporaryDirectory() as folder:
        parameters = {name: value.numpy() for name, value in network.caption_decoder.state_dict().items()}
        where = network.memory_positions(network.config.input_size).numpy()
        for ours, precision in zip(OURS, ("fp32", "int8"), strict=True):
            path = Path(folder) / f"{precision}.bin"
            decoder = network.caption_decoder
            write_caption_weights(
                path, parameters, where, decoder.heads, precision, regions=decoder.regions, padding=PAD_ID
            )
            writers[ours] = NativeCaptionDecoder(spec.caption, path)
        reference = CaptionDecoder(spec.caption, own["caption_prefill"], own["caption_step"])
        same = {ours: dict.fromkeys(beams, 0) for ours in OURS}
        for i in range(scenes):
            tensor, _ = preprocess(draw_scene(12345, i, spec.input_size).image, spec.preprocess)
            memory = own["vision"].run({"images": tensor[np.newaxis]}, ["caption_memory"])["caption_memory"]
            for beam in beams:
                options = CaptionOptions(beam_size=beam)
                expected = reference.write(memory, options)[0].token_ids
                for ours in OURS:
                    same[ours][beam] += writers[ours].write(memory, options)[0].token_ids == expected
    shares = {ours: {f"beam {beam}": count / scenes for beam, count in per.items()} for ours, per in same.items()}
    return {"checkpoint": spec.name, "scenes": scenes, "same_as_network": shares}


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=list(SIZES))
    parser.add_argument("--beams", nargs="+", type=int, default=[1, 5])
    parser.add_argument("--tokens", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--agreement", type=Path, metavar="CHECKPOINT", help="compare answers instead of speed")
    parser.add_argument("--scenes", type=int, default=500)
    parser.add_argument("--kernels", nargs="+", metavar="NAME", help="compare the native decoder's instruction sets")
    parser.add_argument("--out", type=output_file, required=True, help="JSON file to write")
    parser.add_argument("--append", action="store_true", help="keep what the file says of other sizes and beams")
    chosen = parser.parse_args(arguments)
    torch.set_num_threads(1)
    report: dict[str, Any] = {
        "command": " ".join(["python -m yolor_edge.benchmarks.studies.caption_decoder", *(arguments or sys.argv[1:])]),
        "limits": {name: os.environ[name] for name in LIMITS if name in os.environ},
        "machine": describe_machine(),
    }
    beams = tuple(chosen.beams)
    if chosen.agreement is not None:
        report["agreement"] = compare_answers(chosen.agreement, chosen.scenes, beams)
        write_atomically(chosen.out, json.dumps(report, indent=1) + "\n")
        return
    section = "speed" if chosen.kernels is None else "kernels"
    compare = compare_speed if chosen.kernels is None else partial(compare_kernels, kernels=tuple(chosen.kernels))
    rows = [row for name in chosen.sizes for row in compare(name, beams, chosen.tokens, chosen.rounds)]
    if chosen.append and chosen.out.exists():
        kept = json.loads(chosen.out.read_text())
        commands = kept["command"] if isinstance(kept["command"], list) else [kept["command"]]
        report = {**kept, **report, "command": [*commands, report["command"]]}
        measured = {(row["decoder"], row["beam_size"]) for row in rows}
        rows += [row for row in kept.get(section, []) if (row["decoder"], row["beam_size"]) not in measured]
    report[section] = sorted(
        rows, key=lambda row: (list(SIZES).index(row["decoder"]), row.get("precision", ""), row["beam_size"])
    )
    write_atomically(chosen.out, json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
