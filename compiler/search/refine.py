"""Refinement of what the solver chooses: evolution over its prices, selected by the measured loss of the whole.

The solver adds up losses that were measured one by one, and they don't quite add up. What it chooses is right for the
losses that it is given, so another choice that keeps all limits is had by giving it others: each axis and block gets a
price, a factor on its losses. Prices mutate, the solver decodes them, and of the choices the one stays whose loss,
everything removed and repaired at once, is least. Coefficients that are decoded so are SPDY's (Frantar and Alistarh
2022, arXiv 2203.13711), there of layers and decoded by dynamic programming.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping
from dataclasses import replace

from chipfit.ir.configuration import Configuration
from chipfit.passes.base import Progress
from chipfit.search.solve import Problem

SPREAD = 0.5  # standard deviation of the logarithm of a price's change
STALE = 20  # mutations in a row that give nothing new, after which nothing more is expected

Prices = Mapping[str, float]  # of axes and blocks; the rest costs what was measured
Decode = Callable[[Prices], Configuration]
Measure = Callable[[Configuration], float]


def priced(problem: Problem, prices: Prices) -> Problem:
    levels = {axis: tuple(loss * prices.get(axis, 1.0) for loss in losses) for axis, losses in problem.levels.items()}
    drops = {block: loss * prices.get(block, 1.0) for block, loss in problem.drops.items()}
    return replace(problem, levels=levels, drops=drops)


def refine(problem: Problem, decode: Decode, measure: Measure, tries: int, seed: int, progress: Progress) -> Prices:
    """The best prices found when `tries` distinct choices were measured, that of no prices among them."""
    rng = random.Random(seed)
    names = [*problem.levels, *problem.drops]
    prices: Prices = {}
    first = decode(prices)
    losses = {first: measure(first)}
    best, stale = losses[first], 0
    while len(losses) < tries and stale < STALE:
        progress("refining by measured loss", len(losses) / tries)
        child = {name: prices.get(name, 1.0) * math.exp(rng.gauss(0, SPREAD)) for name in names}
        configuration = decode(child)
        stale += 1
        if configuration in losses:
            continue
        stale = 0
        losses[configuration] = measure(configuration)
        if losses[configuration] < best:
            prices, best = child, losses[configuration]
    return prices
