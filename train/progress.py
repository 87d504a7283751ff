"""What a training run says while it goes on: one line rewritten on a terminal, one now and then in a file."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping

from .distributed import is_first

SECONDS_BETWEEN_LINES = 30.0
"""Where stderr is no terminal; the end of an epoch has a line of its own."""


class Progress:
    """Counts steps and tells of them on stderr.

    Args:
        epochs: Of the whole run.
        steps: Of one epoch.
        first_epoch: How many are done already, as after a resume; they count for nothing in the time that is left.
        clock: Seconds, rising.
    """

    def __init__(
        self, epochs: int, steps: int, first_epoch: int = 0, clock: Callable[[], float] = time.perf_counter
    ) -> None:
        self._epochs, self._steps, self._first, self._clock = epochs, steps, first_epoch, clock
        self._begun = self._epoch_begun = self._told = clock()

    def begin_epoch(self) -> None:
        """Count the seconds of an epoch from here."""
        self._epoch_begun = self._clock()

    def tell(self, epoch: int, step: int, losses: Mapping[str, float]) -> None:
        """Say how far the run is, if it is time to.

        Args:
            epoch: Which, from 0.
            step: Steps of it that are done.
            losses: Means over them, by name.
        """
        now = self._clock()
        is_last = step == self._steps
        if not is_first():
            return
        if sys.stderr.isatty():
            sys.stderr.write("\r\x1b[K" + self._line(epoch, step, losses, now) + ("\n" if is_last else ""))
            sys.stderr.flush()
        elif is_last or now - self._told >= SECONDS_BETWEEN_LINES:
            say(self._line(epoch, step, losses, now))
            self._told = now

    def end_line(self) -> None:
        """End a line that was to be rewritten, before something else is said."""
        if sys.stderr.isatty():
            say("")

    def _line(self, epoch: int, step: int, losses: Mapping[str, float], now: float) -> str:
        rate = step / max(now - self._epoch_begun, 1e-9)
        done = (epoch - self._first) * self._steps + step
        left = (self._epochs - epoch) * self._steps - step
        text = " ".join(f"{name} {value:.3f}" for name, value in losses.items())
        line = f"epoch {epoch + 1}/{self._epochs} step {step}/{self._steps} {text} | {rate:.2f} steps/s"
        return f"{line}, {duration(left * (now - self._begun) / done)} left" if left else line


def duration(seconds: float) -> str:
    """For people: "45 s", "12 min", "3 h 20 min"."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60:02d} min"


def say(text: str) -> None:
    """A line on stderr; of processes that train together the first one speaks."""
    if is_first():
        print(text, file=sys.stderr, flush=True)
