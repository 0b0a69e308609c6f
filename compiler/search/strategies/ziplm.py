"""ziplm: optimal brain surgeon over structures, latencies looked up, and layers weighed by measured loss."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from chipfit.ir.axes import Axis
from chipfit.passes.importance import readers
from chipfit.passes.members import OUTSIDE
from chipfit.passes.repair import repaired_matrix
from chipfit.passes.surgeon import DAMPING, Reading, order, readings
from chipfit.search.curves import Level, Sensitivity, widths
from chipfit.search.problem import Landscape
from chipfit.search.strategies.base import Proposal, Strategy
from chipfit.search.strategies.knapsack import Refinement, solve_within

TRIES = 32  # weighings of the layers that are tried
GONE = 1.0  # the relative error of a layer whose output is not there at all


@dataclass(frozen=True)
class ZipLM(Strategy):
    """ZipLM (Kurtic et al. 2023, arXiv 2302.04089): structures go one after the other by what their loss costs a layer.

    As there that cost is the optimal brain surgeon's, the rest refitted each time; a layer's loss at a width is its
    output's relative error, a whole block's is 1; and what errors of different layers mean to the model is found by
    SPDY's search (Frantar and Alistarh 2022, arXiv 2203.13711): coefficients mutate, an exact solve decodes them, and
    measured loss selects. Departs from it in taking a 64th of a long axis out at a time, in
    axes that several layers read, whose errors are averaged, and in tries: 32 where the papers have a thousand.
    """

    name: ClassVar[str] = "ziplm"
    summary: ClassVar[str] = "optimal brain surgeon over structures, layers weighed by measured loss"
    needs: ClassVar[tuple[str, ...]] = ("prune-axes",)

    def propose(self, limits: Mapping[str, float]) -> Proposal:
        drops = self._landscape.problem.drops
        solution = solve_within(self._landscape, limits, drops)
        plain = Proposal(self._landscape.configuration(solution), 0.0, solution.gap)
        if not plain.configuration.removes:
            return plain
        return self._refinement.better(limits, drops, plain)

    @cached_property
    def _refinement(self) -> Refinement:
        """By the loss with what is left refitted, where there is a survey to do so."""
        measure = self.task.survey.loss if self.task.survey else self.task.loss
        return Refinement(self.task, self._landscape, measure, self.task.tries or TRIES)

    @cached_property
    def _landscape(self) -> Landscape:
        levels = {name: tuple(self._levels(axis)) for name, axis in self.task.axes.items()}
        return replace(self.task.landscape, sensitivity=Sensitivity(levels, dict.fromkeys(self.task.branches, GONE)))

    def _levels(self, axis: Axis) -> Iterator[Level]:
        """Its widths; just the full one where no layer sums over the axis, as its error can't be told."""
        found = readings(self.task.statistics, axis, self._grams)
        yield Level(tuple(range(axis.size)), 0.0)
        if not found:
            return
        indices = order(axis.size, found)
        for width in widths(axis.size, self.task.granularity, 1)[1:]:
            kept = tuple(sorted(indices[:width]))
            yield Level(kept, float(np.mean([lost(reading, kept) for reading in found])))

    @cached_property
    def _grams(self) -> Mapping[str, Tensor]:
        found = (readers(self.task.statistics, axis) for axis in self.task.axes.values())
        return self.task.statistics.grams({layer.node.name for layers in found for layer in layers})


def lost(reading: Reading, kept: Sequence[int]) -> float:
    """The squared error of the output with just these indices, refitted, relative to the output."""
    stays = torch.from_numpy(np.isin(reading.owners, [*kept, OUTSIDE]))
    return reading.error(reading.matrix - repaired_matrix(reading.squares, reading.matrix, stays, DAMPING))
