"""Fine-tuning against training from nothing: box AP by steps, on drawn scenes with other shapes than were known.

    python -m yolor_edge.benchmarks.studies.fine_tuning WORK --out benchmarks/results/fine-tuning.json

A network is trained on 192 scenes of four shapes (50 epochs, then 20 and 15 more); then one is trained from it, and one
from nothing, on 48 scenes of the other four, as few as somebody may have of their own. Both are scored every 24 steps
on images that neither has seen. WORK gets data and runs; what it holds already is not made again. The answer: how many
steps each needs for the highest AP that both come to. An SVG of both curves is written beside the
JSON file.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from ...evaluation.scenes.scene_captions import SHAPES
from ...evaluation.scenes.scene_files import write_scenes
from ...runtime.files import write_atomically
from ...train.config import TrainConfig
from ...train.loop import fit, resume
from ...train.run_files import LAST, LOG
from ..report.machine import describe_machine, describe_state, source_commit
from ..report.report_files import output_file

SIZE = (64, 96)
IMAGES, VAL_IMAGES, BATCH = {"first": 192, "second": 48}, 64, 8
EPOCHS = {"first half": 50, "from nothing": 80, "fine-tuned": 20}
MORE_EPOCHS = (70, 85)
"""What the first half comes to in a second and a third go."""
STEPS_BETWEEN_SCORES = 24
COMMON = {"batch_size": BATCH, "mosaic": 0, "mixup": 0, "amp": "off", "workers": 0}
KEPT_RATE = 1
"""Other shapes are to be told apart than before, so what was kept has to move too."""
COLOURS = {"from nothing": "#d55e00", "fine-tuned": "#0072b2"}


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", type=Path, help="folder for data and runs")
    parser.add_argument("--out", type=output_file, help="JSON file to write; an SVG beside it has the same name")
    chosen = parser.parse_args(arguments)
    before = describe_state()
    commands = []
    halves = {"first": SHAPES[:4], "second": SHAPES[4:]}
    for name, shapes in halves.items():
        for split, count, seed in (("train", IMAGES[name], 1), ("val", VAL_IMAGES, 2)):
            if not (chosen.work / name / split).is_dir():
                write_scenes(chosen.work / name, count, seed, split, SIZE, shapes=shapes)
            commands.append(
                f"yolor-edge scenes {name} --count {count} --seed {seed} --split {split} "
                f"--image-size {SIZE[0]}x{SIZE[1]} --shapes {','.join(shapes)}"
            )
    curves = {}
    for name, data, start in (
        ("first half", "first", None),
        ("from nothing", "second", None),
        ("fine-tuned", "second", "first half"),
    ):
        commands.append(_train(chosen.work, name, data, start))
        if start is None and data == "first":
            for epochs in MORE_EPOCHS:
                _resume(chosen.work / _folder(name), epochs)
                commands.append(f"yolor-edge train --resume {_folder(name)} --epochs {epochs}")
        curves[name] = _curve(chosen.work / _folder(name) / LOG, IMAGES[data] // BATCH)
        print(f"{name}: box AP {curves[name][-1]['box_ap']:.3f} after {curves[name][-1]['step']} steps", flush=True)
    answer = compare(curves["from nothing"], curves["fine-tuned"])
    print(json.dumps(answer))
    if chosen.out is not None:
        report = {
            "command": " ".join(["python -m yolor_edge.benchmarks.studies.fine_tuning", *(arguments or sys.argv[1:])]),
            "commands": commands,
            "commit": source_commit(),
            "answer": answer,
            "curves": curves,
            "state": {"before": before, "after": describe_state()},
            "machine": describe_machine(),
        }
        write_atomically(chosen.out, json.dumps(report, indent=1) + "\n")
        both = {name: curves[name] for name in COLOURS}
        write_atomically(chosen.out.with_suffix(".svg"), plot(both, answer["box_ap"]))


def compare(from_nothing: Sequence[Mapping[str, Any]], tuned: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Steps to the highest AP that both come to, by the first score of each that is at least that.

    Returns:
        `box_ap`, `steps_from_nothing`, `steps_fine_tuned`, `share`, and under `best` the best AP of each.
    """
    best = {"from nothing": from_nothing, "fine-tuned": tuned}
    best = {name: max(point["box_ap"] for point in curve) for name, curve in best.items()}
    level = min(best.values())
    needed, reached = (next(p["step"] for p in curve if p["box_ap"] >= level) for curve in (from_nothing, tuned))
    share = round(reached / needed, 3)
    steps = {"steps_from_nothing": needed, "steps_fine_tuned": reached, "share": share}
    return {"box_ap": level, **steps, "best": best}


