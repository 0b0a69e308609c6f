"""Tables: what every kernel and parameter needs at every combination of the levels of the axes in its shape.

What a kernel does at some shapes is the same for every chip, and for every layer that is built alike: it is worked out
once, and a chip then only says how long that takes.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from chipfit.ir.apply import can_rebatch
from chipfit.ir.graph import Graph, TensorType, Value, map_values
from chipfit.ir.kernel import Kernel
from chipfit.ir.memo import per_graph
from chipfit.ir.shapes import some_shapes
from chipfit.ir.work import Work, at, work
from chipfit.search.curves import Level
from chipfit.targets.cost import core, full_plan

LARGEST = 2500  # combinations of one entry at most; beyond, it is a sum of what each axis changes alone

Widths = Mapping[str, Sequence[int]]  # axis -> indices kept, where narrowed
Amount = Callable[[str, Widths], float]  # of an entry, a kernel or parameter, at some widths
Task = tuple[Kernel, Work]
Part = tuple[tuple[str, ...], NDArray[np.float64]]  # axes, and an amount per combination of their levels


@dataclass(frozen=True)
class Tabulator:
    """Levels of every axis, and for every entry the axes in its shape."""

    levels: Mapping[str, tuple[Level, ...]]
    axes_of: Mapping[str, tuple[str, ...]]

    def tabulate(self, amount: Amount) -> Iterator[tuple[str, Part]]:
        """(entry, part) pairs; an entry's amount is the sum of its parts."""
        for entry, axes in self.axes_of.items():
            sizes = [len(self.levels[axis]) for axis in axes]
            if math.prod(sizes) <= LARGEST:
                yield entry, (axes, self._table(entry, axes, sizes, amount))
            else:
                yield from self._separate(entry, axes, amount)

    def _table(self, entry: str, axes: Sequence[str], sizes: Sequence[int], amount: Amount) -> NDArray[np.float64]:
        places = itertools.product(*map(range, sizes))
        found = [amount(entry, self._widths(dict(zip(axes, place, strict=True)))) for place in places]
        return np.array(found, dtype=np.float64).reshape(sizes)

    def _separate(self, entry: str, axes: Sequence[str], amount: Amount) -> Iterator[tuple[str, Part]]:
        """A first-order estimate for an entry in which many axes meet, as behind a dense concatenation."""
        full = amount(entry, {})
        yield entry, ((), np.array(full))
        for axis in axes:
            alone = [amount(entry, self._widths({axis: level})) - full for level in range(len(self.levels[axis]))]
            yield entry, ((axis,), np.array(alone))

    def _widths(self, at_levels: Mapping[str, int]) -> Widths:
        return {axis: self.levels[axis][level].kept for axis, level in at_levels.items() if level}


def task(graph: Graph, entry: str, widths: Widths, batch: int) -> Task | None:
    """The kernel of that core and its work, if just these axes are narrowed; None where there is no such."""
    planned = _plan(graph).get(entry)
    if planned is None:
        return None
    kernel, values, pattern = planned
    shapes = some_shapes(graph, values, widths, batch if can_rebatch(graph) else None)
    key = pattern, tuple(shapes.values())
    if key not in _tasks(graph):
        kernel = at(kernel, shapes)
        _tasks(graph)[key] = kernel, work(kernel, shapes)
    return _tasks(graph)[key]


def parameter_bytes(graph: Graph, entry: str, widths: Widths) -> float:
    """Of a parameter if just these axes are narrowed; none where the graph doesn't read it."""
    shapes = some_shapes(graph, [entry], widths)
    parameter = graph.parameters.get(entry)
    return float(math.prod(shapes[entry]) * parameter.value.type.dtype.itemsize) if parameter and shapes else 0.0


@per_graph
def _plan(graph: Graph) -> dict[str, tuple[Kernel, tuple[str, ...], int]]:
    """Kernels by core, with the values in them and a number that equal kernels share."""
    numbers: dict[object, int] = {}
    found = {}
    for kernel, values in full_plan(graph):
        found[core(kernel)] = kernel, values, numbers.setdefault(_pattern(kernel, values), len(numbers))
    return found


def _pattern(kernel: Kernel, values: Sequence[str]) -> object:
    """What the kernel is, whatever its values are called and how large they are."""
    dtypes = {value.name: value.type.dtype for node in kernel.nodes for value in (*node.inputs, *node.outputs)}
    numbered = {name: Value(str(place), TensorType((), dtypes[name])) for place, name in enumerate(values)}
    nodes = tuple((node.op, map_values((node.args, node.kwargs, node.outputs), numbered)) for node in kernel.nodes)
    return kernel.kind, numbered[kernel.anchor.name], nodes, map_values((kernel.inputs, kernel.outputs), numbered)


@per_graph
def _tasks(graph: Graph) -> dict[tuple[int, tuple[tuple[int, ...], ...]], Task]:
    """What was worked out before."""
    return {}
