"""What a graph holds while it runs: its weights, and for how long each value that is stored."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from chipfit.ir.axes import analyse
from chipfit.ir.graph import EntryPoint, Graph, Value
from chipfit.ir.kernels import Kernel, Work, is_view, kernels
from chipfit.ir.memo import per_graph

Shapes = Mapping[str, tuple[int, ...]]
Steps = NDArray[np.int64]


@dataclass(frozen=True)
class Lifetimes:
    """Inputs, then kernels in order: the step that makes each one's output, and the step after which nothing reads it.

    A view has no memory of its own: it holds on to what it reads. The caller holds inputs and outputs throughout.
    """

    names: tuple[str, ...]
    made: Steps
    last_use: Steps


@dataclass(frozen=True)
class Buffers:
    """Bytes of the outputs of inputs and kernels, in the order of their lifetimes."""

    bytes: NDArray[np.int64]
    lifetimes: Lifetimes

    @property
    def size(self) -> Mapping[str, int]:
        """Input or kernel -> bytes, of those that have memory of their own."""
        pairs = zip(self.lifetimes.names, self.bytes.tolist(), strict=True)
        return {name: size for name, size in pairs if size}

    @property
    def peak(self) -> int:
        """Bytes that are held when the most are held."""
        return int(self._held.max())

    @property
    def at_peak(self) -> Mapping[str, int]:
        """Those that are held when they hold the most together."""
        peak = int(self._held.argmax())
        alive = (self.lifetimes.made <= peak) & (peak <= self.lifetimes.last_use)
        kept = {name for name, lives in zip(self.lifetimes.names, alive.tolist(), strict=True) if lives}
        return {name: size for name, size in self.size.items() if name in kept}

    @property
    def _held(self) -> NDArray[np.float64]:
        """Bytes at each step; whole numbers below 2**53, so exact."""
        steps = len(self.bytes) + 2
        gained = np.bincount(self.lifetimes.made, self.bytes, steps)
        lost = np.bincount(self.lifetimes.last_use + 1, self.bytes, steps)
        return np.cumsum(gained - lost)


def lifetimes(entry: EntryPoint, plan: Sequence[Kernel]) -> Lifetimes:
    """Those of a plan's values."""
    made = {value.name: 0 for value in entry.inputs}
    owner = {name: name for name in made}  # value -> the value whose memory it lies in
    last_use: dict[str, int] = dict.fromkeys(made, 0)
    for step, kernel in enumerate(plan):
        sources = [owner[value.name] for value in kernel.inputs if value.name in owner]
        shared = is_view(kernel) and bool(sources)
        owner.update({value.name: sources[0] if shared else kernel.name for value in kernel.outputs})
        made[kernel.name] = step
        last_use.update(dict.fromkeys([*sources, owner[kernel.name]], step))
    outputs = [owner[value.name] for value in entry.outputs if value.name in owner]
    made |= dict.fromkeys(outputs, 0)
    last_use |= dict.fromkeys([*(value.name for value in entry.inputs), *outputs], len(plan))
    ends = (last_use.get(name, step) for name, step in made.items())
    return Lifetimes(tuple(made), np.array(list(made.values()), np.int64), np.array(list(ends), np.int64))


@per_graph
def whole_lifetimes(graph: Graph) -> Lifetimes:
    """Those of the graph with nothing dropped, whatever its shapes."""
    return lifetimes(graph.forward, kernels(graph.forward))


def buffers(entry: EntryPoint, batch: int | None, plan: Sequence[Work], known: Lifetimes) -> Buffers:
    """The memory of a plan's values; None for the batch of the trace. Of inputs nothing else changes."""
    inputs = [_input_bytes(value, batch) for value in entry.inputs]
    return Buffers(np.array(inputs + [work.bytes_written for work in plan], np.int64), known)


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
