"""Objects that keep their number from frame to frame: ByteTrack's association (arXiv 2110.06864) in the extension.

>>> tracker = Tracker(lost_frames=60)
>>> for image in images:  # doctest: +SKIP
...     result = tracker.update(model.predict(image, score_threshold=0.1))
...     print(result.track_ids)
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .. import _native
from ..arguments import check_count, check_flag, check_number, described, nearest
from ..errors import UsageError
from ..results import Result
from .camera_motion import CameraMotionEstimator


@dataclass(frozen=True)
class TrackerOptions:
    """How objects are followed.

    Attributes:
        high_score: Boxes that score at least this are matched with tracks first.
        low_score: Boxes that score at least this go on with tracks for which no better one was found; they are often
            objects that are half hidden. Others are left out.
        new_score: Boxes that score at least this begin a track; None for 0.1 above `high_score`, at most 1.
        overlap: IoU that a box has at least with where its track is guessed to be; times its score where that is high.
        confirm_frames: Frames in a row in which an object is seen before it has an id; it has one at once in the first
            frame of all.
        lost_frames: Frames for which a track that nobody sees waits for its object to come back.
        lost_seconds: The same as a time, where frames have one; None to count frames.
        class_agnostic: Let a track go on with a box of another class.
        by_masks: Compare masks instead of boxes, where results have them.
        camera_motion: Estimate from the images how the camera moves (sparse optical flow), and move tracks along. For
            cameras that turn or drive; takes some milliseconds a frame.

    Raises:
        UsageError: If a value is not as described.
    """

    high_score: float = 0.5
    low_score: float = 0.1
    new_score: float | None = None
    overlap: float = 0.2
    confirm_frames: int = 2
    lost_frames: int = 30
    lost_seconds: float | None = None
    class_agnostic: bool = False
    by_masks: bool = False
    camera_motion: bool = False

    def __post_init__(self) -> None:
        for name in ("high_score", "low_score", "new_score", "overlap", "lost_seconds"):
            check_number(name, getattr(self, name), or_none=name in ("new_score", "lost_seconds"))
        for name in ("confirm_frames", "lost_frames"):
            check_count(name, getattr(self, name))
        for name in ("class_agnostic", "by_masks", "camera_motion"):
            check_flag(name, getattr(self, name))
        for name, lowest, highest in (
            ("high_score", 0, 1),
            ("low_score", 0, self.high_score),
            ("new_score", self.high_score, 1),
            ("overlap", 0, 1),
            ("confirm_frames", 1, 1_000_000),
            ("lost_frames", 0, 1_000_000),
        ):
            value = getattr(self, name)
            if value is not None and not lowest <= value <= highest:
                raise UsageError(f"<{name}> must be from {lowest} to {highest}, got {value}", argument=name)
        if self.lost_seconds is not None and not 0 < self.lost_seconds <= 1_000_000:
            raise UsageError(
                f"<lost_seconds> must be above 0, at most 1000000, got {self.lost_seconds}", argument="lost_seconds"
            )

    @classmethod
    def of_text(cls, text: str) -> TrackerOptions:
        """ "high_score=0.4,lost_frames=60" as options; "" for the defaults.

        Raises:
            UsageError: If there is no such option, or its value is not as described.
        """
        known = {one.name: one.default for one in fields(cls)}
        values: dict[str, Any] = {}
        for part in filter(None, (part.strip() for part in text.split(","))):
            name, _, value = (piece.strip() for piece in part.partition("="))
            if name not in known:
                near = nearest(name, known)
                raise UsageError(f"there is no option {name!r} of tracking{near}; the options are {', '.join(known)}")
            try:
                values[name] = _value_of(value, known[name])
            except ValueError:
                default = known[name]
                kind = "true or false" if isinstance(default, bool) else "a number"
                kind = "a whole number" if kind == "a number" and isinstance(default, int) else kind
                raise UsageError(f"{name} of tracking must be {kind}, got {value!r}") from None
        return cls(**values)


class Track(NamedTuple):
    """An object that is followed.

    Attributes:
        id: Its number, from 1 on.
        class_id: Of its last box.
        box: (4,) float32 xyxy in pixels: the filtered place of the object, a guess while it is lost. It may lie beyond
            the image.
        is_lost: No box of the last frame is its own.
    """

    id: int
    class_id: int
    box: NDArray[np.float32]
    is_lost: bool


class Tracker:
    """Follows the objects of one camera or video. The same results give the same ids.

    An id belongs to one object for as long as the tracker lives. Threads may share a tracker, and take turns.

    Args:
        options: How; None for the defaults.
        **changes: Fields of `TrackerOptions` that differ from `options`.

    Raises:
        UsageError: If there is no such option, or its value is not as described.
    """

    def __init__(self, options: TrackerOptions | None = None, **changes: Any):
        known = [one.name for one in fields(TrackerOptions)]
        for name in changes:
            if name not in known:
                raise UsageError(f"there is no option {name!r} of tracking{nearest(name, known)}; see TrackerOptions")
        self.options = how = replace(options or TrackerOptions(), **changes)
        self._tracker = _native.Tracker(
            how.high_score,
            how.low_score,
            min(1.0, how.high_score + 0.1) if how.new_score is None else how.new_score,
            how.overlap,
            how.confirm_frames,
            how.lost_frames,
            how.lost_seconds or 0.0,
            how.class_agnostic,
        )
        self._estimator = CameraMotionEstimator() if how.camera_motion else None
        self._time_s: float | None = None

    def update(
        self,
        result: Result,
        image: NDArray[np.uint8] | None = None,
        *,
        frames: int = 1,
        time_s: float | None = None,
        motion: ArrayLike | None = None,
    ) -> Result:
        """Take the result of the next frame.

        Args:
            result: Predicted with a `score_threshold` of at most `low_score`, so that weak boxes can go on with tracks.
            image: (h, w, 3) uint8 BGR or (h, w) grey, for `camera_motion`, which needs it.
            frames: Frames since the result before: 1, and those that were left out between.
            time_s: When the frame was taken, on any clock that does not go back; `lost_seconds` needs it.
            motion: (2, 3) where what was at (x, y, 1) of the image before is in this one, if that is known.

        Returns:
            The same result with `track_ids`.

        Raises:
            UsageError: If the result is without the boxes task, or an argument is missing or not as described.
        """
        if result.boxes is None or result.scores is None or result.class_ids is None:
            raise UsageError('tracking needs boxes, which this result was made without; predict with the task "boxes"')
        check_count("frames", frames)
        if not 0 <= frames <= 1_000_000_000:
            raise UsageError(f"<frames> must be from 0 to 1000000000, got {frames}", argument="frames")
        ids = self._tracker.update(
            result.boxes,
            result.scores,
            result.class_ids,
            result.masks.crops() if self.options.by_masks and result.masks is not None else None,
            frames,
            self._seconds_since(time_s),
            self._motion(result, image, motion),
        )
        return replace(result, track_ids=ids)

    @property
    def tracks(self) -> list[Track]:
        """The objects that are followed and have an id, seen or lost, by rising id."""
        return [Track(int(i), int(c), box, bool(lost)) for i, c, box, lost in zip(*self._tracker.tracks(), strict=True)]

    def reset(self) -> None:
        """Forget everything; ids begin at 1."""
        self._tracker.reset()
        self._time_s = None
        if self._estimator is not None:
            self._estimator = CameraMotionEstimator()

    def _seconds_since(self, time_s: float | None) -> float:
        check_number("time_s", time_s, or_none=True)
        if time_s is None:
            if self.options.lost_seconds is not None:
                raise UsageError(
                    "<lost_seconds> needs the time of each frame, which is not known here; count with <lost_frames>",
                    argument=("lost_seconds", "lost_frames"),
                )
            return 0.0
        before, self._time_s = self._time_s, float(time_s)
        return 0.0 if before is None else max(0.0, self._time_s - before)

    def _motion(
        self, result: Result, image: NDArray[np.uint8] | None, given: ArrayLike | None
    ) -> NDArray[np.float64] | None:
        if given is not None:
            motion = np.array(given, np.float64)
            if motion.shape != (2, 3) or not np.isfinite(motion).all():
                raise UsageError(f"<motion> must be 2 x 3 finite numbers, got shape {motion.shape}", argument="motion")
            return motion
        if self._estimator is None:
            return None
        if image is None or image.shape[:2] != tuple(result.image_size):
            what = described(None) if image is None else f"one of shape {image.shape}"
            raise UsageError(f"camera_motion needs the <image> that was predicted, got {what}", argument="image")
        return self._estimator.update(image, result.boxes)


def _value_of(text: str, default: object) -> object:
    """ "0.4" as the kind of value that an option has."""
    if isinstance(default, bool):
        if text.lower() not in ("true", "false"):
            raise ValueError(text)
        return text.lower() == "true"
    return int(text) if isinstance(default, int) else float(text)
