"""factorize: a tall linear layer becomes two thin ones, with a rank between them that is pruned like any width."""

from __future__ import annotations

from collections import Counter
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from chipfit.ir.graph import Graph, Node, Parameter, TensorType, Value
from chipfit.ir.ops.signature import arguments, with_arguments
from chipfit.passes.base import Context, Inputs, Pass, PassResult, require_calibration
from chipfit.passes.layers import Layer, layers
from chipfit.passes.rewriting import reads, without_dead_parameters
from chipfit.passes.statistics import EXAMPLES, Statistics

TALL = 8  # outputs for each input, from which on nearly every rank below the full one saves operations
ANSWERS = 16  # examples whose answers say which directions matter
SMOOTHING = 0.1  # of the mean direction's cost, added to each
FLOOR = 1e-9  # of the largest eigenvalue; below it a direction is noise

Halves = tuple[Tensor, Tensor]  # weights of the two layers: [width, width] and [outputs, width]


@dataclass(frozen=True)
class Factorize(Pass):
    """Split layers with many more outputs than inputs, as a language model's head, in two without changing the result.

    before: y = x W'           W [outputs, width]
    after:  z = x D';  y = z U'   with U D = W, U [outputs, width], D [width, width]

    The rank between D and U is an axis, and its first entries matter most: of all subspaces of that size they cost the
    least on calibration data, in divergence where the outputs are logits, else in squared error (as the data-aware
    approximation of Chen et al. 2021, DRONE). Split are the layers whose rank the configuration cuts; uncut, the
    second layer only costs.
    """

    name: ClassVar[str] = "factorize"
    summary: ClassVar[str] = "split tall linear layers, as a vocabulary's, in two whose rank can be cut"
    exact: ClassVar[bool] = True

    def requires(self, graph: Graph, context: Context) -> None:
        require_calibration(context)

    def run(self, graph: Graph, context: Context) -> PassResult:
        ranks = context.configuration.widths
        if context.factored:
            result = with_factors(graph, context.factored, ranks)
        else:
            result = factorized(graph, context.calibration, ranks)
        return PassResult(result, result is not graph)


def factorized(graph: Graph, calibration: Sequence[Inputs], ranks: Container[str] | None = None) -> Graph:
    """The graph with its tall layers split, or just those whose rank axis is in `ranks`."""
    found = [layer for layer in tall_layers(graph) if ranks is None or rank_axis(layer.node) in ranks]
    if not found:
        return graph
    answers, halves = Statistics(graph, calibration[:ANSWERS]), dict[Node, Halves]()
    grams = Statistics(graph, calibration[:EXAMPLES]).grams(layer.node.name for layer in found)
    for layer in found:
        weight = graph.state[layer.weight].detach()
        width = weight.shape[1]
        gives_logits = layer.node.name == graph.forward.outputs[0].name
        metric = answers.logit_metric if gives_logits else weight.double().mT @ weight.double()
        halves[layer.node] = factors(weight, grams[layer.node.name][0, :width, :width], metric)
    return _split(graph, halves)


def factorized_shapes(graph: Graph) -> Graph:
    """What `factorized` gives, without weights: made in a moment."""
    graph, halves = graph.weightless, dict[Node, Halves]()
    for layer in tall_layers(graph):
        weight = graph.state[layer.weight]
        width = weight.shape[1]
        halves[layer.node] = weight.new_empty(width, width), weight.new_empty(weight.shape)
    return _split(graph, halves)


def tall_layers(graph: Graph) -> list[Layer]:
    """The linear layers worth splitting. Their path in the model names the new parameters, so they need one."""
    linears = [layer for layer in layers(graph).values() if layer.node.kind == "linear"]
    paths = Counter(layer.node.module for layer in linears)
    named = (layer for layer in linears if layer.node.module and paths[layer.node.module] == 1)
    return [layer for layer in named if _outputs(layer) >= TALL * layer.input.shape[-1]]


def rank_axis(node: Node) -> str:
    """The axis between the two layers that take the node's place."""
    return f"{down_weight(node)}:0"


def is_factor(weight: str) -> bool:
    """Whether a parameter is half of a layer that was split."""
    return weight.endswith((".low_rank.down.weight", ".low_rank.up.weight"))


