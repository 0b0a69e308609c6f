"""Refinement finds what sums of losses can't show, measures each choice once, and keeps to its tries."""

import itertools

import numpy as np

from chipfit.ir.configuration import Configuration
from chipfit.passes.base import silent
from chipfit.search.refine import priced, refine
from chipfit.search.solve import Item, Problem, solve

AXES = ("a", "b", "c")
LIMIT = {"latency": 4.0}
SINGLE = {"a": (0.0, 0.10), "b": (0.0, 0.11), "c": (0.0, 0.14)}  # two of three must be cut


def problem() -> Problem:
    items = tuple(Item((axis,), frozenset(), np.array([2.0, 1.0])) for axis in AXES)
    return Problem(SINGLE, {}, {"latency": items})


def decode(prices: dict[str, float]) -> Configuration:
    levels = solve(priced(problem(), prices), LIMIT).levels
    return Configuration({axis: (0,) for axis, level in levels.items() if level})


def together(configuration: Configuration) -> float:
    """a and b, each the cheapest alone, can't both go."""
    cut = set(configuration.widths)
    return 10.0 if cut >= {"a", "b"} else sum(SINGLE[axis][1] for axis in cut)


def test_the_sums_choose_what_doesnt_go_together_and_refinement_does_not() -> None:
    assert set(decode({}).widths) == {"a", "b"}
    prices = refine(problem(), decode, together, tries=3, seed=0, progress=silent)
    assert set(decode(dict(prices)).widths) == {"a", "c"}


def test_each_choice_is_measured_once_and_no_more_than_granted() -> None:
    seen: list[Configuration] = []

    def measure(configuration: Configuration) -> float:
        seen.append(configuration)
        return together(configuration)

    refine(problem(), decode, measure, tries=2, seed=0, progress=silent)
    assert len(seen) == 2
    seen.clear()
    refine(problem(), decode, measure, tries=100, seed=0, progress=silent)
    possible = [set(pair) for pair in itertools.combinations(AXES, 2)]
    assert len(seen) == len(set(seen)) <= len(possible) + 2


def test_prices_are_factors_on_losses() -> None:
    found = priced(problem(), {"a": 3.0})
    assert found.levels == {**SINGLE, "a": (0.0, 0.10 * 3.0)}
    assert found.quantities is not None
