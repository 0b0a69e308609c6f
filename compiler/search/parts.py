"""A problem taken apart: once the few axes that everything reads are fixed, the rest meets in the limits alone.

In a transformer these are the hidden width and what all heads share; then each attention and each MLP is a part of its
own with a handful of choices. The parts' choices are listed for every state of the shared axes, those that another one
beats in everything are left out, and a small program picks one choice of each part in the best state. That is the
optimum of the program over products of widths (`solve.py`), in a fraction of the time.
"""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import networkx as nx
import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from chipfit.search.solve import Item, Problem

STATES = 64  # of the shared axes together, at most
CHOICES = 512  # of one part, at most

State = Mapping[str, int]  # shared axis -> level


@dataclass(frozen=True)
class Part:
    """Axes and blocks that share no item with another part's."""

    axes: tuple[str, ...]
    blocks: tuple[str, ...]

    def shape(self, problem: Problem) -> tuple[int, ...]:
        """Of the grid of all choices: a dimension for each axis, and two places for each block, kept and dropped."""
        return (*(len(problem.levels[axis]) for axis in self.axes), *(2 for _ in self.blocks))


@dataclass(frozen=True)
class Listed:
    """The choices of a part in one state that none other beats: places in its grid, and amounts [choices, names]."""

    places: NDArray[np.int64]
    amounts: NDArray[np.float64]


@dataclass(frozen=True)
class Separated:
    """`fixed[state]` holds what the state costs by itself, `listed[state][part]` the choices that are left."""

    names: tuple[str, ...]  # of the columns of amounts
    parts: tuple[Part, ...]
    states: tuple[State, ...]
    fixed: tuple[NDArray[np.float64], ...]
    listed: tuple[tuple[Listed, ...], ...]

    def choice(self, problem: Problem, state: int, columns: NDArray[np.float64]) -> tuple[State, frozenset[str]]:
        """Levels and dropped blocks, of a column for each choice in a state, near 1 where it is taken."""
        levels, dropped, start = dict(self.states[state]), set[str](), 0
        for part, listed in zip(self.parts, self.listed[state], strict=True):
            place = listed.places[int(np.argmax(columns[start : start + len(listed.places)]))]
            found = [int(at) for at in np.unravel_index(place, part.shape(problem))]
            levels |= dict(zip(part.axes, found, strict=False))
            dropped |= {block for block, at in zip(part.blocks, found[len(part.axes) :], strict=True) if at}
            start += len(listed.places)
        return {axis: levels[axis] for axis in problem.levels}, frozenset(dropped)

    @cached_property
    def amounts(self) -> tuple[NDArray[np.float64], ...]:
        """Of each state, all choices of all parts: [choices, names]."""
        nothing = np.zeros((0, len(self.names)))
        return tuple(np.concatenate([nothing, *(one.amounts for one in listed)]) for listed in self.listed)

    @cached_property
    def stacked(self) -> Mapping[str, NDArray[np.float64]]:
        """By name the amounts of all choices of all parts of all states, in this order."""
        return dict(zip(self.names, np.concatenate(self.amounts).T.copy(), strict=True))

    @cached_property
    def starts(self) -> NDArray[np.int64]:
        """Where the choices of each part of each state start in what is stacked; no part is without any."""
        sizes = [len(one.places) for listed in self.listed for one in listed]
        return np.cumsum([0, *sizes[:-1]]) if sizes else np.zeros(0, np.int64)

    @cached_property
    def state_of(self) -> NDArray[np.int64]:
        """The state of each choice in what is stacked."""
        return np.repeat(np.arange(len(self.states)), [len(found) for found in self.amounts])


def separated(problem: Problem, names: tuple[str, ...]) -> Separated | None:
    """The problem over some quantities (`loss` is one) in parts, None where it doesn't fall into small ones."""
    items = {name: problem.quantities[name] for name in names if name != "loss"}
    shared = _shared(problem, [item for found in items.values() for item in found])
    if shared is None:
        return None
    axes, parts = shared
    levels = (range(len(problem.levels[axis])) for axis in axes)
    states = tuple(dict(zip(axes, at, strict=True)) for at in itertools.product(*levels))
    owner = {name: part for part in parts for name in (*part.axes, *part.blocks)}
    by_part: dict[tuple[str, Part | None], list[Item]] = {}
    for name, found in items.items():
        for item in found:
            own = [owner[part] for part in (*item.axes, *item.blocks) if part in owner]
            by_part.setdefault((name, own[0] if own else None), []).append(item)
    fixed, listed = [], []
    for state in states:
        fixed.append(np.array([_fixed(problem, state, by_part.get((name, None), []), name) for name in names]))
        grids = ([_grid(problem, part, state, by_part.get((name, part), []), name) for name in names] for part in parts)
        listed.append(tuple(_listed(problem, part, grid) for part, grid in zip(parts, grids, strict=True)))
    return Separated(names, tuple(parts), states, tuple(fixed), tuple(listed))


