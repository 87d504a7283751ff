"""`yolor-edge train`: a checkpoint from a data set."""

from __future__ import annotations

import argparse
import shlex
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..options import add_captioner, add_data_folders, add_tasks, add_val_share, names, size
from ..output import say
from ..parsing import PROGRAM, Misuse, add_command
from ..processes import is_first_process
from ..termination import terminated_like_interrupted

if TYPE_CHECKING:
    from ..train.checkpoint import Checkpoint

CHANGEABLE = (
    "batch_size",
    "learning_rate",
    "workers",
    "device",
    "amp",
    "validate_every",
    "validate_images",
    "patience",
    "samples_every",
    "save_every",
)
"""Settings that may change on the way: they say where, how fast and in what pieces the same training is done."""

QUANTISED: dict[str, Any] = {"epochs": 10, "learning_rate": 1e-4, "kept_rate": 1.0, "amp": "off"}
"""Defaults of a training with int8 in the loop: short and careful, in the numbers that are rounded."""


def add(commands: Any) -> None:
    """Add the command to the parser's commands."""
    parser = add_command(
        commands,
        "train",
        _train,
        "--data DIR --out RUN [--from CHECKPOINT|FILE.pt] [--teacher CHECKPOINT|BUNDLE] [--config FILE.toml] "
        "[options] | --resume RUN [--epochs E]",
        "train a network on a data set",
        "Writes the folder RUN: RUN/checkpoint after every epoch; RUN/best, which other commands take when they are "
        "given RUN, where the data has a validation split; and RUN/index.html, which shows losses, scores, labelled "
        "batches and predictions while the run goes on. With --from it starts from the weights of another network, of "
        "which all that fits is kept. A run that was stopped continues with --resume and ends with the same result; "
        "with --epochs it gets more. Progress with the loss of every task is written to stderr.",
        "yolor-edge train --data scenes --size n --epochs 30 --input-size 224x288 --out runs/scenes\n"
        "  yolor-edge train --from runs/scenes --freeze backbone --data mine --epochs 10 --out runs/mine\n"
        "  yolor-edge train --from runs/scenes --quantise scenes/train --data scenes --out runs/scenes-int8\n"
        "  yolor-edge train --config runs/scenes/config.toml --set seed=1 --out runs/scenes-1\n"
        "  yolor-edge train --resume runs/scenes --epochs 60",
    )
    run = parser.add_argument_group("data and run")
    add_data_folders(run, "folder of the data set; docs/data.md shows the layouts")
    run.add_argument("--split", metavar="S", help="split to train on (default: the first named train...)")
    add_val_share(run)
    run.add_argument(
        "--no-check", action="store_true", help="begin without a look at the data, as with --set check=off"
    )
    run.add_argument("--out", metavar="RUN", help="folder of the run; must not hold one yet")
    run.add_argument(
        "--resume",
        metavar="RUN",
        help="continue the run in this folder; --epochs, --threads and --teacher go with it, and --set of what may "
        f"change on the way: {', '.join(CHANGEABLE)}",
    )
    run.add_argument(
        "--config",
        metavar="FILE.toml",
        help="take settings, data, network and start from this file, as RUN/config.toml has them; options win "
        "(default: none)",
    )
    start = parser.add_argument_group("start")
    start.add_argument(
        "--from",
        dest="start",
        metavar="CHECKPOINT|FILE.pt",
        help="start from these weights: a checkpoint or a run, an imported network, or an official .pt file, which is "
        "trained itself; classes and words known to both keep their rows (default: from nothing)",
    )
    start.add_argument(
        "--freeze",
        type=names,
        metavar="A,B",
        help="parts that stay as they are: some of backbone, neck, boxes, masks, semantic, caption (default: none); "
        "what else was kept learns at --set kept_rate=0.5 of the rate",
    )
    start.add_argument(
        "--vocabulary", metavar="FILE", help="words of the captions of an official .pt, one a line (default: none)"
    )
    start.add_argument(
        "--teacher",
        metavar="CHECKPOINT|BUNDLE",
        help="learn from the predictions of this network too, in the tasks that both have or those of --set "
        "distill=boxes,masks; with --resume where the teacher of the run is now (default: from the data alone)",
    )
    start.add_argument(
        "--quantise",
        metavar="IMAGES",
        help="train with int8 in the loop, as export --precision int8 will round: ranges begin as measured on these "
        "images (folder, glob or list) and are learned. For a trained network given with --from; then epochs=10, "
        "learning_rate=0.0001, kept_rate=1 and amp=off unless set (default: train in float)",
    )
    network = parser.add_argument_group("network")
    network.add_argument("--size", choices=("n", "s", "m", "l"), help="size of the network (default: n, or as --from)")
    network.add_argument(
        "--input-size",
        type=size,
        metavar="HxW",
        help="input of the network, multiples of 32; one number for a square (default: 640x640, or as --from)",
    )
    add_tasks(network, "tasks to train, of those with truth in the data")
    add_captioner(network)
    network.add_argument("--name", metavar="NAME", help="name of the network (default: yolor-edge, or as --from)")
    training = parser.add_argument_group("training")
    training.add_argument(
        "--epochs",
        type=int,
        metavar="E",
        help="passes over the data (default: 100); with --resume those that are done count too",
    )
    training.add_argument(
        "--threads",
        type=int,
        metavar="T",
        help="CPU threads of the training itself; batches are prepared in processes of their own, see --set workers=2. "
        "On a busy machine fewer may be faster (default: all cores; with --resume as before)",
    )
    training.add_argument(
        "--set",
        dest="settings",
        action="append",
        metavar="NAME=VALUE",
        help="another setting, such as batch_size=8; can be repeated; docs/settings.md lists all",
    )


