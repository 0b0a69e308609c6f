"""From budget to configuration: solve, compile, measure, correct, until what was measured fits.

The cost model is asked first. What it gets wrong on this graph shows in what was measured: the next solve aims where
the line through the uncompressed model and the last configuration, aimed at against measured, meets the limit.
Nothing is trained before a configuration fits.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from chipfit.errors import InfeasibleBudgetError
from chipfit.ir.configuration import Configuration
from chipfit.search.budget import Budget, Limit
from chipfit.search.problem import Landscape
from chipfit.search.solve import InfeasibleError, Problem, Solution, binding, solve

ATTEMPTS = 6
STEEPEST = 2.0  # by which factor that line may be steeper or flatter than measured over predicted, or aim lower at once
SLACK = 0.05  # a configuration this far under its latency limit wastes quality: aim again
MARGIN = 1.01  # above the least that is reachable, so that what the user is told survives rounding
AIM = 0.985  # of the limit, so that the noise of a later measurement doesn't break it

Measure = Callable[[Configuration], float]  # milliseconds, comparable with the measured baseline


@dataclass(frozen=True)
class Choice:
    """A configuration with what the cost model predicted for it and what was measured (None: not measured)."""

    configuration: Configuration
    predicted_ms: float
    measured_ms: float | None
    gap: float  # of the solve, relative
    expected_loss: float


def choose(landscape: Landscape, budget: Budget, baseline: Mapping[str, float], measure: Measure | None) -> Choice:
    """The configuration of least expected loss that fits the budget as measured (as predicted, without `measure`).

    `baseline` holds the uncompressed model's `latency` (ms; measured where `measure` is given), `memory`, `size`
    (bytes) and `energy` (mJ). Raises InfeasibleBudgetError naming the binding constraint and the nearest feasible one.
    """
    limits = budget.absolute(baseline)
    whole = landscape.cost(Configuration()).latency_ms
    ratio = baseline["latency"] / whole if measure else 1.0
    limit = limits.get("latency", math.inf)
    aim = limit * AIM / ratio
    fitting = list[Choice]()
    for _ in range(ATTEMPTS):
        found = attempt(landscape, limits, aim, budget, baseline)
        if measure is None or "latency" not in limits:
            return found
        measured = measure(found.configuration)
        chosen = replace(found, measured_ms=measured)
        if measured <= limit:
            fitting.append(chosen)
            if measured >= limit * (1 - SLACK) or found.expected_loss == 0:
                return chosen
        slope = (baseline["latency"] - measured) / (whole - aim) if aim < whole else ratio
        below = aim - (measured - limit * AIM) / min(max(slope, ratio / STEEPEST), ratio * STEEPEST)
        aim = max(below, aim / STEEPEST)  # one far measurement must not send it below zero
    if not fitting:
        raise InfeasibleBudgetError(f"No configuration was measured within {budget} in {ATTEMPTS} attempts: loosen it.")
    return min(fitting, key=lambda choice: choice.expected_loss)


def attempt(
    landscape: Landscape, limits: Mapping[str, float], aim: float, budget: Budget, baseline: Mapping[str, float]
) -> Choice:
    """One exact solve, with predicted milliseconds limited to `aim` where the budget limits latency."""
    aimed = {**limits, "latency": aim} if "latency" in limits else limits
    scale = limits["latency"] / aim if "latency" in limits else 1.0
    solution = within(landscape, aimed, budget, baseline, scale)
    configuration = landscape.configuration(solution)
    predicted = landscape.cost(configuration).latency_ms
    return Choice(configuration, predicted, None, solution.gap, solution.objective)


def within(
    landscape: Landscape,
    limits: Mapping[str, float],
    budget: Budget,
    baseline: Mapping[str, float],
    scale: float,
) -> Solution:
    """Solves; peak memory is a maximum over time, so its rows are added for the moments that turn out to be peaks."""
    problem, bounds = landscape.limited(limits), {name: limit for name, limit in limits.items() if name != "memory"}
    try:
        while True:
            solution = solve(problem, bounds)
            configuration = landscape.configuration(solution)
            peak = landscape.cost(configuration).peak_memory_bytes
            if "memory" not in limits or peak <= limits["memory"]:
                return solution
            name, problem = landscape.with_peak(problem, configuration)
            bounds[name] = limits["memory"]  # the rows are linear in the choices, the peak is their maximum
    except InfeasibleError:
        raise infeasible(problem, bounds, budget, baseline, scale) from None


def infeasible(
    problem: Problem, bounds: Mapping[str, float], budget: Budget, baseline: Mapping[str, float], scale: float
) -> InfeasibleBudgetError:
    """The error that names the constraint to loosen and how far; `scale` is from aimed milliseconds to the limit's."""
    named = {limit.quantity: limit for limit in budget.limits}
    found = binding(problem, bounds)
    if found is None:
        return InfeasibleBudgetError(f"No configuration meets {budget}, not even with one of its limits left out.")
    quantity, reachable = found
    quantity = "memory" if quantity.startswith("memory") else quantity
    if quantity == "latency":
        reachable *= scale
    limit = named[quantity]
    share = reachable / baseline[quantity] if limit.relative else reachable
    nearest = Limit(quantity, share * MARGIN, limit.relative)
    return InfeasibleBudgetError(f"{limit} can't be met: the nearest feasible budget is {nearest}.")
