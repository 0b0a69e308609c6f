"""halp: the most Taylor importance that a latency limit has room for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import ClassVar

import numpy as np
import torch_pruning as tp

from chipfit.ir.axes import Axis
from chipfit.passes.importance import best, squared_norm
from chipfit.passes.pruning_group import pruning_group, score
from chipfit.search.curves import Level, Sensitivity, widths
from chipfit.search.problem import Landscape
from chipfit.search.strategies.base import Proposal, Strategy
from chipfit.search.strategies.knapsack import solve_within


@dataclass(frozen=True)
class Halp(Strategy):
    """HALP (Shen et al. 2021, arXiv 2110.10811): a knapsack of channels by importance and latency.

    As there a channel's importance is its first-order Taylor term, and channels go in groups that the chip likes.
    Departs from it in solving exactly, with the latency of a kernel looked up at all its widths together, and in
    pruning once: no steps, no training between them. Nothing is measured or repaired on the way.
    """

    name: ClassVar[str] = "halp"
    summary: ClassVar[str] = "a latency knapsack over first-order Taylor importance"
    needs: ClassVar[tuple[str, ...]] = ("prune-axes",)

    def propose(self, limits: Mapping[str, float]) -> Proposal:
        solution = solve_within(self._landscape, limits, {})
        return Proposal(self._landscape.configuration(solution), solution.objective, solution.gap)

    @cached_property
    def _landscape(self) -> Landscape:
        levels = {name: self._levels(axis) for name, axis in self.task.axes.items()}
        return replace(self.task.landscape, sensitivity=Sensitivity(levels, {}))

    def _levels(self, axis: Axis) -> tuple[Level, ...]:
        """Every width with the importance that is lost by it."""
        scores = self._importance(axis)
        kept = [best(scores, width) for width in widths(axis.size, self.task.granularity, 1)]
        return tuple(Level(chosen, float(scores.sum() - scores[list(chosen)].sum())) for chosen in kept)

    def _importance(self, axis: Axis) -> np.ndarray:
        """In units of the loss, so that layers can be compared."""
        criterion = tp.importance.GroupTaylorImportance(group_reduction="sum", normalizer=None)
        group = pruning_group(self.task.teacher, axis, self.task.statistics.gradients)
        found = score(criterion, group, axis.size)
        return squared_norm(self.task.statistics, axis) if found is None else found
