"""`yolor-edge inspect`: parameters and FLOPs of a network, by part."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from typing import Any

from ..options import add_captioner, add_json, add_tasks, size
from ..output import print_result
from ..parsing import Misuse, add_command


def add(commands: Any) -> None:
    """Add the command to the parser's commands."""
    parser = add_command(
        commands,
        "inspect",
        _inspect,
        "CHECKPOINT [options] | --size SIZE [options]",
        "print a network's parameters and FLOPs by part",
        "Of a checkpoint, or of a size that is not trained yet.",
        "yolor-edge inspect --size l --classes 80 --semantic 173 --vocabulary 30522",
        needs_opencv=False,
    )
    parser.add_argument("checkpoint", nargs="?", metavar="CHECKPOINT", help="folder of a checkpoint or of a run")
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
    from ..train.network.cost import inspect_network
    from ..train.network.layers import LayersConfig
    from ..train.network.layers_fold import layers_cost

    config = _network_config(arguments)
    if isinstance(config, LayersConfig):
        cost = layers_cost(config, arguments.input_size)
        print_result(arguments, asdict(cost), cost.table())
        return 0
    found = inspect_network(config, arguments.input_size)
    print_result(arguments, found.to_json(), found.table())
    return 0


def _amount(text: str) -> int:
    """A number of classes or words."""
    number, most = int(text), 100_000  # with which a network still fits into memory
    if number > most:
        raise argparse.ArgumentTypeError(f"must be at most {most}, got {number}")
    return number


def _network_config(arguments: argparse.Namespace) -> Any:
    from ..runtime.bundle.tokenizer import SPECIALS
    from ..train.network.config import CAPTIONERS, TASKS, NetworkConfig

    if (arguments.checkpoint is None) == (arguments.size is None):
        raise Misuse("inspect needs a CHECKPOINT or --size, one of the two; see yolor-edge inspect --help")
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

        config = Checkpoint.open(arguments.checkpoint).layout
        absent = [task for task in arguments.tasks or () if task not in config.tasks]
        if absent:
            raise Misuse(f"--tasks: the network has no task {', '.join(absent)}; it has {', '.join(config.tasks)}")
        return config.with_tasks(arguments.tasks) if arguments.tasks else config
    for name, count in counts.items():
        if count is not None and count < 1:
            raise Misuse(f"{name} must be at least 1, got {count}")
    classes, semantic, words = (
        80 if arguments.classes is None else arguments.classes,
        173 if arguments.semantic is None else arguments.semantic,
        10202 if arguments.vocabulary is None else arguments.vocabulary,
    )
    return NetworkConfig(
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
