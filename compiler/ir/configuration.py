"""What a compression does to a graph, as plain data."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Configuration:
    """Axis name -> kept indices (ascending, not empty), the blocks dropped, and the weights kept in few bits.

    `rounded` None leaves it to the pass that rounds: all that it can.
    """

    widths: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    dropped: frozenset[str] = frozenset()
    rounded: frozenset[str] | None = None

    def __post_init__(self) -> None:
        for axis, kept in self.widths.items():
            if not kept or list(kept) != sorted(set(kept)):
                raise ValueError(f"Axis {axis} must keep at least one index, in ascending order.")

    def to_json(self) -> dict[str, Any]:
        return {
            "widths": {axis: list(self.widths[axis]) for axis in sorted(self.widths)},
            "dropped": sorted(self.dropped),
            "rounded": None if self.rounded is None else sorted(self.rounded),
        }

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> Configuration:
        widths = {axis: tuple(kept) for axis, kept in data["widths"].items()}
        rounded = data["rounded"]
        return Configuration(widths, frozenset(data["dropped"]), None if rounded is None else frozenset(rounded))

    @property
    def removes(self) -> bool:
        """Whether anything of the model goes."""
        return bool(self.widths or self.dropped)

    @property
    def digest(self) -> str:
        return hashlib.sha256(json.dumps(self.to_json(), sort_keys=True).encode()).hexdigest()

    def __hash__(self) -> int:
        return int(self.digest[:16], 16)


UNCHANGED = Configuration(rounded=frozenset())
