"""What a graph costs under a configuration, summed over the kernels that codegen would emit for it."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from chipfit.ir.apply import can_rebatch, drop
from chipfit.ir.configuration import Configuration
from chipfit.ir.graph import EntryPoint, Graph, Value
from chipfit.ir.kernels import Kernel, Work, at, kernels, work
from chipfit.ir.memo import per_graph
from chipfit.ir.shapes import Shapes, replacements, what_if

Interval = tuple[float, float]
MULTIPLYING = ("matmul", "attention", "conv", "depthwise")  # kinds of kernels around one node


@dataclass(frozen=True)
class LayerCost:
    """One kernel: the value that it computes, its PyTorch module, its time, and what takes most of that.

    `core` names it by what stays when a dropped block leaves other ops to fuse with it: the node that multiplies.
    """

    name: str
    core: str = field(compare=False)
    module: str
    kind: str
    latency_ms: float
    limit: str


@dataclass(frozen=True)
class Cost:
    """`interval_ms` holds 95% of measured latencies where the model was calibrated, and is None elsewhere.

    `energy_mj` is None as long as no source gives the chip's energy; `status` is `calibrated` or `uncalibrated`.
    """

    latency_ms: float
    interval_ms: Interval | None
    peak_memory_bytes: int
    weight_bytes: int
    energy_mj: float | None
    status: str
    layers: tuple[LayerCost, ...]


class KernelModel(Protocol):
    """What a chip family says about one kernel."""

    @property
    def status(self) -> str: ...

    def call_ms(self, input_bytes: int) -> float:
        """Milliseconds that a call takes besides its kernels."""

    def terms(self, kernel: Kernel, work: Work) -> Mapping[str, float]:
        """Milliseconds by what they are spent on; their sum is the kernel's time."""

    def interval(self, latency_ms: float) -> Interval | None:
        """Where the measured latency lies if that is predicted."""


@dataclass(frozen=True)
class Buffers:
    """Input or kernel -> bytes of its output, the step that makes it, and the step after which nothing reads it."""

    size: Mapping[str, int]
    made: Mapping[str, int]
    last_use: Mapping[str, int]

    @property
    def at_peak(self) -> Mapping[str, int]:
        """Those that are held when they hold the most together."""
        changes = [0] * (max(self.last_use.values(), default=0) + 2)
        for name, bytes_ in self.size.items():
            changes[self.made[name]] += bytes_
            changes[self.last_use[name] + 1] -= bytes_
        held = list(itertools.accumulate(changes))
        peak = held.index(max(held))
        return {name: size for name, size in self.size.items() if self.made[name] <= peak <= self.last_use[name]}


@dataclass(frozen=True, eq=False)
class CostModel:
    """Answers for whole graphs by asking a `KernelModel` about each kernel."""

    model: KernelModel

    @property
    def status(self) -> str:
        return self.model.status

    def kernel_ms(self, kernel: Kernel, work: Work) -> float:
        return math.fsum(self.model.terms(kernel, work).values())

    def cost(self, graph: Graph, configuration: Configuration | None = None, batch: int = 1) -> Cost:
        """The cost of `apply(graph, configuration)` at a batch, found without touching weights.

        A graph that mixes its examples is costed at the batch of its trace, whatever `batch` says.
        """
        configuration = configuration or Configuration()
        shapes = what_if(graph, configuration, batch if can_rebatch(graph) else None)
        plan = self._planned(graph, configuration, shapes)
        layers = tuple(layer for _, _, layer in plan)
        inputs = sum(_bytes(value, shapes) for value in graph.forward.inputs)
        latency = math.fsum(layer.latency_ms for layer in layers) + self.model.call_ms(inputs)
        weights = weight_bytes(graph, shapes)
        held = buffers(graph.forward, [(kernel, amount) for kernel, amount, _ in plan], shapes)
        memory = weights + sum(held.at_peak.values())
        return Cost(latency, self.model.interval(latency), memory, weights, None, self.status, layers)

    def buffers(self, graph: Graph, configuration: Configuration, batch: int = 1) -> Buffers:
        """What inputs and kernel outputs hold, and for how long."""
        shapes = what_if(graph, configuration, batch if can_rebatch(graph) else None)
        plan = [(kernel, amount) for kernel, amount, _ in self._planned(graph, configuration, shapes)]
        return buffers(graph.forward, plan, shapes)

    def _planned(
        self, graph: Graph, configuration: Configuration, shapes: Shapes
    ) -> tuple[tuple[Kernel, Work, LayerCost], ...]:
        """The kernels left. A search asks about thousands of configurations that differ in few kernels."""
        if configuration.dropped:  # what is left may fuse otherwise
            rest = drop(graph, replacements(graph, configuration)).forward
            return tuple(self._layer(kernel, shapes) for kernel in kernels(rest))
        found = []
        for kernel, values in full_plan(graph):
            key = (self, kernel.name, *map(shapes.shapes.__getitem__, values))
            if key not in _known(graph):
                _known(graph)[key] = self._layer(kernel, shapes)
            found.append(_known(graph)[key])
        return tuple(found)

    def _layer(self, kernel: Kernel, shapes: Shapes) -> tuple[Kernel, Work, LayerCost]:
        kernel = at(kernel, shapes)
        amount = work(kernel, shapes)
        terms = self.model.terms(kernel, amount)
        limit = max(terms, key=lambda term: terms[term])
        total = math.fsum(terms.values())
        layer = LayerCost(kernel.name, core(kernel), kernel.anchor.module, kernel.kind, total, limit)
        return kernel, amount, layer


