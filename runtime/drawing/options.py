"""What can be drawn, and how: drawing knows no other part of the runtime than these."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ..arguments import check_count, check_flag, check_number, nearest
from ..errors import UsageError


class DrawableMasks(Protocol):
    """Masks of objects, as `InstanceMasks` has them."""

    def crops(self) -> Sequence[tuple[int, int, NDArray[np.uint8]]]: ...

    def areas(self) -> NDArray[np.int64]: ...


class DrawableCaption(Protocol):
    @property
    def text(self) -> str: ...


class Drawable(Protocol):
    """What is drawn of a result; `Result` says what each is."""

    @property
    def image_size(self) -> tuple[int, int]: ...
    @property
    def boxes(self) -> NDArray[np.float32] | None: ...
    @property
    def scores(self) -> NDArray[np.float32] | None: ...
    @property
    def class_ids(self) -> NDArray[np.int32] | None: ...
    @property
    def masks(self) -> DrawableMasks | None: ...
    @property
    def semantic_map(self) -> NDArray[np.uint8] | None: ...
    @property
    def caption(self) -> DrawableCaption | None: ...
    @property
    def class_names(self) -> tuple[str, ...]: ...
    @property
    def semantic_names(self) -> tuple[str, ...]: ...
    @property
    def track_ids(self) -> NDArray[np.int64] | None: ...
    @property
    def detected_names(self) -> tuple[str, ...] | None: ...

    def semantic_areas(self) -> list[tuple[int, int]]: ...


@dataclass(frozen=True)
class DrawnRegion:
    """A line or a zone as it is drawn.

    Attributes:
        points: (x, y) each, in pixels of the image.
        is_closed: It is a zone.
        text: What is written at its first point.
    """

    points: tuple[tuple[float, float], ...]
    is_closed: bool
    text: str


# The options that are a part of the drawing, which is shown or not.
PARTS = ("boxes", "masks", "labels", "scores", "semantic", "caption")


@dataclass(frozen=True)
class DrawOptions:
    """How results are drawn. What a result does not have is not drawn.

    Attributes:
        boxes: Outline the boxes.
        masks: Tint and outline the masks.
        labels: Write the class name at each box, with the track's id where there is one.
        scores: Write the score at each box.
        semantic: Draw the semantic map; None: with two panels, or where the result is without boxes.
        caption: Write the caption; None: as for `semantic`.
        panels: 1 for one image of the size of the one passed in, with everything laid over it; 2 for a larger drawing
            that has the semantic map beside, with a legend, and the caption below.
        line_width: Of boxes and outlines, in pixels of the drawing; None to have it chosen by its size.
        mask_alpha: Opacity of the masks, from 0 to 1.
        semantic_alpha: Opacity of the semantic map, from 0 to 1.
        palette: RGB per semantic class, for objects of these classes too; None to have colours chosen. What a bundle
            says of it is `model.spec.palette`.
        is_steady: Keep the size of the drawing the same whatever was found, as a video needs.
        regions: Lines and zones that are drawn over the objects.

    Raises:
        UsageError: If a value is not as described.
    """

    boxes: bool = True
    masks: bool = True
    labels: bool = True
    scores: bool = True
    semantic: bool | None = None
    caption: bool | None = None
    panels: int = 1
    line_width: int | None = None
    # Weak enough that the object keeps the colour that the caption speaks of; on ground of a like colour the outline,
    # with a line of its opposite around it, carries the shape.
    mask_alpha: float = 0.3
    semantic_alpha: float = 0.6
    palette: Sequence[tuple[int, int, int]] | None = None
    is_steady: bool = False
    regions: tuple[DrawnRegion, ...] = ()

    def __post_init__(self) -> None:
        for name in (*PARTS, "is_steady"):
            check_flag(name, getattr(self, name), or_none=name in ("semantic", "caption"))
        check_count("panels", self.panels)
        if self.panels not in (1, 2):
            raise UsageError(f"<panels> must be 1 or 2, got {self.panels}", argument="panels")
        check_count("line_width", self.line_width, or_none=True)
        if self.line_width is not None and not 1 <= self.line_width <= 100:
            raise UsageError(f"<line_width> must be from 1 to 100 pixels, got {self.line_width}", argument="line_width")
        for name in ("mask_alpha", "semantic_alpha"):
            check_number(name, getattr(self, name))
            if not 0 <= getattr(self, name) <= 1:
                raise UsageError(f"<{name}> must be from 0 to 1, got {getattr(self, name)}", argument=name)

    @classmethod
    def of_parts(cls, parts: Iterable[str], **others: Any) -> DrawOptions:
        """Options that draw the named parts alone, of `PARTS`.

        Raises:
            UsageError: If there is no such part, or another value is not as described.
        """
        wanted = list(parts)
        for name in wanted:
            if name not in PARTS:
                near = nearest(name, PARTS)
                raise UsageError(
                    f"there is no {name!r} to draw{near}; the parts are {', '.join(PARTS)}", argument="draw"
                )
        return cls(**{name: name in wanted for name in PARTS}, **others)

    def changed(self, changes: Mapping[str, Any]) -> DrawOptions:
        """These options with some of their fields changed.

        Raises:
            UsageError: If there is no such field, or its value is not as described.
        """
        known = [one.name for one in fields(self)]
        for name in changes:
            if name not in known:
                near = nearest(name, known)
                raise UsageError(f"there is no drawing option {name!r}{near}; the options are {', '.join(known)}")
        return replace(self, **changes)

    def shows_map(self, result: Drawable) -> bool:
        """Whether the semantic map of a result is drawn."""
        return result.semantic_map is not None and self._is_shown(self.semantic, result)

    def caption_of(self, result: Drawable) -> str | None:
        """The caption of a result if it is drawn."""
        if result.caption is None or not self._is_shown(self.caption, result):
            return None
        return result.caption.text or "(no words)"

    def _is_shown(self, wanted: bool | None, result: Drawable) -> bool:
        return wanted if wanted is not None else self.panels == 2 or result.boxes is None


TWO_PANELS = DrawOptions(panels=2)
