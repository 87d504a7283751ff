"""What `Model.predict` returns: boxes, masks, a semantic map and a caption, each None when not asked for."""

from __future__ import annotations

import numbers
import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any, NamedTuple, overload

import numpy as np
from numpy.typing import NDArray

from . import _native
from .arguments import check_number, described, nearest
from .environment.opencv import require_opencv
from .errors import UnavailableError, UsageError

if TYPE_CHECKING:
    from supervision import Detections

    from .drawing import DrawOptions

# What picks objects: a slice, (N,) bool, or integers in any order.
ObjectIndex = slice | Sequence[int] | Sequence[bool] | NDArray[np.integer[Any]] | NDArray[np.bool_]


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

    @overload
    def __getitem__(self, index: int | np.integer[Any]) -> MaskCrop: ...
    @overload
    def __getitem__(self, index: ObjectIndex) -> InstanceMasks: ...
    def __getitem__(self, index: Any) -> MaskCrop | InstanceMasks:
        """The crop of one mask; or the masks that a slice, a boolean mask or integers pick, without copying any."""
        rows = _rows(index, len(self))
        if isinstance(index, numbers.Integral):
            return MaskCrop(*self._crops[rows[0]])
        return InstanceMasks([self._crops[i] for i in rows], self.image_size)

    def __iter__(self) -> Iterator[MaskCrop]:
        return iter(self.crops())

    def __eq__(self, other: object) -> bool:
        """Whether the same pixels are in the same masks, however large their crops are."""
        if not isinstance(other, InstanceMasks):
            return NotImplemented
        if self is other:
            return True
        return len(self) == len(other) and self.image_size == other.image_size and self.rle() == other.rle()

    def __hash__(self) -> int:
        return hash((len(self), self.image_size))

    def __repr__(self) -> str:
        return f"InstanceMasks({len(self)} of {_size_text(self.image_size)} pixels)"

    def crops(self) -> tuple[MaskCrop, ...]:
        """(y0, x0, crop) for each box: crop is (ch, cw) uint8 of 0 and 1, everything outside it is 0."""
        return tuple([MaskCrop(*placed) for placed in self._crops])

    def full(self, canvas: MaskCanvas | None = None) -> NDArray[np.bool_]:
        """(N, H, W) bool at the size of the image; row i belongs to box i. N may be 0.

        The array is the caller's own. New memory for N x H x W bytes costs several times what the masks do, since
        the system clears it page by page; so from 4 MiB on, large arrays reuse the memory of freed ones (at most 2
        blocks of 128 MiB, which the system may take when it is short of memory; `_native.drop_kept_memory()` frees
        them). An array holds at most four times its size.

        Args:
            canvas: Memory of which only what the last masks covered is cleared, which costs least; the array returned
                is the canvas's own and changes with the next masks written there.
        """
        if canvas is not None:
            return canvas.draw(self)
        frames = _native.cleared_array((len(self), *self.image_size), np.dtype(np.bool_))
        _native.paste_crops(frames, self._crops)
        return frames

    def full_bits(self) -> NDArray[np.uint8]:
        """(N, H, (W + 7) // 8) uint8: `np.packbits(self.full(), axis=2)`, made without the bytes; memory as there."""
        height, width = self.image_size
        frames = _native.cleared_array((len(self), height, (width + 7) // 8), np.dtype(np.uint8))
        _native.paste_bits(frames, self._crops, width)
        return frames

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
    """A sentence about the image.

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
class Detection:
    """One object of a result, as iterating over the result gives it.

    Attributes:
        index: Its row in the result, from 0 on.
        box: x1, y1, x2, y2 in pixels of the image.
        score: In (0, 1].
        class_id: Index into the result's `class_names`.
        name: Of the class.
        category_id: Of the class in the data set the model learned from; None where the model has none.
        mask: A view of the result's crop of this object; None without the masks task. It is not compared.
        track_id: Of the object from frame to frame; None where it has none.
    """

    index: int
    box: tuple[float, float, float, float]
    score: float
    class_id: int
    name: str
    category_id: int | None = None
    mask: MaskCrop | None = field(default=None, compare=False)
    track_id: int | None = None

    def __repr__(self) -> str:
        """One line, rounded."""
        corners = ", ".join(f"{x:.1f}" for x in self.box)
        return f"Detection({self.index}, {self.name!r}, {self.score:.3f}, box=({corners}))"


# The fields of a result that have a row for each object.
_BY_OBJECT = ("boxes", "scores", "class_ids", "masks", "track_ids")


@dataclass(frozen=True, repr=False, eq=False)
class Result:
    """The predictions for one image; what belongs to a task that was not asked for is None.

    A result is a collection of objects: `len(result)` is their number, and iterating gives a `Detection` for each.
    `result[i]`, `result[:5]`, `result[result.scores > 0.5]` and `result[[4, 0]]` are results with these objects alone;
    all else, such as the caption, stays. A result without objects is false in an `if`, as an empty list is.

    Two results are equal if all but their times are: arrays by content, masks by their pixels. The hash is made of
    image size, class ids and caption, so do not write into the arrays of a result that is in a set or a dictionary.

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
        track_ids: (N,) int64: the same number for the same object in every frame, from 1 on, -1 for objects without
            one; None where objects are not tracked.
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
    track_ids: NDArray[np.int64] | None = None
    timings_ms: Mapping[str, float] = field(default_factory=dict, compare=False)

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

    def __len__(self) -> int:
        return 0 if self.boxes is None else len(self.boxes)

    def __iter__(self) -> Iterator[Detection]:
        if self.boxes is None or self.scores is None or self.class_ids is None:
            return
        rows = zip(self.boxes.tolist(), self.scores.tolist(), self.class_ids.tolist(), strict=True)
        for i, (box, score, class_id) in enumerate(rows):
            category_id = self.category_ids[class_id] if self.category_ids else None
            mask = None if self.masks is None else self.masks[i]
            track_id = None if self.track_ids is None or self.track_ids[i] < 0 else int(self.track_ids[i])
            yield Detection(i, tuple(box), score, class_id, self._name(class_id), category_id, mask, track_id)

    def __getitem__(self, index: int | np.integer[Any] | ObjectIndex) -> Result:
        """A result with some of the objects; masks are not copied.

        Args:
            index: The number of one object, from the end if negative; a slice; (N,) bool; or integers in any order.

        Raises:
            IndexError: If there is no such object, or a boolean mask has another length.
            TypeError: If it is none of these.
        """
        rows = _rows(index, len(self))
        values = {name: getattr(self, name) for name in _BY_OBJECT}
        return replace(self, **{name: value[rows] for name, value in values.items() if value is not None})

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Result):
            return NotImplemented
        names = [one.name for one in fields(self) if one.compare]
        return self is other or all(_is_same(getattr(self, name), getattr(other, name)) for name in names)

    def __hash__(self) -> int:
        class_ids = None if self.class_ids is None else tuple(self.class_ids.tolist())
        return hash((self.image_size, class_ids, self.caption))

    @property
    def detected_names(self) -> tuple[str, ...] | None:
        """The class name of each box, or None when boxes were not asked for."""
        if self.class_ids is None:
            return None
        return tuple([self._name(i) for i in self.class_ids.tolist()])  # as in `caption_of`

    def _name(self, class_id: int) -> str:
        """Of a class; its number where the result was made without names."""
        return self.class_names[class_id] if self.class_names else str(class_id)

    def filter(self, classes: str | int | Collection[str | int] | None = None, score: float | None = None) -> Result:
        """A result with the objects of some classes, and of those the ones that score above a limit.

        Args:
            classes: A class or several, by name or by index into `class_names`; None for all.
            score: Objects score above this, as with `score_threshold` of `Model.predict`; None for all.

        Raises:
            UsageError: If a class is unknown, or the result is without the boxes task.
        """
        class_ids, scores = self._objects("filter")[1:]
        chosen = np.ones(len(self), bool)
        if classes is not None:
            several = classes if isinstance(classes, Collection) and not isinstance(classes, str) else [classes]
            chosen &= np.isin(class_ids, np.array([self._class_id(one) for one in several], np.int64))
        check_number("score", score, or_none=True)
        if score is not None:
            chosen &= scores > score
        return self[chosen]

    def _class_id(self, wanted: object) -> int:
        """The index of a class that is named, or given by its index."""
        if isinstance(wanted, str):
            if wanted not in self.class_names:
                raise UsageError(f"there is no class {wanted!r}{nearest(wanted, self.class_names)}; see class_names")
            return self.class_names.index(wanted)
        if not isinstance(wanted, numbers.Integral) or isinstance(wanted, bool):
            raise UsageError(f"classes are given by name or index, got {described(wanted)}")
        index = int(wanted)
        if self.class_names and not 0 <= index < len(self.class_names):
            raise UsageError(f"there is no class {index}; the indices are 0 to {len(self.class_names) - 1}")
        return index

    def _objects(self, wanted: str) -> tuple[NDArray[np.float32], NDArray[np.int32], NDArray[np.float32]]:
        """Boxes, class ids and scores.

        Raises:
            UsageError: If the task was not asked for, rather than say that nothing was found.
        """
        if self.boxes is None or self.class_ids is None or self.scores is None:
            raise UsageError(f'{wanted} needs boxes, which this result was made without; predict with the task "boxes"')
        return self.boxes, self.class_ids, self.scores

    def semantic_areas(self) -> list[tuple[int, int]]:
        """(class, pixels) of every class in the semantic map, largest first; empty without a map."""
        if self.semantic_map is None:
            return []
        counts = np.bincount(self.semantic_map.ravel())
        return [(int(i), int(counts[i])) for i in np.argsort(-counts, kind="stable") if counts[i]]

    def plot(
        self,
        image: NDArray[np.uint8] | str | os.PathLike[str],
        options: DrawOptions | None = None,
        **changes: Any,
    ) -> NDArray[np.uint8]:
        """Draw the result on its image.

        Args:
            image: (h, w, 3) uint8 BGR or (h, w) grey, the image that was predicted, or its path. It is not changed.
            options: How to draw; None for the defaults: boxes, masks, labels and scores at the size of the image.
            **changes: Fields of `DrawOptions` that differ from `options`, such as `labels=False` or `panels=2`.

        Returns:
            (h, w, 3) uint8 BGR; with `panels=2` of another size.

        Raises:
            UsageError: If the image is of another size than the result is for, or there is no such option.
            ImageError: If `image` is a path that cannot be read as an image.
        """
        from .drawing import draw  # here, since results are read without OpenCV too

        if isinstance(image, str | os.PathLike):
            from .images.image_files import read_image

            image = read_image(image)
        return draw(image, self, options, **changes)

    def save(
        self,
        path: str | os.PathLike[str],
        image: NDArray[np.uint8] | str | os.PathLike[str],
        options: DrawOptions | None = None,
        **changes: Any,
    ) -> None:
        """Write what `plot` draws to an image file, which appears whole or not at all.

        Args:
            path: Where to; the suffix chooses the format.
            image: As for `plot`, like the arguments not named here.

        Raises:
            UsageError: As for `plot`; or if the suffix names no format that can be written.
            ImageError: As for `plot`.
            OSError: If the disk refuses.
        """
        from .images.image_files import write_image

        write_image(path, self.plot(image, options, **changes))

    def to_json(self) -> dict[str, Any]:
        """Plain values for `json.dumps`, as in a line of `results.jsonl`: see docs/json.md.

        Masks and the semantic map become COCO run-length codes.
        """
        content: dict[str, Any] = {"image_size": list(self.image_size)}
        if self.boxes is not None:
            content["objects"] = objects = []
            codes = None if self.masks is None else self.masks.rle()
            for found in self:
                one: dict[str, Any] = {
                    "box": [round(x, 2) for x in found.box],
                    "score": round(found.score, 4),
                    "class_id": found.class_id,
                    "class_name": found.name,
                }
                if found.category_id is not None:
                    one["category_id"] = found.category_id
                if found.track_id is not None:
                    one["track_id"] = found.track_id
                if codes is not None:
                    one["mask"] = codes[found.index]
                objects.append(one)
        if self.semantic_map is not None:
            content["semantic"] = [
                {
                    "class_id": class_id,
                    "class_name": self.semantic_names[class_id],
                    "pixels": pixels,
                    "mask": rle_from_crop((self.semantic_map == class_id).astype(np.uint8), 0, 0, self.image_size),
                }
                for class_id, pixels in self.semantic_areas()
            ]
        if self.caption is not None:
            content["caption"] = {
                "text": self.caption.text,
                "token_ids": list(self.caption.token_ids),
                "log_prob": round(self.caption.log_prob, 5),
                "score": round(self.caption.score, 5),
            }
            if self.caption.is_cut:
                content["caption"]["is_cut"] = True
            if self.caption.others:
                content["caption"]["others"] = [
                    {"text": other.text, "log_prob": round(other.log_prob, 5), "score": round(other.score, 5)}
                    for other in self.caption.others
                ]
        content["timings_ms"] = {stage: round(value, 3) for stage, value in self.timings_ms.items()}
        return content

    def to_coco(self, image_id: int) -> list[dict[str, Any]]:
        """The objects as COCO's results format has them; the lists of all images together are what `loadRes` takes.

        Args:
            image_id: Of the image in the data set.

        Returns:
            For each object `image_id`, `category_id` (the class index, where the model has no category ids), `bbox`
            [x, y, width, height] in pixels, `score`, with the masks task `segmentation`, a run-length code, and
            for objects that have one a `track_id`.

        Raises:
            UsageError: If the result is without the boxes task.
        """
        self._objects("to_coco")
        codes = None if self.masks is None else self.masks.rle()
        entries = []
        for found in self:
            x1, y1, x2, y2 = found.box
            entry = {
                "image_id": image_id,
                "category_id": found.class_id if found.category_id is None else found.category_id,
                "bbox": [x1, y1, x2 - x1, y2 - y1],
                "score": found.score,
            }
            if found.track_id is not None:
                entry["track_id"] = found.track_id
            entries.append(entry if codes is None else {**entry, "segmentation": codes[found.index]})
        return entries

    def to_supervision(self) -> Detections:
        """The objects as `supervision.Detections`, with masks as (N, H, W) bool and names as `data["class_name"]`.

        `track_ids` are its `tracker_id`.

        Raises:
            UsageError: If the result is without the boxes task.
            NotHereError: If the package supervision is not installed.
        """
        boxes, class_ids, scores = self._objects("to_supervision")
        try:
            import supervision
        except ImportError as error:
            raise UnavailableError(
                f"to_supervision needs the package supervision ({error}); install it: pip install supervision"
            ) from None
        return supervision.Detections(
            xyxy=boxes.copy(),
            mask=None if self.masks is None else self.masks.full(),
            confidence=scores.copy(),
            class_id=class_ids.copy(),
            tracker_id=None if self.track_ids is None else self.track_ids.copy(),
            data={"class_name": np.array(self.detected_names, str)},
        )


def _rows(index: Any, count: int) -> NDArray[np.intp]:
    """The numbers of the objects, of `count`, that an index picks.

    Raises:
        IndexError: If there is no such object, or a boolean mask has another length.
        TypeError: If it is no index.
    """
    if isinstance(index, slice):
        return np.arange(count)[index]
    picked = np.atleast_1d(np.asarray(index))
    if isinstance(index, bool | np.bool_) or picked.ndim != 1 or (picked.size and picked.dtype.kind not in "biu"):
        raise TypeError(f"objects are picked by a number, a slice, a boolean mask or integers, got {described(index)}")
    if picked.dtype.kind == "b":
        if len(picked) != count:
            raise IndexError(f"a boolean mask of length {len(picked)} cannot pick from {count} objects")
        return np.flatnonzero(picked)
    beyond = picked[(picked < -count) | (picked >= count)]
    if len(beyond):
        raise IndexError(f"there is no object {beyond[0]} among {count}")
    return picked.astype(np.intp)


def _is_same(one: Any, other: Any) -> bool:
    if isinstance(one, np.ndarray) and isinstance(other, np.ndarray):
        return np.array_equal(one, other)
    return not isinstance(one, np.ndarray) and not isinstance(other, np.ndarray) and one == other


def _size_text(image_size: tuple[int, int]) -> str:
    """Width x height, as sizes are spoken of."""
    return f"{image_size[1]}x{image_size[0]}"


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
