"""Scores as lines for a terminal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

# By task, lines of (label, field); a task whose first field is None is left out, and so is a line without a value.
_LINES: dict[str, tuple[tuple[tuple[str, str], ...], ...]] = {
    **{
        task: (
            (
                ("AP", f"{prefix}_ap"),
                ("AP50", f"{prefix}_ap50"),
                ("AP75", f"{prefix}_ap75"),
                ("small", f"{prefix}_ap_small"),
                ("medium", f"{prefix}_ap_medium"),
                ("large", f"{prefix}_ap_large"),
            ),
            (
                ("AR100", f"{prefix}_ar100"),
                ("AR10", f"{prefix}_ar10"),
                ("AR1", f"{prefix}_ar1"),
                ("small", f"{prefix}_ar_small"),
                ("medium", f"{prefix}_ar_medium"),
                ("large", f"{prefix}_ar_large"),
            ),
        )
        for task, prefix in (("boxes", "box"), ("masks", "mask"))
    },
    "semantic": (
        (("mIoU", "miou"), ("FWIoU", "fwiou"), ("pixel accuracy", "pixel_accuracy")),
        (("mIoU off borders", "miou_off_borders"),),
    ),
    "panoptic": ((("PQ", "pq"), ("SQ", "sq"), ("RQ", "rq"), ("PQ of things", "pq_things"), ("of stuff", "pq_stuff")),),
    "caption": tuple(
        (
            (f"{words}BLEU-4", f"bleu4{end}"),
            ("CIDEr", f"cider{end}"),
            ("ROUGE-L", f"rouge_l{end}"),
            ("BLEU-1", f"bleu1{end}"),
        )
        for words, end in (("", ""), ("in COCO's words: ", "_ptb"))
    ),
}


def score_table(
    scores: Mapping[str, Any], images: Mapping[str, int], intervals: Mapping[str, Any], brief: bool = False
) -> str:
    """The lines of every task that was scored; empty if none was.

    Args:
        scores: The fields of `Scores`.
        images: Scored, by task.
        intervals: Both ends, by field.
        brief: Give the first line of each task alone.
    """
    lines = []
    for task, parts in _LINES.items():
        if scores[parts[0][0][1]] is None:
            continue
        for number, columns in enumerate(parts[:1] if brief else parts):
            values = [(label, scores[name], intervals.get(name)) for label, name in columns]
            if any(value is not None for _, value, _ in values):
                cells = "  ".join(f"{label} {_cell(value, ends)}" for label, value, ends in values)
                lines.append(table_line(task, images[task], cells) if number == 0 else f"{'':<23}{cells}".rstrip())
    return "\n".join(lines)


def table_line(what: str, images: int, cells: str) -> str:
    """A line of the table that `evaluate` prints."""
    return f"{what:<9}{images:>6} images  {cells}".rstrip()


def class_table(scores: Mapping[str, Any]) -> str:
    """A line a class with its AP and AR of boxes and masks, IoU and PQ; empty if there is nothing by class."""
    titles = {
        "box AP": "box_ap_by_class",
        "box AR": "box_ar_by_class",
        "mask AP": "mask_ap_by_class",
        "mask AR": "mask_ar_by_class",
        "IoU": "iou_by_class",
        "PQ": "pq_by_class",
    }
    columns = {title: scores[name] for title, name in titles.items() if scores[name]}
    names = list(dict.fromkeys(name for column in columns.values() for name in column))
    if not names:
        return ""
    width = max(len("class"), *(len(name) for name in names))
    lines = ["  ".join([f"{'class':<{width}}", *(f"{title:>7}" for title in columns)])]
    for name in names:
        cells = (f"{column[name]:>7.3f}" if name in column else f"{'-':>7}" for column in columns.values())
        lines.append("  ".join([f"{name:<{width}}", *cells]))
    return "\n".join(lines)


def _cell(value: float | None, ends: Any) -> str:
    interval = "" if ends is None else f" ({ends[0]:.3f} to {ends[1]:.3f})"
    return f"{'-' if value is None else format(value, '.3f'):<6}".rstrip() + (interval or " ")
