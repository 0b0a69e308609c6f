"""knapsack: the exact choice of widths, ranks and blocks together, by losses measured after repair. The default."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from chipfit.search.problem import Landscape
from chipfit.search.program import InfeasibleError
from chipfit.search.solve import Solution, binding, solve
from chipfit.search.strategies.base import Proposal, Strategy, UnreachableError


@dataclass(frozen=True)
class Knapsack(Strategy):
    """The least sum of measured losses within the limits, proved by the solver."""

    name: ClassVar[str] = "knapsack"
    summary: ClassVar[str] = "widths, ranks and blocks together, by an exact solve over measured losses"
    surveyed: ClassVar[bool] = True

    def propose(self, limits: Mapping[str, float]) -> Proposal:
        solution = solve_within(self.task.landscape, limits)
        return Proposal(self.task.landscape.configuration(solution), solution.objective, solution.gap)


def solve_within(landscape: Landscape, limits: Mapping[str, float]) -> Solution:
    """The solution of least loss within limits on `latency`, `size` and peak `memory`.

    A peak is a maximum over time, which no solver of linear programs knows: rows are added for the moments that turn
    out to be peaks. Raises UnreachableError.
    """
    problem, bounds = landscape.limited(limits), {name: limit for name, limit in limits.items() if name != "memory"}
    try:
        while True:
            solution = solve(problem, bounds)
            configuration = landscape.configuration(solution)
            if "memory" not in limits or landscape.cost(configuration).peak_memory_bytes <= limits["memory"]:
                return solution
            name, problem = landscape.with_peak(problem, configuration)
            bounds[name] = limits["memory"]
    except InfeasibleError:
        found = binding(problem, bounds)
        nearest = None if found is None else ("memory" if found[0].startswith("memory") else found[0], found[1])
        raise UnreachableError(nearest) from None
