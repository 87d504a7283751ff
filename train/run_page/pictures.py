"""Pictures of a run: what the network is taught, view by view, and what it answers beside the truth."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from ...evaluation.dataset.coco import CocoDataset
from ...evaluation.dataset.truth import IGNORED, Truth
from ...runtime.bundle.tokenizer import Tokenizer
from ...runtime.drawing import DrawOptions
from ...runtime.drawing.colours import semantic_colours
from ...runtime.drawing.lettering import INK, PAPER, wrapped, write_text
from ...runtime.drawing.objects import draw_objects
from ...runtime.images.image_files import write_image
from ...runtime.results import InstanceMasks, Result
from ..batches import Batch
from ..network.any_network import AnyConfig, AnyNetwork
from ..torch_backend import torch_model

VIEWS_SHOWN = 8
"""Of a batch."""
SAMPLES = 6
"""Images whose predictions are drawn."""
SAMPLE_SCORE = 0.25
"""Objects below are not drawn."""
_WIDTH, _GAP, _LETTERS, _QUALITY = 400, 6, 10, 88
_TRUTH = DrawOptions(scores=False)
_MAP_ALPHA = 0.65


def write_batch(folder: Path, number: int, batch: Batch, network: AnyConfig) -> None:
    """Draw the first views of a batch: `strong-N.jpg` with boxes, masks and map, `weak-N.jpg` with captions.

    Where the map is unknown it is black; where objects may be that nobody labelled there are dark stripes.
    """
    spoken = _captions_of(batch, network)
    has_own_words = batch.weak is None
    tiles = [
        tile(view, result, spoken.get(i, ()) if has_own_words else (), unlabelled)
        for i, (view, result, unlabelled) in enumerate(strong_views(batch, network, VIEWS_SHOWN))
    ]
    write_image(folder / f"strong-{number}.jpg", sheet(tiles), _QUALITY)
    if batch.weak is not None:
        views = batch.weak[:VIEWS_SHOWN].cpu().numpy().transpose(0, 2, 3, 1)[..., ::-1]
        tiles = [tile(view, Result(view.shape[:2]), spoken.get(i, ())) for i, view in enumerate(views)]
        write_image(folder / f"weak-{number}.jpg", sheet(tiles), _QUALITY)


def strong_views(
    batch: Batch, network: AnyConfig, most: int
) -> list[tuple[NDArray[np.uint8], Result, NDArray[np.bool_] | None]]:
    """Each of the first views: (H, W, 3) uint8 BGR, its truth, and (H, W) where objects may be that have no label."""
    truth, found = batch.truth, []
    names = network.class_names if "boxes" in network.tasks else ()
    for i, view in enumerate(batch.strong[:most].cpu().numpy().transpose(0, 2, 3, 1)[..., ::-1]):
        height, width = view.shape[:2]
        valid = truth.valid[i].cpu().numpy()
        boxes = truth.boxes[i].cpu().numpy()[valid] if names else None
        masks = None
        if "masks" in network.tasks:
            known = truth.mask_known[i].cpu().numpy()[valid]
            first = int(truth.first_mask[i])
            shares = truth.masks[first : first + len(known)].cpu().numpy()
            masks = InstanceMasks(
                [_crop(_enlarged(share, width, height)) if one else _NO_MASK for share, one in zip(shares, known)],  # noqa: B905
                (height, width),
            )
        semantic = None
        if "semantic" in network.tasks:
            cells = truth.semantic[i].cpu().numpy()
            semantic = np.asarray(cv2.resize(cells, (width, height), interpolation=cv2.INTER_NEAREST), np.uint8)
        unlabelled = None
        if names and not bool(truth.classes_known[i].all()):
            cells = (~truth.classes_known[i]).cpu().numpy().astype(np.uint8)
            unlabelled = cv2.resize(cells, (width, height), interpolation=cv2.INTER_NEAREST).astype(bool)
        result = Result(
            (height, width),
            boxes=boxes,
            scores=None if boxes is None else np.ones(len(boxes), np.float32),
            class_ids=None if boxes is None else truth.classes[i].cpu().numpy()[valid].astype(np.int32),
            masks=masks,
            semantic_map=semantic,
            class_names=network.class_names,
            semantic_names=network.semantic_names,
        )
        found.append((np.ascontiguousarray(view), result, unlabelled))
    return found


def write_samples(folder: Path, network: AnyNetwork, dataset: CocoDataset, epoch: int) -> None:
    """Draw what the network answers for the images of a data set: `epoch-0010-1.jpg`, beside `truth-1.jpg`.

    Args:
        folder: For the pictures.
        network: In evaluation mode.
        dataset: A few images.
        epoch: How many are done.
    """
    model = torch_model(network)
    for i in range(len(dataset)):
        truth = dataset[i]
        image = dataset.read(truth)
        expected = folder / f"truth-{i + 1}.jpg"
        if not expected.exists():
            captions = truth.captions or () if "caption" in network.config.tasks else ()
            write_image(expected, tile(image, truth_of(truth, network.config), captions[:1]), _QUALITY)
        result = model.predict(image, score_threshold=SAMPLE_SCORE)
        captions = () if result.caption is None else (result.caption.text or "(no words)",)
        drawn = tile(image, result, captions, options=DrawOptions())
        write_image(folder / f"epoch-{epoch:04d}-{i + 1}.jpg", drawn, _QUALITY)


def truth_of(truth: Truth, network: AnyConfig) -> Result:
    """What is known of an image as a result, of the tasks that the network has; crowds are left out."""
    boxes = classes = masks = None
    if truth.boxes is not None and truth.class_ids is not None and truth.crowd is not None and "boxes" in network.tasks:
        single = ~truth.crowd
        boxes, classes = truth.boxes[single], truth.class_ids[single].astype(np.int32)
        pixels = truth.masks() if "masks" in network.tasks else None
        if pixels is not None:
            masks = InstanceMasks([_crop(mask.view(np.uint8)) for mask in pixels[single]], truth.size)
    return Result(
        truth.size,
        boxes=boxes,
        scores=None if boxes is None else np.ones(len(boxes), np.float32),
        class_ids=classes,
        masks=masks,
        semantic_map=truth.semantic_map() if "semantic" in network.tasks else None,
        class_names=network.class_names,
        semantic_names=network.semantic_names,
    )


def tile(
    image: NDArray[np.uint8],
    result: Result,
    captions: Sequence[str] = (),
    unlabelled: NDArray[np.bool_] | None = None,
    options: DrawOptions = _TRUTH,
) -> NDArray[np.uint8]:
    """Objects on the image, the semantic map beside, captions below: (h, w, 3) uint8 BGR, panels of one width."""
    height = max(1, round(image.shape[0] * _WIDTH / image.shape[1]))
    size = (_WIDTH, height)
    method = cv2.INTER_AREA if image.shape[1] > _WIDTH else cv2.INTER_CUBIC
    scaled = np.asarray(cv2.resize(image, size, interpolation=method), np.uint8)
    panel = scaled.copy()
    if unlabelled is not None:
        there = cv2.resize(unlabelled.astype(np.uint8), size, interpolation=cv2.INTER_NEAREST).astype(bool)
        rows, columns = np.indices((height, _WIDTH), sparse=True)
        panel[there & ((rows + columns) % 12 < 6)] //= 3
    draw_objects(panel, result, options)
    panels = [panel]
    if result.semantic_map is not None:
        colours = semantic_colours(result.class_names, result.semantic_names, None)
        grey = cv2.cvtColor(cv2.cvtColor(scaled, cv2.COLOR_BGR2GRAY), cv2.COLOR_GRAY2BGR)
        classes = np.asarray(cv2.resize(result.semantic_map, size, interpolation=cv2.INTER_NEAREST), np.uint8)
        overlaid = np.asarray(cv2.addWeighted(colours[classes], _MAP_ALPHA, grey, 1 - _MAP_ALPHA, 0), np.uint8)
        overlaid[classes == IGNORED] = 0
        panels += [np.full((height, _GAP, 3), PAPER, np.uint8), overlaid]
    drawn = np.hstack(panels)
    if captions:
        line_height = round(_LETTERS * 1.9)
        lines = [line for text in captions for line in wrapped(text, drawn.shape[1] - 2 * _LETTERS, _LETTERS)]
        bar = np.full((len(lines) * line_height + _LETTERS, drawn.shape[1], 3), PAPER, np.uint8)
        for i, line in enumerate(lines):
            write_text(bar, line, (_LETTERS, _LETTERS + i * line_height), _LETTERS, INK)
        drawn = np.vstack([drawn, bar])
    return drawn


def sheet(tiles: Sequence[NDArray[np.uint8]], columns: int = 2) -> NDArray[np.uint8]:
    """Tiles in rows; each row is as high as its highest tile."""
    width = max(one.shape[1] for one in tiles)
    rows = []
    for start in range(0, len(tiles), columns):
        row = tiles[start : start + columns]
        height = max(one.shape[0] for one in row)
        canvas = np.full((height + _GAP, columns * (width + _GAP), 3), PAPER, np.uint8)
        for i, one in enumerate(row):
            canvas[: one.shape[0], i * (width + _GAP) : i * (width + _GAP) + one.shape[1]] = one
        rows.append(canvas)
    return np.vstack(rows)


def legend(network: AnyConfig) -> list[tuple[str, str]]:
    """(name, colour as "#rrggbb") of the classes of the semantic map, as the pictures have them."""
    if "semantic" not in network.tasks:
        return []
    colours = semantic_colours(network.class_names, network.semantic_names, None)
    return [
        (name, f"#{red:02x}{green:02x}{blue:02x}")
        for name, (blue, green, red) in zip(network.semantic_names, colours.tolist(), strict=False)
    ]


_NO_MASK: tuple[int, int, NDArray[np.uint8]] = (0, 0, np.zeros((0, 0), np.uint8))


def _crop(mask: NDArray[np.uint8]) -> tuple[int, int, NDArray[np.uint8]]:
    """(y0, x0, crop) of the 0 and 1 of a whole mask."""
    x, y, width, height = cv2.boundingRect(mask)
    return y, x, mask[y : y + height, x : x + width]


def _enlarged(share: NDArray[np.uint8], width: int, height: int) -> NDArray[np.uint8]:
    return (cv2.resize(share, (width, height), interpolation=cv2.INTER_LINEAR) > 127).astype(np.uint8)


def _captions_of(batch: Batch, network: AnyConfig) -> dict[int, list[str]]:
    """The captions of each view that has some, as the network is taught them."""
    spoken: dict[int, list[str]] = {}
    if "caption" in network.tasks:
        tokenizer = Tokenizer(network.vocabulary)
        for owner, tokens in zip(batch.owners.tolist(), batch.tokens.tolist(), strict=True):
            spoken.setdefault(owner, []).append(tokenizer.decode(tokens))
    return spoken
