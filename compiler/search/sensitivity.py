"""Sensitivity: what each level of an axis and each dropped block costs in quality, measured on calibration data.

A candidate is the graph with some of its weights masked and its readers repaired, or with one branch dropped. Only the
part of the graph behind the change is run again; everything before it is taken from one run of the whole.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import networkx as nx
import torch
from torch import Tensor
from torch.nn import functional

from chipfit.ir.apply import mask, rebatch
from chipfit.ir.axes import Axis, analyse
from chipfit.ir.blocks import Block, find_blocks
from chipfit.ir.configuration import Configuration
from chipfit.ir.emit import run
from chipfit.ir.graph import EntryPoint, Graph, Node
from chipfit.ir.kernels import work
from chipfit.ir.shapes import what_if
from chipfit.passes.base import Inputs, Progress, silent
from chipfit.passes.importance import best, rank, readers
from chipfit.passes.layers import Layer
from chipfit.passes.losses import log_divergence, relative_error
from chipfit.passes.matching import Head, find_head
from chipfit.passes.precision import autocast
from chipfit.passes.repair import masked_repair
from chipfit.passes.statistics import Statistics
from chipfit.stages import write_json
from chipfit.targets.cost import full_plan

MEASURED = (1.0, 0.75, 0.5, 0.25)  # of an axis kept, at which its loss is measured
STEPS = 8  # parts of an axis that are cut at a time; between measured widths the loss is interpolated
HOPELESS = 1.0  # a loss beyond which a width isn't offered, nor a narrower one measured
REPAIRED = 16  # readers of an axis, at most, that are repaired to measure it
SAVE_EVERY = 8  # candidates between checkpoints
LEAST_SAVING = 0.003  # of all operations, by the narrowest width: an axis that saves less is not worth measuring
ROWS = 256  # of logits, on which a loss is measured
EXAMPLES = 512  # at most
OPERATIONS = 1.1e11  # of one pass over the calibration data
STATISTICS = 32  # examples for scores and repair, which look at every token or pixel


@dataclass(frozen=True)
class Level:
    """One width of an axis: the indices it keeps and the loss that it costs alone."""

    kept: tuple[int, ...]
    loss: float


@dataclass(frozen=True)
class Sensitivity:
    """Per axis its levels, the full width first and narrower ones after it; per block the loss of dropping it."""

    levels: Mapping[str, tuple[Level, ...]]
    drops: Mapping[str, float]

    def to_json(self) -> dict[str, Any]:
        levels = {axis: [[list(level.kept), level.loss] for level in found] for axis, found in self.levels.items()}
        return {"levels": levels, "drops": dict(self.drops)}

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> Sensitivity:
        levels = {a: tuple(Level(tuple(kept), loss) for kept, loss in found) for a, found in data["levels"].items()}
        return Sensitivity(levels, data["drops"])


@dataclass(frozen=True)
class Probe:
    """The graph at the calibration batch, with every residual value of its run.

    Logits are made on at most `ROWS` rows: for a language model their vocabulary costs as much as its layers.
    """

    graph: Graph
    inputs: Inputs

    @staticmethod
    def on(graph: Graph, calibration: Sequence[Inputs]) -> Probe:
        """A probe on all calibration examples at once; they are batch first."""
        inputs = tuple(torch.cat(parts) for parts in zip(*calibration, strict=True))
        size = len(inputs[0])
        if graph.batch is None:
            return Probe(graph, calibration[0])
        return Probe(rebatch(graph, size), inputs)

    @property
    def entry(self) -> EntryPoint:
        return self.graph.forward

    @cached_property
    def head(self) -> Head | None:
        return find_head(self.graph)

    @cached_property
    def reference(self) -> Mapping[str, Tensor]:
        """What the head reads (or the outputs), and the borders of the blocks, by value name."""
        borders = {name for block in find_blocks(self.graph).values() for name in (block.skip, block.exit)}
        computed = set(self.entry.producers)
        with autocast():
            return run(self._trunk(self.graph), *self.inputs, keep=tuple(sorted(borders & computed)))

    @cached_property
    def answers(self) -> list[Tensor]:
        """What the unchanged graph's outputs are compared by: log-probabilities, or the outputs themselves."""
        return self._answers(self.graph, self.reference)

    def loss(self, changed: Graph) -> float:
        """How far the changed graph's outputs are from this graph's: KL divergence in nats a row, or relative error."""
        dirty = self._behind(changed)
        given = {name: value for name, value in self.reference.items() if name not in dirty}
        with autocast():
            found = run(self._trunk(changed), *self.inputs, given=given)
        pairs = zip(self._answers(changed, found), self.answers, strict=True)
        compare = log_divergence if self.head else relative_error
        return sum(float(compare(ours, wanted)) for ours, wanted in pairs) / len(self.answers)

    def _trunk(self, graph: Graph) -> Graph:
        """The graph up to what the head reads."""
        if self.head is None:
            return graph
        read = graph.forward.producers[self.head.input.name].outputs
        return graph.with_entry(replace(graph.forward, outputs=read[:1]))

    def _answers(self, graph: Graph, found: Mapping[str, Tensor]) -> list[Tensor]:
        if self.head is None:
            return [found[value.name].float() for value in graph.forward.outputs]
        rows = found[self.head.input.name].flatten(0, -2)
        chosen = rows[:: max(1, len(rows) // ROWS)]
        bias = graph.state[self.head.bias] if self.head.bias else None
        with autocast():
            logits = functional.linear(chosen, graph.state[self.head.weight], bias)
        return [functional.log_softmax(logits.float(), -1)]

    def _behind(self, changed: Graph) -> set[str]:
        """Names of the values that may differ in the changed graph."""
        topology = changed.forward.topology
        known = {node.name: node for node in self.entry.nodes}
        seeds = [node.name for node in changed.forward.nodes if self._differs(node, known.get(node.name), changed)]
        nodes = set(seeds).union(*(nx.descendants(topology, seed) for seed in seeds))
        return {value.name for node in changed.forward.nodes if node.name in nodes for value in node.outputs}

    def _differs(self, node: Node, before: Node | None, changed: Graph) -> bool:
        parameters = [value.name for value in node.inputs if value.name in changed.parameters]
        return node != before or any(changed.state[p] is not self.graph.state[p] for p in parameters)


def step_of(size: int, granularity: int) -> int:
    """What an axis's widths are multiples of: whole vectors where it has several."""
    return granularity if size >= 4 * granularity else 1


def widths(size: int, granularity: int, narrowest: int) -> list[int]:
    """The widths that the search chooses from, widest first: in even steps of the size, in whole vectors."""
    found = rounded(size, granularity, [part / STEPS for part in range(1, STEPS + 1)])
    return [width for width in found if width >= narrowest]


def measured_widths(size: int, granularity: int) -> list[int]:
    """Those of them at which the loss is measured."""
    return rounded(size, granularity, MEASURED)


def rounded(size: int, granularity: int, shares: Iterable[float]) -> list[int]:
    step = step_of(size, granularity)
    return sorted({size if share == 1 else max(step, round(size * share / step) * step) for share in shares})[::-1]


def interpolated(losses: Mapping[int, float], width: int) -> float:
    """The loss at a width between measured ones: geometric, as losses grow with what is cut; linear from none."""
    if width in losses:
        return losses[width]
    above = min(known for known in losses if known > width)
    below = max(known for known in losses if known < width)
    part = (above - width) / (above - below)
    high, low = losses[above], losses[below]
    return float(high ** (1 - part) * low**part) if min(high, low) > 0 else high + (low - high) * part


def candidates(graph: Graph) -> tuple[dict[str, Axis], dict[str, Block]]:
    """The axes worth narrowing, with the rest computing what it did, and the smallest droppable blocks."""
    exact = {name: axis for name, axis in analyse(graph).axes.items() if axis.state == "exact" and axis.size > 1}
    whole = operations(graph, Configuration())
    narrowest = {axis.name: tuple(range(measured_widths(axis.size, 1)[-1])) for axis in exact.values()}
    left = {name: operations(graph, Configuration({name: kept})) / whole for name, kept in narrowest.items()}
    blocks = find_blocks(graph)
    return (
        {name: axis for name, axis in exact.items() if 1 - left[name] >= LEAST_SAVING},
        {name: block for name, block in blocks.items() if not _divided(block, blocks.values())},
    )


def operations(graph: Graph, configuration: Configuration) -> int:
    """Floating-point operations of one example."""
    shapes = what_if(graph, configuration, 1 if graph.batch else None)
    return sum(work(kernel, shapes).flops for kernel, _ in full_plan(graph))


def calibration_size(graph: Graph) -> int:
    """How many examples a forward pass of about a third of a second takes."""
    return max(1, min(EXAMPLES, round(OPERATIONS / operations(graph, Configuration()))))


def _divided(block: Block, blocks: Iterable[Block]) -> bool:
    """Whether smaller blocks drop parts of this one: a layer is dropped as its attention and its MLP."""
    return any(other.nodes < block.nodes for other in blocks)


@dataclass(frozen=True)
class Survey:
    """How to measure: on what, how finely, and what the passes at hand can do."""

    graph: Graph
    examples: Sequence[Inputs]
    granularity: int
    narrow: bool = True
    drop: bool = True
    repair: bool = True

    def measure(self, checkpoint: Path | None = None, progress: Progress = silent) -> Sensitivity:
        """Goes through all candidates; what `checkpoint` holds from a run that was stopped is not measured again."""
        axes, blocks = candidates(self.graph)
        tasks: list[tuple[str, Axis | Block]] = [*(axes.items() if self.narrow else ())]
        tasks += blocks.items() if self.drop else ()
        found = _read(checkpoint)
        for done, (name, candidate) in enumerate(tasks):
            progress(f"sensitivity of {name}", done / len(tasks))
            if name not in found["levels"] and name not in found["drops"]:
                if isinstance(candidate, Axis):
                    found["levels"][name] = [[list(level.kept), level.loss] for level in self._levels(candidate)]
                else:
                    found["drops"][name] = self._probe.loss(self._without(name))
                if checkpoint and (done % SAVE_EVERY == 0 or done == len(tasks) - 1):
                    write_json(checkpoint, found)
        return Sensitivity.from_json(found)

    def _levels(self, axis: Axis) -> list[Level]:
        scores, losses = rank(self._statistics, axis), {axis.size: 0.0}
        for width in measured_widths(axis.size, self.granularity)[1:]:
            losses[width] = self._probe.loss(self._narrowed(axis, best(scores, width)))
            if losses[width] > HOPELESS:
                break
        found = {width: interpolated(losses, width) for width in widths(axis.size, self.granularity, min(losses))}
        return [Level(best(scores, width), loss) for width, loss in found.items() if loss <= HOPELESS]

    def _narrowed(self, axis: Axis, kept: tuple[int, ...]) -> Graph:
        masked = mask(self._probe.graph, Configuration({axis.name: kept}))
        repaired: dict[str, Tensor] = {}
        for layer in self._repairable(axis):
            repaired |= masked_repair(self._statistics, layer, self._grams, axis, kept)
        return masked.with_state(repaired)

    def _repairable(self, axis: Axis) -> list[Layer]:
        """The layers to repair: none where nearly the whole model reads the axis, as the residual stream."""
        found = readers(self._statistics, axis) if self.repair else []
        return found if len(found) <= REPAIRED else []

    def _without(self, block: str) -> Graph:
        return mask(self._probe.graph, Configuration({}, frozenset({block})))

    @cached_property
    def _axes(self) -> dict[str, Axis]:
        return candidates(self.graph)[0]

    @cached_property
    def _probe(self) -> Probe:
        return Probe.on(self.graph, self.examples[: calibration_size(self.graph)])

    @cached_property
    def _statistics(self) -> Statistics:
        return Statistics(self.graph, self.examples[:STATISTICS])

    @cached_property
    def _grams(self) -> Mapping[str, Tensor]:
        reading = (self._repairable(axis) for axis in self._axes.values())
        return self._statistics.grams(layer.node.name for found in reading for layer in found)


def _read(checkpoint: Path | None) -> dict[str, Any]:
    if checkpoint and checkpoint.exists():
        return dict(json.loads(checkpoint.read_text()))
    return {"levels": {}, "drops": {}}
