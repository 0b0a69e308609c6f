"""The exact solve: which level of each axis and which blocks, at the least loss within the limits.

A multiple-choice knapsack in which widths meet: what a kernel costs depends on the levels of every axis in its shape
together, and on whether a dropped block takes it away. Most models fall into parts once a few axes are fixed
(`parts.py`). Else each group of kernels with the same axes and blocks gets one weight per combination of levels; the
weights of a kernel that is there sum to one and agree with each axis's own choice, so at whole-numbered choices exactly
the chosen combination counts. HiGHS solves either mixed-integer program.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from chipfit.search.bounds import lower_bounds
from chipfit.search.parts import Separated, separated
from chipfit.search.program import GAP, InfeasibleError, Program

LOSSLESS = 1e-6  # a loss that may be taken for none, which is no bound that a solver can scale by


@dataclass(frozen=True)
class Item:
    """What a kernel or a parameter costs: an amount per combination of its axes' levels, none if a block is dropped."""

    axes: tuple[str, ...]
    blocks: frozenset[str]
    amounts: NDArray[np.float64]  # one dimension per axis


@dataclass(frozen=True)
class Problem:
    """Losses of every level (the first is the full width, at 0) and block, and each quantity's items."""

    levels: Mapping[str, tuple[float, ...]]
    drops: Mapping[str, float]
    quantities: Mapping[str, tuple[Item, ...]]
    exclusive: tuple[tuple[str, str], ...] = ()  # blocks that overlap: at most one of the two is dropped

    def amount(self, quantity: str, levels: Mapping[str, int], dropped: frozenset[str]) -> float:
        """How much of a quantity a choice takes."""
        left = (item for item in self.quantities[quantity] if not item.blocks & dropped)
        return math.fsum(item.amounts[tuple(levels[axis] for axis in item.axes)] for item in left)

    def loss(self, levels: Mapping[str, int], dropped: frozenset[str]) -> float:
        """What a choice costs in quality, as a sum over its parts."""
        narrowed = (self.levels[axis][level] for axis, level in levels.items())
        return math.fsum([*narrowed, *(self.drops[block] for block in dropped)])

    def separated(self, names: tuple[str, ...]) -> Separated | None:
        """The problem in parts, taken apart once for all limits on the same quantities."""
        if names not in self._separated:
            self._separated[names] = separated(self, names)
        return self._separated[names]

    @cached_property
    def _separated(self) -> dict[tuple[str, ...], Separated | None]:
        return {}


@dataclass(frozen=True)
class Solution:
    levels: Mapping[str, int]
    dropped: frozenset[str]
    objective: float
    gap: float  # relative; 0 where optimality is proved


def solve(problem: Problem, limits: Mapping[str, float], objective: str = "loss") -> Solution:
    """The choice with the least `objective` that keeps every limit; both are the `loss` or a quantity.

    Raises InfeasibleError if there is none.
    """
    names = tuple(sorted({*limits, objective, "loss"}))
    parts = problem.separated(names)
    return _by_products(problem, limits, objective) if parts is None else _by_parts(problem, parts, limits, objective)


def smallest(problem: Problem, quantity: str, loss: float = math.inf) -> Solution:
    """The choice that takes the least of a quantity at no more than a loss."""
    return solve(problem, {} if math.isinf(loss) else {"loss": max(loss, LOSSLESS)}, objective=quantity)


def binding(problem: Problem, limits: Mapping[str, float]) -> tuple[str, float] | None:
    """Of limits that cannot all hold: the quantity to loosen, and the least value of it at which the others hold.

    None if loosening a single limit is not enough.
    """
    options = []
    for quantity, limit in limits.items():
        others = {name: value for name, value in limits.items() if name != quantity}
        try:
            reachable = solve(problem, others, objective=quantity).objective
        except InfeasibleError:
            continue
        options.append((reachable / limit, quantity, reachable))
    return min(options)[1:] if options else None


def exclusive_pairs(nodes: Mapping[str, frozenset[str]]) -> tuple[tuple[str, str], ...]:
    """The pairs of blocks that share a node."""
    return tuple((a, b) for a, b in itertools.combinations(sorted(nodes), 2) if nodes[a] & nodes[b])


