"""evopress: a search by mutations that keep the limits, selected by measured loss."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import ClassVar

from chipfit.ir.apply import mask
from chipfit.ir.axes import Axis
from chipfit.ir.configuration import Configuration
from chipfit.passes.importance import best, rank
from chipfit.search.curves import Level, Sensitivity, widths
from chipfit.search.probe import Probe, calibration_size
from chipfit.search.problem import Landscape
from chipfit.search.solve import Solution
from chipfit.search.strategies.base import Proposal, Strategy

GENERATIONS = 24
FIRST = 16  # random configurations at the start
OFFSPRING = 16  # of each generation
SURVIVORS = 4  # of a generation's first selection, on a part of the data
PART = 8  # which is one in so many of the examples
SWITCHES = 3  # levels at most that a mutation loosens

State = tuple[int, ...]  # of each axis its level, then of each block whether it is dropped


@dataclass(frozen=True)
class EvoPress(Strategy):
    """EvoPress (Sieberling et al. 2024, arXiv 2410.14649): level-switch mutation and selection on growing data.

    As there an offspring compresses some places less and others more, and its fitness is the divergence from the
    uncompressed model. Departs from it in what is levelled, widths of axes beside dropped blocks, and in the limit,
    predicted latency where the paper has sparsity: places are compressed more until that fits. Two selections a
    generation, and far fewer generations.
    """

    name: ClassVar[str] = "evopress"
    summary: ClassVar[str] = "evolutionary search over widths and blocks by measured loss"

    def propose(self, limits: Mapping[str, float]) -> Proposal:
        rng = random.Random(self.task.seed)
        full: State = (0,) * len(self._tops)
        if self._fits(full, limits):
            return Proposal(Configuration(), 0.0)
        if not self._fits(self._tops, limits):
            raise self.task.unreachable(self._configuration(self._tops), limits)
        starts = [self._tightened(full, limits, rng) for _ in range(FIRST)]
        parent, loss = self._fittest(starts)
        for generation in range(GENERATIONS):
            self.task.progress("evopress", generation / GENERATIONS)
            offspring = [self._mutated(parent, limits, rng) for _ in range(OFFSPRING)]
            chosen, found = self._fittest(offspring)
            parent, loss = (chosen, found) if found < loss else (parent, loss)
        return Proposal(self._configuration(parent), loss)

    def _mutated(self, state: State, limits: Mapping[str, float], rng: random.Random) -> State:
        """Some places at random one level wider, others narrower until it fits again."""
        levels = list(state)
        for _ in range(rng.randint(1, SWITCHES)):
            place = rng.choice([place for place, level in enumerate(levels) if level])
            levels[place] -= 1
            if not any(levels):
                break
        return self._tightened(tuple(levels), limits, rng)

    def _tightened(self, state: State, limits: Mapping[str, float], rng: random.Random) -> State:
        levels = list(state)
        while not self._fits(tuple(levels), limits):
            levels[rng.choice([place for place, top in enumerate(self._tops) if levels[place] < top])] += 1
        return tuple(levels)

    def _fittest(self, states: list[State]) -> tuple[State, float]:
        distinct = sorted(set(states))
        survivors = sorted(distinct, key=lambda state: self._loss(self._quick, state))[:SURVIVORS]
        return min(((state, self._loss(self.task.probe, state)) for state in survivors), key=lambda pair: pair[1])

    def _fits(self, state: State, limits: Mapping[str, float]) -> bool:
        """By the solver's tables first, which are quick, then by the cost of the whole."""
        at = self._solution(state)
        tabled = self._landscape.problem.quantities.keys() & limits.keys()
        quick = all(self._landscape.problem.amount(name, at.levels, at.dropped) <= limits[name] for name in tabled)
        return quick and self.task.fits(self._landscape.configuration(at), limits)

    def _loss(self, probe: Probe, state: State) -> float:
        return probe.loss(mask(probe.graph, self._configuration(state)))

    def _configuration(self, state: State) -> Configuration:
        return self._landscape.configuration(self._solution(state))

    def _solution(self, state: State) -> Solution:
        axes = self._landscape.sensitivity.levels
        dropped = (block for block, level in zip(self.task.branches, state[len(axes) :], strict=True) if level)
        return Solution(dict(zip(axes, state, strict=False)), frozenset(dropped), 0.0, 0.0)

    @cached_property
    def _tops(self) -> State:
        """The last level of every place."""
        axes = self._landscape.sensitivity.levels.values()
        return (*(len(levels) - 1 for levels in axes), *(1 for _ in self.task.branches))

    @cached_property
    def _landscape(self) -> Landscape:
        """Every width of every axis and every block, at no loss: that is measured for all of a configuration."""
        levels = {name: self._levels(axis) for name, axis in self.task.axes.items()}
        return replace(self.task.landscape, sensitivity=Sensitivity(levels, dict.fromkeys(self.task.branches, 0.0)))

    def _levels(self, axis: Axis) -> tuple[Level, ...]:
        scores = rank(self.task.statistics, axis)
        return tuple(Level(best(scores, width), 0.0) for width in widths(axis.size, self.task.granularity, 1))

    @cached_property
    def _quick(self) -> Probe:
        count = max(1, calibration_size(self.task.teacher) // PART)
        return Probe.on(self.task.teacher, self.task.examples[:count])
