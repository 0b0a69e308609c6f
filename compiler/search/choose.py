"""From budget to configuration: solve, compile, measure, correct, until what was measured fits.

The cost model is asked first. What it gets wrong on this graph shows in what was measured: the next solve aims where
the line between two configurations, aimed at against measured, meets the limit: the uncompressed model and the last, or
once there are any on both sides the nearest on either.
Nothing is trained before a configuration fits.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from chipfit.errors import InfeasibleBudgetError
from chipfit.ir.configuration import UNCHANGED, Configuration
from chipfit.search.budget import Budget, Limit
from chipfit.search.problem import Landscape
from chipfit.search.strategies.base import Strategy, UnreachableError
from chipfit.search.strategies.knapsack import solve_within
from chipfit.targets.cost import Cost

ATTEMPTS = 6
STEEPEST = 2.0  # by which factor that line may be steeper or flatter than measured over predicted, or aim lower at once
SLACK = 0.03  # a configuration this far under its latency limit wastes quality: aim again
MARGIN = 1.01  # above the least that is reachable, so that what the user is told survives rounding
NEXT = 1.0001  # times the least, which is met then
AIM = 0.985  # of the limit, so that the noise of a later measurement doesn't break it


@dataclass(frozen=True)
class Measured:
    """Milliseconds, comparable with the measured baseline, and their standard error, relative."""

    ms: float
    error: float = 0.0


Measure = Callable[[Configuration], Measured]
Glance = Callable[[Configuration], tuple[float, float]]  # ms of the baseline, and at most of that beside it


@dataclass(frozen=True)
class Attempt:
    """A configuration that was compiled and measured on the way, in ms.

    The cost model's figures are of its own scale, `error` is the measurement's standard error, relative.
    """

    aimed_ms: float
    predicted_ms: float
    measured_ms: float
    error: float
    expected_loss: float


@dataclass(frozen=True)
class Choice:
    """A configuration with what the cost model predicted for it and what was measured (None: not measured).

    `gap` and `expected_loss` are the strategy's own, as in its `Proposal`. `attempts` are all that was measured.
    """

    configuration: Configuration
    predicted_ms: float
    measured_ms: float | None
    gap: float | None
    expected_loss: float
    attempts: tuple[Attempt, ...] = ()

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "configuration": self.configuration.to_json()}

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> Choice:
        configuration, attempts = data["configuration"], data["attempts"]
        known = {
            "configuration": Configuration.from_json(configuration),
            "attempts": tuple(Attempt(**one) for one in attempts),
        }
        return Choice(**{**data, **known})


@dataclass(frozen=True)
class Goal:
    """A budget in the cost model's own units, and by what factor the real figures are larger than these."""

    limits: Mapping[str, float]
    scales: Mapping[str, float]

    @staticmethod
    def of(budget: Budget, baseline: Mapping[str, float], cost: Cost, ratio: float = 1.0) -> Goal:
        """`cost` is the model's of the baseline, `ratio` by what a latency is longer than the model says."""
        unseen = (
            baseline["memory"] / cost.peak_memory_bytes
        )  # next to nothing, where codegen turned conditions into numbers
        scales = {"latency": ratio / AIM, "memory": unseen}
        limits = {name: limit / scales.get(name, 1.0) for name, limit in budget.absolute(baseline).items()}
        return Goal(limits, scales)

    def at(self, latency: float) -> Goal:
        """Aimed at another latency."""
        scale = self.scales["latency"] * self.limits["latency"] / latency
        return Goal({**self.limits, "latency": latency}, {**self.scales, "latency": scale})

    def known(self, attempts: Sequence[Attempt]) -> Goal:
        """With the factor of latencies that the last attempt was measured to have, where there was one."""
        if not attempts:
            return self
        scale = attempts[-1].measured_ms / attempts[-1].predicted_ms
        return replace(self, scales={**self.scales, "latency": scale / AIM})

    def least(self, error: UnreachableError, attempts: Sequence[Attempt]) -> float | None:
        """The latency to aim at where this one was too low: the least that there is, unless that was measured."""
        if error.nearest is None or error.nearest[0] != "latency":
            return None
        reachable = error.nearest[1] * NEXT
        return reachable if all(one.aimed_ms > reachable for one in attempts) else None


def choose(strategy: Strategy, budget: Budget, baseline: Mapping[str, float], measure: Measure | None) -> Choice:
    """The strategy's best configuration that fits the budget as measured (without `measure` as predicted).

    `baseline` holds the uncompressed model's `latency` (ms; measured where `measure` is given), `memory`, `size`
    (bytes) and `energy` (mJ). Raises InfeasibleBudgetError naming the binding constraint and the nearest feasible one.
    """
    cost = strategy.task.landscape.cost(UNCHANGED)
    goal = Goal.of(budget, baseline, cost, baseline["latency"] / cost.latency_ms if measure else safety(budget, cost))
    limit = budget.absolute(baseline).get("latency", math.inf)
    fitting, attempts = list[Choice](), list[Attempt]()
    for _ in range(ATTEMPTS):
        try:
            found = attempt(strategy, goal.limits)
        except UnreachableError as error:
            if fitting:
                break
            least = goal.least(error, attempts) if measure else None
            if least is None:
                raise infeasible(error, budget, baseline, goal.known(attempts).scales) from None
            goal = goal.at(least)
            continue
        if measure is None or "latency" not in goal.limits:
            return found
        aim = goal.limits["latency"]
        measured = measure(found.configuration)
        attempts.append(Attempt(aim, found.predicted_ms, measured.ms, measured.error, found.expected_loss))
        chosen = replace(found, measured_ms=measured.ms)
        if measured.ms <= limit:
            fitting.append(chosen)
            if measured.ms >= limit * (1 - SLACK) or found.expected_loss == 0:
                return replace(chosen, attempts=tuple(attempts))
        goal = goal.at(next_aim(attempts, limit, cost.latency_ms, baseline["latency"]))
    if not fitting:
        raise beyond(budget, baseline, "latency", min(one.measured_ms for one in attempts))
    return replace(min(fitting, key=lambda found: found.expected_loss), attempts=tuple(attempts))


