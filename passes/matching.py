"""A student and its teacher side by side: the same inputs, and the values that both have, compared."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor, fx

from chipfit.ir.axes import analyse
from chipfit.ir.blocks import find_blocks
from chipfit.ir.configuration import Configuration
from chipfit.ir.emit import emit
from chipfit.ir.graph import Graph, Value
from chipfit.passes.base import Inputs
from chipfit.passes.losses import attention, divergence, relative_error
from chipfit.passes.precision import autocast

# Examples in a batch below which batch norms keep their statistics: those of fewer are mostly noise (Wu and He 2018,
# arXiv 1803.08494, figure 1: error rises from 16 down).
NORMALISED = 16
FUSED_ATTENTION = torch.ops.aten.scaled_dot_product_attention.default


@dataclass(frozen=True)
class Head:
    """The linear layer that makes a graph's logits [..., classes], taken apart so that some rows can be left out."""

    input: Value
    weight: str
    bias: str | None

    def logits(self, module: fx.GraphModule, rows: Tensor) -> Tensor:
        bias = module.get_parameter(self.bias) if self.bias else None
        return torch.nn.functional.linear(rows, module.get_parameter(self.weight), bias)


def find_head(graph: Graph) -> Head | None:
    """None where the model's output isn't logits: embeddings end in a norm or a mean, not in a linear layer."""
    node = graph.forward.producers.get(graph.forward.outputs[0].name)
    if node is None or node.kind != "linear" or len(graph.forward.outputs) > 1:
        return None
    source, weight, *bias = node.inputs
    if weight.name not in graph.parameters or any(value.name not in graph.parameters for value in bias):
        return None
    return Head(source, weight.name, bias[0].name if bias else None)


def shared_exits(teacher: Graph, student: Graph) -> tuple[str, ...]:
    """The outputs of the teacher's residual blocks that the student has too, in order."""
    there = student.forward.producers
    return tuple(dict.fromkeys(block.exit for block in find_blocks(teacher).values() if block.exit in there))


def runnable(graph: Graph, head: Head | None, taps: Sequence[str], training: bool) -> fx.GraphModule:
    """A module that gives the graph's outputs (with a head its input instead) and then the tapped values."""
    entry = graph.forward
    values = {value.name: value for node in entry.nodes for value in node.outputs}
    outputs = (head.input,) if head else entry.outputs
    tapped = replace(entry, outputs=(*outputs, *(values[name] for name in taps)))
    module = emit(graph.with_entry(tapped), training=training)
    for node in module.graph.find_nodes(op="call_function", target=FUSED_ATTENTION):
        node.target = attention
    module.recompile()
    return module


def called(module: fx.GraphModule, inputs: Inputs) -> tuple[Tensor, ...]:
    result = module(*inputs)
    return result if isinstance(result, tuple) else (result,)


def relevant(output: Tensor, last: Tensor) -> Tensor | None:
    """Where in a batch of texts [batch, positions] the output depends on the last tapped value; None: everywhere.

    It doesn't where a text is padded, and what a student computes there is no matter.
    """
    if last.dim() != 3:
        return None
    (gradient,) = torch.autograd.grad(output.sum(), last, retain_graph=True, allow_unused=True)
    rows = None if gradient is None else (gradient != 0).any(-1)
    return None if rows is None or rows.all() else rows


def chosen(tapped: Tensor, rows: Tensor | None) -> Tensor:
    return tapped if rows is None or tapped.shape[:-1] != rows.shape else tapped[rows]


