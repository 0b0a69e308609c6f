"""What was measured of a model's axes and blocks, and the levels that a chip is offered of it.

Losses are measured at a few widths of every axis, whatever the chip; between them they are interpolated, at the widths
that suit the chip.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

MEASURED = (1.0, 0.75, 0.5, 0.25)  # of an axis kept, at which its loss is measured
STEPS = 8  # parts of an axis that are cut at a time; between measured widths the loss is interpolated


@dataclass(frozen=True)
class Level:
    """One width of an axis: the indices it keeps and the loss that it costs alone."""

    kept: tuple[int, ...]
    loss: float


@dataclass(frozen=True)
class Rounded:
    """Weights that are kept in few bits together or not at all, and the loss that it costs alone."""

    weights: frozenset[str]
    loss: float


@dataclass(frozen=True)
class Sensitivity:
    """Per axis the levels that a chip is offered, the full width first; per block the loss of dropping it.

    `rounded` are the groups of weights that may be rounded, by the name of one of them.
    """

    levels: Mapping[str, tuple[Level, ...]]
    drops: Mapping[str, float]
    rounded: Mapping[str, Rounded] = field(default_factory=dict)


@dataclass(frozen=True)
class Curve:
    """An axis: its indices, those that matter most first, and what it costs alone to keep just so many of them."""

    order: tuple[int, ...]
    losses: Mapping[int, float]  # width -> loss, the full width at none

    def levels(self, granularity: int) -> Iterator[Level]:
        for width in widths(len(self.order), granularity, min(self.losses)):
            yield Level(tuple(sorted(self.order[:width])), interpolated(self.losses, width))


@dataclass(frozen=True)
class Curves:
    """All that was measured, for every chip alike; per block the loss of dropping it. `seconds` is what it took."""

    axes: Mapping[str, Curve]
    drops: Mapping[str, float]
    rounded: Mapping[str, Rounded] = field(default_factory=dict)
    seconds: float = 0.0

    def offered(self, granularity: int) -> Sensitivity:
        """The choice for a chip on which widths should be multiples of `granularity` (1: any will do)."""
        levels = {name: tuple(curve.levels(granularity)) for name, curve in self.axes.items()}
        return Sensitivity(levels, self.drops, self.rounded)

    def to_json(self) -> dict[str, Any]:
        axes = {name: {"order": list(curve.order), "losses": dict(curve.losses)} for name, curve in self.axes.items()}
        rounded = {name: {"weights": sorted(one.weights), "loss": one.loss} for name, one in self.rounded.items()}
        return {"axes": axes, "drops": dict(self.drops), "rounded": rounded, "seconds": self.seconds}

    @staticmethod
    def kept_in(checkpoint: Path | None) -> Curves:
        """What a run that was stopped had measured."""
        if checkpoint is None or not checkpoint.exists():
            return Curves({}, {})
        return Curves.from_json(json.loads(checkpoint.read_text()))

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> Curves:
        axes = {
            name: Curve(tuple(found["order"]), {int(width): loss for width, loss in found["losses"].items()})
            for name, found in data["axes"].items()
        }
        rounded = {name: Rounded(frozenset(one["weights"]), one["loss"]) for name, one in data["rounded"].items()}
        return Curves(axes, data["drops"], rounded, data["seconds"])


def step_of(size: int, granularity: int) -> int:
    """What an axis's widths are multiples of: whole vectors where it has several."""
    return granularity if size >= 4 * granularity else 1


def widths(size: int, granularity: int, narrowest: int) -> list[int]:
    """The widths that the search chooses from, widest first: in even steps of the size, in whole vectors."""
    step = step_of(size, granularity)
    found = {*rounded(size, granularity, [part / STEPS for part in range(1, STEPS + 1)])}
    least = min(size, math.ceil(narrowest / step) * step)  # what was measured need not be a multiple
    return sorted({least, *(width for width in found if width >= least)}, reverse=True)


def measured_widths(size: int) -> list[int]:
    """The widths at which the loss is measured, whatever the chip."""
    return rounded(size, 1, MEASURED)


def rounded(size: int, granularity: int, shares: Iterable[float]) -> list[int]:
    step = step_of(size, granularity)
    return sorted({size if share == 1 else max(step, round(size * share / step) * step) for share in shares})[::-1]


def interpolated(losses: Mapping[int, float], width: int) -> float:
    """The loss at a width between measured ones: geometric, as losses grow with what is cut; linear from none."""
    if width in losses:
        return losses[width]
    above = min(known for known in losses if known > width)
    below = max(known for known in losses if known < width)
    part = (above - width) / (above - below)
    high, low = losses[above], losses[below]
    return float(high ** (1 - part) * low**part) if min(high, low) > 0 else high + (low - high) * part
