"""What chipfit sees in a model before it changes anything: its axes, its blocks, and where the time goes on a chip."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from chipfit.calibration.kept import recalled
from chipfit.chips import ChipLine, LayerLine, by_module, chips_json, cost_json, over_chips
from chipfit.decoding import TokenLine, tokens
from chipfit.frontend.importer import import_model
from chipfit.frontend.source import Source, load_source
from chipfit.ir.apply import rebatch
from chipfit.ir.axes import analyse
from chipfit.ir.blocks import find_blocks
from chipfit.ir.configuration import Configuration
from chipfit.ir.fusion import kernels
from chipfit.ir.graph import Graph
from chipfit.ir.shapes import what_if
from chipfit.ir.work import work
from chipfit.passes.fold_batch_norm import folded
from chipfit.search.curves import step_of
from chipfit.targets.cost import Cost
from chipfit.targets.registry import Target, get_target

OP = "op "  # how the analysis begins a reason that is an op
EVERY_LAYER = 10**6


@dataclass(frozen=True)
class AxisLine:
    """A width that can be pruned; `step` is what its sizes are multiples of on this chip."""

    name: str
    kind: str
    size: int
    step: int
    members: tuple[str, ...]


@dataclass(frozen=True)
class BlockLine:
    name: str
    kind: str
    parameters: int


@dataclass(frozen=True)
class FrozenLine:
    """A width that can't be pruned; `op` is what froze it, empty where it is no op."""

    dimension: str
    op: str
    reason: str


@dataclass(frozen=True)
class Explanation:
    source: str
    target: str
    parameters: int
    flops: int
    nodes: int
    axes: tuple[AxisLine, ...]
    blocks: tuple[BlockLine, ...]
    frozen: tuple[FrozenLine, ...]
    opaque: tuple[str, ...]
    cost: Cost
    layers: tuple[LayerLine, ...]
    tokens: TokenLine | None  # of a language model

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "cost": cost_json(self.cost)}


@dataclass(frozen=True)
class Comparison:
    """A model on every chip."""

    source: str
    parameters: int
    flops: int
    chips: tuple[ChipLine, ...]

    def to_json(self) -> dict[str, Any]:
        shape = {"source": self.source, "parameters": self.parameters, "flops": self.flops}
        return {**shape, **chips_json(self.chips, EVERY_LAYER)}


def explain(text: str, target: str) -> Explanation:
    """What SOURCE is on a target, from its shapes alone: no weights are read where the source can do without."""
    chip = recalled(get_target(target))
    return explain_source(load_source(text, weights=False), chip)


def compare(text: str) -> Comparison:
    """What SOURCE costs on every chip, from its shapes alone."""
    source = load_source(text, weights=False)
    graph = import_model(source.model, source.example_inputs)
    deployed = _deployed(graph, _batch(source, graph))
    return Comparison(source.name, graph.parameter_count, _flops(deployed), over_chips(deployed))


def explain_source(source: Source, target: Target) -> Explanation:
    graph = import_model(source.model, source.example_inputs)
    deployed = _deployed(graph, _batch(source, graph))
    cost = target.cost_model.cost(deployed, batch=deployed.batch or 1)
    analysis = analyse(graph)
    return Explanation(
        source=source.name,
        target=target.name,
        parameters=graph.parameter_count,
        flops=_flops(deployed),
        nodes=len(graph.forward.nodes),
        axes=tuple(_axes(graph, target)),
        blocks=tuple(BlockLine(b.name, b.kind, b.parameters) for b in find_blocks(graph).values()),
        frozen=tuple(_frozen(name, reason) for name, axis in analysis.frozen.items() for reason in axis.reasons),
        opaque=tuple(sorted(analysis.opaque)),
        cost=cost,
        layers=tuple(by_module(cost.layers, cost.latency_ms)),
        tokens=tokens(deployed, cost),
    )


def _batch(source: Source, graph: Graph) -> int | None:
    """The batch to deploy, None where the model mixes its examples."""
    return len(source.example_inputs[0]) if graph.batch else None


def _deployed(graph: Graph, batch: int | None) -> Graph:
    """The graph as it is compiled if nothing is removed."""
    ready = folded(graph)
    return rebatch(ready, batch) if batch else ready


def _flops(graph: Graph) -> int:
    shapes: Mapping[str, tuple[int, ...]] = what_if(graph, Configuration())
    return sum(work(kernel, shapes).flops for kernel in kernels(graph.forward))


def _axes(graph: Graph, target: Target) -> Iterable[AxisLine]:
    for axis in analyse(graph).axes.values():
        if axis.state != "frozen":
            members = tuple(f"{parameter}:{dim}" for parameter, dim in axis.members)
            yield AxisLine(axis.name, axis.kind, axis.size, step_of(axis.size, target.granularity), members)


def _frozen(dimension: str, reason: str) -> FrozenLine:
    op = reason.removeprefix(OP) if reason.startswith(OP) else ""
    return FrozenLine(dimension, op, reason)
