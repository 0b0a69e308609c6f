"""sleb: drop the layer whose loss is the least, measure the others again, and so on."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

from chipfit.ir.configuration import Configuration
from chipfit.search.strategies.depth import Depth


@dataclass(frozen=True)
class Sleb(Depth):
    """SLEB (Song et al. 2024, arXiv 2402.09025): greedy removal of layers, each scored without those that are gone.

    Departs from it in the loss: divergence from the uncompressed model's outputs on calibration data, not perplexity,
    so it needs no labels and any model has it. Where a model has no equal layers residual branches are dropped.
    """

    name: ClassVar[str] = "sleb"
    summary: ClassVar[str] = "drop layers greedily by measured loss, measured again after each"

    def following(self, dropped: tuple[str, ...]) -> str:
        if dropped not in self._next:
            left = [name for name in self.task.layers if name not in dropped]
            losses = dict[str, float]()
            for name in left:
                self.task.progress(f"sleb: layer {len(dropped) + 1}", len(losses) / len(left))
                losses[name] = self.task.loss(Configuration({}, frozenset((*dropped, name))))
            self._next[dropped] = min(losses, key=lambda name: losses[name])
        return self._next[dropped]

    @cached_property
    def _next(self) -> dict[tuple[str, ...], str]:
        return {}