def _train(arguments: argparse.Namespace) -> int:
    with terminated_like_interrupted():
        checkpoint = _resumed(arguments) if arguments.resume is not None else _begun(arguments)
    if is_first_process():
        print(f"checkpoint: {checkpoint.path}")
    return 0


def _resumed(arguments: argparse.Namespace) -> Checkpoint:
    others = (
        "data",
        "out",
        "config",
        "size",
        "input_size",
        "tasks",
        "split",
        "name",
        "captioner",
        "freeze",
        "vocabulary",
        "val_share",
        "seed",
        "quantise",
    )
    given = [f"--{name.replace('_', '-')}" for name in others if getattr(arguments, name) is not None]
    given += ["--from"] if arguments.start is not None else []
    given += ["--no-check"] if arguments.no_check else []
    settings = arguments.settings or []
    given += [f"--set {one}" for one in settings if one.partition("=")[0] not in CHANGEABLE]
    if given:
        raise Misuse(f"--resume continues with the settings of the run; leave out {', '.join(given)}")
    from ..train.loop import resume

    return resume(arguments.resume, arguments.threads, arguments.epochs, settings, arguments.teacher)


def _begun(arguments: argparse.Namespace) -> Checkpoint:
    from ..train.config import TrainConfig

    options: dict[str, Any] = {}
    config = TrainConfig() if arguments.quantise is None else replace(TrainConfig(), **QUANTISED)
    if arguments.config is not None:
        from ..train.config_file import read_config_file

        options, config = read_config_file(arguments.config)
    for name in (
        "data",
        "split",
        "size",
        "input_size",
        "tasks",
        "name",
        "captioner",
        "start",
        "freeze",
        "vocabulary",
        "teacher",
    ):
        if getattr(arguments, name) is not None:
            options[name] = getattr(arguments, name)
    if arguments.threads is not None:
        options["threads"] = arguments.threads
    if "data" not in options or arguments.out is None:
        raise Misuse("train needs --data DIR and --out RUN, or --resume RUN; see yolor-edge train --help")
    from ..train.loop import fit

    own = ("epochs", "val_share", "seed")
    settings = [f"{name}={getattr(arguments, name)}" for name in own if getattr(arguments, name) is not None]
    settings += ["check=off"] if arguments.no_check else []
    config = config.with_settings([*settings, *(arguments.settings or [])])
    if arguments.quantise is not None:
        from ..export.quantised_training import plan_quantisation

        if options.get("start") is None:
            raise Misuse("--quantise goes on with a trained network; give it with --from CHECKPOINT")
        options["quantisation"] = plan_quantisation(options["start"], arguments.quantise, progress=say)
    return fit(options.pop("data"), arguments.out, config=config, **options)


def resume_hint(arguments: argparse.Namespace) -> str:
    """The command that goes on with a run that was stopped, for the end of a line; nothing where none was begun."""
    run = arguments.resume or arguments.out
    if run is None or not Path(run, "run.json").is_file():
        return ""
    return f"; go on with: {PROGRAM} train --resume {shlex.quote(str(run))}"
