"""Captions against ONNX Runtime: the native decoder and the exported step graphs, interleaved in one process.

    python -m yolor_edge.benchmarks.caption_decoder --out benchmarks/results/caption-decoder.json
    python -m yolor_edge.benchmarks.caption_decoder --agreement demo/checkpoint --scenes 500 --out ...

Both search with the same state machine and write the same number of tokens (the end of sentence is forbidden until the
last one). What counts is the ratio within a round: the machine may be busy with other things.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray

from ..export.caption_weights import write_caption_weights
from ..export.to_onnx import export_part
from ..runtime.backends.onnxruntime_backend import open_graph
from ..runtime.bundle import CaptionSpec
from ..runtime.captioning import CaptionDecoder, CaptionOptions, CaptionWriter
from ..runtime.files import write_atomically
from ..runtime.native_captioning import NativeCaptionDecoder
from ..runtime.preprocess import preprocess
from ..runtime.tokenizer import SPECIALS
from ..train.caption_decoder import CaptionDecoder as TorchDecoder
from ..train.caption_decoder import sine_positions
from ..train.checkpoint import Checkpoint
from ..train.scene_drawing import draw_scene
from ..train.torch_backend import TorchGraph, parts_of, spec_of
from .machine import describe_machine

# Vocabulary, width, layers, heads, feed-forward, memory (height, width).
SIZES: dict[str, tuple[int, int, int, int, int, tuple[int, int]]] = {
    "demo": (47, 128, 3, 4, 512, (7, 9)),
    "256x1": (10202, 256, 1, 8, 2048, (20, 20)),
    "512x6": (10202, 512, 6, 8, 2048, (20, 20)),
}
OURS = ("native", "native-int8")
PEERS = ("onnxruntime", "onnxruntime-int8")


class _Prefill(torch.nn.Module):
    """The decoder's first run, its memory's positions a constant."""

    def __init__(self, decoder: TorchDecoder, where: torch.Tensor) -> None:
        super().__init__()
        self.decoder, self.where = decoder, where

    def forward(self, caption_memory: torch.Tensor, tokens: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return self.decoder.prefill(tokens, caption_memory, self.where)


class _Step(torch.nn.Module):
    """The decoder's run for every later word."""

    def __init__(self, decoder: TorchDecoder) -> None:
        super().__init__()
        self.decoder = decoder

    def forward(self, tokens: Any, past_keys: Any, past_values: Any, cross_keys: Any, cross_values: Any) -> Any:
        return self.decoder.step(tokens, past_keys, past_values, cross_keys, cross_values)


def build(name: str, folder: Path, tokens: int) -> tuple[CaptionSpec, dict[str, CaptionWriter], NDArray[np.float32]]:
    """Every writer of one size with the same random weights, and an image memory."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    from ..runtime.backends.base import TensorInfo

    vocabulary, width, layers, heads, feed_forward, cells = SIZES[name]
    torch.manual_seed(0)
    decoder = TorchDecoder(vocabulary, width, layers, heads, feed_forward, tokens + 1).eval()
    where = sine_positions(*cells, width)
    memory = cells[0] * cells[1]
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
    graphs: dict[str, list[Any]] = {peer: [] for peer in PEERS}
    for part, graph in parts.items():
        plain, small = folder / f"{part}.onnx", folder / f"{part}.int8.onnx"
        onnx.save(export_part(part, graph), plain)
        quantize_dynamic(plain, small, per_channel=True, weight_type=QuantType.QInt8)
        graphs["onnxruntime"].append(open_graph(plain, 1))
        graphs["onnxruntime-int8"].append(open_graph(small, 1))
    spec = CaptionSpec((*SPECIALS, *(f"w{i}" for i in range(vocabulary - len(SPECIALS)))), max_length=tokens)
    writers: dict[str, CaptionWriter] = {peer: CaptionDecoder(spec, *pair) for peer, pair in graphs.items()}
    parameters = {key: value.numpy() for key, value in decoder.state_dict().items()}
    for ours, precision in zip(OURS, ("fp32", "int8"), strict=True):
        write_caption_weights(folder / f"{precision}.bin", parameters, where.numpy(), heads, precision)
        writers[ours] = NativeCaptionDecoder(spec, folder / f"{precision}.bin")
    image = np.random.default_rng(0).normal(0, 1, (1, memory, width)).astype(np.float32)
    return spec, writers, image


def compare_speed(name: str, beams: tuple[int, ...], tokens: int, rounds: int) -> list[dict[str, Any]]:
    """Milliseconds of each writer in turn, round after round; the ratio is the median of the rounds' ratios."""
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        _, writers, memory = build(name, Path(folder), tokens)
        for beam in beams:
            options = CaptionOptions(beam_size=beam, min_length=tokens - 1)
            times: dict[str, list[float]] = {writer: [] for writer in writers}
            answers = {writer: one.write(memory, options)[0].token_ids for writer, one in writers.items()}
            for _ in range(rounds):
                for writer, one in writers.items():
                    started = time.perf_counter_ns()
                    one.write(memory, options)
                    times[writer].append((time.perf_counter_ns() - started) / 1e6)
            ratios = {
                f"{ours} / {peer}": statistics.median(a / b for a, b in zip(times[ours], times[peer], strict=True))
                for ours, peer in zip(OURS, PEERS, strict=True)
            }
            rows.append(
                {
                    "decoder": name,
                    "beam_size": beam,
                    "tokens": tokens,
                    "rounds": rounds,
                    "median_ms": {writer: round(statistics.median(values), 3) for writer, values in times.items()},
                    "least_ms": {writer: round(min(values), 3) for writer, values in times.items()},
                    "median_ratio": {pair: round(value, 3) for pair, value in ratios.items()},
                    "fp32_same_tokens": answers["native"] == answers["onnxruntime"],
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
            write_caption_weights(path, parameters, where, network.config.plan.caption_heads, precision)
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
    parser.add_argument("--out", type=Path, required=True, help="JSON file to write")
    chosen = parser.parse_args(arguments)
    torch.set_num_threads(1)
    report: dict[str, Any] = {
        "command": " ".join(["python -m yolor_edge.benchmarks.caption_decoder", *(arguments or sys.argv[1:])]),
        "machine": describe_machine(),
    }
    beams = tuple(chosen.beams)
    if chosen.agreement is not None:
        report["agreement"] = compare_answers(chosen.agreement, chosen.scenes, beams)
    else:
        report["speed"] = [
            row for name in chosen.sizes for row in compare_speed(name, beams, chosen.tokens, chosen.rounds)
        ]
    write_atomically(chosen.out, json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
