"""What others offer for the same work, each as a function of the same raw inputs; absent packages are left out.

Every peer starts from raw heads. Where its interface wants sigmoid scores, making them counts; where it wants decoded
boxes, those are given to it for nothing.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable
from types import ModuleType
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from .kernel_inputs import BINS, SIZE, Heads, cell_grid

Found = tuple[NDArray[Any], NDArray[Any], NDArray[Any]]
"""Boxes (n, 4) xyxy in pixels of the input, scores (n,), class ids (n,)."""

CONTENT = (0.0, 140 / SIZE, 1.0, 500 / SIZE)
"""Where a 1280 x 720 image lies in the input, as fractions of it."""


def optional(name: str) -> ModuleType | None:
    """A package, or None where it is not installed."""
    try:
        return importlib.import_module(name)
    except ImportError:
        return None


def letterbox_opencv(image: NDArray[np.uint8], tensor: NDArray[np.float32]) -> NDArray[np.float32]:
    """OpenCV's resize and one numpy pass a channel, into memory that is used again."""
    scale = min(SIZE / image.shape[0], SIZE / image.shape[1])
    height, width = round(image.shape[0] * scale), round(image.shape[1] * scale)
    small = cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR)
    top, left = (SIZE - height) // 2, (SIZE - width) // 2
    tensor[:, :top] = tensor[:, top + height :] = np.float32(114 / 255)
    tensor[:, top : top + height, :left] = tensor[:, top : top + height, left + width :] = np.float32(114 / 255)
    for channel in range(3):
        out = tensor[channel, top : top + height, left : left + width]
        np.multiply(small[..., 2 - channel], np.float32(1 / 255), out=out)
    return tensor


def letterbox_blob(image: NDArray[np.uint8]) -> NDArray[np.float32]:
    """OpenCV's resize, border and blobFromImage."""
    scale = min(SIZE / image.shape[0], SIZE / image.shape[1])
    height, width = round(image.shape[0] * scale), round(image.shape[1] * scale)
    small = cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR)
    top, left = (SIZE - height) // 2, (SIZE - width) // 2
    borders = (top, SIZE - height - top, left, SIZE - width - left)
    padded = cv2.copyMakeBorder(small, *borders, cv2.BORDER_CONSTANT, value=(114, 114, 114))
    return np.asarray(cv2.dnn.blobFromImage(padded, 1 / 255, swapRB=True), np.float32)


def boxes_opencv(heads: Heads, score: float, iou: float, limit: int) -> tuple[Found, NDArray[np.intp]]:
    """numpy for threshold and distances, of the candidates alone, and OpenCV's NMS; and the cells of the boxes.

    With thousands of candidates OpenCV's NMS takes seconds; a loop over vectors of numpy takes its place there.
    """
    flat = np.flatnonzero(heads.class_logits.ravel() > np.log(score / (1 - score)))
    class_ids, cells = np.divmod(flat, heads.class_logits.shape[1])
    scores = (1 / (1 + np.exp(-heads.class_logits.ravel()[flat]))).astype(np.float32)
    boxes = _decoded(heads.box_bins, cells)
    if len(flat) > 3000:
        kept = _suppressed(boxes, scores, class_ids, iou, limit)
    else:
        sides = np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], axis=1)
        # OpenCV's own types ask for lists; it takes arrays, without a copy.
        nms: Any = cv2.dnn.NMSBoxesBatched
        kept = np.asarray(nms(sides, scores, class_ids.astype(np.int32), score, iou), np.intp)
        kept = kept[np.argsort(-scores[kept], kind="stable")[:limit]]
    return (boxes[kept], scores[kept], class_ids[kept]), cells[kept]


def cleared_frames(n: int, size: tuple[int, int], out: NDArray[np.bool_] | None) -> NDArray[np.bool_]:
    """(n, H, W) bool of zeros: `out` cleared, or new memory."""
    if out is None:
        return np.zeros((n, *size), bool)
    out.fill(False)
    return out