@per_graph
def full_plan(graph: Graph) -> tuple[tuple[Kernel, tuple[str, ...]], ...]:
    """The kernels of the whole graph, each with the values whose shapes its work depends on."""
    return tuple((kernel, _values(kernel)) for kernel in kernels(graph.forward))


def core(kernel: Kernel) -> str:
    """The name of the node that multiplies, or of the kernel where nothing does or several do."""
    return kernel.anchor.name if kernel.kind in MULTIPLYING else kernel.name


def _values(kernel: Kernel) -> tuple[str, ...]:
    values = (value.name for node in kernel.nodes for value in (*node.inputs, *node.outputs))
    return tuple(dict.fromkeys(values))


@per_graph
def _known(graph: Graph) -> dict[tuple[object, ...], tuple[Kernel, Work, LayerCost]]:
    """Kernels that were costed before, by model, name and shapes."""
    return {}


@per_graph
def parameter_readers(graph: Graph) -> Mapping[str, frozenset[str]]:
    """Parameter -> the nodes that read it."""
    readers = graph.forward.consumers
    return {name: frozenset(node.name for node in readers.get(name, ())) for name in graph.parameters}


def weight_bytes(graph: Graph, shapes: Shapes) -> int:
    """Bytes of the parameters that a living node reads, tied ones once."""
    used = (name for name, readers in parameter_readers(graph).items() if not readers.isdisjoint(shapes.alive))
    return sum(_bytes(graph.parameters[name].value, shapes) for name in used)


def buffers(entry: EntryPoint, plan: Sequence[tuple[Kernel, Work]], shapes: Shapes) -> Buffers:
    """The memory of a plan's values.

    A kernel that writes nothing is a view: it holds on to what it reads.
    """
    size = {value.name: _bytes(value, shapes) for value in entry.inputs}
    owner = {name: name for name in size}  # value -> the value whose memory it lies in
    last_use: dict[str, int] = dict.fromkeys(size, 0)
    for step, (kernel, amount) in enumerate(plan):
        sources = [owner[value.name] for value in kernel.inputs if value.name in owner]
        is_view = amount.bytes_written == 0 and bool(sources)
        owner.update({value.name: sources[0] if is_view else kernel.name for value in kernel.outputs})
        if not is_view:
            size[kernel.name] = amount.bytes_written
        last_use.update(dict.fromkeys([*sources, owner[kernel.name]], step))
    last_use.update({owner[value.name]: len(plan) for value in entry.outputs if value.name in owner})
    made = dict.fromkeys(size, 0) | {kernel.name: step for step, (kernel, _) in enumerate(plan)}
    return Buffers(size, made, last_use)


def _bytes(value: Value, shapes: Shapes) -> int:
    return math.prod(shapes[value.name]) * value.type.dtype.itemsize
