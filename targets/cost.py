"""What a graph costs under a configuration, summed over the kernels that codegen would emit for it."""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from chipfit.ir.axes import analyse
from chipfit.ir.configuration import Configuration
from chipfit.ir.fusion import planned
from chipfit.ir.graph import Graph, Value
from chipfit.ir.kernel import Kernel
from chipfit.ir.memo import per_graph
from chipfit.ir.work import Work, at, work
from chipfit.targets.energy import EnergyTable
from chipfit.targets.kernel_model import Interval, KernelModel
from chipfit.targets.memory import Buffers, input_bytes, input_shape, lifetimes
from chipfit.targets.question import Key, Question, key_of
from chipfit.targets.weights import kept_bytes, layout, weight_bytes

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
    """A kernel and its cost with weights in the caches and with weights from memory.

    `stored` are the bytes of its output, dense and as an image, and of its scratch; `packed` those of its own weight.
    """

    kernel: Kernel
    warm: LayerCost
    cold: LayerCost
    stored: tuple[int, int, int]
    packed: int


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

    @property
    def upper_ms(self) -> float:
        """The latency's upper bound; what is predicted where nothing tells by how much that may be wrong."""
        return self.interval_ms[1] if self.interval_ms else self.latency_ms


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
        held, weights = self._buffers(asked, plan), weight_bytes(asked)
        cold = self.cold_share(weights)
        layers = tuple([mixed(one.warm, one.cold, cold) for one in plan])
        inputs = sum(input_bytes(value, asked.batch) for value in graph.forward.inputs)
        latency = math.fsum([layer.latency_ms for layer in layers]) + self.model.call_ms(inputs)
        energy = math.fsum([layer.energy_mj or 0.0 for layer in layers]) if self.energy else None
        memory = kept_bytes(asked, self.model.storage) + sum([one.packed for one in plan]) + held.peak
        return Cost(latency, self.model.interval(latency), memory, weights, energy, self.status, layers)

    def buffers(self, graph: Graph, configuration: Configuration, batch: int = 1) -> Buffers:
        """What inputs and kernel outputs hold, and for how long."""
        asked = Question.of(graph, configuration, batch)
        return self._buffers(asked, self._planned(asked))

    def _planned(self, asked: Question) -> list[Planned]:
        """The kernels left. A search asks about thousands of configurations: what a kernel costs at some sizes of its
        axes is looked up from the second time on."""
        if asked.configuration.dropped:
            return [self._layer(asked, kernel) for kernel in planned(asked.rest)]
        plan = kernel_axes(asked.graph)
        tables = _known(asked.graph).setdefault(self, [{} for _ in plan])
        found = []
        for (kernel, key), table in zip(plan, tables, strict=True):
            sizes = key(asked.sizes)
            if sizes not in table:
                table[sizes] = self._layer(asked, kernel)
            found.append(table[sizes])
        return found

    def _layer(self, asked: Question, kernel: Kernel) -> Planned:
        kernel, model = at(kernel, asked.shapes), self.model
        amount = work(kernel, asked.shapes)
        total, limit = taken(model, kernel, amount)
        energy = self.energy.kernel_mj(kernel, amount, model.traffic(kernel, amount)) if self.energy else None
        warm = cold = LayerCost(kernel.name, core(kernel), kernel.anchor.module, kernel.kind, total, limit, energy)
        if model.cold:
            total, limit = taken(model.cold.model, kernel, amount)
            cold = replace(warm, latency_ms=total, limit=limit)
        return Planned(kernel, warm, cold, *self.stored_bytes(asked.rest, kernel, amount))

    def stored_bytes(self, graph: Graph, kernel: Kernel, work: Work) -> tuple[tuple[int, int, int], int]:
        """Bytes of what a kernel writes, dense and as an image, and of its scratch; and of the weight packed for it."""
        storage = self.model.storage
        if storage is None:
            return (work.bytes_written, 0, 0), 0
        known = layout(graph, storage.lanes)
        packed, scratch = storage.own_bytes(kernel, work, known)
        return (*storage.output_bytes(kernel, work, known), scratch), packed

    def _buffers(self, asked: Question, plan: Sequence[Planned]) -> Buffers:
        known = lifetimes(asked.rest)[self.model.storage is not None]
        stored = [self.input_bytes(asked.rest, value, asked.batch) for value in asked.rest.forward.inputs]
        stored += [one.stored for one in plan]
        return Buffers(np.array(stored, np.int64).ravel()[known.places], known)

    def input_bytes(self, graph: Graph, value: Value, batch: int | None) -> tuple[int, int, int]:
        """Of an input, dense and as an image; an image of the same bytes is no copy."""
        shape, dense = input_shape(value, batch), input_bytes(value, batch)
        if self.model.storage is None:
            return dense, 0, 0
        image = self.model.storage.image_bytes(value.name, shape, layout(graph, self.model.storage.lanes))
        return dense, image if image > dense else 0, 0


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
    return tuple((kernel, _values(kernel)) for kernel in planned(graph))


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
    return tuple((kernel, key_of(tuple(found))) for (kernel, _), found in zip(plan, axes, strict=True))


@per_graph
def _known(graph: Graph) -> dict[CostModel, list[dict[Hashable, Planned]]]:
    """For each kernel what it costs at sizes that were asked about before."""
    return {}