def _shared(problem: Problem, items: Sequence[Item]) -> tuple[list[str], list[Part]] | None:
    """The axes to fix, those in the most items first, and the parts that are left."""
    often = [axis for axis, _ in Counter(axis for item in items for axis in item.axes).most_common()]
    for count in range(len(often) + 1):
        axes = often[:count]
        if math.prod(len(problem.levels[axis]) for axis in axes) > STATES:
            return None
        parts = _parts(problem, items, set(axes))
        if all(math.prod(part.shape(problem)) <= CHOICES for part in parts):
            return axes, parts
    return None


def _parts(problem: Problem, items: Sequence[Item], fixed: set[str]) -> list[Part]:
    meeting = nx.Graph()
    meeting.add_nodes_from([*(axis for axis in problem.levels if axis not in fixed), *problem.drops])
    meeting.add_edges_from(problem.exclusive)
    for item in items:
        nx.add_path(meeting, [*(axis for axis in item.axes if axis not in fixed), *sorted(item.blocks)])
    groups = list(nx.connected_components(meeting))
    return [
        Part(tuple(a for a in problem.levels if a in group), tuple(b for b in problem.drops if b in group))
        for group in sorted(groups, key=min)
    ]


def _fixed(problem: Problem, state: State, items: Sequence[Item], name: str) -> float:
    """What no part has a say in."""
    if name == "loss":
        return math.fsum(problem.levels[axis][level] for axis, level in state.items())
    return math.fsum(float(item.amounts[tuple(state[axis] for axis in item.axes)]) for item in items)


def _grid(problem: Problem, part: Part, state: State, items: Sequence[Item], name: str) -> NDArray[np.float64]:
    """The amount at every choice of a part."""
    terms = _losses(problem, part) if name == "loss" else (_spread(part, state, item) for item in items)
    grid = np.zeros(part.shape(problem))
    for term in terms:
        grid = grid + term
    return grid


def _losses(problem: Problem, part: Part) -> Iterator[NDArray[np.float64]]:
    places = (*part.axes, *part.blocks)
    for dim, name in enumerate(places):
        values = problem.levels[name] if name in problem.levels else (0.0, problem.drops[name])
        yield np.array(values).reshape([-1 if dim == other else 1 for other in range(len(places))])


def _spread(part: Part, state: State, item: Item) -> NDArray[np.float64]:
    """The item's amounts over the part's grid: none where one of its blocks is dropped."""
    table = item.amounts[tuple(state.get(axis, slice(None)) for axis in item.axes)]
    own = [axis for axis in item.axes if axis not in state]
    table = np.transpose(table, sorted(range(len(own)), key=lambda dim: part.axes.index(own[dim])))
    sizes = dict(zip((axis for axis in part.axes if axis in own), table.shape, strict=True))
    table = table.reshape([*(sizes.get(axis, 1) for axis in part.axes), *(1 for _ in part.blocks)])
    for dim, block in enumerate(part.blocks, start=len(part.axes)):
        if block in item.blocks:
            kept = np.array([1.0, 0.0]).reshape([-1 if dim == other else 1 for other in range(table.ndim)])
            table = table * kept
    return table


def _listed(problem: Problem, part: Part, grids: Sequence[NDArray[np.float64]]) -> Listed:
    allowed = np.ones(part.shape(problem), dtype=bool)
    for pair in problem.exclusive:
        if pair[0] in part.blocks:
            both = tuple(1 if block in pair else slice(None) for block in part.blocks)
            allowed[(..., *both)] = False
    places = np.flatnonzero(allowed)
    amounts = np.stack([grid.ravel()[places] for grid in grids], axis=1)
    best = _unbeaten(amounts)
    return Listed(places[best], amounts[best])


def _unbeaten(amounts: NDArray[np.float64]) -> list[int]:
    """The rows that no other one is at most equal to in every column; of equal rows the first."""
    kept: list[int] = []
    for row in np.lexsort(amounts.T[::-1]).tolist():
        if not (amounts[kept] <= amounts[row]).all(axis=1).any():
            kept.append(row)
    return kept
