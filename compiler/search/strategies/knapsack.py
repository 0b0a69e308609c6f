"""knapsack: the exact choice of widths, ranks, blocks and precision together, by losses measured after repair."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from types import MappingProxyType
from typing import ClassVar

from chipfit.ir.configuration import Configuration
from chipfit.search.problem import Landscape
from chipfit.search.program import InfeasibleError
from chipfit.search.refine import Measure, Prices, priced, refine
from chipfit.search.solve import Solution, binding, solve
from chipfit.search.strategies.base import Proposal, Strategy, Task, UnreachableError

Drops = Mapping[str, float]  # the loss of each block

UNCHANGED: Prices = MappingProxyType({})
CONTEXTS = 2  # times that the blocks are measured anew, in the context of those that were dropped
NEAR = 0.1  # part of a limit by which another may differ for the same contexts to serve
TRUSTED = 1.1  # times what the sum of losses says the whole may lose, for the sum to be trusted


@dataclass(frozen=True)
class Knapsack(Strategy):
    """The least sum of measured losses within the limits, proved by the solver.

    Losses of dropped blocks don't add up: two neighbours may each be dispensable, but not both. So where several are
    dropped each block's loss is measured again in the context of these, as SLEB does (Song et al. 2024, arXiv
    2402.09025), but for all blocks at once, and the solver asked again. Of the answers the one counts that is best with
    the loss of its dropped blocks measured together. The contexts serve limits nearby too, as those of the attempts at
    one budget: there only what is dropped together is measured.

    Where something is removed and the whole loses more than the sum says all the same, that is made good by evolution
    (`refine.py`), within as many tries as the user grants. SmolLM2's losses do add up at 60% and at 40% of its latency,
    and 32 tries found nothing better; ResNet-20's at half of it don't, and they did. What rounding loses adds up:
    190 of SmolLM2's weights in int8 lose 0.0391 nats together, and 0.0387 one by one; and to what removal loses too, to
    2% in EfficientNet-lite0 at 30 to 50% of its latency and in MiniLM at 25 to 35%. So it is only added.
    """

    name: ClassVar[str] = "knapsack"
    summary: ClassVar[str] = "widths, ranks, blocks and precision together, by an exact solve over measured losses"
    surveyed: ClassVar[bool] = True

    def propose(self, limits: Mapping[str, float]) -> Proposal:
        proposals, drops = self._by_sums(limits)
        best = min(proposals, key=lambda one: one.loss)
        if self._refinement is None or not best.configuration.removes:
            return best
        whole = self._refinement.loss(best.configuration)
        if whole <= TRUSTED * best.loss:
            return replace(best, loss=whole)
        return self._refinement.better(limits, drops, best)

    @cached_property
    def _refinement(self) -> Refinement | None:
        task = self.task
        return (
            Refinement(task, task.landscape, task.survey.loss, task.tries) if task.survey and task.tries > 1 else None
        )

    def _by_sums(self, limits: Mapping[str, float]) -> tuple[list[Proposal], Drops]:
        """What the sums of losses give, and the losses of blocks that they ended with."""
        contexts = next((contexts for known, contexts in self._contexts if are_near(known, limits)), None)
        if contexts is None:
            return self._explored(limits)
        return [self._judged(solve_within(self.task.landscape, limits, drops)) for drops in contexts], contexts[-1]

    def _explored(self, limits: Mapping[str, float]) -> tuple[list[Proposal], Drops]:
        """The same, with the blocks measured in contexts of what these limits let drop."""
        contexts, proposals = [self.task.landscape.problem.drops], list[Proposal]()
        for _ in range(CONTEXTS + 1):
            solution = solve_within(self.task.landscape, limits, contexts[-1])
            proposals.append(self._judged(solution))
            seen = [one.configuration.dropped for one in proposals[:-1]]
            if len(solution.dropped) < 2 or solution.dropped in seen or not self.task.survey:
                break
            contexts.append(self.task.survey.losses_beside(solution.dropped, self.task.progress))
        self._contexts.append((limits, contexts))
        return proposals, contexts[-1]

    @cached_property
    def _contexts(self) -> list[tuple[Mapping[str, float], list[Drops]]]:
        """The losses of blocks that were measured, of each context, for limits that were asked for."""
        return []

    def _judged(self, solution: Solution) -> Proposal:
        landscape = self.task.landscape
        narrowed = landscape.problem.loss(solution.levels, frozenset())
        return Proposal(landscape.configuration(solution), narrowed + self._joint(solution.dropped), solution.gap)

    def _joint(self, dropped: frozenset[str]) -> float:
        """The loss of these blocks together."""
        survey = self.task.survey
        if len(dropped) < 2 or not survey:
            return sum(self.task.landscape.problem.drops[block] for block in dropped)
        return survey.loss(Configuration({}, dropped))


@dataclass(frozen=True)
class Refinement:
    """What evolved prices give on a landscape, judged by the loss of the whole; `tries` configurations are measured.

    Prices are evolved once: they say how the losses of this model add up, whatever the limits.
    """

    task: Task
    landscape: Landscape
    measure: Measure
    tries: int

    def better(self, limits: Mapping[str, float], drops: Drops, plain: Proposal) -> Proposal:
        """The better of the plain proposal and what the prices give within the same limits."""
        gaps = {plain.configuration: plain.gap}

        def decode(prices: Prices) -> Configuration:
            solution = solve_within(self.landscape, limits, drops, prices)
            configuration = self.landscape.configuration(solution)
            gaps.setdefault(configuration, solution.gap)
            return configuration

        if not self._prices:
            problem = replace(self.landscape.problem, drops=drops)
            found = refine(problem, decode, self.loss, self.tries, self.task.seed, self.task.progress)
            self._prices.append(found)
        best = min((plain.configuration, decode(self._prices[0])), key=self.loss)
        return Proposal(best, self.loss(best), gaps[best])

    def loss(self, configuration: Configuration) -> float:
        """Of the whole: with what is removed measured, and what rounding loses added."""
        return self.measure(configuration) + self.landscape.loss_of_rounding(configuration)

    @cached_property
    def _prices(self) -> list[Prices]:
        """Those evolved, once they are."""
        return []


def are_near(known: Mapping[str, float], limits: Mapping[str, float]) -> bool:
    """Whether what was measured for some limits serves for others."""
    return known.keys() == limits.keys() and all(abs(known[name] / limits[name] - 1) <= NEAR for name in limits)


def solve_within(
    landscape: Landscape, limits: Mapping[str, float], drops: Drops, prices: Prices = UNCHANGED
) -> Solution:
    """The solution of least loss within limits on `latency`, `size`, `energy` and peak `memory`, given blocks' losses.

    `prices` are factors on losses.

    A peak is a maximum over time, which no solver of linear programs knows: rows are added for the moments that turn
    out to be peaks. Raises UnreachableError.
    """
    problem, bounds = landscape.limited(limits), {name: limit for name, limit in limits.items() if name != "memory"}
    problem = problem if drops == problem.drops else replace(problem, drops=drops)
    problem = priced(problem, prices) if prices else problem
    try:
        while True:
            solution = solve(problem, bounds)
            configuration = landscape.configuration(solution)
            if "memory" not in limits:
                return solution
            peak = landscape.cost(configuration).peak_memory_bytes
            if peak <= limits["memory"]:
                return solution
            name, problem = landscape.with_peak(problem, configuration)
            seen = problem.amount(name, solution.levels, solution.dropped)
            bounds[name] = limits["memory"] * min(1.0, seen / peak)  # so that this solution is none any more
    except InfeasibleError:
        found = binding(problem, bounds)
        nearest = None if found is None else ("memory" if found[0].startswith("memory") else found[0], found[1])
        raise UnreachableError(nearest) from None