def next_aim(attempts: Sequence[Attempt], limit: float, predicted_ms: float, baseline_ms: float) -> float:
    """Where the measured latency would meet the limit, by the line between the nearest attempts on its two sides.

    Where they are all on one side it is the line through the last and the uncompressed model, which is predicted to
    take so much and was measured to.
    """
    target, last, ratio = limit * AIM, attempts[-1], baseline_ms / predicted_ms
    below = max((one for one in attempts if one.measured_ms <= limit), key=lambda one: one.aimed_ms, default=None)
    above = min((one for one in attempts if one.measured_ms > limit), key=lambda one: one.aimed_ms, default=None)
    if below and above and below.aimed_ms < above.aimed_ms:
        share = (target - below.measured_ms) / (above.measured_ms - below.measured_ms)
        return below.aimed_ms + share * (above.aimed_ms - below.aimed_ms)
    slope = ratio
    if last.aimed_ms < predicted_ms:
        slope = (baseline_ms - last.measured_ms) / (predicted_ms - last.aimed_ms)
    aim = last.aimed_ms - (last.measured_ms - target) / min(max(slope, ratio / STEEPEST), ratio * STEEPEST)
    return max(aim, last.aimed_ms / STEEPEST)  # one far measurement must not send it below zero


def safety(budget: Budget, cost: Cost) -> float:
    """What a predicted latency counts as, by the upper bound, where nothing will be measured.

    A share of the baseline is one of predictions, which are off alike.
    """
    return cost.upper_ms / cost.latency_ms if budget.in_milliseconds else 1.0


def ensure_reachable(
    landscape: Landscape,
    budget: Budget,
    predicted: Mapping[str, float],
    will_measure: bool = True,
    glance: Glance | None = None,
) -> None:
    """Raises InfeasibleBudgetError if nothing of the landscape meets the budget, whatever it loses.

    `predicted` is the baseline as the cost model has it. Milliseconds, unlike shares of the baseline, are predicted
    wrongly: where they will be measured a limit in them must be missed by the upper bound, and the nearest feasible
    latency is told by it too; where they won't, the upper bound is what must be within the limit. With `glance` it is
    asked what the fastest takes: of next to nothing the model's bounds were seen not to hold, on either side.
    """
    cost, drops = landscape.cost(UNCHANGED), landscape.problem.drops
    most = cost.upper_ms / cost.latency_ms if will_measure else 1.0
    goal = Goal.of(budget, predicted, cost, 1.0 if will_measure else safety(budget, cost))
    aim = goal.at(goal.limits["latency"] * most) if budget.in_milliseconds else goal
    try:
        solve_within(landscape, aim.limits, drops)
    except UnreachableError as error:
        if glance and error.nearest and error.nearest[0] == "latency":
            fastest = solve_within(landscape, {**aim.limits, "latency": error.nearest[1] * NEXT}, drops)
            ensure_within(budget, predicted, *glance(landscape.configuration(fastest)))
            return
        scales = {**goal.scales, "latency": most * goal.scales["latency"]}
        raise infeasible(error, budget, predicted, scales) from None


def ensure_within(budget: Budget, predicted: Mapping[str, float], baseline_ms: float, least_ms: float) -> None:
    """Raises InfeasibleBudgetError if not even the fastest is within a budget on latency, as measured."""
    baseline, aimed = {**predicted, "latency": baseline_ms}, least_ms / AIM
    if aimed > budget.absolute(baseline)["latency"]:
        raise beyond(budget, baseline, "latency", aimed)


def attempt(strategy: Strategy, limits: Mapping[str, float]) -> Choice:
    """One proposal within limits as the cost model counts them."""
    found = strategy.propose(limits)
    predicted = strategy.task.landscape.cost(found.configuration).latency_ms
    return Choice(found.configuration, predicted, None, found.gap, found.loss)


def infeasible(
    error: UnreachableError, budget: Budget, baseline: Mapping[str, float], scales: Mapping[str, float]
) -> InfeasibleBudgetError:
    """The error that names the constraint to loosen and how far; `scales` are of real figures to the model's."""
    if error.nearest is None:
        return InfeasibleBudgetError(f"No configuration meets {budget}, not even with one of its limits left out.")
    quantity, reachable = error.nearest
    return beyond(budget, baseline, quantity, reachable * scales.get(quantity, 1.0))


def beyond(budget: Budget, baseline: Mapping[str, float], quantity: str, reachable: float) -> InfeasibleBudgetError:
    """The same where it is known how much of the quantity there has to be, in real figures."""
    limit = next(limit for limit in budget.limits if limit.quantity == quantity)
    share = reachable / baseline[quantity] if limit.relative else reachable
    nearest = Limit(quantity, share * MARGIN, limit.relative)
    return InfeasibleBudgetError(f"{limit} can't be met: the nearest feasible budget is {nearest}.")
