"""The network that fits a data set: its classes, its words, its heads, from nothing or after the network of a start."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection

from ..evaluation.dataset.coco import CocoDataset
from ..runtime.bundle.tokenizer import build_vocabulary
from ..runtime.errors import UsageError
from .config import TrainConfig
from .data_check import require_targets
from .network.any_network import AnyConfig
from .network.config import CAPTIONERS, TASKS, Captioner, NetworkConfig, Size, Task
from .network.layers import LayersConfig
from .network.parts import with_heads
from .progress import say


def network_for(
    dataset: CocoDataset,
    config: TrainConfig,
    layout: AnyConfig | None = None,
    size: Size | None = None,
    input_size: tuple[int, int] | None = None,
    tasks: tuple[Task, ...] | None = None,
    name: str | None = None,
    captioner: Captioner | None = None,
    origin: str = "",
) -> AnyConfig:
    """The network that `fit` trains; None leaves the choice to the layout of the start, else to the defaults.

    Args:
        dataset: What is trained on.
        config: How.
        layout: Of the network that is started from; an imported one stays as it is but for classes and words.
        size, input_size, tasks, name, captioner: As for `fit`.
        origin: Where the layout comes from, for messages.

    Raises:
        UsageError: If something is asked for that data or layout do not have.
    """
    if isinstance(layout, LayersConfig):
        for argument, value in (("size", size), ("captioner", captioner)):
            if value is not None:
                raise UsageError(
                    f"<{argument}> is for networks of our own plan; {origin} holds {layout.name}, which stays as it is",
                    argument,
                )
        described = describe_layers(dataset, layout, config, input_size, tasks, name)
        untaught = [task for task in TASKS if task in dataset.tasks and task not in layout.tasks]
        if untaught and tasks is None:
            say(f"not trained: {', '.join(untaught)}; {layout.name} has no head for that")
        return described
    if layout is None:
        return describe_network(
            dataset,
            size or "n",
            config,
            input_size or (640, 640),
            tasks,
            name or "yolor-edge",
            captioner or "catr",
        )
    network = describe_network(
        dataset,
        size or layout.size,
        config,
        input_size or layout.input_size,
        tasks,
        name or layout.name,
        captioner or _captioner_of(layout, tasks or dataset.tasks),
    )
    # What neither options nor data say, so that as much as possible fits.
    return dataclasses.replace(
        network,
        prototypes=layout.prototypes,
        reg_max=layout.reg_max,
        caption_positions=layout.caption_positions,
    )


def describe_network(
    dataset: CocoDataset,
    size: Size,
    config: TrainConfig,
    input_size: tuple[int, int],
    tasks: tuple[Task, ...] | None,
    name: str,
    captioner: Captioner = "catr",
) -> NetworkConfig:
    """The network that fits a data set: its classes, its words, and a head for every task asked for.

    Raises:
        UsageError: If the data set has no truth for a task that was asked for, or the captioner is unknown or lacks a
            task that it needs.
    """
    if captioner not in CAPTIONERS:
        raise UsageError(f"<captioner> must be one of {', '.join(CAPTIONERS)}, got {captioner!r}", argument="captioner")
    available: tuple[Task, ...] = tuple(task for task in TASKS if task in dataset.tasks)
    require_targets(dataset, tasks)
    absent = [task for task in tasks or () if task not in available]
    if absent:
        raise UsageError(
            f"{dataset.root} ({dataset.split}): has no truth for {', '.join(absent)}; it has {', '.join(available)}",
            argument="tasks",
        )
    chosen = tasks or available
    lacking = [task for task in ("boxes", "caption") if task not in chosen]
    if captioner == "grit" and lacking:
        raise UsageError(
            f"the captioner grit needs the task {' and '.join(lacking)}: its captions look at the cells that boxes "
            f"come from; the tasks are {', '.join(chosen)}",
            argument=("captioner", "tasks"),
        )
    return NetworkConfig(
        size=size,
        tasks=chosen,
        class_names=dataset.class_names,
        category_ids=dataset.category_ids,
        semantic_names=dataset.semantic_names if "semantic" in chosen else (),
        semantic_category_ids=dataset.semantic_category_ids if "semantic" in chosen else (),
        vocabulary=_words_of(dataset, config) if "caption" in chosen else (),
        input_size=input_size,
        name=name,
        **CAPTIONERS[captioner],
    )


def describe_layers(
    dataset: CocoDataset,
    layers: LayersConfig,
    config: TrainConfig,
    input_size: tuple[int, int] | None,
    tasks: tuple[Task, ...] | None,
    name: str | None,
) -> LayersConfig:
    """The imported network with class heads and words for a data set, and the heads that both have something for.

    Raises:
        UsageError: If the data set has no truth for a task that was asked for, or the network no head.
    """
    available = tuple(task for task in layers.tasks if task in dataset.tasks)
    require_targets(dataset, tasks)
    if "caption" in available and "semantic" not in available:
        available = tuple(task for task in available if task != "caption")
    absent = [task for task in tasks or () if task not in dataset.tasks]
    if absent or not available:
        raise UsageError(
            f"{dataset.root} ({dataset.split}): has no truth for {', '.join(absent) or ', '.join(layers.tasks)}; it "
            f"has {', '.join(task for task in TASKS if task in dataset.tasks)}",
            argument="tasks",
        )
    chosen = tasks or available
    return with_heads(
        layers,
        chosen,
        dataset.class_names,
        dataset.category_ids,
        dataset.semantic_names if "semantic" in chosen else (),
        dataset.semantic_category_ids if "semantic" in chosen else (),
        _words_of(dataset, config) if "caption" in chosen else (),
        input_size,
        name,
    )


def _captioner_of(start: NetworkConfig, tasks: Collection[str]) -> Captioner:
    """The captioner of the start, where the tasks allow it."""
    is_grit = start.captioner == "grit" and "caption" in start.tasks
    return "grit" if is_grit and {"boxes", "caption"} <= set(tasks) else "catr"


def _words_of(dataset: CocoDataset, config: TrainConfig) -> tuple[str, ...]:
    captions = (text for i in range(len(dataset)) for text in dataset[i].captions or ())
    return tuple(build_vocabulary(captions, config.minimum_word_count))
