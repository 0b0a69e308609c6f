"""What a compression does to a graph, as plain data."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Configuration:
    """Axis name -> kept indices (ascending, not empty), and the names of the blocks dropped."""

    widths: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    dropped: frozenset[str] = frozenset()

    def __post_init__(self) -> None:
        for axis, kept in self.widths.items():
            if not kept or list(kept) != sorted(set(kept)):
                raise ValueError(f"Axis {axis} must keep at least one index, in ascending order.")

    def to_json(self) -> dict[str, Any]:
        return {
            "widths": {axis: list(self.widths[axis]) for axis in sorted(self.widths)},
            "dropped": sorted(self.dropped),
        }

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> Configuration:
        widths = {axis: tuple(kept) for axis, kept in data["widths"].items()}
        return Configuration(widths, frozenset(data["dropped"]))

    @property
    def digest(self) -> str:
        return hashlib.sha256(json.dumps(self.to_json(), sort_keys=True).encode()).hexdigest()

    def __hash__(self) -> int:
        return int(self.digest[:16], 16)
