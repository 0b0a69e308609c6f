"""The loop from budget to configuration, against a landscape and a chip that are made up."""

import json
from dataclasses import dataclass, field

import numpy as np
import pytest

from chipfit.errors import InfeasibleBudgetError
from chipfit.ir.configuration import Configuration
from chipfit.search.budget import parse_budget
from chipfit.search.choose import AIM, Attempt, Choice, Measured, choose, ensure_reachable, next_aim
from chipfit.search.curves import Level
from chipfit.search.solve import Item, Problem
from chipfit.search.strategies.base import Task
from chipfit.search.strategies.knapsack import Knapsack

WIDTHS = (16, 12, 8, 4)
BASELINE = {"latency": 20.0, "memory": 1600.0, "size": 1600.0}


@dataclass(frozen=True)
class Predicted:
    latency_ms: float
    peak_memory_bytes: float
    weight_bytes: float
    upper_ms: float


@dataclass
class Landscape:
    """One axis of 16 channels; the model predicts a millisecond a channel, and half as much again at most."""

    levels: dict = field(default_factory=lambda: {"a": tuple(Level(tuple(range(w)), 16.0 - w) for w in WIDTHS)})

    @property
    def problem(self):
        losses = {"a": tuple(level.loss for level in self.levels["a"])}
        item = Item(("a",), frozenset(), np.array(WIDTHS, float))
        size = Item(("a",), frozenset(), np.array(WIDTHS, float) * 100)
        return Problem(losses, {}, {"latency": (item,), "size": (size,)})

    def limited(self, quantities):
        return self.problem

    def configuration(self, solution):
        level = solution.levels["a"]
        return Configuration({"a": self.levels["a"][level].kept} if level else {})

    def cost(self, configuration):
        width = len(configuration.widths.get("a", range(16)))
        return Predicted(float(width), width * 100.0, width * 100.0, width * 1.5)


def knapsack():
    return Knapsack(Task(None, (), Landscape(), 4))


def measured(overhead):
    """A chip on which every model takes `overhead` ms more than its channels say."""
    return lambda configuration: Measured(len(configuration.widths.get("a", range(16))) + overhead)


def test_takes_the_widest_that_fits():
    found = choose(knapsack(), parse_budget(["latency=80%"]), BASELINE, measured(4.0))
    assert (len(found.configuration.widths["a"]), found.measured_ms, found.predicted_ms) == (12, 16.0, 12.0)


def test_repairs_what_the_model_got_wrong():
    calls = []

    def chip(configuration):
        calls.append(len(configuration.widths["a"]))
        return Measured(calls[-1] * 1.0 + 7.0)

    found = choose(knapsack(), parse_budget(["latency=80%"]), BASELINE, chip)
    assert calls[0] == 12  # 19 ms where 16 are allowed
    assert found.measured_ms == 15.0
    assert [(one.predicted_ms, one.measured_ms) for one in found.attempts] == [(w, w + 7.0) for w in calls]
    assert found == Choice.from_json(json.loads(json.dumps(found.to_json())))


def attempts(*found):
    return [Attempt(aimed, aimed, measured, 0.0, 1.0) for aimed, measured in found]


@pytest.mark.parametrize(
    ("found", "aim"),
    [
        ([(8.0, 11.0)], 8.0 - 1.0 / (9.0 / 8.0)),  # on the line through the whole, 16 ms for which it takes 20
        ([(8.0, 11.0), (4.0, 6.0)], 4.0 + 4.0 * 4.0 / 5.0),  # between the two
        ([(8.0, 11.0), (4.0, 6.0), (7.2, 10.5), (3.0, 5.0)], 4.0 + 3.2 * 4.0 / 4.5),  # between the nearest
    ],
)
def test_aims_between_what_was_too_fast_and_what_was_too_slow(found, aim):
    """ResNet-20 in int8 went to and fro between two configurations by the line through the whole."""
    assert next_aim(attempts(*found), 10.0 / AIM, 16.0, 20.0) == pytest.approx(aim)


@pytest.mark.parametrize(
    ("budget", "width"),
    [
        ("latency=80%", 12),  # of what is predicted of the whole
        ("latency=13ms", 8),  # of which the upper bound is 12 ms
    ],
)
def test_without_a_chip_at_hand_the_prediction_decides(budget, width):
    found = choose(knapsack(), parse_budget([budget]), {**BASELINE, "latency": 16.0}, None)
    assert (len(found.configuration.widths["a"]), found.measured_ms) == (width, None)


def test_size_needs_no_measurement():
    found = choose(knapsack(), parse_budget(["size=50%"]), BASELINE, measured(0.0))
    assert len(found.configuration.widths["a"]) == 8


@pytest.mark.parametrize(
    ("budget", "sentence"),
    [
        ("latency=5%", "latency=5% can't be met: the nearest feasible budget is latency=41.02%."),
        ("latency=1ms", "latency=1ms can't be met: the nearest feasible budget is latency=8.203ms."),
        ("size=20%", "size=20% can't be met: the nearest feasible budget is size=25.25%."),
    ],
)
def test_names_the_binding_constraint_and_the_nearest_feasible(budget, sentence):
    with pytest.raises(InfeasibleBudgetError) as error:
        choose(knapsack(), parse_budget([budget]), BASELINE, measured(4.0))
    assert str(error.value) == sentence
    assert error.value.exit_code == 3


