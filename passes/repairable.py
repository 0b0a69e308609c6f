"""What `compensate` may repair: layers that read less than in the teacher, and batch norms behind what changed."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from chipfit.ir.axes import analyse
from chipfit.ir.blocks import smallest_blocks
from chipfit.ir.emit import execute
from chipfit.ir.graph import Graph, Node, Value
from chipfit.ir.ops.signature import arguments
from chipfit.passes.base import Context
from chipfit.passes.factorize import is_factor
from chipfit.passes.layers import Layer, layers
from chipfit.passes.precision import autocast
from chipfit.passes.repair import NormalEquations, refitted
from chipfit.passes.statistics import at_batch
from chipfit.passes.streams import Stream, behind, streams

Alive = dict[str, Tensor]  # the tensors of a run in progress
Rows = Sequence[Tensor | None]  # of each part of the data, the rows that matter


@dataclass(frozen=True)
class Repairable(ABC):
    """A node that may be repaired, with the channels of the teacher's output that it keeps."""

    node: Node
    channel_dim: int
    kept: Tensor
    stream: Stream | None  # where it makes up for dropped blocks
    taught: Stream | None  # the same in the teacher

    @property
    def width(self) -> int:
        return self.node.outputs[0].shape[self.channel_dim]

    def missing(self, alive: Alive, guide: Alive) -> Tensor:
        """What the output lacks to be the teacher's on the kept channels, or for the stream behind it to be that."""
        if self.stream and self.taught:
            return self.stream.missing(alive, self._cut(self.taught.after(guide)))
        return self._cut(guide[self.node.name]).float() - alive[self.node.name].float()

    def _cut(self, tensor: Tensor) -> Tensor:
        return tensor.index_select(self.channel_dim - len(self.node.outputs[0].shape), self.kept)

    @abstractmethod
    def repair(self, runs: Sequence[Alive], guides: Sequence[Alive], rows: Rows, damping: float) -> Alive:
        """New tensors of the node's parameters, none if they would not lower the error on the last run."""


@dataclass(frozen=True)
class RepairableLayer(Repairable):
    """Fitted on the teacher's own inputs, cut to what is read of them.

    On the student's inputs, which earlier cuts have disturbed, a fit learns to answer less instead: on SmolLM2 with
    60% of every FFN gone it kept 76% of the quality, where the teacher's inputs kept 81%.
    """

    layer: Layer
    source: str  # what the layer reads in the teacher
    read: Tensor | None  # channels of it that are kept; None where the teacher has no such layer, as before a fold

    def repair(self, runs: Sequence[Alive], guides: Sequence[Alive], rows: Rows, damping: float) -> Alive:
        return refitted(self.layer, runs[0], list(map(self._equations, runs, guides, rows)), damping)

    def _equations(self, alive: Alive, guide: Alive, rows: Tensor | None) -> NormalEquations:
        own = self._on(alive, guide, rows)
        if self.read is None or self.stream:
            return own
        taught = {**alive, self.layer.input.name: guide[self.source].index_select(self.channel_dim, self.read)}
        return own + self._on(taught | again(self.node, taught), guide, rows)

    def _on(self, alive: Alive, guide: Alive, rows: Tensor | None) -> NormalEquations:
        return NormalEquations.at(self.layer, alive[self.layer.input.name], self.missing(alive, guide), rows)