def masks_opencv(
    heads: Heads,
    found: Found,
    cells: NDArray[np.intp],
    size: tuple[int, int],
    content: tuple[int, int, int, int],
    out: NDArray[np.bool_] | None = None,
) -> NDArray[np.bool_]:
    """(n, H, W) bool: products in numpy, OpenCV's resize of each plane's content, zeros outside the box."""
    height, width = size
    logits = heads.coefficients[:, cells].T @ heads.prototypes.reshape(32, -1)
    masks = cleared_frames(len(cells), size, out)
    y0, y1, x0, x1 = content
    scale = np.array([width / (x1 - x0), height / (y1 - y0)] * 2) / 4
    boxes = ((found[0] - np.array([x0, y0, x0, y0]) * 4) * scale).round().astype(int)
    for mask, plane, (left, top, right, bottom) in zip(masks, logits.reshape(-1, 160, 160), boxes, strict=True):
        large = cv2.resize(plane[y0:y1, x0:x1], (width, height), interpolation=cv2.INTER_LINEAR)
        part = slice(max(top, 0), max(bottom, 0)), slice(max(left, 0), max(right, 0))
        mask[part] = large[part] > 0
    return masks


def semantic_opencv(logits: NDArray[np.float32]) -> NDArray[np.uint8]:
    """OpenCV's resize of each class and a running maximum."""
    best = cv2.resize(logits[0], (SIZE, SIZE), interpolation=cv2.INTER_LINEAR)
    winners = np.zeros((SIZE, SIZE), np.uint8)
    for class_id in range(1, len(logits)):
        value = cv2.resize(logits[class_id], (SIZE, SIZE), interpolation=cv2.INTER_LINEAR)
        winners[value > best] = class_id
        cv2.max(best, value, best)
    return winners


def semantic_torch(torch: Any, logits: NDArray[np.float32]) -> NDArray[np.uint8]:
    """torch's bilinear interpolation and argmax."""
    large = torch.nn.functional.interpolate(torch.from_numpy(logits)[None], (SIZE, SIZE), mode="bilinear")
    return large[0].argmax(0).to(torch.uint8).numpy()