def test_what_no_attempt_meets_is_told_by_the_best_of_them():
    """A chip that takes as long whatever is removed."""
    with pytest.raises(
        InfeasibleBudgetError, match=r"latency=80% can't be met: the nearest feasible .* latency=83.32%"
    ):
        choose(knapsack(), parse_budget(["latency=80%"]), BASELINE, lambda _: Measured(16.5))


def test_the_nearest_feasible_budget_is_feasible():
    nearest = "latency=25.63%"
    found = choose(knapsack(), parse_budget([nearest]), BASELINE, lambda c: Measured(len(c.widths["a"]) * 1.25))
    assert found.measured_ms <= 0.2563 * 20


@pytest.mark.parametrize(
    ("budget", "sentence"),
    [
        ("latency=5%", "latency=5% can't be met: the nearest feasible budget is latency=38.45%."),  # by the upper bound
        ("latency=2.5ms", "latency=2.5ms can't be met: the nearest feasible budget is latency=6.152ms."),
        ("size=20%", "size=20% can't be met: the nearest feasible budget is size=25.25%."),
    ],
)
def test_what_nothing_meets_is_told_before_anything_is_measured(budget, sentence):
    predicted = {**BASELINE, "latency": 16.0}
    with pytest.raises(InfeasibleBudgetError) as error:
        ensure_reachable(Landscape(), parse_budget([budget]), predicted)
    assert str(error.value) == sentence


def glanced(ms):
    """A baseline of 10 ms, beside which a configuration is measured to take at most so much a channel."""
    return lambda configuration: (10.0, len(configuration.widths["a"]) * ms)


@pytest.mark.parametrize(
    ("budget", "sentence"),
    [
        (["latency=5%"], "latency=5% can't be met: the nearest feasible budget is latency=41.02%."),  # 4 ms of 10
        (["latency=1ms", "size=30%"], "latency=1ms can't be met: the nearest feasible budget is latency=4.102ms."),
        (["size=20%"], "size=20% can't be met: the nearest feasible budget is size=25.25%."),
    ],
)
def test_the_nearest_latency_is_that_of_the_fastest_as_measured(budget, sentence):
    with pytest.raises(InfeasibleBudgetError) as error:
        ensure_reachable(Landscape(), parse_budget(budget), {**BASELINE, "latency": 16.0}, glance=glanced(1.0))
    assert str(error.value) == sentence


def test_what_is_measured_to_be_within_the_budget_passes():
    """A quarter of the channels is predicted to take a quarter of the time, and takes a fifth."""
    ensure_reachable(Landscape(), parse_budget(["latency=21%"]), {**BASELINE, "latency": 16.0}, glance=glanced(0.5))
    chip = lambda configuration: Measured({16: 20.0, 4: 4.0}[len(configuration.widths.get("a", range(16)))])  # noqa: E731
    found = choose(knapsack(), parse_budget(["latency=21%"]), BASELINE, chip)
    assert (len(found.configuration.widths["a"]), found.measured_ms) == (4, 4.0)


@pytest.mark.parametrize("budget", [["latency=26%", "size=30%"], ["latency=2.8ms"]])
def test_what_something_may_meet_passes(budget):
    """Four channels are predicted to take 4 ms, but may take 2.67."""
    ensure_reachable(Landscape(), parse_budget(budget), {**BASELINE, "latency": 16.0})


def test_where_nothing_will_be_measured_the_upper_bound_is_what_must_fit():
    """Four channels may take 6 ms."""
    predicted = {**BASELINE, "latency": 16.0}
    ensure_reachable(Landscape(), parse_budget(["latency=6.2ms"]), predicted, will_measure=False)
    with pytest.raises(InfeasibleBudgetError) as error:
        ensure_reachable(Landscape(), parse_budget(["latency=5ms"]), predicted, will_measure=False)
    assert str(error.value) == "latency=5ms can't be met: the nearest feasible budget is latency=6.152ms."
    nearest = choose(knapsack(), parse_budget(["latency=6.152ms"]), predicted, None)
    assert len(nearest.configuration.widths["a"]) == 4


def test_aims_at_the_least_before_it_gives_up():
    """The second aim is lower than anything: still the narrowest, at which the budget holds, is tried."""

    def chip(configuration):
        width = len(configuration.widths.get("a", range(16)))
        return Measured({16: 20.0, 12: 19.5, 8: 19.0, 4: 8.0}[width])

    found = choose(knapsack(), parse_budget(["latency=45%"]), BASELINE, chip)
    assert (len(found.configuration.widths["a"]), found.measured_ms) == (4, 8.0)


def test_the_nearest_budget_is_told_by_what_the_least_was_measured_to_take():
    def chip(configuration):
        width = len(configuration.widths.get("a", range(16)))
        return Measured({16: 20.0, 12: 19.5, 8: 19.0, 4: 14.0}[width])

    with pytest.raises(InfeasibleBudgetError, match="nearest feasible budget is latency=7"):
        choose(knapsack(), parse_budget(["latency=45%"]), BASELINE, chip)
