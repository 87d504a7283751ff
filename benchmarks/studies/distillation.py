"""A small network taught by a larger one, against the same one alone: scenes, three seeds, equal steps, same data.

    python -m yolor_edge.benchmarks.studies.distillation WORK --out benchmarks/results/distillation.json

A teacher of size s is trained on the scenes; then, for each seed, a student of size n alone and one with `--teacher`,
for the same number of epochs, so of steps, on the same images. Every run is scored on scenes that none has seen, every
few epochs. WORK gets data and runs. After each run the JSON is written: curves, last scores, and for each score the
mean and the spread over the seeds of both, and of the difference between the two of one seed. What the JSON holds is
not done again, and a run that was stopped goes on.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ...evaluation.scenes.scene_files import write_scenes
from ...runtime.files import write_atomically
from ...train.config import TrainConfig
from ...train.loop import fit, resume
from ...train.run_files import LOG, RUN
from ..report.machine import describe_machine, describe_state, source_commit
from ..report.report_files import output_file

ARMS = ("alone", "taught")
TEACHER = "teacher"


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", type=Path, help="folder for data and runs")
    parser.add_argument("--out", type=output_file, required=True, help="JSON file to write, and to go on from")
    parser.add_argument("--seeds", type=int, default=3, help="how many (default: 3)")
    parser.add_argument("--images", type=int, default=384, help="to train on (default: 384)")
    parser.add_argument("--val-images", type=int, default=200, help="to score on (default: 200)")
    parser.add_argument("--height", type=int, default=96, help="of images and input (default: 96)")
    parser.add_argument("--width", type=int, default=128, help="of images and input (default: 128)")
    parser.add_argument("--teacher-epochs", type=int, default=50, help="(default: 50)")
    parser.add_argument("--epochs", type=int, default=25, help="of a student (default: 25)")
    parser.add_argument("--score-every", type=int, default=5, help="epochs between scores (default: 5)")
    parser.add_argument("--set", dest="settings", action="append", default=[], help="further settings of all runs")
    parser.add_argument("--threads", type=int, help="of torch (default: all cores)")
    chosen = parser.parse_args(arguments)
    plan = {name: value for name, value in vars(chosen).items() if name not in ("work", "out", "threads", "seeds")}
    report: dict[str, Any] = {"plan": plan, "runs": {}}
    if chosen.out.exists():
        report = json.loads(chosen.out.read_text(encoding="utf-8"))
        if report.get("plan") != plan:
            parser.error(f"{chosen.out}: was made by another plan ({report.get('plan')}); choose another --out")
    study = _Study(chosen)
    names = [TEACHER, *(f"{arm}-{seed}" for seed in range(chosen.seeds) for arm in ARMS)]
    for name in names:
        if name in report["runs"]:
            print(f"{name}: done before", flush=True)
            continue
        before = describe_state()
        report["runs"][name] = {**study.run(name), "state": {"before": before, "after": describe_state()}}
        report |= {
            "command": " ".join(["python -m yolor_edge.benchmarks.studies.distillation", *(arguments or sys.argv[1:])]),
            "commit": source_commit(),
            "answer": compare(report["runs"]),
            "machine": describe_machine(),
        }
        write_atomically(chosen.out, json.dumps(report, indent=1) + "\n")
        print(f"{name}: {_told(report['runs'][name]['scores'])}", flush=True)
    for score, figures in report["answer"].items():
        print(f"{score}: {json.dumps(figures)}")


class _Study:
    """The runs, by name."""

    def __init__(self, chosen: argparse.Namespace) -> None:
        self.chosen, self.size = chosen, (chosen.height, chosen.width)
        self.data = chosen.work / "scenes"

    def run(self, name: str) -> dict[str, Any]:
        """Train and score one of them, or go on with it; its curve, last scores, epochs, steps and seconds an epoch."""
        chosen = self.chosen
        for split, count, seed in (("train", chosen.images, 1), ("val", chosen.val_images, 2)):
            if not (self.data / split).is_dir():
                write_scenes(self.data, count, seed, split, self.size)
        arm, _, seed = name.partition("-")
        is_teacher = arm == TEACHER
        if arm == "taught" and not (chosen.work / TEACHER / "checkpoint").is_dir():
            self.run(TEACHER)  # Its scores are known, its weights are gone.
        out = chosen.work / name
        if (out / RUN).exists():
            resume(out)
        else:
            config = TrainConfig(
                epochs=chosen.teacher_epochs if is_teacher else chosen.epochs,
                validate_every=chosen.score_every,
                seed=100 if is_teacher else int(seed),
            )
            fit(
                self.data,
                out,
                "s" if is_teacher else "n",
                config.with_settings(chosen.settings),
                input_size=self.size,
                threads=chosen.threads,
                teacher=chosen.work / TEACHER if arm == "taught" else None,
            )
        batch = json.loads((out / RUN).read_text(encoding="utf-8"))["train"]["batch_size"]
        entries = [json.loads(line) for line in (out / LOG).read_text(encoding="utf-8").splitlines()]
        steps = -(-chosen.images // batch)
        curve = [
            {"step": entry["epoch"] * steps, **_figures(entry["validation"]["scores"])}
            for entry in entries
            if "validation" in entry
        ]
        return {
            "curve": curve,
            "scores": {name: value for name, value in curve[-1].items() if name != "step"},
            "losses": entries[-1]["losses"],
            "epochs": len(entries),
            "steps": len(entries) * steps,
            "seconds_an_epoch": round(statistics.median(entry["seconds"] for entry in entries), 1),
        }


def compare(runs: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """By score: mean and spread (standard deviation) of each arm, and of taught less alone by seed.

    Args:
        runs: By name, "alone-0", "taught-0" and so on, with their `scores`.
    """
    seeds = [name.partition("-")[2] for name in runs if name.startswith("taught-")]
    pairs = [[runs[f"{arm}-{seed}"]["scores"] for arm in ARMS] for seed in seeds if f"alone-{seed}" in runs]
    teacher = runs.get(TEACHER, {}).get("scores", {})
    answer: dict[str, dict[str, Any]] = {}
    for score in pairs[0][0] if pairs else ():
        alone, taught = ([pair[i][score] for pair in pairs] for i in range(2))
        gains = [b - a for a, b in zip(alone, taught, strict=True)]
        answer[score] = {
            "alone": _spread(alone),
            "taught": _spread(taught),
            "gain": _spread(gains),
            "gains_by_seed": [round(gain, 4) for gain in gains],
            "teacher": teacher.get(score),
        }
    return answer


def _spread(values: Sequence[float]) -> dict[str, float]:
    return {
        "mean": round(statistics.fmean(values), 4),
        "spread": round(statistics.stdev(values), 4) if len(values) > 1 else 0.0,
    }


def _figures(scores: Mapping[str, Any]) -> dict[str, float]:
    """The scores that are single numbers."""
    return {
        name: float(value)
        for name, value in scores.items()
        if isinstance(value, int | float) and not name.startswith("images")
    }


def _told(scores: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {value:.3f}" for name, value in scores.items())


if __name__ == "__main__":
    main()