def with_factors(plain: Graph, factored: Graph, ranks: Container[str]) -> Graph:
    """`plain` with those layers split, as they are in `factored`, whose rank axis is in `ranks`."""
    chosen = [layer.node for layer in tall_layers(plain) if rank_axis(layer.node) in ranks]
    return _split(plain, {node: (factored.state[down_weight(node)], factored.state[_up(node)]) for node in chosen})


def split_weights(plain: Graph) -> list[frozenset[str]]:
    """Of each layer that may be split its weight and those of its two halves."""
    return [frozenset({layer.weight, down_weight(layer.node), _up(layer.node)}) for layer in tall_layers(plain)]


def belongs(name: str, layer: Layer) -> bool:
    """Whether a parameter is of a layer that may be split: its weight, one of the two halves, or a scale of these."""
    return name.startswith((layer.weight, down_weight(layer.node), _up(layer.node)))


def factors(weight: Tensor, gram: Tensor, metric: Tensor) -> tuple[Tensor, Tensor]:
    """`down` [width, width] and `up` [outputs, width] with up @ down = weight [outputs, width], best directions first.

    `gram` is the sum of x x' over inputs x, `metric` M says that an error e in them costs e' M e. With the singular
    vectors U of M^½ gram^½ the first r rows of U' M^½ span what costs least at rank r (Eckart and Young, in
    coordinates in which both matrices are the identity).
    """
    matrix = weight.double()
    root, inverse = _roots(metric + SMOOTHING * metric.diagonal().mean() * torch.eye(len(metric), dtype=metric.dtype))
    directions = torch.linalg.svd(root @ _roots(gram.double())[0])[0]
    down, up = directions.mT @ root, matrix @ inverse @ directions
    scale = (up.square().mean(0) / down.square().mean(1)).pow(0.25)  # weights of like size train at one rate
    return (down * scale[:, None]).to(weight.dtype), (up / scale).to(weight.dtype)


def _roots(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """The square root of a symmetric matrix, and its inverse."""
    values, vectors = torch.linalg.eigh(matrix)
    roots = values.clamp_min(values[-1] * FLOOR).sqrt()
    return vectors * roots @ vectors.mT, vectors / roots @ vectors.mT


def _split(graph: Graph, halves: Mapping[Node, Halves]) -> Graph:
    """With each of these layers taken apart into two with the given weights."""
    before = reads(graph)
    for node, tensors in halves.items():
        graph = _taken_apart(graph, node, {down_weight(node): tensors[0], _up(node): tensors[1]})
    return without_dead_parameters(graph, before) if halves else graph


def _taken_apart(graph: Graph, node: Node, tensors: Mapping[str, Tensor]) -> Graph:
    down, up = (Value(name, TensorType.of(tensor)) for name, tensor in tensors.items())
    source = arguments(node)["input"]
    assert isinstance(source, Value)
    middle = Value(f"{node.name}_down", TensorType((*source.shape[:-1], down.shape[0]), source.type.dtype))
    first = Node(node.op, (source, down), (), (middle,), node.module)
    second = with_arguments(node, input=middle, weight=up)
    nodes = tuple(new for each in graph.forward.nodes for new in ((first, second) if each is node else (each,)))
    tied = {name: _untied(parameter, node.module) for name, parameter in graph.parameters.items()}
    parameters = {**tied, **{value.name: Parameter(value, "parameter") for value in (down, up)}}
    graph = replace(graph, parameters=parameters, state={**graph.state, **tensors})
    return graph.with_entry(replace(graph.forward, nodes=nodes))


def _untied(parameter: Parameter, module: str) -> Parameter:
    """Without the names that it has in a module of which it is no longer the weight."""
    return replace(parameter, aliases=tuple(name for name in parameter.aliases if not name.startswith(f"{module}.")))


def _outputs(layer: Layer) -> int:
    return layer.node.outputs[0].shape[-1]


def down_weight(node: Node) -> str:
    """The parameter of the first of the two layers; the second bears the node's name."""
    return f"{node.module}.low_rank.down.weight"


def _up(node: Node) -> str:
    return f"{node.module}.low_rank.up.weight"
