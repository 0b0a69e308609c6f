"""fold-batch-norm: a batch norm behind a layer that nothing else reads becomes part of the layer."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

from torch import Tensor

from chipfit.ir.graph import Graph, Node, Parameter, TensorType, Value
from chipfit.ir.ops.signature import arguments, with_arguments
from chipfit.passes.base import Context, Pass, PassResult
from chipfit.passes.layers import BIAS_NAMES, Layer, layers
from chipfit.passes.rewriting import reads, without_dead_parameters


@dataclass(frozen=True)
class FoldBatchNorm(Pass):
    """Scale the layer's weight by the norm's scale, and give it a bias where it has none.

    before: y = conv2d(x, W, b);  z = (y - mean) / sqrt(var + eps) * gamma + beta
    after:  z = conv2d(x, s W, s (b - mean) + beta)  with s = gamma / sqrt(var + eps)

    The folded layer bears the norm's name, so that its values are still those of the teacher's value of that name.
    """

    name: ClassVar[str] = "fold-batch-norm"
    summary: ClassVar[str] = "make batch norms part of the convolutions and linear layers before them"

    def run(self, graph: Graph, context: Context) -> PassResult:
        before = reads(graph)
        for fold in _folds(graph, before):
            graph = fold.applied_to(graph)
        return PassResult(without_dead_parameters(graph, before), before != reads(graph))


def folded(graph: Graph) -> Graph:
    """The graph with every batch norm folded, as code is generated for it."""
    return FoldBatchNorm().run(graph, Context(teacher=graph)).graph


@dataclass(frozen=True)
class Fold:
    layer: Layer
    norm: Node

    def applied_to(self, graph: Graph) -> Graph:
        weight, bias = self._tensors(graph.state)
        name = self.layer.bias or _bias_name(self.layer.weight, graph)
        value = Value(name, TensorType(tuple(bias.shape), bias.dtype))
        node = replace(
            with_arguments(self.layer.node, **{BIAS_NAMES[self.layer.node.kind]: value}), outputs=self.norm.outputs
        )
        kept = (each for each in graph.forward.nodes if each.name != self.layer.node.name)
        nodes = tuple(node if each.name == self.norm.name else each for each in kept)
        graph = graph.with_entry(replace(graph.forward, nodes=nodes))
        parameters = {**graph.parameters, name: graph.parameters.get(name, Parameter(value, "parameter"))}
        state = {**graph.state, self.layer.weight: weight, name: bias}
        return replace(graph, parameters=parameters, state=state)

    def _tensors(self, state: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """The folded weight and bias; in float64 until the end."""
        given, weight = arguments(self.norm), state[self.layer.weight].detach()
        mean, var, gamma, beta = (_tensor(given[n], state) for n in ("running_mean", "running_var", "weight", "bias"))
        assert mean is not None
        assert var is not None
        eps = given["eps"]
        assert isinstance(eps, float)
        scale = (var + eps).rsqrt() * (1.0 if gamma is None else gamma)
        before = state[self.layer.bias].detach().double() if self.layer.bias else 0.0
        bias = (before - mean) * scale + (0.0 if beta is None else beta)
        shape = [1] * weight.dim()
        shape[self.layer.out_dim] = -1
        return (weight * scale.reshape(shape)).to(weight.dtype), bias.to(weight.dtype)


def _folds(graph: Graph, read: Counter[str]) -> list[Fold]:
    """The batch norms whose input is a layer of which nothing else reads anything."""
    found = layers(graph)
    norms = [node for node in graph.forward.nodes if node.kind == "batch_norm"]
    pairs = [(found.get(node.inputs[0].name), node) for node in norms]
    return [Fold(layer, node) for layer, node in pairs if layer and _is_foldable(layer, node, graph, read)]


def _is_foldable(layer: Layer, norm: Node, graph: Graph, read: Counter[str]) -> bool:
    given = arguments(norm)
    alone = all(read[name] == 1 for name in (layer.node.name, layer.weight, layer.bias) if name)
    tied = any(graph.parameters[name].aliases for name in (layer.weight, layer.bias) if name)
    fixed = isinstance(given["running_mean"], Value) and given["training"] is False
    return alone and not tied and fixed and layer.channel_dim == 1 and layer.node.kind in BIAS_NAMES


def _tensor(value: object, state: Mapping[str, Tensor]) -> Tensor | None:
    return state[value.name].detach().double() if isinstance(value, Value) else None


def _bias_name(weight: str, graph: Graph) -> str:
    """`conv.bias` for `conv.weight`, with a number if that is taken."""
    name = weight.removesuffix("weight") + "bias"
    taken = {*graph.parameters, *(value.name for node in graph.forward.nodes for value in node.outputs)}
    return name if name not in taken else next(new for i in range(2, 99) if (new := f"{name}{i}") not in taken)
