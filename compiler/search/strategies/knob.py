"""Strategies with one knob: the stronger, the more goes; the weakest setting that fits is found by halving."""

from __future__ import annotations

from abc import abstractmethod
from collections import Counter
from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from chipfit.ir.axes import Axis
from chipfit.ir.configuration import Configuration
from chipfit.passes.importance import best
from chipfit.search.strategies.base import Proposal, Strategy

TINY = 1e-30  # in place of a mean of nothing
HALVINGS = 12  # of the knob's range: finer than any width


@dataclass(frozen=True)
class Knob(Strategy):
    """Chooses by a strength from 0, nothing, to 1, all that it can remove."""

    @abstractmethod
    def at(self, strength: float) -> Configuration: ...

    def propose(self, limits: Mapping[str, float]) -> Proposal:
        if self.task.fits(Configuration(), limits):
            return Proposal(Configuration(), 0.0)
        if not self.task.fits(self.at(1.0), limits):
            raise self.task.unreachable(self.at(1.0), limits)
        low, high = 0.0, 1.0
        for _ in range(HALVINGS):
            middle = (low + high) / 2
            fits = self.task.fits(self.at(middle), limits)
            low, high = (low, middle) if fits else (middle, high)
        return Proposal(self.at(high), high)


@dataclass(frozen=True)
class Threshold(Knob):
    """Removes the share `strength` of the lowest scored indices among all axes of one scope.

    Widths are rounded to what the chip likes, and of each axis one such step is kept.
    """

    needs: ClassVar[tuple[str, ...]] = ("prune-axes",)

    @abstractmethod
    def score(self, axis: Axis) -> NDArray[np.float64]:
        """Of each index of the axis. They are divided by their mean, so that axes of one scope can be compared."""

    @abstractmethod
    def scope(self, axis: Axis) -> Hashable:
        """Axes of the same scope compete."""

    def at(self, strength: float) -> Configuration:
        widths: dict[str, tuple[int, ...]] = {}
        for axes in self._scopes.values():
            owners = np.repeat(axes, [len(self._scores[name]) for name in axes])
            order = np.argsort(np.concatenate([self._scores[name] for name in axes]), kind="stable")
            lost = Counter(owners[order[: round(strength * len(order))]].tolist())
            for name in axes:
                width = self._rounded(name, len(self._scores[name]) - lost[name])
                if width < len(self._scores[name]):
                    widths[name] = best(self._scores[name], width)
        return Configuration(widths)

    def _rounded(self, name: str, width: int) -> int:
        step, size = self.task.step(self.task.axes[name]), self.task.axes[name].size
        return min(size, max(step, round(width / step) * step))

    @cached_property
    def _scores(self) -> dict[str, NDArray[np.float64]]:
        found = {name: self.score(axis) for name, axis in self.task.axes.items()}
        return {name: scores / max(scores.mean(), TINY) for name, scores in found.items()}

    @cached_property
    def _scopes(self) -> dict[Hashable, list[str]]:
        found: dict[Hashable, list[str]] = {}
        for name, axis in self.task.axes.items():
            found.setdefault(self.scope(axis), []).append(name)
        return found
