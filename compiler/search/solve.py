"""The exact solve: which level of each axis and which blocks, at the least loss within the limits.

A multiple-choice knapsack in which widths meet: what a kernel costs depends on the levels of every axis in its shape
together, and on whether a dropped block takes it away. Each group of kernels with the same axes and blocks gets one
weight per combination of levels; the weights of a kernel that is there sum to one and agree with each axis's own
choice, so at whole-numbered choices exactly the chosen combination counts. HiGHS solves the mixed-integer program.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import Bounds, LinearConstraint, milp
from scipy.sparse import coo_array

SECONDS = 30.0  # HiGHS stops here with the best it has; the gap that is left is reported
GAP = 1e-4  # relative optimality gap that counts as solved
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


@dataclass(frozen=True)
class Solution:
    levels: Mapping[str, int]
    dropped: frozenset[str]
    objective: float
    gap: float  # relative; 0 where optimality is proved


class InfeasibleError(Exception):
    """No choice of levels and blocks satisfies the limits."""


@dataclass
class _Program:
    """Rows and columns of the mixed-integer program as they are collected."""

    problem: Problem
    columns: int = 0
    integer: list[int] = field(default_factory=list)
    rows: list[tuple[list[int], list[float], float, float]] = field(default_factory=list)
    groups: dict[tuple[tuple[str, ...], frozenset[str]], list[int]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.level = {axis: self._new(len(losses), True) for axis, losses in self.problem.levels.items()}
        self.drop = {block: self._new(1, True)[0] for block in self.problem.drops}
        for columns in self.level.values():
            self._row(columns, [1.0] * len(columns), 1.0, 1.0)
        for first, second in self.problem.exclusive:
            self._row([self.drop[first], self.drop[second]], [1.0, 1.0], 0.0, 1.0)

    def _new(self, count: int, integer: bool) -> list[int]:
        columns = list(range(self.columns, self.columns + count))
        self.columns += count
        self.integer += [int(integer)] * count
        return columns

    def _row(self, columns: Iterable[int], values: Iterable[float], low: float, high: float) -> None:
        self.rows.append((list(columns), list(values), low, high))

    def weights(self, axes: tuple[str, ...], blocks: frozenset[str]) -> list[int]:
        """The columns that weigh each combination of levels, shared by all items with the same axes and blocks."""
        key = (axes, blocks)
        if key not in self.groups:
            plain = len(axes) == 1 and not blocks
            self.groups[key] = self.level[axes[0]] if plain else self._combinations(axes, blocks)
        return self.groups[key]

    def _combinations(self, axes: tuple[str, ...], blocks: frozenset[str]) -> list[int]:
        sizes = [len(self.level[axis]) for axis in axes]
        grid = np.array(self._new(int(np.prod(sizes)), False)).reshape(sizes)
        drops = [self.drop[block] for block in sorted(blocks)]
        self._row([*grid.flat, *drops], [1.0] * (grid.size + len(drops)), 1.0, 1.0)
        for position, axis in enumerate(axes):
            for level, column in enumerate(self.level[axis]):
                agreeing = list(grid.take(level, position).flat)
                self._row([*agreeing, column], [1.0] * len(agreeing) + [-1.0], -np.inf, 0.0)
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


def solve(problem: Problem, limits: Mapping[str, float], objective: str = "loss") -> Solution:
    """The choice with the least `objective` that keeps every limit; both are the `loss` or a quantity.

    Raises InfeasibleError if there is none.
    """
    program = _Program(problem)
    forms = {name: program.amount(name) for name in {*limits, objective} - {"loss"}}
    forms["loss"] = program.loss()
    for name, limit in limits.items():
        nonzero = np.flatnonzero(forms[name])
        scale = 1.0 / max(limit, 1e-12)  # rows near one are what a solver's tolerances are made for
        program._row(nonzero.tolist(), (forms[name][nonzero] * scale).tolist(), -np.inf, 1.0)
    target = np.zeros(program.columns)
    target[: len(forms[objective])] = forms[objective]
    return _read(program, _solve(program, target / max(np.abs(target).max(), 1e-12)), target)


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


def _solve(program: _Program, target: NDArray[np.float64]) -> tuple[NDArray[np.float64], float]:
    entries = list(_entries(program))
    rows, columns, values = (np.array(part) for part in zip(*entries, strict=True))
    matrix = coo_array((values, (rows, columns)), shape=(len(program.rows), program.columns)).tocsr()
    low, high = (np.array([row[side] for row in program.rows]) for side in (2, 3))
    result = milp(
        target,
        constraints=LinearConstraint(matrix, low, high),
        integrality=np.array(program.integer),
        bounds=Bounds(0.0, 1.0),
        options={"time_limit": SECONDS, "mip_rel_gap": GAP},
    )
    if result.x is None:
        raise InfeasibleError(result.message)
    return result.x, float(result.mip_gap or 0.0)


def _entries(program: _Program) -> Iterator[tuple[int, int, float]]:
    for index, (columns, values, _, _) in enumerate(program.rows):
        for column, value in zip(columns, values, strict=True):
            yield index, column, value


def _read(program: _Program, solved: tuple[NDArray[np.float64], float], target: NDArray[np.float64]) -> Solution:
    x, gap = solved
    levels = {axis: int(np.argmax(x[columns])) for axis, columns in program.level.items()}
    dropped = frozenset(block for block, column in program.drop.items() if x[column] > 0.5)
    return Solution(levels, dropped, float(target @ x), gap if gap > GAP else 0.0)