class EdgeFirst:
    """The Rust decoder of edgefirst-decoder with masks of edgefirst-image; None where they are not installed."""

    @classmethod
    def open(cls) -> EdgeFirst | None:
        os.environ.setdefault("RAYON_NUM_THREADS", "1")
        os.environ.setdefault("EDGEFIRST_FORCE_BACKEND", "cpu")
        modules = [optional(f"edgefirst.{name}") for name in ("decoder", "image", "tensor")]
        return None if any(module is None for module in modules) else cls(*modules)

    def __init__(self, decoder: Any, image: Any, tensor: Any) -> None:
        self._decoder, self._image, self._tensor = decoder, image, tensor
        self._processor = image.ImageProcessor()
        torch = optional("torch")
        self._torch = torch

    def _tensor_of(self, array: NDArray[np.float32]) -> Any:
        tensor = self._tensor.Tensor(list(array.shape), dtype="float32", mem=self._tensor.TensorMemory.MEM)
        tensor.from_numpy(array)
        return tensor

    def _scores_into(self, logits: NDArray[np.float32], scores: NDArray[np.float32]) -> None:
        if self._torch is not None:
            self._torch.sigmoid(self._torch.from_numpy(logits), out=self._torch.from_numpy(scores))
        else:
            np.divide(1, 1 + np.exp(-logits), out=scores)

    def boxes(self, heads: Heads, score: float, iou: float, limit: int, masks: bool) -> Callable[[], Any]:
        """A function that decodes: (boxes as fractions, scores, classes, prototypes or None)."""
        names, output = self._decoder.DimName, self._decoder.Output
        cells = heads.class_logits.shape[1]
        outputs = [
            output.boxes(dshape=[(names.Batch, 1), (names.BoxCoords, 4), (names.NumBoxes, cells)]).with_normalized(
                True
            ),
            output.scores(dshape=[(names.Batch, 1), (names.NumClasses, 80), (names.NumBoxes, cells)]),
        ]
        boxes = _decoded(heads.box_bins, np.arange(cells)) / SIZE
        centred = np.stack([*((boxes[:, :2] + boxes[:, 2:]) / 2).T, *(boxes[:, 2:] - boxes[:, :2]).T]).astype(
            np.float32
        )
        scores = self._tensor_of(np.empty((1, 80, cells), np.float32))
        inputs = [self._tensor_of(centred[None]), scores]
        if masks:
            count = (names.NumProtos, 32)
            outputs.append(output.mask_coefficients(dshape=[(names.Batch, 1), count, (names.NumBoxes, cells)]))
            outputs.append(output.protos(dshape=[(names.Batch, 1), count, (names.Height, 160), (names.Width, 160)]))
            inputs += [self._tensor_of(heads.coefficients[None]), self._tensor_of(heads.prototypes[None])]
        decoder = self._decoder.Decoder.new_from_outputs(
            outputs,
            score_threshold=score,
            iou_threshold=iou,
            nms=self._decoder.Nms.ClassAware,
            decoder_version=self._decoder.DecoderVersion.Yolov8,
            input_dims=(SIZE, SIZE),
            multi_label=True,
        )
        decoder.pre_nms_top_k = 0  # its default drops candidates
        decoder.max_det = limit

        def decode() -> Any:
            with scores.map() as view:
                self._scores_into(heads.class_logits, np.asarray(memoryview(view)).reshape(80, cells))
            return decoder.decode_proto(inputs, limit)

        return decode

    def masks(self, decode: Callable[[], Any], size: tuple[int, int]) -> Callable[[], Any]:
        """A function that decodes and makes tiles as large as their boxes, in an image of (height, width)."""
        height, width = size
        resolution = self._image.MaskResolution.Scaled(width, height)
        region = None if size == (SIZE, SIZE) else CONTENT

        def make() -> Any:
            boxes, scores, classes, prototypes = decode()
            return self._processor.materialize_masks(boxes, scores, classes, prototypes, region, resolution)

        return make

    def semantic(self, logits: NDArray[np.float32]) -> Callable[[], NDArray[np.uint8]]:
        names = self._decoder.DimName
        decoder = self._decoder.Decoder.new_from_outputs(
            [
                self._decoder.Output.segmentation(
                    dshape=[(names.Batch, 1), (names.NumClasses, 173), (names.Height, 80), (names.Width, 80)],
                    decoder=self._decoder.DecoderType.Semantic,
                )
            ],
            input_dims=(SIZE, SIZE),
        )
        source = self._tensor_of(logits[None])
        target = self._tensor.Tensor([SIZE, SIZE], dtype="uint8", mem=self._tensor.TensorMemory.MEM)

        def decode() -> NDArray[np.uint8]:
            decoder.decode_semantic([source], target, mode=self._decoder.DecodeMode.Accurate)
            with target.map() as view:
                return np.asarray(memoryview(view)).copy()

        return decode


def _suppressed(
    boxes: NDArray[np.float32], scores: NDArray[np.float32], class_ids: NDArray[Any], iou: float, limit: int
) -> NDArray[np.intp]:
    """Indices of at most `limit` boxes that stay, by falling score: each one kept drops the rest of its class."""
    order = np.argsort(-scores, kind="stable")
    x1, y1, x2, y2 = (boxes + class_ids[:, None].astype(np.float32) * 4096)[order].T  # classes lie apart
    areas = (x2 - x1) * (y2 - y1)
    kept: list[int] = []
    left = np.arange(len(order))
    while len(left) and len(kept) < limit:
        i, left = left[0], left[1:]
        kept.append(int(order[i]))
        width = np.minimum(x2[i], x2[left]) - np.maximum(x1[i], x1[left])
        height = np.minimum(y2[i], y2[left]) - np.maximum(y1[i], y1[left])
        overlap = width.clip(0) * height.clip(0)
        left = left[overlap <= iou * (areas[i] + areas[left] - overlap)]
    return np.array(kept, np.intp)


def _decoded(box_bins: NDArray[np.float32], cells: NDArray[Any]) -> NDArray[np.float32]:
    """(n, 4) float32 xyxy of some cells."""
    centres, strides = cell_grid()
    logits = box_bins[:, cells].reshape(4, BINS, -1)
    weights = np.exp(logits - logits.max(axis=1, keepdims=True))
    distances = np.einsum("sbn,b->sn", weights, np.arange(BINS, dtype=np.float32)) / weights.sum(axis=1)
    corners = (distances * strides[cells]).T
    return np.concatenate([centres[cells] - corners[:, :2], centres[cells] + corners[:, 2:]], axis=1).astype(np.float32)