def plot(curves: Mapping[str, Sequence[Mapping[str, Any]]], level: float) -> str:
    """An SVG of box AP by steps, with a line at `level`."""
    width, height, left, top = 480, 300, 60, 40
    most = max(point["step"] for curve in curves.values() for point in curve)
    highest = max(point["box_ap"] for curve in curves.values() for point in curve)
    tick = next(tick for tick in (0.02, 0.05, 0.1, 0.2) if highest / tick <= 8)

    def at(step: float, score: float) -> tuple[float, float]:
        return round(left + step / most * width, 1), round(top + height * (1 - score / (1.1 * highest)), 1)

    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{left + width + 140}" height="{top + height + 60}"'
        ' font-family="sans-serif" font-size="12">',
        '<rect width="100%" height="100%" fill="white"/>',
        f'<text x="{left}" y="20" font-size="14">Box AP on four new shapes, by training steps</text>',
        f'<rect x="{left}" y="{top}" width="{width}" height="{height}" fill="none" stroke="#888"/>',
    ]
    for number in range(int(1.1 * highest / tick) + 1):
        y = at(0, number * tick)[1]
        lines.append(f'<path d="M{left} {y}h{width}" stroke="#ddd"/>')
        lines.append(f'<text x="{left - 6}" y="{y + 4}" text-anchor="end">{number * tick:.2f}</text>')
    for quarter in range(5):
        x = at(most * quarter / 4, 0)[0]
        lines.append(f'<path d="M{x} {top + height}v5" stroke="#888"/>')
        lines.append(f'<text x="{x}" y="{top + height + 18}" text-anchor="middle">{most * quarter // 4}</text>')
    lines.append(f'<text x="{left + width / 2}" y="{top + height + 40}" text-anchor="middle">steps</text>')
    lines.append(f'<path d="M{left} {at(0, level)[1]}h{width}" stroke="#888" stroke-dasharray="4 4"/>')
    for name, curve in curves.items():
        places = [at(point["step"], point["box_ap"]) for point in curve]
        path = " ".join(f"{x},{y}" for x, y in places)
        lines.append(f'<polyline points="{path}" fill="none" stroke="{COLOURS[name]}" stroke-width="2"/>')
        lines += [f'<circle cx="{x}" cy="{y}" r="2.5" fill="{COLOURS[name]}"/>' for x, y in places]
        x, y = places[-1]
        lines.append(f'<text x="{x + 8}" y="{y - 6}" fill="{COLOURS[name]}">{escape(name)}</text>')
    return "\n".join([*lines, "</svg>"]) + "\n"


def _train(work: Path, name: str, data: str, start: str | None) -> str:
    """Train one of the three, if it is not there yet; returns the command that does the same."""
    settings = {**COMMON, "validate_every": STEPS_BETWEEN_SCORES // (IMAGES[data] // BATCH)}
    if start is not None:
        settings["kept_rate"] = KEPT_RATE
    out, start_folder = work / _folder(name), None if start is None else work / _folder(start) / LAST
    if not (out / LAST).is_dir():
        fit(
            work / data,
            out,
            config=TrainConfig().with_settings(
                [f"{key}={value}" for key, value in {**settings, "epochs": EPOCHS[name]}.items()]
            ),
            input_size=SIZE,
            tasks=("boxes",),
            threads=1,
            start=start_folder,
        )
    said = "" if start is None else f"--from {_folder(start)}/{LAST} "
    others = " ".join(f"--set {key}={value}" for key, value in settings.items())
    return (
        f"yolor-edge train {said}--data {data} --tasks boxes --input-size {SIZE[0]}x{SIZE[1]} --epochs {EPOCHS[name]} "
        f"--threads 1 {others} --out {_folder(name)}"
    )


def _resume(run: Path, epochs: int) -> None:
    if len((run / LOG).read_text(encoding="utf-8").splitlines()) < epochs:
        resume(run, epochs=epochs)


def _curve(log: Path, steps: int) -> list[dict[str, Any]]:
    """Box AP of the averaged weights wherever a run with so many steps an epoch was scored."""
    entries = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]
    return [
        {"step": entry["epoch"] * steps, "box_ap": entry["validation"]["scores"]["box_ap"]}
        for entry in entries
        if "validation" in entry
    ]


def _folder(name: str) -> str:
    return name.replace(" ", "-")


if __name__ == "__main__":
    main()