@dataclass(frozen=True)
class Comparison:
    """Losses of a student on batches of inputs; both graphs at that batch.

    `configuration` says how the student differs from the teacher: a pruned width is compared on its kept entries.
    `positions` is the share of rows for which logits are made in training; judging takes them all.
    """

    teacher: Graph
    student: Graph
    configuration: Configuration
    analysed: Graph  # the teacher as traced, whose axes the configuration names
    hidden: float
    temperature: float
    positions: float

    @cached_property
    def taps(self) -> tuple[str, ...]:
        return shared_exits(self.analysed, self.student) if self.hidden else ()

    @cached_property
    def heads(self) -> tuple[Head, Head] | None:
        """Of student and teacher."""
        heads = find_head(self.student), find_head(self.teacher)
        return (heads[0], heads[1]) if heads[0] and heads[1] else None

    @cached_property
    def module(self) -> fx.GraphModule:
        """The student in training; its parameters share storage with the student graph's state."""
        training = (self.student.batch or 1) >= NORMALISED
        return runnable(self.student, self.heads[0] if self.heads else None, self.taps, training)

    @cached_property
    def judged(self) -> fx.GraphModule:
        """The student as it is used, on the same storage."""
        return runnable(self.student, self.heads[0] if self.heads else None, (), training=False)

    @cached_property
    def guide(self) -> fx.GraphModule:
        return runnable(self.teacher, self.heads[1] if self.heads else None, self.taps, training=False)

    @cached_property
    def kept(self) -> Mapping[str, Sequence[Tensor | None]]:
        """Tapped value -> for each of its dimensions the indices that the student kept (None: all)."""
        analysis = analyse(self.analysed)
        ranks = {name: len(self.analysed.forward.producers[name].outputs[0].shape) for name in self.taps}
        found = {name: [analysis.kept(name, dim, self.configuration) for dim in range(ranks[name])] for name in ranks}
        return {name: [None if k is None else torch.from_numpy(k) for k in kept] for name, kept in found.items()}

    def training_loss(self, inputs: Inputs, generator: torch.Generator) -> Tensor:
        """Of one batch, with gradients: the outputs' loss plus `hidden` times the mean relative error of the taps."""
        with autocast():
            with torch.no_grad():
                wanted = called(self.guide, inputs)
            given = called(self.module, inputs)
            loss = self._outputs_loss(self.module, given, wanted, generator)
        if not self.taps:
            return loss
        count = len(self.taps)
        rows = relevant(given[0], given[-1])
        pairs = zip(self.taps, given[-count:], wanted[-count:], strict=True)
        errors = [
            relative_error(chosen(got, rows), chosen(self._as_kept(name, want), rows)) for name, got, want in pairs
        ]
        return loss + self.hidden * torch.stack(errors).mean()

    def validation_loss(self, examples: Sequence[Inputs]) -> float:
        """Mean loss of the outputs alone over batches that training doesn't see."""
        with torch.no_grad(), autocast():
            pairs = ((called(self.judged, inputs), called(self.guide, inputs)) for inputs in examples)
            losses = [self._outputs_loss(self.judged, given, wanted, None) for given, wanted in pairs]
        return float(torch.stack(losses).mean())

    def _as_kept(self, name: str, tensor: Tensor) -> Tensor:
        for dim, indices in enumerate(self.kept[name]):
            tensor = tensor if indices is None else tensor.index_select(dim, indices)
        return tensor

    def _outputs_loss(
        self,
        module: fx.GraphModule,
        given: Sequence[Tensor],
        wanted: Sequence[Tensor],
        generator: torch.Generator | None,
    ) -> Tensor:
        if self.heads is None:
            count = len(self.student.forward.outputs)
            return torch.stack(
                [relative_error(g, w) for g, w in zip(given[:count], wanted[:count], strict=True)]
            ).mean()
        student, teacher = given[0].flatten(0, -2), wanted[0].flatten(0, -2)
        if generator is not None and self.positions < 1 and given[0].dim() > 2:
            rows = torch.randperm(len(student), generator=generator)[: max(1, int(len(student) * self.positions))]
            student, teacher = student[rows], teacher[rows]
        said = self.heads[0].logits(module, student)
        with torch.no_grad():
            meant = self.heads[1].logits(self.guide, teacher)
        return divergence(said, meant, self.temperature if generator is not None else 1.0)
