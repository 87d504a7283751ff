"""What each ingredient of the training does: scenes, size n, equal steps, several seeds, one thing changed at a time.

    python -m yolor_edge.benchmarks.studies.training_choices WORK --out benchmarks/results/training-choices.json

Every run trains on the same scenes and is scored on scenes that none has seen, every few epochs and at the end. Runs of
one seed see the same images in the same order. `CHOICES` says what each changes beside `recipe`, the defaults. WORK
gets data, runs and a JSON for each run that is done, which is not done again; a run that was stopped goes on. Several
processes can share a WORK when each is given other choices or seeds (--only, --seeds); the report, JSON with a table
in Markdown beside it, is made of all that is done. Each choice is compared with the recipe of the same seed.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from ...evaluation.scenes.scene_files import write_scenes
from ...runtime.files import write_atomically
from ...train.config import TrainConfig
from ...train.loop import fit, resume
from ...train.network import network as network_module
from ...train.network.blocks import Conv, Prediction
from ...train.network.config import TASKS, Size, Task
from ...train.network.heads import SemanticHead
from ...train.run_files import LOG, RUN
from ..report.machine import describe_machine, describe_state, source_commit
from ..report.report_files import output_file

RECIPE, TEACHER = "recipe", "teacher"
TEACHER_SEED = 100


@dataclass(frozen=True)
class Choice:
    """One run's difference from the recipe.

    Attributes:
        what: In words, for the table.
        settings: As for `yolor-edge train --set`.
        tasks: That are trained.
        size: Of the network.
        network: "", "three scales" or "explicit only": a network that yolor-edge itself does not offer.
        taught: By the teacher.
    """

    what: str
    settings: Mapping[str, str] = field(default_factory=dict)
    tasks: tuple[Task, ...] = TASKS
    size: Size = "n"
    network: str = ""
    taught: bool = False


CHOICES = {
    RECIPE: Choice("the defaults: four tasks, asymmetric views, single-scale semantic head, implicit knowledge"),
    "strong": Choice("one strong view for all tasks", {"augment": "strong"}),
    "weak": Choice("one weak view for all tasks", {"augment": "none"}),
    "boxes": Choice("boxes alone", tasks=("boxes",)),
    "masks": Choice("masks alone, with the boxes that they belong to", tasks=("boxes", "masks")),
    "semantic": Choice("the semantic map alone", tasks=("semantic",)),
    "caption": Choice("the caption alone", tasks=("caption",)),
    "three-scales": Choice("semantic head on three levels", network="three scales"),
    "explicit": Choice("no implicit knowledge", network="explicit only"),
    "uncertainty": Choice("tasks weighed by learned variances", {"balance": "uncertainty"}),
    "taught": Choice("taught by a network of size s", taught=True),
    TEACHER: Choice("size s, the teacher of the others", size="s"),
}


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", type=Path, help="folder for data and runs")
    parser.add_argument("--out", type=output_file, required=True, help="JSON file to write, a table goes beside it")
    parser.add_argument("--only", metavar="A,B", help=f"of {', '.join(CHOICES)} (default: all)")
    parser.add_argument("--seeds", default="0,1,2", metavar="A,B", help="(default: 0,1,2)")
    parser.add_argument("--images", type=int, default=256, help="to train on (default: 256)")
    parser.add_argument("--val-images", type=int, default=200, help="to score on (default: 200)")
    parser.add_argument("--height", type=int, default=96, help="of images and input (default: 96)")
    parser.add_argument("--width", type=int, default=128, help="of images and input (default: 128)")
    parser.add_argument("--epochs", type=int, default=30, help="of each run (default: 30)")
    parser.add_argument("--teacher-epochs", type=int, default=60, help="(default: 60)")
    parser.add_argument("--score-every", type=int, default=5, help="epochs between scores (default: 5)")
    parser.add_argument("--threads", type=int, help="of torch (default: all cores)")
    chosen = parser.parse_args(arguments)
    only = chosen.only.split(",") if chosen.only else list(CHOICES)
    if unknown := [name for name in only if name not in CHOICES]:
        parser.error(f"--only: there is no {', '.join(unknown)}; the choices are {', '.join(CHOICES)}")
    kept = ("images", "val_images", "height", "width", "epochs", "teacher_epochs", "score_every")
    study = _Study(chosen.work, {name: getattr(chosen, name) for name in kept}, chosen.threads)
    seeds = [int(seed) for seed in chosen.seeds.split(",")]
    for choice, seed in [(TEACHER, TEACHER_SEED)] * (TEACHER in only) + [
        (name, seed) for seed in seeds for name in only if name != TEACHER
    ]:
        name = f"{choice}-{seed}"
        if (chosen.work / f"{name}.json").exists():
            print(f"{name}: done before", flush=True)
        else:
            result = study.run(choice, seed)
            write_atomically(chosen.work / f"{name}.json", json.dumps(result) + "\n")
            print(f"{name}: {', '.join(f'{key} {value:.3f}' for key, value in result['scores'].items())}", flush=True)
        runs = {
            path.stem: json.loads(path.read_text(encoding="utf-8")) for path in sorted(chosen.work.glob("*-*.json"))
        }
        if others := [name for name, one in runs.items() if one["plan"] != study.plan]:
            parser.error(f"{chosen.work}: {others[0]} was made by another plan; choose another folder")
        report = {
            "command": " ".join(
                ["python -m yolor_edge.benchmarks.studies.training_choices", *(arguments or sys.argv[1:])]
            ),
            "commit": source_commit(),
            "plan": study.plan,
            "choices": {name: choice.what for name, choice in CHOICES.items()},
            "answer": compare(runs),
            "runs": runs,
            "machine": describe_machine(),
        }
        write_atomically(chosen.out, json.dumps(report, indent=1) + "\n")
        write_atomically(chosen.out.with_suffix(".md"), table(report["answer"]))


class _Study:
    """The runs by choice and seed, in `work`."""

    def __init__(self, work: Path, plan: Mapping[str, Any], threads: int | None) -> None:
        self.work, self.plan, self.threads = work, dict(plan), threads
        self.size, self.data = (plan["height"], plan["width"]), work / "scenes"
        for split, count, seed in (("train", plan["images"], 1), ("val", plan["val_images"], 2)):
            if not (self.data / split).is_dir():
                write_scenes(self.data, count, seed, split, self.size)

    def run(self, name: str, seed: int) -> dict[str, Any]:
        """Train and score, or go on with it; its curve, last scores and losses, steps and seconds an epoch."""
        choice, out, before = CHOICES[name], self.work / f"{name}-{seed}", describe_state()
        config = TrainConfig(
            epochs=self.plan["teacher_epochs" if name == TEACHER else "epochs"],
            validate_every=self.plan["score_every"],
            samples_every=0,
            workers=0,
            seed=seed,
        )
        with _other_network(choice.network):
            if (out / RUN).exists():
                resume(out)
            else:
                fit(
                    self.data,
                    out,
                    choice.size,
                    config.with_settings([f"{name}={value}" for name, value in choice.settings.items()]),
                    input_size=self.size,
                    tasks=choice.tasks,
                    threads=self.threads,
                    teacher=self.work / f"{TEACHER}-{TEACHER_SEED}" / "checkpoint" if choice.taught else None,
                )
        entries = [json.loads(line) for line in (out / LOG).read_text(encoding="utf-8").splitlines()]
        steps = -(-self.plan["images"] // config.batch_size)
        curve = [
            {"step": entry["epoch"] * steps, **_figures(entry["validation"])}
            for entry in entries
            if "validation" in entry
        ]
        return {
            "plan": self.plan,
            "curve": curve,
            "scores": {name: value for name, value in curve[-1].items() if name != "step"},
            "losses": entries[-1]["losses"],
            "steps": len(entries) * steps,
            "seconds_an_epoch": round(statistics.median(entry["seconds"] for entry in entries), 1),
            "state": {"before": before, "after": describe_state()},
        }


def _other_network(kind: str) -> Any:
    """A context in which networks are built of that kind."""
    return {"": nullcontext, "three scales": _three_scales, "explicit only": _explicit_only}[kind]()


class _ThreeScales(SemanticHead):
    """The head that is compared with: a convolution on each level, brought to stride 8 and joined."""

    def __init__(self, channels: int, classes: int, width: int) -> None:
        super().__init__(channels, classes, width)
        self.body = nn.Sequential()
        self.levels = nn.ModuleList(Conv(channels << i, width, 3) for i in range(3))
        self.prediction = Prediction(3 * width, classes)

    def of_levels(self, levels: Sequence[Tensor]) -> Tensor:
        size = levels[0].shape[2:]
        maps = [conv(level) for conv, level in zip(self.levels, levels, strict=True)]
        return self.prediction(torch.cat([maps[0], *(interpolate(one, size) for one in maps[1:])], 1))


@contextmanager
def _three_scales() -> Iterator[None]:
    dense = network_module.Network.dense

    def with_levels(network: network_module.Network, features: list[Tensor]) -> dict[str, Tensor]:
        head = network.semantic_head
        assert isinstance(head, _ThreeScales)
        with patch.object(head, "forward", lambda _: head.of_levels(features[1:])):
            return dense(network, features)

    with (
        patch.object(network_module, "SemanticHead", _ThreeScales),
        patch.object(network_module.Network, "dense", with_levels),
    ):
        yield


@contextmanager
def _explicit_only() -> Iterator[None]:
    """Predictions whose implicit vectors stay 0 and 1, which is the same as none."""
    build = Prediction.__init__

    def without(prediction: Prediction, c_in: int, c_out: int, bias: float | None = None) -> None:
        build(prediction, c_in, c_out, bias)
        for index, value in ((0, 0.0), (2, 1.0)):
            vector = prediction[index].vector
            assert isinstance(vector, nn.Parameter)
            nn.init.constant_(vector, value).requires_grad_(False)

    with patch.object(Prediction, "__init__", without):
        yield


def compare(runs: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """By choice and score: mean and standard deviation over seeds, and of the difference from the recipe by seed.

    Args:
        runs: By name, "recipe-0" and so on, with their `scores`. Choices without a run are left out.
    """
    by_choice: dict[str, dict[str, Mapping[str, float]]] = {}
    for name, run in runs.items():
        choice, _, seed = name.rpartition("-")
        by_choice.setdefault(choice, {})[seed] = run["scores"]
    recipes = by_choice.get(RECIPE, {})
    answer: dict[str, dict[str, Any]] = {}
    for choice in (name for name in CHOICES if name in by_choice):
        seeds = sorted(by_choice[choice])
        answer[choice] = {}
        for score in by_choice[choice][seeds[0]]:
            gains = [
                by_choice[choice][seed][score] - recipes[seed][score]
                for seed in seeds
                if choice != RECIPE and score in recipes.get(seed, {})
            ]
            answer[choice][score] = _spread([by_choice[choice][seed][score] for seed in seeds]) | (
                {"gain": _spread(gains), "gains": [round(gain, 4) for gain in gains]} if gains else {}
            )
    return answer


def table(answer: Mapping[str, Mapping[str, Any]]) -> str:
    """The comparison in Markdown: the means, and what each changes beside the recipe of the same seed."""
    shown = {
        "box_ap": "box AP",
        "mask_ap": "mask AP",
        "miou": "mIoU",
        "bleu4": "BLEU-4",
        "names_largest": "largest named",
        "states_true_relation": "true relation",
    }
    shown = {score: title for score, title in shown.items() if any(score in scores for scores in answer.values())}
    lines = [f"| training | seeds | {' | '.join(shown.values())} |", f"| --- |{' --- |' * (len(shown) + 1)}"]
    for choice, scores in answer.items():
        cells = []
        for score in shown:
            found = scores.get(score)
            change = (
                f" ({found['gain']['mean']:+.3f} ± {found['gain']['spread']:.3f})" if found and "gain" in found else ""
            )
            cells.append(f"{found['mean']:.3f} ± {found['spread']:.3f}{change}" if found else "-")
        count = max((figures["count"] for figures in scores.values()), default=0)
        lines.append(f"| {CHOICES[choice].what} | {count} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _spread(values: Sequence[float]) -> dict[str, Any]:
    return {
        "mean": round(statistics.fmean(values), 4),
        "spread": round(statistics.stdev(values), 4) if len(values) > 1 else 0.0,
        "count": len(values),
    }


def _figures(validation: Mapping[str, Any]) -> dict[str, float]:
    """The scores that are single numbers, those of captions by what the scene shows among them."""
    return {
        name: float(value)
        for name, value in {**validation["scores"], **(validation.get("caption_facts") or {})}.items()
        if isinstance(value, int | float) and not name.startswith("images")
    }


if __name__ == "__main__":
    main()
