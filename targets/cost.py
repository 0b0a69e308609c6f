"""What a graph costs under a configuration, summed over the kernels that codegen would emit for it."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from operator import itemgetter

from chipfit.ir.apply import can_rebatch, drop
from chipfit.ir.axes import analyse
from chipfit.ir.configuration import Configuration
from chipfit.ir.graph import Graph, Value
from chipfit.ir.kernels import Kernel, Work, at, kernels, work
from chipfit.ir.memo import per_graph
from chipfit.ir.shapes import Shapes, replacements, what_if
from chipfit.targets.energy import EnergyTable
from chipfit.targets.kernel_model import Interval, KernelModel
from chipfit.targets.memory import (
    Buffers,
    buffers,
    bytes_of,
    lifetimes,
    parameters_by_axes,
    weight_bytes,
    whole_lifetimes,
)

BATCH = ""  # stands for the batch among the names of axes
Sizes = Mapping[str, int | None]  # of the batch and of axes, None where they are as in the graph
Key = Callable[[Sizes], Hashable]  # the sizes that something depends on
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
    energy_mj: float | None = None


@dataclass(frozen=True, slots=True)
class Planned:
    """A kernel, its work, and its cost with weights in the caches and with weights from memory."""

    kernel: Kernel
    work: Work
    warm: LayerCost
    cold: LayerCost


@dataclass(frozen=True)
class Cost:
    """`interval_ms` holds 95% of measured latencies where the model was calibrated, and is None elsewhere.

    `energy_mj` is None where no source gives the chip's energy, and uncalibrated everywhere; `status`, that of the
    latency, is `calibrated` or `uncalibrated`.
    """

    latency_ms: float
    interval_ms: Interval | None
    peak_memory_bytes: int
    weight_bytes: int
    energy_mj: float | None
    status: str
    layers: tuple[LayerCost, ...]


@dataclass(frozen=True)
class Question:
    """A configuration of a graph at a batch, None for the batch of its trace. Shapes are found once they are needed."""

    graph: Graph
    configuration: Configuration
    batch: int | None

    @staticmethod
    def of(graph: Graph, configuration: Configuration | None, batch: int) -> Question:
        """Raises ValueError for a configuration that is none of this graph's."""
        configuration = configuration or Configuration()
        analyse(graph).kept_atoms(configuration)
        return Question(graph, configuration, batch if can_rebatch(graph) else None)

    @cached_property
    def shapes(self) -> Shapes:
        return what_if(self.graph, self.configuration, self.batch)

    @cached_property
    def sizes(self) -> Sizes:
        """Axis -> its size where it is narrowed, else None."""
        narrowed = {axis: len(kept) for axis, kept in self.configuration.widths.items()}
        return {BATCH: self.batch, **dict.fromkeys(analyse(self.graph).axes), **narrowed}


