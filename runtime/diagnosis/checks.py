"""One line of a diagnosis: what was looked at, how it is, what was found, and what cures it."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Literal

State = Literal["ok", "none", "missing", "problem"]


@dataclass(frozen=True)
class Check:
    """One thing that was looked at.

    Attributes:
        group: What it belongs to: "software", "computer", "gpu", "sources" or "bundle".
        name: What was looked at.
        state: "ok"; "none", which is not there or not known and needs nothing; "missing", with the cure, for what
            is needed for something; "problem", something that is there and broken.
        found: What there is, in words.
        cure: What to do about it; empty where nothing needs to be done.
    """

    group: str
    name: str
    state: State
    found: str
    cure: str = ""

    def line(self, width: int = 14) -> str:
        """For people; `width` is that of the names."""
        cure = f"; {self.cure}" if self.cure else ""
        return f"  {self.state:8} {self.name:{width}} {self.found}{cure}"

    def to_json(self) -> dict[str, str]:
        """Plain values for `json.dumps`."""
        return asdict(self)
