"""The forms an object's outline takes in COCO files: polygons, run lengths, compressed run lengths."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from pycocotools import mask

coco_mask: Any = mask  # The published type stubs of pycocotools disagree with the library.

Rle = dict[str, Any]
"""COCO's compressed run lengths, {"size": [height, width], "counts": text}."""

Segmentation = tuple[np.ndarray, ...] | Rle
"""Polygons, each float64 (2 * points,) as x, y, x, y, ... in pixels; or run lengths."""


class BadSegmentation:
    """Stands in for a segmentation that could not be understood, until there is an annotation to blame."""

    def __init__(self, reason: str) -> None:
        self.reason = reason


def compact_segmentation(value: Any) -> Segmentation | BadSegmentation | None:
    """Polygons or compressed run lengths from COCO's three forms; None for none at all."""
    if value is None or value == []:
        return None
    if isinstance(value, dict):
        return _compact_rle(value)
    if not isinstance(value, list):
        return BadSegmentation("polygons or run lengths")
    polygons = []
    for points in value:
        try:
            polygon = np.asarray(points, np.float64)
        except (TypeError, ValueError):
            return BadSegmentation("polygons as lists of numbers x, y, x, y, ...")
        if polygon.ndim != 1 or len(polygon) % 2:
            return BadSegmentation("polygons as lists of numbers x, y, x, y, ...")
        if not (np.abs(polygon) < 1e6).all():  # Also refuses NaN, which compares false.
            return BadSegmentation("polygons in pixels")
        if len(polygon) >= 6:
            polygons.append(polygon)
    return tuple(polygons)


def _compact_rle(value: dict[str, Any]) -> Rle | BadSegmentation:
    size, counts = value.get("size"), value.get("counts")
    if not (isinstance(size, list) and len(size) == 2 and all(type(n) is int and n > 0 for n in size)):
        return BadSegmentation('run lengths with "size" [height, width]')
    if isinstance(counts, str):
        runs = _run_lengths(counts)
        if runs is None or runs.sum() != size[0] * size[1]:
            return BadSegmentation("compressed run lengths that add up to height x width")
        return {"size": size, "counts": counts}
    if not (isinstance(counts, list) and all(type(n) is int and n >= 0 for n in counts)):
        return BadSegmentation('run lengths with "counts", a list of integers or compressed text')
    if sum(counts) != size[0] * size[1]:
        return BadSegmentation("run lengths that add up to height x width")
    rle = coco_mask.frPyObjects({"size": size, "counts": counts}, *size)
    return {"size": size, "counts": rle["counts"].decode("ascii")}


def _run_lengths(counts: str) -> np.ndarray | None:
    """The run lengths in COCO's compressed text, int64, background first; None where the text is malformed.

    A character holds five bits of a number, lowest first, and whether it goes on; from the fourth on, a
    number is the difference to the one two before.
    """
    codes = np.frombuffer(counts.encode("ascii", "xmlcharrefreplace"), np.uint8).astype(np.int64) - 48
    if not codes.size or codes.min() < 0 or codes.max() > 63 or codes[-1] & 32:
        return None
    ends = np.flatnonzero(~codes & 32)
    starts = np.concatenate([[0], ends[:-1] + 1])
    lengths = ends - starts + 1
    if lengths.max() > 8:
        return None
    places = np.arange(len(codes)) - np.repeat(starts, lengths)
    runs = np.add.reduceat((codes & 31) << (5 * places), starts)
    runs -= (codes[ends] >> 4 & 1) << (5 * lengths)  # bit 4 of the last character is the sign
    runs[1::2] = np.cumsum(runs[1::2])
    runs[2::2] = np.cumsum(runs[2::2])
    return runs if runs.min() >= 0 else None


def rle_from_segmentation(segmentation: Segmentation, size: tuple[int, int]) -> Rle:
    """The compressed run lengths of one object in an image of `size` (height, width); polygons are united."""
    if isinstance(segmentation, dict):
        return segmentation
    if not segmentation:  # Only polygons of fewer than three points: an object without a pixel.
        rle = coco_mask.encode(np.zeros(size, np.uint8, order="F"))
    else:
        rle = coco_mask.merge(coco_mask.frPyObjects([list(polygon) for polygon in segmentation], *size))
    return {"size": list(size), "counts": rle["counts"].decode("ascii")}


def masks_from_rles(rles: Sequence[Rle], size: tuple[int, int]) -> np.ndarray:
    """(N, height, width) bool from N compressed run lengths of one image of `size`; N may be 0.

    Raises:
        ValueError: If run lengths are malformed or do not add up to height x width.
    """
    height, width = size
    masks = np.zeros((len(rles), height, width), bool)
    for one, rle in zip(masks, rles, strict=True):
        one[:] = _pixels(rle["counts"], size)
    return masks


def polygon_mask(polygons: Sequence[np.ndarray], size: tuple[int, int]) -> np.ndarray:
    """(height, width) uint8, 255 inside of the polygons' union, by COCO's rule for which pixels are.

    Args:
        polygons: At least one, each float64 (2 * points,) as x, y, x, y, ... in pixels; may reach beyond the image.
        size: (height, width).
    """
    rles = coco_mask.frPyObjects(list(polygons), *size)
    rle = rles[0] if len(rles) == 1 else coco_mask.merge(rles)
    return _pixels(rle["counts"].decode("ascii"), size)


def rle_crop(rle: Rle) -> tuple[np.ndarray, tuple[int, int]]:
    """The pixels of compressed run lengths within their box: (h, w) uint8 of 0 and 255, and its first x and y.

    The crop is (0, 0) where they cover no pixel.
    """
    x, y, width, height = (int(v) for v in coco_mask.toBbox(rle))
    if not width or not height:
        return np.zeros((0, 0), np.uint8), (0, 0)
    pixels = _pixels(rle["counts"], (rle["size"][0], rle["size"][1]))
    return pixels[y : y + height, x : x + width], (x, y)


def _pixels(counts: str, size: tuple[int, int]) -> np.ndarray:
    """(height, width) uint8 of 0 and 255, from COCO's compressed text."""
    height, width = size
    runs = _run_lengths(counts)
    if runs is None or runs.sum() != height * width:
        raise ValueError(f"run lengths must be COCO's compressed text for {height} x {width} pixels, got {counts}")
    values = np.zeros(len(runs), np.uint8)
    values[1::2] = 255
    return np.ascontiguousarray(np.repeat(values, runs).reshape(width, height).T)  # runs go down the columns
