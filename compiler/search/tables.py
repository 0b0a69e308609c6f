"""Tables: what every kernel and parameter costs at every combination of the levels of the axes in its shape.

Axes that never meet in one shape are varied together, so a handful of whole-graph costs fills every table.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import networkx as nx
import numpy as np
from numpy.typing import NDArray

from chipfit.ir.configuration import Configuration
from chipfit.search.curves import Level

LARGEST = 2500  # whole-graph costs asked for at most; beyond, an entry is a sum of what each axis changes alone

Amounts = Callable[[Configuration], Mapping[str, float]]  # entry (kernel or parameter) -> amount
Part = tuple[tuple[str, ...], NDArray[np.float64]]  # axes, and an amount per combination of their levels


@dataclass(frozen=True)
class Tabulator:
    """Levels of every axis, and for every entry the axes in its shape."""

    levels: Mapping[str, tuple[Level, ...]]
    axes_of: Mapping[str, tuple[str, ...]]

    def tabulate(self, amounts_of: Amounts) -> Iterator[tuple[str, Part]]:
        """(entry, part) pairs; an entry's amount is the sum of its parts."""
        colours = self.colours()
        depths = [max(self._depths(colours, colour)) for colour in range(max(colours.values(), default=-1) + 1)]
        if math.prod(depths) <= LARGEST:
            yield from self._joint(amounts_of, colours, depths)
        else:
            yield from self._separate(amounts_of)

    def colours(self) -> dict[str, int]:
        """A number for every axis, so that axes that meet in a shape have different ones."""
        meeting = nx.Graph()
        for axes in self.axes_of.values():
            meeting.add_nodes_from(axes)
            meeting.add_edges_from(itertools.combinations(axes, 2))
        return dict(nx.greedy_color(meeting, strategy="DSATUR"))

    def configuration(self, at: Mapping[str, int]) -> Configuration:
        """The configuration with axes at the given levels; full widths are left out."""
        return Configuration({axis: self.levels[axis][level].kept for axis, level in at.items() if level})

    def _depths(self, colours: Mapping[str, int], colour: int) -> list[int]:
        return [len(self.levels[axis]) for axis, own in colours.items() if own == colour]

    def _joint(self, amounts_of: Amounts, colours: Mapping[str, int], depths: list[int]) -> Iterator[tuple[str, Part]]:
        tables = {entry: np.zeros([len(self.levels[axis]) for axis in axes]) for entry, axes in self.axes_of.items()}
        for chosen in itertools.product(*map(range, depths)):
            at = {axis: min(chosen[colour], len(self.levels[axis]) - 1) for axis, colour in colours.items()}
            for entry, amount in amounts_of(self.configuration(at)).items():
                tables[entry][tuple(at[axis] for axis in self.axes_of[entry])] = amount
        for entry, table in tables.items():
            yield entry, (self.axes_of[entry], table)

    def _separate(self, amounts_of: Amounts) -> Iterator[tuple[str, Part]]:
        """A first-order estimate for entries in which many axes meet, as behind a dense concatenation."""
        full = amounts_of(Configuration())
        for entry in self.axes_of:
            yield entry, ((), np.array(full.get(entry, 0.0)))
        for axis, levels in self.levels.items():
            alone = [amounts_of(self.configuration({axis: level})) for level in range(len(levels))]
            for entry, axes in self.axes_of.items():
                if axis in axes:
                    yield (
                        entry,
                        ((axis,), np.array([amounts.get(entry, 0.0) - full.get(entry, 0.0) for amounts in alone])),
                    )
