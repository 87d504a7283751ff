"""What `Model.predict` answers: boxes, masks, a semantic map and a caption, each None when not asked for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from . import _native
from .environment.opencv import require_opencv


class MaskCrop(NamedTuple):
    """The small rectangle around one mask.

    Attributes:
        y0: Row of its upper edge in the image.
        x0: Column of its left edge in the image.
        crop: (ch, cw) uint8 of 0 and 1; may be empty. Everything outside it is 0.
    """

    y0: int
    x0: int
    crop: NDArray[np.uint8]


class InstanceMasks:
    """One mask per box, kept as the small rectangle around each object; bigger forms are made when asked for.

    Args:
        crops: For each box (y0, x0, crop): crop is (ch, cw) uint8 of 0 and 1, its upper left pixel at row y0,
            column x0 of the image. A crop may be empty.
        image_size: (height, width) of the image, in pixels.
    """

    def __init__(self, crops: Sequence[tuple[int, int, NDArray[np.uint8]]], image_size: tuple[int, int]):
        self._crops = tuple(crops)
        self.image_size = image_size

    def __len__(self) -> int:
        return len(self._crops)

    def __repr__(self) -> str:
        return f"InstanceMasks({len(self)} of {_size_text(self.image_size)} pixels)"

    def crops(self) -> tuple[MaskCrop, ...]:
        """(y0, x0, crop) for each box: crop is (ch, cw) uint8 of 0 and 1, everything outside it is 0."""
        return tuple([MaskCrop(*placed) for placed in self._crops])

    def full(self, canvas: MaskCanvas | None = None, out: NDArray[np.bool_] | None = None) -> NDArray[np.bool_]:
        """(N, H, W) bool at the size of the image; row i belongs to box i. N may be 0.

        The array is the caller's own. New memory for N x H x W bytes costs several times what the masks do, since
        the system clears it page by page; so from 4 MiB on, memory goes round: once the last reference to an
        earlier array and to every view of it is gone, the next one is made where it lay. At most two such blocks of
        at most 128 MiB each are kept meanwhile, which the system may take when it is short of memory; larger ones
        go at once, and `_native.drop_kept_memory()` lets all go. An array holds at most four times its size.

        Args:
            canvas: Memory of which only what the last masks covered is cleared, which costs least; the array returned
                is the canvas's own and changes with the next masks written there.
            out: (N, H, W) bool, contiguous and writable; all of it is written. It is what is returned.

        Raises:
            ValueError: If both are given, or `out` is of another kind.
        """
        if canvas is not None:
            if out is not None:
                raise ValueError("masks go into a canvas or into out, not into both")
            return canvas.draw(self)
        if out is None:
            out = _native.cleared_array((len(self), *self.image_size), np.dtype(np.bool_))
        else:
            _check_frames(out, (len(self), *self.image_size), np.bool_)
            out.fill(False)
        _native.paste_crops(out, self._crops)
        return out

    def full_bits(self, out: NDArray[np.uint8] | None = None) -> NDArray[np.uint8]:
        """(N, H, (W + 7) // 8) uint8: `np.packbits(self.full(), axis=2)`, made without the bytes, in memory as there.

        Args:
            out: Memory to write into, contiguous and writable; all of it is written. It is what is returned.

        Raises:
            ValueError: If `out` is of another kind.
        """
        height, width = self.image_size
        shape = (len(self), height, (width + 7) // 8)
        if out is None:
            out = _native.cleared_array(shape, np.dtype(np.uint8))
        else:
            _check_frames(out, shape, np.uint8)
            out.fill(0)
        _native.paste_bits(out, self._crops, width)
        return out

    def areas(self) -> NDArray[np.int64]:
        """(N,) int64, pixels in each mask."""
        return np.array([np.count_nonzero(crop) for _, _, crop in self._crops], np.int64)

    def bits(self) -> list[tuple[int, int, NDArray[np.uint8]]]:
        """(y0, x0, bits) for each box: its crop with eight pixels a byte along rows, the first one highest."""
        return [(y0, x0, np.packbits(crop, axis=1)) for y0, x0, crop in self._crops]

    def polygons(self) -> list[list[NDArray[np.float32]]]:
        """For each mask its outer outlines in pixels of the image, (P, 2) float32 x, y each; holes are left out."""
        require_opencv()
        import cv2  # here, since results are read without it too

        found = []
        for y0, x0, crop in self._crops:
            outlines: Any = ()
            if crop.size:
                outlines, _ = cv2.findContours(crop, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE, offset=(x0, y0))
            found.append([np.float32(outline[:, 0] + 0.5) for outline in outlines])
        return found

    def coco_polygons(self) -> list[list[list[float]]]:
        """For each mask its outlines as COCO's `segmentation` holds them: [x1, y1, x2, y2, ...] each.

        They run along the edges of the pixels, so that pycocotools makes the same mask of them again, but for
        holes, which such lists cannot hold and which are filled. A mask without pixels has an empty list.
        """
        require_opencv()
        import cv2  # here, since results are read without it too

        found = []
        for y0, x0, crop in self._crops:
            # In a crop of twice the size each pixel has a quarter for each of its corners: an outline goes through
            # the quarters along the border, and each stands for its corner.
            quarters = np.repeat(np.repeat(crop, 2, axis=0), 2, axis=1)
            outlines: Any = ()
            if crop.size:
                outlines, _ = cv2.findContours(quarters, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
            found.append([_corners(outline[:, 0]) + np.array([x0, y0]) for outline in outlines])
        return [[outline.ravel().astype(float).tolist() for outline in outlines] for outlines in found]

    def rle(self) -> list[dict[str, Any]]:
        """One COCO run-length code per mask: {"size": [height, width], "counts": compressed string}."""
        return _native.rle_codes(self._crops, self.image_size)


class MaskCanvas:
    """Memory for full-size masks that is used again and again: only what the last masks covered is cleared.

    One thread at a time. It grows to the most masks it has seen, one byte a pixel.
    """

    def __init__(self) -> None:
        self._frames = np.zeros((0, 0, 0), bool)
        self._drawn: tuple[tuple[int, int, NDArray[np.uint8]], ...] = ()

    def draw(self, masks: InstanceMasks) -> NDArray[np.bool_]:
        """(N, H, W) bool, valid until the next call."""
        n = len(masks)
        if self._frames.shape[1:] != masks.image_size or len(self._frames) < n:
            self._frames = np.zeros((n, *masks.image_size), bool)
        else:
            _native.paste_crops(self._frames[: len(self._drawn)], self._drawn, erase=True)
        self._drawn = masks._crops
        _native.paste_crops(self._frames[:n], self._drawn)
        return self._frames[:n]


@dataclass(frozen=True)
class Caption:
    """A sentence about the picture.

    Attributes:
        text: The words, lower case, joined by spaces.
        token_ids: Their ids, without begin and end tokens.
        log_prob: Natural logarithm of the probability of the whole sentence, its end included.
        score: `log_prob` divided by length to the power of the length penalty; what the search ranked by.
        is_cut: The time budget ended the search; the sentence may be unfinished.
        others: The next best sentences, as many as were asked for.
    """

    text: str
    token_ids: tuple[int, ...]
    log_prob: float
    score: float
    is_cut: bool = False
    others: tuple[Caption, ...] = ()


@dataclass(frozen=True, repr=False)
class Result:
    """The answers for one image; what belongs to a task that was not asked for is None.

    Attributes:
        image_size: (height, width) of the image passed in.
        boxes: (N, 4) float32 xyxy in pixels of that image, by falling score; N may be 0.
        scores: (N,) float32 in (0, 1].
        class_ids: (N,) int32, indices into `class_names`.
        masks: N masks, row i for box i.
        semantic_map: (H, W) uint8, indices into `semantic_names`.
        caption: One sentence.
        class_names: Names of all classes of the model.
        semantic_names: Names of all semantic classes of the model.
        category_ids: For each class its id in the data set the model learned from.
        timings_ms: Milliseconds by stage; "total" is the whole call. "caption_tokens" is a count: decoder
            runs.
    """

    image_size: tuple[int, int]
    boxes: NDArray[np.float32] | None = None
    scores: NDArray[np.float32] | None = None
    class_ids: NDArray[np.int32] | None = None
    masks: InstanceMasks | None = None
    semantic_map: NDArray[np.uint8] | None = None
    caption: Caption | None = None
    class_names: tuple[str, ...] = ()
    semantic_names: tuple[str, ...] = ()
    category_ids: tuple[int, ...] = ()
    timings_ms: Mapping[str, float] = field(default_factory=dict)

    def __repr__(self) -> str:
        """One line with counts in the place of arrays."""
        parts = [f"{_size_text(self.image_size)} pixels"]
        if self.boxes is not None:
            parts.append(f"{len(self.boxes)} boxes")
        if self.masks is not None:
            parts.append(f"{len(self.masks)} masks")
        if self.semantic_map is not None:
            parts.append("semantic map")
        if self.caption is not None:
            parts.append(f"caption {self.caption.text!r}")
        if "total" in self.timings_ms:
            parts.append(f"{self.timings_ms['total']:.1f} ms")
        return f"Result({', '.join(parts)})"

    @cached_property
    def detected_names(self) -> tuple[str, ...] | None:
        """The class name of each box, or None when boxes were not asked for."""
        if self.class_ids is None:
            return None
        return tuple([self.class_names[i] for i in self.class_ids])  # as in `caption_of`

    def semantic_areas(self) -> list[tuple[int, int]]:
        """(class, pixels) of every class in the semantic map, largest first; empty without a map."""
        if self.semantic_map is None:
            return []
        counts = np.bincount(self.semantic_map.ravel())
        return [(int(i), int(counts[i])) for i in np.argsort(-counts, kind="stable") if counts[i]]

    def to_json(self) -> dict[str, Any]:
        """Plain values for `json.dumps`; masks and the semantic map become COCO run-length codes."""
        answer: dict[str, Any] = {"image_size": list(self.image_size)}
        if self.boxes is not None and self.scores is not None and self.class_ids is not None:
            codes = self.masks.rle() if self.masks is not None else None
            objects = []
            for i, class_id in enumerate(self.class_ids.tolist()):
                found: dict[str, Any] = {
                    "box": [round(x, 2) for x in self.boxes[i].tolist()],
                    "score": round(float(self.scores[i]), 4),
                    "class_id": class_id,
                    "class_name": self.class_names[class_id],
                }
                if self.category_ids:
                    found["category_id"] = self.category_ids[class_id]
                if codes is not None:
                    found["mask"] = codes[i]
                objects.append(found)
            answer["objects"] = objects
        if self.semantic_map is not None:
            answer["semantic"] = [
                {
                    "class_id": class_id,
                    "class_name": self.semantic_names[class_id],
                    "pixels": pixels,
                    "mask": rle_from_crop((self.semantic_map == class_id).astype(np.uint8), 0, 0, self.image_size),
                }
                for class_id, pixels in self.semantic_areas()
            ]
        if self.caption is not None:
            answer["caption"] = {
                "text": self.caption.text,
                "token_ids": list(self.caption.token_ids),
                "log_prob": round(self.caption.log_prob, 5),
                "score": round(self.caption.score, 5),
            }
            if self.caption.is_cut:
                answer["caption"]["is_cut"] = True
            if self.caption.others:
                answer["caption"]["others"] = [
                    {"text": other.text, "log_prob": round(other.log_prob, 5), "score": round(other.score, 5)}
                    for other in self.caption.others
                ]
        answer["timings_ms"] = {stage: round(value, 3) for stage, value in self.timings_ms.items()}
        return answer


def _size_text(image_size: tuple[int, int]) -> str:
    """Width x height, as sizes are spoken of."""
    return f"{image_size[1]}x{image_size[0]}"


def _check_frames(out: NDArray[Any], shape: tuple[int, ...], dtype: type[np.generic]) -> None:
    if out.shape != shape or out.dtype != dtype:
        wanted = np.dtype(dtype).name
        raise ValueError(f"out must be {wanted} of shape {shape}, got {out.dtype} of shape {out.shape}")
    if not (out.flags.c_contiguous and out.flags.writeable):
        raise ValueError("out must be C-contiguous and writable; call numpy.empty for one that is")


def _corners(quarters: NDArray[np.int32]) -> NDArray[np.int32]:
    """(P, 2) x, y of an outline's quarter pixels to the corners of pixels that they stand for, each once."""
    corners = (quarters + 1) // 2
    return corners[(corners != np.roll(corners, 1, axis=0)).any(axis=1)]


def rle_from_crop(crop: NDArray[np.uint8], y0: int, x0: int, image_size: tuple[int, int]) -> dict[str, Any]:
    """The COCO run-length code of a mask that is `crop` at row y0, column x0 and 0 elsewhere.

    Args:
        crop: (ch, cw), zero or not; must lie inside the image. May be empty.
        y0: Row of its upper edge.
        x0: Column of its left edge.
        image_size: (height, width) of the whole mask.

    Returns:
        {"size": [height, width], "counts": str}, byte for byte what pycocotools encodes.
    """
    return _native.rle_codes([(y0, x0, crop)], image_size)[0]
