"""ziplm: optimal brain surgeon over structures, latencies looked up, and layers weighed by measured loss."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from chipfit.ir.axes import Axis
from chipfit.ir.configuration import Configuration
from chipfit.passes.importance import column_owners, readers
from chipfit.passes.members import OUTSIDE
from chipfit.search.curves import Level, Sensitivity, widths
from chipfit.search.problem import Landscape
from chipfit.search.strategies.base import Proposal, Strategy
from chipfit.search.strategies.knapsack import Refinement, solve_within

TRIES = 32  # weighings of the layers that are tried
DAMPING = 0.01  # of the mean of a Gram matrix's diagonal
GONE = 1.0  # the relative error of a layer whose output is not there at all


@dataclass(frozen=True)
class ZipLM(Strategy):
    """ZipLM (Kurtic et al. 2023, arXiv 2302.04089): structures go one after the other by what their loss costs a layer.

    As there that cost is the optimal brain surgeon's, the rest refitted each time; a layer's loss at a width is its
    output's relative error, a whole block's is 1; and what errors of different layers mean to the model is found by
    SPDY's search (Frantar and Alistarh 2022, arXiv 2203.13711): coefficients mutate, an exact solve decodes them, and
    measured loss selects. Departs from it in taking structures out in steps that the chip likes, not one by one, in
    axes that several layers read, whose errors are averaged, and in tries: 32 where the papers have a thousand.
    """

    name: ClassVar[str] = "ziplm"
    summary: ClassVar[str] = "optimal brain surgeon over structures, layers weighed by measured loss"
    needs: ClassVar[tuple[str, ...]] = ("prune-axes",)

    def propose(self, limits: Mapping[str, float]) -> Proposal:
        drops = self._landscape.problem.drops
        solution = solve_within(self._landscape, limits, drops)
        plain = Proposal(self._landscape.configuration(solution), 0.0, solution.gap)
        if plain.configuration == Configuration():
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
        surgeons, kept = list(self._surgeons(axis)), np.arange(axis.size)
        for width in widths(axis.size, self.task.granularity, 1) if surgeons else (axis.size,):
            if width == axis.size:
                yield Level(tuple(range(width)), 0.0)
                continue
            costs = np.mean([surgeon.costs(kept) for surgeon in surgeons], axis=0)
            kept = np.sort(kept[np.argsort(-costs, kind="stable")[:width]])
            error = float(np.mean([surgeon.error(kept) for surgeon in surgeons]))
            yield Level(tuple(kept.tolist()), error)

    def _surgeons(self, axis: Axis) -> Iterator[Surgeon]:
        statistics = self.task.statistics
        for layer in readers(statistics, axis):
            matrix = layer.matrix(statistics.graph.state[layer.weight]).double()
            columns = column_owners(statistics, layer, axis)
            for squares, weight, owners in zip(self._grams[layer.node.name], matrix, columns, strict=True):
                if (owners != OUTSIDE).any():
                    yield Surgeon(squares[: len(owners), : len(owners)], weight, owners)

    @cached_property
    def _grams(self) -> Mapping[str, Tensor]:
        found = (readers(self.task.statistics, axis) for axis in self.task.axes.values())
        return self.task.statistics.grams({layer.node.name for layers in found for layer in layers})


@dataclass(frozen=True)
class Surgeon:
    """One matrix [outputs, columns] with its inputs' Gram matrix; `owners` is each column's index of the axis."""

    squares: Tensor
    matrix: Tensor
    owners: NDArray[np.int64]

    def costs(self, kept: NDArray[np.int64]) -> NDArray[np.float64]:
        """For each index of `kept` the squared error, relative to the output, that taking it away next adds.

        With W refitted to what is kept and H the inverse of its Gram matrix, the columns S of a structure cost
        tr(W_S (H_SS)^-1 W_S') (Hassibi and Stork 1992, for several columns at once).
        """
        columns = self._columns(kept)
        weight, inverse = self._refitted(columns)
        owners, found = self.owners[columns], np.zeros(len(kept))
        for place, index in enumerate(kept):
            own = torch.from_numpy(np.flatnonzero(owners == index))
            if len(own):
                part = weight[:, own]
                found[place] = float((torch.linalg.solve(inverse[own][:, own], part.T) * part.T).sum())
        return found / self._whole

    def error(self, kept: NDArray[np.int64]) -> float:
        """The squared error of the output with just these indices, refitted, relative to the output."""
        columns = self._columns(kept)
        change = self.matrix.clone()
        change[:, columns] -= self._refitted(columns)[0]
        return float((change @ self.squares * change).sum()) / self._whole

    def _columns(self, kept: NDArray[np.int64]) -> NDArray[np.int64]:
        return np.flatnonzero(np.isin(self.owners, [*kept.tolist(), OUTSIDE]))

    def _refitted(self, columns: NDArray[np.int64]) -> tuple[Tensor, Tensor]:
        """The weight of what is left, and the inverse of its damped Gram matrix."""
        own = self.squares[columns][:, columns]
        ridge = (DAMPING * own.diagonal().mean()).clamp_min(torch.finfo(own.dtype).tiny)
        inverse = torch.linalg.inv(own + ridge * torch.eye(len(columns), dtype=own.dtype))
        wanted = (self.matrix @ self.squares)[:, columns] + ridge * self.matrix[:, columns]
        return wanted @ inverse, inverse

    @cached_property
    def _whole(self) -> float:
        return max(float((self.matrix @ self.squares * self.matrix).sum()), 1e-30)
