"""How a stream is doing, written above its drawings: frame, frames per second, drops, and the time of every stage."""

from __future__ import annotations

import collections
import time
from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray

from ..drawing.lettering import FAINT, INK, PAPER, text_width, write_text

_ANSWERS = 30  # that the rate is taken over
# Of the times of a result, those that are no stages but parts or sums of them.
_NO_STAGES = ("total", "caption_")


class Overlay:
    """Counts the answers of one stream and writes a strip above their drawings.

    Args:
        clock: Seconds; another one only in tests.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic):
        self._clock = clock
        self._answered: collections.deque[float] = collections.deque(maxlen=_ANSWERS)
        self.dropped = 0

    def count(self, dropped: int) -> None:
        """Take note of an answer, and of the frames that were dropped before it."""
        self._answered.append(self._clock())
        self.dropped += dropped

    @property
    def fps(self) -> float | None:
        """Answers per second, over the last 30; None before the second one."""
        if len(self._answered) < 2:
            return None
        seconds = self._answered[-1] - self._answered[0]
        return (len(self._answered) - 1) / seconds if seconds > 0 else None

    def lines(self, index: int, timings_ms: Mapping[str, float], captured: str = "") -> tuple[str, str]:
        """The text of the strip: how the stream is doing, and the milliseconds of each stage.

        Args:
            index: Number of the frame, from 0 on.
            timings_ms: Of its result.
            captured: From `time_of_day`.
        """
        rate = f"{self.fps:.1f} fps" if self.fps is not None else "- fps"
        stages = [(name, ms) for name, ms in timings_ms.items() if not name.startswith(_NO_STAGES)]
        times = "  ".join(f"{name} {ms:.1f}" for name, ms in stages)
        first = f"frame {index}   {rate}   {self.dropped} dropped" + (f"   {captured}" if captured else "")
        return first, f"{times}  ms" if times else ""

    def drawn(
        self, drawing: NDArray[np.uint8], index: int, timings_ms: Mapping[str, float], captured: str = ""
    ) -> NDArray[np.uint8]:
        """(h + strip, w, 3) uint8 BGR: the drawing below a strip of two lines, always of one height for one width."""
        width = drawing.shape[1]
        letter_height = max(9, round(min(14, width / 96)))
        line_height = round(letter_height * 2.0)
        strip_height = 2 * line_height + letter_height // 2 * 2
        strip = np.full((strip_height - strip_height % 2, width, 3), PAPER, np.uint8)
        texts = zip(self.lines(index, timings_ms, captured), (INK, FAINT), strict=True)
        for row, (text, colour) in enumerate(texts):
            size = float(letter_height)
            while size > 5 and text_width(text, size) > width - 2 * letter_height:
                size -= 0.5  # long names of stages on a narrow image
            top = letter_height // 2 + row * line_height + (line_height - letter_height) // 2
            write_text(strip, text, (letter_height, top), size, colour)
        return np.vstack([strip, drawing])


def time_of_day(captured_unix_ns: int | None, position_s: float | None) -> str:
    """When a frame was captured, as a clock on the wall shows it here; or its place in its video; "" if neither."""
    if captured_unix_ns is not None:
        seconds, nanoseconds = divmod(captured_unix_ns, 1_000_000_000)
        return time.strftime("%H:%M:%S", time.localtime(seconds)) + f".{nanoseconds // 1_000_000:03d}"
    if position_s is None:
        return ""
    minutes, seconds = divmod(position_s, 60)
    return f"{int(minutes)}:{seconds:06.3f}"
