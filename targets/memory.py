"""What a graph holds while it runs: its weights, and for how long each value that is stored."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from chipfit.ir.axes import analyse
from chipfit.ir.graph import EntryPoint, Graph, Value
from chipfit.ir.kernels import Kernel, Work, is_view, kernels
from chipfit.ir.memo import per_graph

Shapes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class Lifetimes:
    """Input or kernel whose output is stored -> the step that makes it, and the step after which nothing reads it."""

    made: Mapping[str, int]
    last_use: Mapping[str, int]
    steps: int


@dataclass(frozen=True)
class Buffers:
    """Input or kernel -> bytes of its output, and their lifetimes."""

    size: Mapping[str, int]
    lifetimes: Lifetimes

    @property
    def peak(self) -> int:
        """Bytes that are held when the most are held."""
        return max(self._held)

    @property
    def at_peak(self) -> Mapping[str, int]:
        """Those that are held when they hold the most together."""
        held, made, last_use = self._held, self.lifetimes.made, self.lifetimes.last_use
        peak = held.index(max(held))
        return {name: size for name, size in self.size.items() if made[name] <= peak <= last_use[name]}

    @property
    def _held(self) -> list[int]:
        changes = [0] * (self.lifetimes.steps + 2)
        made, last_use = self.lifetimes.made, self.lifetimes.last_use
        for name, bytes_ in self.size.items():
            changes[made[name]] += bytes_
            changes[last_use[name] + 1] -= bytes_
        return list(itertools.accumulate(changes))


def lifetimes(entry: EntryPoint, plan: Sequence[Kernel]) -> Lifetimes:
    """Those of a plan's values. A view holds on to what it reads."""
    made = {value.name: 0 for value in entry.inputs}
    owner = {name: name for name in made}  # value -> the value whose memory it lies in
    last_use: dict[str, int] = dict.fromkeys(made, 0)
    for step, kernel in enumerate(plan):
        sources = [owner[value.name] for value in kernel.inputs if value.name in owner]
        shared = is_view(kernel) and bool(sources)
        owner.update({value.name: sources[0] if shared else kernel.name for value in kernel.outputs})
        if not shared:
            made[kernel.name] = step
        last_use.update(dict.fromkeys([*sources, owner[kernel.name]], step))
    last_use.update({owner[value.name]: len(plan) for value in entry.outputs if value.name in owner})
    return Lifetimes(made, last_use, len(plan))


@per_graph
def whole_lifetimes(graph: Graph) -> Lifetimes:
    """Those of the graph with nothing dropped, whatever its shapes."""
    return lifetimes(graph.forward, kernels(graph.forward))


def buffers(entry: EntryPoint, batch: int | None, plan: Sequence[tuple[Kernel, Work]], known: Lifetimes) -> Buffers:
    """The memory of a plan's values; None for the batch of the trace. Inputs have no other size that changes."""
    size = {value.name: _input_bytes(value, batch) for value in entry.inputs}
    size.update({kernel.name: amount.bytes_written for kernel, amount in plan if kernel.name in known.made})
    return Buffers(size, known)


def _input_bytes(value: Value, batch: int | None) -> int:
    shape = value.shape if batch is None else (batch, *value.shape[1:])
    return math.prod(shape) * value.type.dtype.itemsize


@per_graph
def parameter_readers(graph: Graph) -> Mapping[str, frozenset[str]]:
    """Parameter -> the nodes that read it."""
    readers = graph.forward.consumers
    return {name: frozenset(node.name for node in readers.get(name, ())) for name in graph.parameters}


@per_graph
def parameters_by_axes(graph: Graph) -> Mapping[tuple[str, ...], tuple[Value, ...]]:
    """The axes along some parameters that are read -> these parameters, tied ones once."""
    analysis, groups = analyse(graph), dict[tuple[str, ...], list[Value]]()
    for name, parameter in graph.parameters.items():
        if parameter_readers(graph)[name]:
            groups.setdefault(tuple(sorted(analysis.axes_of(name))), []).append(parameter.value)
    return {axes: tuple(values) for axes, values in groups.items()}


def weight_bytes(graph: Graph, shapes: Shapes, alive: frozenset[str]) -> int:
    """Bytes of the parameters that a living node reads, tied ones once."""
    used = (name for name, readers in parameter_readers(graph).items() if not readers.isdisjoint(alive))
    return sum(bytes_of(graph.parameters[name].value, shapes) for name in used)


def bytes_of(value: Value, shapes: Shapes) -> int:
    return math.prod(shapes[value.name]) * value.type.dtype.itemsize
