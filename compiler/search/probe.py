"""A graph with what its run on calibration data gave: how far a change moves its outputs, at the least work."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from functools import cached_property

import networkx as nx
import torch
from torch import Tensor
from torch.nn import functional

from chipfit.ir.apply import rebatch
from chipfit.ir.blocks import find_blocks
from chipfit.ir.configuration import Configuration
from chipfit.ir.emit import run
from chipfit.ir.graph import EntryPoint, Graph, Node, Value
from chipfit.ir.shapes import what_if
from chipfit.ir.work import work
from chipfit.passes.base import Inputs
from chipfit.passes.factorize import is_factor
from chipfit.passes.losses import log_divergence, relative_error
from chipfit.passes.matching import find_head
from chipfit.passes.padding import relevant_rows
from chipfit.passes.precision import autocast
from chipfit.targets.cost import full_plan

ROWS = 256  # of logits, on which a loss is measured
EXAMPLES = 512  # at most
OPERATIONS = 1.1e11  # of one pass over the calibration data


@dataclass(frozen=True)
class Probe:
    """The graph at the calibration batch, with every residual value of its run.

    Logits are made on at most `ROWS` rows: for a language model their vocabulary costs as much as its layers.
    """

    graph: Graph
    inputs: Inputs
    taught: Probe | None = None  # whose answers count, if the graph isn't the whole one
    exact: bool = False  # in float32, for changes that are smaller than what bfloat16 makes of any change

    @staticmethod
    def on(graph: Graph, calibration: Sequence[Inputs]) -> Probe:
        """A probe on all calibration examples at once; they are batch first."""
        inputs = tuple(torch.cat(parts) for parts in zip(*calibration, strict=True))
        size = len(inputs[0])
        if graph.batch is None:
            return Probe(graph, calibration[0])
        return Probe(rebatch(graph, size), inputs)

    def at(self, changed: Graph) -> Probe:
        """A probe on a changed graph, whose losses are still against the answers of this one's."""
        return replace(self, graph=changed, taught=self.taught or self)

    @property
    def entry(self) -> EntryPoint:
        return self.graph.forward

    @cached_property
    def features(self) -> Value | None:
        """What logits are made of, by one linear layer or its two factors; None where the outputs aren't logits."""
        head = find_head(self.graph)
        if head is None:
            return None
        before = self.entry.producers.get(head.input.name)
        split = before and before.kind == "linear" and is_factor(before.inputs[1].name)
        return before.inputs[0] if before and split else head.input

    @cached_property
    def reference(self) -> Mapping[str, Tensor]:
        """The features (or the outputs), and the borders of the blocks, by value name."""
        borders = {name for block in find_blocks(self.graph).values() for name in (block.skip, block.exit)}
        computed = set(self.entry.producers)
        with self._precision:
            return run(self._trunk(self.graph), *self.inputs, keep=tuple(sorted(borders & computed)))

    @cached_property
    def relevant(self) -> Tensor | None:
        """The positions of a batch of texts that are no padding; None: all."""
        return self.taught.relevant if self.taught else relevant_rows(self.graph, self.inputs)

    @cached_property
    def answers(self) -> list[Tensor]:
        """What the unchanged graph's outputs are compared by: log-probabilities, or the outputs themselves."""
        if self.taught:
            return self.taught.answers
        return self._answers(self.graph, self.reference)

    def loss(self, changed: Graph) -> float:
        """How far the changed graph's outputs are from the answers: KL divergence in nats a row, or relative error."""
        with self._precision:
            found = run(self._trunk(changed), *self.inputs, given=self.unmoved(changed))
        pairs = zip(self._answers(changed, found), self.answers, strict=True)
        compare = log_divergence if self.features else relative_error
        return sum(float(compare(ours, wanted)) for ours, wanted in pairs) / len(self.answers)

    @property
    def _precision(self) -> AbstractContextManager[object]:
        return nullcontext() if self.exact else autocast()

    def _trunk(self, graph: Graph) -> Graph:
        """The graph up to the features."""
        return graph.with_entry(replace(graph.forward, outputs=(self.features,))) if self.features else graph

    def _answers(self, graph: Graph, found: Mapping[str, Tensor]) -> list[Tensor]:
        if self.features is None:
            return [found[value.name].float() for value in graph.forward.outputs]
        whole = found[self.features.name]
        rows = whole.flatten(0, -2)
        chosen = rows[:: max(1, len(rows) // ROWS)]
        with self._precision:
            logits = run(graph, given={self.features.name: chosen.reshape(*(1,) * (whole.dim() - 2), *chosen.shape)})
        (found_logits,) = logits.values()
        return [functional.log_softmax(found_logits.flatten(0, -2).float(), -1)]

    def unmoved(self, changed: Graph) -> dict[str, Tensor]:
        """What of the reference the changed graph gives too."""
        dirty = self._behind(changed)
        return {name: value for name, value in self.reference.items() if name not in dirty}

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


def operations(graph: Graph, configuration: Configuration) -> int:
    """Floating-point operations of one example."""
    shapes = what_if(graph, configuration, 1 if graph.batch else None)
    return sum(work(kernel, shapes).flops for kernel, _ in full_plan(graph))


def calibration_size(graph: Graph) -> int:
    """How many examples a forward pass of about a third of a second takes."""
    return max(1, min(EXAMPLES, round(OPERATIONS / operations(graph, Configuration()))))
