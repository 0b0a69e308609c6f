"""Strategies that drop blocks one after the other until the rest fits."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from chipfit.ir.configuration import Configuration
from chipfit.search.strategies.base import Proposal, Strategy


@dataclass(frozen=True)
class Depth(Strategy):
    """Drops as many blocks of an order as it takes."""

    needs: ClassVar[tuple[str, ...]] = ("drop-blocks",)

    @abstractmethod
    def following(self, dropped: tuple[str, ...]) -> str:
        """The block to drop after these."""

    def propose(self, limits: Mapping[str, float]) -> Proposal:
        dropped: tuple[str, ...] = ()
        while not self.task.fits(Configuration({}, frozenset(dropped)), limits):
            if len(dropped) == len(self.task.layers):
                raise self.task.unreachable(Configuration({}, frozenset(dropped)), limits)
            dropped = (*dropped, self.following(dropped))
        return Proposal(Configuration({}, frozenset(dropped)), float(len(dropped)))
