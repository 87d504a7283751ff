"""Learning from a teacher: losses that are zero where the student predicts what the teacher does.

Both see the same view of an image, the strong one for boxes, masks and the semantic map, the weak one for captions.
They may differ in size, bins, prototypes and the order of their classes: classes and words are matched by name.

- class: Kullback-Leibler divergence of the probability of every class at every cell, weighted by how far the student is
  off (the focal weight of arXiv 2006.04388), so that the many cells of the background do not drown the others.
- box: divergence of the distributions of the sides (arXiv 2102.12252) where both have the same bins, else 1 - CIoU, at
  the cells where the teacher is sure of an object.
- mask: divergence of the assembled masks inside the teacher's boxes, at the surest of these cells. Prototypes and
  coefficients mean nothing by themselves: another basis of the same masks is as good.
- semantic: divergence of the classes of every point that is no padding.
- caption: divergence of the next word after each word of the true captions.

Distributions over classes, bins and words are softened by a temperature (arXiv 1503.02531). Where the teacher lacks a
class or a word of the student, both distributions are taken over those that both know, and count as much as the teacher
believes in these.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..runtime.bundle.spec import ModelSpec
from ..runtime.bundle.tokenizer import BOS_ID, EOS_ID, PAD_ID, UNK_ID
from ..runtime.errors import UsageError
from .batches import Batch
from .config import TrainConfig
from .losses import cell_centres, complete_iou
from .network.any_network import AnyConfig
from .network.config import PROTOTYPE_STRIDE, TASKS
from .teachers import Grid, Teacher
from .torch_backend import spec_of

# Cells of an image whose boxes, and whose masks, are compared: the ones that the teacher is surest of.
BOX_CELLS, MASK_CELLS = 256, 32
# A cell that the teacher gives less than this to any class has no box that is worth learning.
LEAST_SURE = 0.05


class Distillation:
    """What a student learns from a teacher, beside the truth.

    Args:
        teacher: Whom from.
        student: The network that learns.
        config: Which tasks, and their weights.

    Attributes:
        reduce: Mean of a count over the processes that train together, without a gradient; by default there is one.
        parts: Into how many the batch of a step is divided: processes, times batches whose gradients are accumulated.

    Raises:
        UsageError: If a task that was asked for is not there, or cannot be matched.
    """

    def __init__(self, teacher: Teacher, student: AnyConfig, config: TrainConfig) -> None:
        self.teacher, self.student, self.config = teacher, student, config
        self.tasks = _tasks(teacher, student, config)
        spec, own = teacher.spec, spec_of(student)
        self.notes: list[str] = []
        self.grid = Grid.of(student)
        self.device = torch.device("cpu")
        self.reduce: Callable[[Tensor], Tensor] = lambda count: count
        self.parts = 1
        if "boxes" in self.tasks:
            self._check_cells()
            self.classes = self._match("classes", own.class_names, spec.class_names, "boxes")
        if "semantic" in self.tasks:
            if spec.graph.semantic_map:
                raise self._refusal(
                    "semantic", "its graph gives the map without the logits; export one that gives them"
                )
            self.semantic = self._match("semantic classes", own.semantic_names, spec.semantic_names, "semantic")
        if "caption" in self.tasks:
            self._match_words(own, spec)
        size = student.input_size
        points, strides = cell_centres(size, student.strides)
        self.points, self.strides = points, strides
        untaught = [task for task in student.tasks if task not in self.tasks]
        if untaught:
            self.notes.append(f"not taught: {', '.join(untaught)}")

    def to(self, device: torch.device) -> None:
        """Work there from now on."""
        self.device = device
        self.teacher.to(device)
        for name, value in vars(self).items():
            if isinstance(value, Tensor):
                setattr(self, name, value.to(device))
            elif isinstance(value, tuple) and value and all(isinstance(part, Tensor) for part in value):
                setattr(self, name, tuple(part.to(device) for part in value))

    def describe(self) -> str:
        """What is learnt from whom, in a line for people."""
        source = self.teacher.source
        said = "".join(f"; {note}" for note in self.notes)
        return f"taught by the {source['kind']} {source['name']} ({source['path']}): {', '.join(self.tasks)}{said}"

    def facts(self) -> dict[str, Any]:
        """For the provenance of what was taught: the teacher's kind, name, digest and licence, and the tasks."""
        return {key: value for key, value in self.teacher.source.items() if key != "path"} | {"tasks": list(self.tasks)}

    def __call__(
        self, images: Tensor, batch: Batch, outputs: dict[str, Tensor], words: Tensor | None
    ) -> dict[str, Tensor]:
        """Weighted losses by name.

        Args:
            images: What the student saw, (B, 3, H, W) in 0..1: the views for the dense tasks, then those for captions
                where they are others.
            batch: The rest of the step's input.
            outputs: The student's raw dense heads; of a network with anchors `class_logits` is that of the products.
            words: (t, T, V), the student's logits for the captions `batch.tokens`; None without any.
        """
        dense = tuple(task for task in self.tasks if task != "caption")
        speaks = "caption" in self.tasks and words is not None
        is_one_view = batch.weak is None
        views = images[: len(batch.strong)]
        losses: dict[str, Tensor] = {}
        memory = None
        if dense:
            known = self.teacher.see(views, (*dense, "caption") if speaks and is_one_view else dense)
            memory = known.get("caption_memory")
            if "boxes" in self.tasks:
                losses |= self._box_losses(outputs, known)
            if "semantic" in self.tasks:
                losses["distill_semantic"] = self._semantic_loss(
                    outputs["semantic_logits"].float(), known["semantic_logits"].float(), views
                )
        if "caption" in self.tasks and words is None:
            # Every process counts alike, whether its images have captions or not.
            losses["distill_caption"] = images.new_zeros(()) / self._total(images.new_zeros(()))
        if speaks and words is not None:
            if memory is None or not is_one_view:
                spoken = views if is_one_view else images[len(batch.strong) :]
                memory = self.teacher.see(spoken, ("caption",))["caption_memory"]
            losses["distill_caption"] = self._caption_loss(words, memory, batch)
        elif "caption" in self.tasks and self.parts > 1:  # Other parts may have captions, and count together.
            losses["distill_caption"] = self._mean(images.new_zeros(0), images.new_zeros(0))
        config = self.config
        gains = {
            "distill_class": config.distill_class_gain,
            "distill_box": config.distill_box_gain,
            "distill_mask": config.distill_mask_gain,
            "distill_semantic": config.distill_semantic_gain,
            "distill_caption": config.distill_caption_gain,
        }
        return {name: gains[name] * loss for name, loss in losses.items()}

    # Boxes and masks

    def _box_losses(self, outputs: dict[str, Tensor], known: dict[str, Tensor]) -> dict[str, Tensor]:
        heads = self._cells_of(known)
        own, taught = self.classes
        logits, wanted = _rows(outputs["class_logits"].float(), own), _rows(heads["class_scores"], taught)
        certainty = wanted.amax(1)  # (B, N)
        losses = {"distill_class": _focal_divergence(logits, wanted) / self._total(certainty)}
        weight, cells = certainty.topk(min(BOX_CELLS, certainty.shape[1]), 1)
        weight = weight * (weight > LEAST_SURE)
        losses["distill_box"] = self._mean(self._box_loss(outputs, heads, cells), weight)
        if "masks" in self.tasks:
            most = min(MASK_CELLS, cells.shape[1])
            losses["distill_mask"] = self._mean(_mask_loss(outputs, heads, cells[:, :most]), weight[:, :most])
        return losses

    def _cells_of(self, known: dict[str, Tensor]) -> dict[str, Tensor]:
        """The teacher's heads with one column for each of the student's cells.

        Returns:
            `class_scores` (B, C, N) probabilities, `boxes` (B, N, 4) xyxy in input pixels, `box_bins` (B, 4 * R, N)
            where it has some, `mask_coefficients` and `prototypes` where masks are taught. All float32.
        """
        spec = self.teacher.spec
        heads = {name: values.float() for name, values in known.items()}
        if spec.score_coding == "logits":
            heads["class_scores"] = heads["class_logits"].sigmoid()
        if spec.box_coding == "xyxy":
            heads["boxes"] = heads["boxes"].transpose(1, 2)
        elif spec.box_coding == "ltrb":
            heads["boxes"] = self._decoded(heads["box_distances"])
        else:
            heads["boxes"] = self._decoded(_distances(heads["box_bins"]))
        if self.teacher.grid is not None and self.teacher.grid.anchors is not None and self.grid.anchors is None:
            best = self._best_anchors(heads["class_scores"].amax(1))
            heads["boxes"] = heads["boxes"].gather(1, best[..., None].expand(-1, -1, 4))
            for name in ("class_scores", "mask_coefficients"):
                if name in heads:
                    heads[name] = _columns(heads[name], best)
        return heads

    def _best_anchors(self, certainty: Tensor) -> Tensor:
        """(B, cells) which column of (B, N) is the surest anchor of each cell; N goes by level, anchor, cell."""
        assert self.teacher.grid is not None and self.teacher.grid.anchors is not None
        height, width = self.teacher.spec.input_size
        found, first = [], 0
        for stride, anchors in zip(self.teacher.grid.strides, self.teacher.grid.anchors, strict=True):
            cells = (height // stride) * (width // stride)
            columns = certainty[:, first : first + len(anchors) * cells].unflatten(1, (len(anchors), cells))
            found.append(first + columns.argmax(1) * cells + torch.arange(cells, device=certainty.device))
            first += len(anchors) * cells
        return torch.cat(found, 1)

    def _decoded(self, distances: Tensor) -> Tensor:
        """(B, N, 4) xyxy in input pixels from distances (B, 4, N) to the sides, in strides."""
        pixels = distances.transpose(1, 2) * self.strides[:, None]
        return torch.cat((self.points - pixels[..., :2], self.points + pixels[..., 2:]), -1)

    def _box_loss(self, outputs: dict[str, Tensor], heads: dict[str, Tensor], cells: Tensor) -> Tensor:
        """(B, K) how far the student's boxes at cells (B, K) are from the teacher's."""
        own, taught = outputs.get("box_bins"), heads.get("box_bins")
        if own is not None and taught is not None and own.shape[1] == taught.shape[1]:
            sides = [_columns(bins.float(), cells).unflatten(1, (4, -1)) for bins in (own, taught)]  # (B, 4, R, K)
            return self._divergence(*sides, axis=2).mean(1)
        boxes = outputs["boxes"].float().transpose(1, 2) if own is None else self._decoded(_distances(own.float()))
        index = cells[..., None].expand(-1, -1, 4)
        pairs = [side.gather(1, index).flatten(0, 1) for side in (boxes, heads["boxes"])]
        return (1 - complete_iou(*pairs)).view_as(cells)

    # The semantic map and captions

    def _semantic_loss(self, logits: Tensor, wanted: Tensor, images: Tensor) -> Tensor:
        if wanted.shape[2:] != logits.shape[2:]:
            wanted = F.interpolate(wanted, size=logits.shape[2:], mode="bilinear", align_corners=False)
        own, taught = self.semantic
        # Grey around an image shows nothing, and the teacher was never asked what it is.
        padding = self.student.preprocess_rule.pad_value
        shown = ((images.float() * 255).round() != padding).any(1, keepdim=True).float()
        weight = F.interpolate(shown, size=logits.shape[2:], mode="area")[:, 0]  # (B, h, w)
        if taught is not None:
            weight = weight * wanted.softmax(1).index_select(1, taught).sum(1)
        return self._mean(self._divergence(_rows(logits, own), _rows(wanted, taught), axis=1), weight)

    def _caption_loss(self, words: Tensor, memory: Tensor, batch: Batch) -> Tensor:
        length = min(words.shape[1], self.teacher.words_at_once)
        # A word that the teacher lacks is unknown to it.
        told = self.teacher.follow(memory, batch.owners, self.token_table[batch.tokens[:, :length]]).float()
        own, taught = self.words
        weight = (batch.tokens[:, 1 : length + 1] != PAD_ID).float()
        weight = weight * told.softmax(2).index_select(2, taught).sum(2)
        pair = words[:, :length].float().index_select(2, own), told.index_select(2, taught)
        return self._mean(self._divergence(*pair, axis=2), weight)

    def _mean(self, losses: Tensor, weights: Tensor) -> Tensor:
        """Mean of losses by weights of the same shape."""
        return (losses * weights).sum() / self._total(weights)

    def _total(self, weights: Tensor) -> Tensor:
        """What a sum is divided by: the sum of all parts' weights, as a mean over the parts."""
        return self.reduce(weights.sum()).clamp(min=1 / self.parts)

    def _divergence(self, logits: Tensor, wanted: Tensor, axis: int) -> Tensor:
        """Of the student's distribution over `axis` from the teacher's, both softened; the gradient keeps its scale."""
        heat = self.config.distill_temperature
        log_probs, target = (logits / heat).log_softmax(axis), (wanted / heat).log_softmax(axis)
        return heat**2 * (target.exp() * (target - log_probs)).sum(axis)

    # Matching

    def _check_cells(self) -> None:
        teacher, spec = self.teacher, self.teacher.spec
        if spec.graph.top_k is not None:
            raise self._refusal("boxes,masks", f"its graph gives the best {spec.graph.top_k} cells only; export all")
        if teacher.grid is None:
            raise self._refusal(
                "boxes,masks",
                "it does not say which cell a box comes from; take its checkpoint, or let it label images",
            )
        same_anchors = self.grid.anchors in (None, teacher.grid.anchors)
        if teacher.grid.strides != self.grid.strides or not same_anchors:
            here, there = (_described(grid) for grid in (self.grid, teacher.grid))
            raise self._refusal("boxes,masks", f"its boxes come from {there}, the student's from {here}")

    def _match(
        self, what: str, own: Sequence[str], taught: Sequence[str], task: str
    ) -> tuple[Tensor, Tensor] | tuple[None, None]:
        """Positions in both lists of the names that both have; None for both where the lists are the same."""
        if tuple(own) == tuple(taught):
            return None, None
        places = {name: i for i, name in enumerate(taught)}
        both = [(i, places[name]) for i, name in enumerate(own) if name in places]
        if len(both) < (2 if task == "semantic" else 1):
            raise self._refusal(
                "boxes,masks" if task == "boxes" else task,
                f"none of its {what} ({_some(taught)}) is one of the student's ({_some(own)})"
                if not both
                else f"it shares one of its {what} alone with the student ({own[both[0][0]]})",
            )
        missing = [name for name in own if name not in places]
        if missing:
            self.notes.append(f"{len(missing)} of {len(own)} {what} unknown to it ({_some(missing)})")
        return torch.tensor([i for i, _ in both]), torch.tensor([j for _, j in both])

    def _match_words(self, own: ModelSpec, taught: ModelSpec) -> None:
        assert own.caption is not None and taught.caption is not None
        if taught.caption.text != "words":
            raise self._refusal("caption", "its captions are made of pieces of words, the student's of whole words")
        places = {word: i for i, word in enumerate(taught.caption.vocabulary)}
        special = {PAD_ID: taught.caption.pad_id, UNK_ID: taught.caption.unk_id, BOS_ID: taught.caption.bos_id}
        special[EOS_ID] = taught.caption.eos_id
        unknown = taught.caption.unk_id
        vocabulary = own.caption.vocabulary
        table = [special.get(i, places.get(word, unknown)) for i, word in enumerate(vocabulary)]
        both = [i for i in range(4, len(vocabulary)) if table[i] != unknown]
        if not both:
            raise self._refusal("caption", "none of its words is one of the student's")
        if len(both) < len(vocabulary) - 4:
            missing = [word for i, word in enumerate(vocabulary[4:], 4) if table[i] == unknown]
            self.notes.append(f"{len(missing)} of {len(vocabulary) - 4} words unknown to it ({_some(missing)})")
        self.token_table = torch.tensor(table)
        columns = [EOS_ID, *both]
        self.words = torch.tensor(columns), self.token_table[columns]

    def _refusal(self, tasks: str, reason: str) -> UsageError:
        others = [task for task in self.tasks if task not in tasks.split(",")]
        cure = f"; leave it out with --set distill={','.join(others)}" if others else ""
        return UsageError(
            f"<teacher> {self.teacher.source['path']}: cannot teach {tasks.replace(',', ' and ')}: {reason}{cure}",
            argument="teacher",
        )


def _tasks(teacher: Teacher, student: AnyConfig, config: TrainConfig) -> tuple[str, ...]:
    """What is to be taught, in the order of `TASKS`."""
    path, both = teacher.source["path"], (teacher.spec.tasks, student.tasks)
    if config.distill == "all":
        tasks = tuple(task for task in TASKS if all(task in known for known in both))
        if not tasks:
            raise UsageError(
                f"<teacher> {path}: knows {', '.join(both[0])}, the student learns {', '.join(both[1])}; there is "
                "nothing to teach",
                argument="teacher",
            )
        return tasks
    asked = set(config.distill.split(","))
    for who, known in zip(("teacher", "student"), both, strict=True):
        lacking = [task for task in TASKS if task in asked and task not in known]
        if lacking:
            raise UsageError(
                f"<distill> {', '.join(lacking)}: the {who} has no such head, it has {', '.join(known)}", "distill"
            )
    return tuple(task for task in TASKS if task in asked or (task == "boxes" and "masks" in asked))


def _rows(values: Tensor, index: Tensor | None) -> Tensor:
    """Of values (B, C, ...) the classes `index`; all for None."""
    return values if index is None else values.index_select(1, index)


def _columns(values: Tensor, cells: Tensor) -> Tensor:
    """(B, c, K) of values (B, c, N) at cells (B, K)."""
    return values.gather(2, cells[:, None].expand(-1, values.shape[1], -1))


def _distances(bins: Tensor) -> Tensor:
    """(B, 4, N) in strides, the expectation of the distributions (B, 4 * R, N)."""
    bins = bins.unflatten(1, (4, -1))
    places = torch.arange(bins.shape[2], dtype=bins.dtype, device=bins.device)
    return (bins.softmax(2) * places[:, None]).sum(2)


def _focal_divergence(logits: Tensor, wanted: Tensor) -> Tensor:
    """Sum over all cells and classes (B, C, N) of the divergence from probabilities, weighted by the distance."""
    away = (logits.detach().sigmoid() - wanted).abs()
    return (away * _binary_divergence(logits, wanted)).sum()


def _binary_divergence(logits: Tensor, wanted: Tensor) -> Tensor:
    """KL divergence of sigmoid(logits) from the probabilities `wanted`, element by element."""
    certain = torch.special.xlogy(wanted, wanted) + torch.special.xlogy(1 - wanted, 1 - wanted)
    return F.binary_cross_entropy_with_logits(logits, wanted, reduction="none") + certain


def _mask_loss(outputs: dict[str, Tensor], heads: dict[str, Tensor], cells: Tensor) -> Tensor:
    """(B, K) divergence of the masks assembled at cells (B, K), mean over what the teacher's box holds of each."""
    own, taught = (
        torch.einsum("bck,bchw->bkhw", _columns(side["mask_coefficients"].float(), cells), side["prototypes"].float())
        for side in (outputs, heads)
    )
    if taught.shape[2:] != own.shape[2:]:
        taught = F.interpolate(taught, size=own.shape[2:], mode="bilinear", align_corners=False)
    height, width = own.shape[2:]
    y = torch.arange(height, device=own.device)[:, None] + 0.5
    x = torch.arange(width, device=own.device)[None, :] + 0.5
    box = heads["boxes"].gather(1, cells[..., None].expand(-1, -1, 4))[..., None, None] / PROTOTYPE_STRIDE
    # One cell of margin, as in the loss against the truth.
    inside = (x > box[:, :, 0] - 1) & (x < box[:, :, 2] + 1) & (y > box[:, :, 1] - 1) & (y < box[:, :, 3] + 1)
    return (_binary_divergence(own, taught.sigmoid()) * inside).sum((2, 3)) / inside.sum((2, 3)).clamp(min=1)


def _some(names: Sequence[str], most: int = 4) -> str:
    return ", ".join(names[:most]) + (", ..." if len(names) > most else "")


def _described(grid: Grid) -> str:
    anchors = "" if grid.anchors is None else f", {len(grid.anchors[0])} anchors each"
    return f"cells of strides {', '.join(map(str, grid.strides))}{anchors}"
