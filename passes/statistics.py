"""What calibration data say about a graph: input energies, Gram matrices and gradients, each computed once."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor
from torch.nn import functional

from chipfit.ir.apply import can_rebatch, rebatch
from chipfit.ir.emit import emit, execute
from chipfit.ir.graph import Graph, Node
from chipfit.passes.base import Inputs
from chipfit.passes.layers import Layer, layers, with_ones
from chipfit.passes.matching import chosen
from chipfit.passes.padding import relevant_rows
from chipfit.passes.precision import autocast

EXAMPLES = 128  # that tell what matters in a model; with fewer, SmolLM2's split head generalises badly
LOGIT_ROWS = 512  # at a time: a large vocabulary makes 100 MB of them


def chunked(graph: Graph, calibration: Sequence[Inputs], count: int) -> tuple[int | None, list[Inputs]]:
    """The examples in `count` parts of equal size (fewer if there are fewer examples), and that size.

    A graph whose batch is baked in gets parts of that batch, examples repeated if they are fewer; a graph that
    mixes its examples gets them as they are, and None.
    """
    if graph.batch is None:
        return None, list(calibration)
    joined = [torch.cat(parts) for parts in zip(*calibration, strict=True)]
    examples = len(joined[0])
    size = max(1, examples // count) if can_rebatch(graph) else graph.batch
    total = examples // size * size if examples >= size else size
    order = torch.arange(total) % examples
    return size, list(zip(*(torch.split(part[order], size) for part in joined), strict=True))


def at_batch(graph: Graph, size: int | None) -> Graph:
    return graph if size is None or size == graph.batch else rebatch(graph, size)


def trace(graph: Graph, inputs: Inputs) -> Iterator[tuple[Node, dict[str, Tensor]]]:
    """Runs the graph node by node; after each gives the node and the tensors that are alive, parameters included.

    Whoever changes these tensors changes what the rest of the run sees. Nothing needs gradients.
    """
    point = graph.forward
    alive = {**graph.state, **{value.name: tensor for value, tensor in zip(point.inputs, inputs, strict=True)}}
    last_reader = {value.name: node for node in point.nodes for value in node.inputs}
    for node in point.nodes:
        with torch.no_grad(), autocast():
            alive.update(execute(node, alive))
        yield node, alive
        for name in {value.name for value in node.inputs}:
            if last_reader[name] is node and name not in graph.parameters:
                del alive[name]


def held_bytes(graph: Graph) -> int:
    """Of the values of one example that are alive together in a `trace`, where they are the most; in half precision,
    which the machine may choose, it is less.
    """
    point, alive, most = graph.forward, list(graph.forward.inputs), 0
    last_reader = {value: node for node in point.nodes for value in node.inputs}
    for node in point.nodes:
        alive += node.outputs
        most = max(most, sum(math.prod(value.shape) * value.type.dtype.itemsize for value in alive))
        alive = [value for value in alive if last_reader.get(value) is not node]
    return most // (graph.batch or 1)


def gram(rows: Tensor) -> Tensor:
    """[groups, rows, columns] -> [groups, columns, columns] in float64; a call's own sum is made in the rows' dtype."""
    return (rows.mT @ rows).double()


@dataclass(frozen=True)
class Statistics:
    """A graph on calibration inputs; each property is computed when it is first asked for."""

    graph: Graph
    calibration: Sequence[Inputs]
    seed: int = 0
    parts: int = 4

    @cached_property
    def layers(self) -> Mapping[str, Layer]:
        return layers(self.graph)

    @cached_property
    def energies(self) -> Mapping[str, Tensor]:
        """Layer -> sum of squares of each of its columns [groups, columns]: the diagonal of its Gram matrix."""
        sums: dict[str, Tensor] = {}
        for layer, rows in self.input_rows(self.layers):
            energy = rows.square().sum(1).double()
            sums[layer.node.name] = sums[layer.node.name] + energy if layer.node.name in sums else energy
        return sums

    def grams(self, names: Iterable[str]) -> dict[str, Tensor]:
        """Layer -> Gram matrix of its input [groups, columns, columns] with a column of ones where it has a bias."""
        sums: dict[str, Tensor] = {}
        for layer, rows in self.input_rows(set(names)):
            added = gram(with_ones(rows) if layer.bias else rows)
            sums[layer.node.name] = sums[layer.node.name] + added if layer.node.name in sums else added
        return sums

    def input_rows(self, names: Iterable[str]) -> Iterator[tuple[Layer, Tensor]]:
        """Every wanted layer with its input rows, part after part of the calibration data."""
        wanted = {name: self.layers[name] for name in names}
        size, chunks = chunked(self.graph, self.calibration, self.parts)
        graph = at_batch(self.graph, size)
        last = max(wanted, key=list(self.layers).index, default=None)
        for inputs in chunks:
            relevant = relevant_rows(graph, inputs)
            for node, alive in trace(graph, inputs):
                if layer := wanted.get(node.name):
                    yield layer, layer.rows(chosen(alive[layer.input.name], relevant).float())
                if node.name == last:
                    break

    @cached_property
    def logit_metric(self) -> Tensor:
        """What an error e in the input of the layer that gives the logits costs, as e' M e [inputs, inputs].

        To second order the divergence of softmax distributions is half the variance, under the probabilities p, of the
        error in the logits: with weight W [classes, inputs] M is the mean over rows of W' (diag(p) - p p') W.
        """
        head = self.layers[self.graph.forward.outputs[0].name]
        (weight,) = head.matrix(self.graph.state[head.weight])
        bias = self.graph.state[head.bias] if head.bias else None
        likelihood, shared, count = weight.new_zeros(len(weight)), weight.new_zeros(weight.shape[1], weight.shape[1]), 0
        for _, rows in self.input_rows([head.node.name]):
            for part in rows[0].split(LOGIT_ROWS):
                likely = functional.linear(part, weight, bias).softmax(-1)
                common = likely @ weight
                likelihood, shared, count = likelihood + likely.sum(0), shared + common.mT @ common, count + len(part)
        metric: Tensor = ((weight.mT * likelihood) @ weight - shared).double() / count
        return metric

    @cached_property
    def gradients(self) -> Mapping[str, Tensor]:
        """Parameter -> mean over the examples of the loss's gradient."""
        return self._differentiate(1)

    @cached_property
    def squared_gradients(self) -> Mapping[str, Tensor]:
        """Parameter -> mean over the examples of the squared gradient: the diagonal of the empirical Fisher matrix."""
        return self._differentiate(2)

    @torch.enable_grad()
    def _differentiate(self, power: int) -> dict[str, Tensor]:
        size, examples = chunked(self.graph, self.calibration, max(1, sum(len(x[0]) for x in self.calibration)))
        module = emit(at_batch(self.graph, size))
        tensors = dict(module.named_parameters(remove_duplicate=False))  # tied ones under each of their names
        parameters = {name: p for name, p in tensors.items() if name in self.graph.parameters and p.requires_grad}
        sums = {name: torch.zeros_like(p) for name, p in parameters.items()}
        generator = torch.Generator().manual_seed(self.seed)
        for inputs in examples:
            loss = self._loss(module(*inputs), generator)
            found = torch.autograd.grad(loss, list(parameters.values()), allow_unused=True)
            for name, gradient in zip(sums, found, strict=True):
                if gradient is not None:
                    sums[name] += gradient.pow(power) / len(examples)
        return sums

    def _loss(self, outputs: Tensor | tuple[Tensor, ...], generator: torch.Generator) -> Tensor:
        """Label-free: for logits the cross entropy with their own argmax; else the outputs times Gaussian noise.

        The noise makes the squared gradient an unbiased estimate of the squared error's Gauss-Newton diagonal
        (Hutchinson 1990); the squared error itself has no gradient where the model is its own teacher.
        """
        first = outputs[0] if isinstance(outputs, tuple) else outputs
        if self._gives_logits:
            logits = first.flatten(0, -2).float()
            return functional.cross_entropy(logits, logits.argmax(-1))
        noise = torch.randn(first.shape, generator=generator) / first[..., 0].numel() ** 0.5
        projected: Tensor = (first * noise).sum()
        return projected

    @property
    def _gives_logits(self) -> bool:
        """A linear layer as the last node says so: embeddings end in a norm or a mean."""
        return self.graph.forward.outputs[0].name in self.layers
