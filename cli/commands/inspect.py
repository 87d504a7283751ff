"""`yolor-edge inspect`: what a bundle knows of itself; parameters and FLOPs of a network, by part."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..options import add_captioner, add_json, add_tasks, size
from ..output import print_result
from ..parsing import Misuse, add_command

if TYPE_CHECKING:
    from ..train.checkpoint import Checkpoint


def add(commands: Any) -> None:
    """Add the command to the parser's commands."""
    parser = add_command(
        commands,
        "inspect",
        _inspect,
        "BUNDLE | CHECKPOINT [options] | --size SIZE [options]",
        "print what a bundle knows of itself, or a network's parameters and FLOPs by part",
        "Of a bundle: tasks, classes, input, thresholds, precisions with their scores, engines, digests, licence and "
        "where it came from. Of a checkpoint, or of a size that is not trained yet: what it costs.",
        "yolor-edge inspect bundles/scenes\n"
        "  yolor-edge inspect --size l --classes 80 --semantic 173 --vocabulary 30522",
        needs_opencv=False,
    )
    parser.add_argument(
        "checkpoint", nargs="?", metavar="BUNDLE|CHECKPOINT", help="folder of a bundle, a checkpoint or a run"
    )
    parser.add_argument(
        "--input-size",
        type=size,
        metavar="HxW",
        help="multiples of 32; one number for a square (default: the checkpoint's, or 640x640)",
    )
    add_tasks(parser, "tasks to count")
    add_json(parser)
    network = parser.add_argument_group("a network that is not trained yet")
    network.add_argument("--size", choices=("n", "s", "m", "l"), help="its size, instead of a checkpoint")
    network.add_argument("--classes", type=_amount, metavar="N", help="classes of boxes (default: 80)")
    network.add_argument("--semantic", type=_amount, metavar="N", help="classes of the semantic map (default: 173)")
    network.add_argument("--vocabulary", type=_amount, metavar="N", help="words of the captions (default: 10202)")
    add_captioner(network)


def _inspect(arguments: argparse.Namespace) -> int:
    if arguments.checkpoint is not None and (Path(arguments.checkpoint) / "bundle.json").is_file():
        return _inspect_bundle(arguments)
    from ..train.network.cost import inspect_network
    from ..train.network.layers import LayersConfig
    from ..train.network.layers_fold import layers_cost

    config, checkpoint = _network(arguments)
    if isinstance(config, LayersConfig):
        cost = layers_cost(config, arguments.input_size)
        facts, table = {**config.facts(), **asdict(cost)}, f"{config.summary()}\n{cost.table()}"
    else:
        found = inspect_network(config, arguments.input_size)
        facts, table = found.to_json(), found.table()
    if checkpoint is not None:
        facts |= {"licence": checkpoint.licence, "provenance": checkpoint.provenance}
        table += f"\nlicence of the weights: {checkpoint.licence}"
    print_result(arguments, facts, table)
    return 0


def _inspect_bundle(arguments: argparse.Namespace) -> int:
    from ..runtime.bundle.facts import inspect_bundle

    options = ("tasks", "input_size", "size", "classes", "semantic", "vocabulary", "captioner")
    given = [f"--{name.replace('_', '-')}" for name in options if getattr(arguments, name) is not None]
    if given:
        raise Misuse(f"{arguments.checkpoint}: is a bundle, which is what it is; leave out {', '.join(given)}")
    facts = inspect_bundle(arguments.checkpoint)
    print_result(arguments, facts.to_json(), facts.table())
    return 0


def _amount(text: str) -> int:
    """A number of classes or words."""
    number, most = int(text), 100_000  # with which a network still fits into memory
    if number > most:
        raise argparse.ArgumentTypeError(f"must be at most {most}, got {number}")
    return number


def _network(arguments: argparse.Namespace) -> tuple[Any, Checkpoint | None]:
    """The configuration of the network that is asked for, and the checkpoint that it is of."""
    from ..runtime.bundle.tokenizer import SPECIALS
    from ..train.network.config import CAPTIONERS, TASKS, NetworkConfig

    if (arguments.checkpoint is None) == (arguments.size is None):
        raise Misuse("inspect needs a BUNDLE, a CHECKPOINT or --size, one of them; see yolor-edge inspect --help")
    counts = {
        "--classes": arguments.classes,
        "--semantic": arguments.semantic,
        "--vocabulary": arguments.vocabulary,
    }
    if arguments.checkpoint is not None:
        given = [name for name, count in counts.items() if count is not None]
        given += ["--captioner"] if arguments.captioner is not None else []
        if given:
            raise Misuse(f"a checkpoint has its own classes, words and captioner; leave out {', '.join(given)}")
        from ..train.checkpoint import Checkpoint

        checkpoint = Checkpoint.open(arguments.checkpoint)
        config = checkpoint.layout
        absent = [task for task in arguments.tasks or () if task not in config.tasks]
        if absent:
            raise Misuse(f"--tasks: the network has no task {', '.join(absent)}; it has {', '.join(config.tasks)}")
        return config.with_tasks(arguments.tasks) if arguments.tasks else config, checkpoint
    for name, count in counts.items():
        if count is not None and count < 1:
            raise Misuse(f"{name} must be at least 1, got {count}")
    classes, semantic, words = (
        80 if arguments.classes is None else arguments.classes,
        173 if arguments.semantic is None else arguments.semantic,
        10202 if arguments.vocabulary is None else arguments.vocabulary,
    )
    config = NetworkConfig(
        size=arguments.size,
        tasks=arguments.tasks or TASKS,
        class_names=tuple(f"class {i}" for i in range(classes)),
        category_ids=tuple(range(1, classes + 1)),
        semantic_names=tuple(f"class {i}" for i in range(semantic)),
        semantic_category_ids=tuple(range(1, semantic + 1)),
        vocabulary=(*SPECIALS, *(f"word{i}" for i in range(words)))[:words],
        input_size=arguments.input_size or (640, 640),
        **CAPTIONERS[arguments.captioner or "catr"],
    )
    return config, None