def _by_parts(problem: Problem, whole: Separated, limits: Mapping[str, float], objective: str) -> Solution:
    """State after state of the shared axes, the most promising first, until no other one can be better."""
    bounds = lower_bounds(whole, limits, objective)
    best: tuple[float, int, NDArray[np.float64], float] | None = None
    for state in np.argsort(bounds, kind="stable").tolist():
        if math.isinf(bounds[state]) or (best and bounds[state] >= best[0] * (1 - GAP)):
            break
        with suppress(InfeasibleError):
            x, value, gap = _least(whole, state, limits, objective)
            best = min(best or (value, state, x, gap), (value, state, x, gap), key=lambda found: found[0])
    if best is None:
        raise InfeasibleError("Every state of the shared axes is infeasible.")
    value, state, x, gap = best
    levels, dropped = whole.choice(problem, state, x)
    return Solution(levels, dropped, value, gap)


def _least(
    whole: Separated, state: int, limits: Mapping[str, float], objective: str
) -> tuple[NDArray[np.float64], float, float]:
    """One choice of each part in a state: the columns, the objective, and the gap."""
    program = Program()
    for listed in whole.listed[state]:
        columns = program.new(len(listed.places), True)
        program.row(columns, [1.0] * len(columns), 1.0, 1.0)
    forms = dict(zip(whole.names, whole.amounts[state].T, strict=True))
    fixed = dict(zip(whole.names, whole.fixed[state].tolist(), strict=True))
    for name, most in limits.items():
        if fixed[name] > most:
            raise InfeasibleError(f"The state alone takes more {name} than there is.")
        program.limit(forms[name], most - fixed[name])
    if not program.columns:
        return np.zeros(0), fixed[objective], 0.0
    x, value, gap = program.minimise(forms[objective])
    return x, value + fixed[objective], gap


def _by_products(problem: Problem, limits: Mapping[str, float], objective: str) -> Solution:
    program = _Products(problem=problem)
    forms = {name: program.amount(name) for name in {*limits, objective} - {"loss"}}
    forms["loss"] = program.loss()
    for name, most in limits.items():
        program.limit(forms[name], most)
    x, value, gap = program.minimise(forms[objective])
    levels = {axis: int(np.argmax(x[columns])) for axis, columns in program.level.items()}
    dropped = frozenset(block for block, column in program.drop.items() if x[column] > 0.5)
    return Solution(levels, dropped, value, gap)


@dataclass
class _Products(Program):
    """A column for each level and block, and weights of combinations that agree with them."""

    problem: Problem = field(kw_only=True)
    groups: dict[tuple[tuple[str, ...], frozenset[str]], list[int]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.level = {axis: self.new(len(losses), True) for axis, losses in self.problem.levels.items()}
        self.drop = {block: self.new(1, True)[0] for block in self.problem.drops}
        for columns in self.level.values():
            self.row(columns, [1.0] * len(columns), 1.0, 1.0)
        for first, second in self.problem.exclusive:
            self.row([self.drop[first], self.drop[second]], [1.0, 1.0], 0.0, 1.0)

    def weights(self, axes: tuple[str, ...], blocks: frozenset[str]) -> list[int]:
        """The columns that weigh each combination of levels, shared by all items with the same axes and blocks."""
        key = (axes, blocks)
        if key not in self.groups:
            plain = len(axes) == 1 and not blocks
            self.groups[key] = self.level[axes[0]] if plain else self._combinations(axes, blocks)
        return self.groups[key]

    def _combinations(self, axes: tuple[str, ...], blocks: frozenset[str]) -> list[int]:
        sizes = [len(self.level[axis]) for axis in axes]
        grid = np.array(self.new(int(np.prod(sizes)), False)).reshape(sizes)
        drops = [self.drop[block] for block in sorted(blocks)]
        self.row([*grid.flat, *drops], [1.0] * (grid.size + len(drops)), 1.0, 1.0)
        for position, axis in enumerate(axes):
            for level, column in enumerate(self.level[axis]):
                agreeing = list(grid.take(level, position).flat)
                self.row([*agreeing, column], [1.0] * len(agreeing) + [-1.0], -np.inf, 0.0)
        return [int(column) for column in grid.flat]

    def amount(self, quantity: str) -> NDArray[np.float64]:
        """The quantity as a linear form over the columns that exist once it has been asked for."""
        collected: list[tuple[int, float]] = []
        for item in self.problem.quantities[quantity]:
            collected += zip(self.weights(item.axes, item.blocks), item.amounts.ravel(), strict=True)
        form = np.zeros(self.columns)
        for column, value in collected:
            form[column] += value
        return form

    def loss(self) -> NDArray[np.float64]:
        form = np.zeros(self.columns)
        for axis, losses in self.problem.levels.items():
            form[self.level[axis]] = losses
        for block, loss in self.problem.drops.items():
            form[self.drop[block]] = loss
        return form