@dataclass(frozen=True, eq=False)
class CostModel:
    """Answers for whole graphs by asking a `KernelModel` about each kernel."""

    model: KernelModel
    energy: EnergyTable | None = None

    @property
    def status(self) -> str:
        return self.model.status

    def kernel_ms(self, kernel: Kernel, work: Work, cold: float) -> float:
        """Milliseconds of one kernel where that share of the weights comes from memory."""
        warm = math.fsum(self.model.terms(kernel, work).values())
        if not self.model.cold or not cold:
            return warm
        return (1 - cold) * warm + cold * math.fsum(self.model.cold.model.terms(kernel, work).values())

    def cold_share(self, weight_bytes: int) -> float:
        """The share of so many weights that a call reads from memory."""
        return self.model.cold.share(weight_bytes) if self.model.cold else 0.0

    def cost(self, graph: Graph, configuration: Configuration | None = None, batch: int = 1) -> Cost:
        """The cost of `apply(graph, configuration)` at a batch, found without touching weights.

        A graph that mixes its examples is costed at the batch of its trace, whatever `batch` says.
        """
        asked = Question.of(graph, configuration, batch)
        plan = self._planned(asked)
        held, weights = _buffers(asked, plan), _weights(asked)
        cold = self.cold_share(weights)
        layers = tuple([mixed(one.warm, one.cold, cold) for one in plan])
        inputs = int(held.bytes[: len(graph.forward.inputs)].sum())
        latency = math.fsum([layer.latency_ms for layer in layers]) + self.model.call_ms(inputs)
        energy = math.fsum([layer.energy_mj or 0.0 for layer in layers]) if self.energy else None
        memory = weights + held.peak
        return Cost(latency, self.model.interval(latency), memory, weights, energy, self.status, layers)

    def buffers(self, graph: Graph, configuration: Configuration, batch: int = 1) -> Buffers:
        """What inputs and kernel outputs hold, and for how long."""
        asked = Question.of(graph, configuration, batch)
        return _buffers(asked, self._planned(asked))

    def _planned(self, asked: Question) -> list[Planned]:
        """The kernels left. A search asks about thousands of configurations: what a kernel costs at some sizes of its
        axes is looked up from the second time on."""
        if asked.configuration.dropped:  # what is left may fuse otherwise
            rest = drop(asked.graph, replacements(asked.graph, asked.configuration)).forward
            return [self._layer(kernel, asked.shapes) for kernel in kernels(rest)]
        plan = kernel_axes(asked.graph)
        tables = _known(asked.graph).setdefault(self, [{} for _ in plan])
        found = []
        for (kernel, key_of), table in zip(plan, tables, strict=True):
            key = key_of(asked.sizes)
            if key not in table:
                table[key] = self._layer(kernel, asked.shapes)
            found.append(table[key])
        return found

    def _layer(self, kernel: Kernel, shapes: Shapes) -> Planned:
        kernel = at(kernel, shapes)
        amount = work(kernel, shapes)
        total, limit = taken(self.model, kernel, amount)
        energy = self.energy.kernel_mj(kernel, amount, self.model.traffic(kernel, amount)) if self.energy else None
        warm = LayerCost(kernel.name, core(kernel), kernel.anchor.module, kernel.kind, total, limit, energy)
        if self.model.cold is None:
            return Planned(kernel, amount, warm, warm)
        total, limit = taken(self.model.cold.model, kernel, amount)
        return Planned(kernel, amount, warm, replace(warm, latency_ms=total, limit=limit))


def taken(model: KernelModel, kernel: Kernel, amount: Work) -> tuple[float, str]:
    """Milliseconds of a kernel, and what takes most of them."""
    terms = model.terms(kernel, amount)
    return math.fsum(terms.values()), max(terms, key=lambda term: terms[term])


def mixed(warm: LayerCost, cold: LayerCost, share: float) -> LayerCost:
    """What a kernel costs on average if that share of the weights comes from memory."""
    if not share or warm.latency_ms == cold.latency_ms:
        return warm
    latency = (1 - share) * warm.latency_ms + share * cold.latency_ms
    limit = cold.limit if share > 0.5 else warm.limit
    return LayerCost(warm.name, warm.core, warm.module, warm.kind, latency, limit, warm.energy_mj)


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
def kernel_axes(graph: Graph) -> tuple[tuple[Kernel, Key], ...]:
    """The kernels of the whole graph, each with the sizes of the axes that its work depends on."""
    analysis = analyse(graph)
    plan = full_plan(graph)
    axes = [set[str]().union(*map(analysis.axes_of, values)) for _, values in plan]
    return tuple((kernel, itemgetter(BATCH, *found)) for (kernel, _), found in zip(plan, axes, strict=True))


@per_graph
def _known(graph: Graph) -> dict[CostModel, list[dict[Hashable, Planned]]]:
    """For each kernel what it costs at sizes that were asked about before."""
    return {}


@per_graph
def _weights_known(graph: Graph) -> list[tuple[Key, tuple[Value, ...], dict[Hashable, int]]]:
    """For the parameters with the same axes their bytes at sizes that were asked about before."""
    return [(itemgetter(BATCH, *axes), values, {}) for axes, values in parameters_by_axes(graph).items()]


def _buffers(asked: Question, plan: Sequence[Planned]) -> Buffers:
    entry = asked.graph.forward
    known = lifetimes(entry, [one.kernel for one in plan]) if asked.configuration.dropped else None
    work = [one.work for one in plan]
    return buffers(entry, asked.batch, work, known or whole_lifetimes(asked.graph))


def _weights(asked: Question) -> int:
    if asked.configuration.dropped:
        return weight_bytes(asked.graph, asked.shapes, asked.shapes.alive)
    total = 0
    for key_of, values, table in _weights_known(asked.graph):
        key = key_of(asked.sizes)
        if key not in table:
            table[key] = sum(bytes_of(value, asked.shapes) for value in values)
        total += table[key]
    return total