@dataclass(frozen=True)
class RepairableBatchNorm(Repairable):
    """Its outputs get the teacher's mean and variance per channel.

    Where the teacher's statistics are those of its data that is the usual recalibration: the statistics of the new
    inputs. Where they are not, or the calibration data are few, what is off in the teacher's cancels out.
    """

    def repair(self, runs: Sequence[Alive], guides: Sequence[Alive], rows: Rows, damping: float) -> Alive:
        given = arguments(self.node)
        mean, var, gamma, beta = (_name(given[key]) for key in ("running_mean", "running_var", "weight", "bias"))
        fit = runs[:-1] or runs
        old, found = _moments([alive[self.node.inputs[0].name] for alive in fit])
        wanted = [alive[self.node.name] + self.missing(alive, guide) for alive, guide in zip(fit, guides, strict=False)]
        center, spread = _moments(wanted)
        scale = runs[0][gamma].double() if gamma else torch.ones_like(old)
        shift = runs[0][beta].double() if beta else torch.zeros_like(old)
        deviation = found * scale.abs() / spread
        new_mean = old - (center - shift) / scale * deviation
        eps = given["eps"]
        assert isinstance(eps, float)
        alive_channels = (found > 0) & (spread > 0) & (scale != 0) & (deviation.square() > eps)
        repaired = {
            name: torch.where(alive_channels, new.to(runs[0][name].dtype), runs[0][name])
            for name, new in ((mean, new_mean), (var, deviation.square() - eps))
            if name
        }
        return repaired if self._lowers_error(repaired, runs[-1], guides[-1]) else {}

    def _lowers_error(self, repaired: Alive, alive: Alive, guide: Alive) -> bool:
        after = {**alive, **again(self.node, {**alive, **repaired})}
        return float(self.missing(after, guide).square().sum()) < float(self.missing(alive, guide).square().sum())


def _moments(tensors: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of each channel (dimension 1) over all the tensors, in float64."""
    entries = torch.cat(list(tensors)).transpose(0, 1).flatten(1).double()
    return entries.mean(1), entries.std(1)


def repairables(graph: Graph, context: Context, size: int | None = None) -> list[Repairable]:
    """What may need repair: layers with fewer inputs than in the teacher, and every batch norm if anything changed."""
    teacher, analysis = context.teacher, analyse(context.teacher)
    own, taught, known = layers(graph), layers(teacher), teacher.forward.producers

    def kept(value: Value, dim: int) -> Tensor:
        indices = analysis.kept(value.name, dim, context.configuration)
        return torch.arange(value.shape[dim]) if indices is None else torch.as_tensor(indices)

    def narrowed(name: str, dim: int) -> bool:
        return name in teacher.state and graph.state[name].shape[dim] < teacher.state[name].shape[dim]

    changed = len(known) != len(graph.forward.producers) or any(
        narrowed(name, dim) for name, tensor in graph.state.items() for dim in range(tensor.dim())
    )
    ours, theirs = _streams(at_batch(graph, size), at_batch(teacher, size))
    found: list[Repairable] = []
    for node in graph.forward.nodes:
        layer = own.get(node.name)
        if node.name not in known:
            continue
        ways, output = (ours.get(node.name), theirs.get(node.name)), known[node.name].outputs[0]
        cut = layer and (all(ways) or narrowed(layer.weight, layer.in_dim))
        if layer and cut and not is_factor(layer.weight):  # those fit best as they are
            dim = layer.channel_dim
            source = taught[node.name].input if node.name in taught else None
            read = kept(source, dim) if source else None
            found.append(
                RepairableLayer(node, dim, kept(output, dim), *ways, layer, source.name if source else "", read)
            )
        elif node.kind == "batch_norm" and changed:
            found.append(RepairableBatchNorm(node, 1, kept(output, 1), *ways))
    return found


def _streams(graph: Graph, teacher: Graph) -> tuple[dict[str, Stream], dict[str, Stream]]:
    """The ways into the stream behind dropped blocks, in the graph and in its teacher."""
    blocks = smallest_blocks(teacher)
    dropped = {name for name, block in blocks.items() if block.exit not in graph.forward.producers}
    near = behind(blocks, dropped)
    return streams(graph.forward, near), streams(teacher.forward, near)


def again(node: Node, alive: Alive) -> Alive:
    with torch.no_grad(), autocast():
        return execute(node, alive)


def _name(argument: object) -> str | None:
    return argument.name if isinstance(argument, Value) else None
