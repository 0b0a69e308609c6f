"""A lower bound on every state of a problem in parts, all states at once.

A limit is given up, and each unit of its quantity costs a price instead (Lagrange): every part then takes the choice
that is cheapest by itself, and what that comes to, less the price of the limit, is never more than the optimum. The
best price gives what a program with fractions would (Geoffrion 1974); it is looked for between ever closer ones.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from chipfit.search.parts import Separated

PRICES, ROUNDS = 12, 4  # tried at a time, each time between the neighbours of the best
TOLERANCE = 1e-7  # of a limit, by which it may be missed, as a solver's rows may
LOWEST, HIGHEST = -9.0, 9.0  # decimal exponents of the first prices, in units of what choices cost in the mean

Floats = NDArray[np.float64]


def lower_bounds(whole: Separated, limits: Mapping[str, float], objective: str) -> Floats:
    """Of the objective in each state, infinite where a limit can't be kept at all; of several limits each alone."""
    fixed = dict(zip(whole.names, np.array(whole.fixed).T, strict=True))
    costs = whole.stacked[objective]
    found: Floats = _least(whole, costs)
    for name, most in limits.items():
        amounts, left = whole.stacked[name], most - fixed[name]
        bound = _priced(whole, costs, amounts, left)
        found = np.maximum(found, np.where(_least(whole, amounts) > left + TOLERANCE * most, np.inf, bound))
    found += fixed[objective]
    return found


def _priced(whole: Separated, costs: Floats, amounts: Floats, left: Floats) -> Floats:
    """The highest bound of those that were tried, for each state."""
    unit = (costs.sum() or 1.0) / (amounts.sum() or 1.0)
    low, high = np.full(len(left), LOWEST), np.full(len(left), HIGHEST)
    best = np.full(len(left), -np.inf)
    for _ in range(ROUNDS):
        exponents = np.linspace(low, high, PRICES)
        tried = np.stack([_at(whole, costs, amounts, left, unit * 10.0**each) for each in exponents])
        at = tried.argmax(axis=0)
        best = np.maximum(best, tried.max(axis=0))
        states = np.arange(len(left))
        low, high = exponents[np.maximum(at - 1, 0), states], exponents[np.minimum(at + 1, PRICES - 1), states]
    return best


def _at(whole: Separated, costs: Floats, amounts: Floats, left: Floats, price: Floats) -> Floats:
    return _least(whole, costs + price[whole.state_of] * amounts) - price * left


def _least(whole: Separated, values: Floats) -> Floats:
    """The sum over each state's parts of the least value among their choices."""
    least = np.minimum.reduceat(values, whole.starts) if len(values) else np.zeros(0)
    total: Floats = least.reshape(len(whole.states), len(whole.parts)).sum(axis=1)
    return total
