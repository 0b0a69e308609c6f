"""quantize: weights of linear layers in 8 or 4 bits with scales, and if told convolutions and what both read in 8."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import ClassVar

import networkx as nx
import torch
from torch import Tensor
from torch.nn import functional

from chipfit.errors import UserError
from chipfit.ir import rounded
from chipfit.ir.graph import EntryPoint, Graph, Node, Parameter, TensorType, Value
from chipfit.ir.ops.signature import arguments, with_arguments
from chipfit.ir.stored import GROUP, ZERO, groups, spelled, stored_weight
from chipfit.passes.base import Context, Inputs, PassResult, Rounding, require_calibration
from chipfit.passes.fold_batch_norm import folded
from chipfit.passes.rewriting import int8
from chipfit.passes.rounded_convs import convolutions, largest, with_rounded_convs
from chipfit.passes.statistics import EXAMPLES

READERS = ("linear", "embedding")  # whose weight is stored by rows


@dataclass(frozen=True)
class Quantize(Rounding):
    """Keep the weights of linear layers in few bits (symmetric, round to nearest).

    before: y = x W'
    after:  y = x (s Q)', or with `activations` y = (t R) (s Q)'

    With `bits=8` a row of W has one scale s and 255 steps: a quarter of the bytes, which is what a single token waits
    for. With `bits=4` every 32 weights of a row have one, and 16 steps: a seventh of the bytes. An embedding that
    shares the weight looks up rows of Q and s. Q can't be trained: whatever trains goes before.

    With `activations`, which needs `bits=8`, each row of what the layers read is rounded to whole numbers R too, with a
    scale t that follows from the row: chips with units for it (AMX, VNNI, dot products of ARM) multiply int8 by int8
    several times as fast as float32. Layers that read the same value share its rows. Convolutions are then in int8 too,
    batch norms a part of them: a scale for each filter, and one for all that is read, by the largest number that the
    calibration data show. Left out are those of several groups, and those that read an image of up to four channels.

    The search chooses what is worth it: the layers that read one value together, each convolution by itself.
    """

    name: ClassVar[str] = "quantize"
    summary: ClassVar[str] = "linear layers with weights in 8 or 4 bits; convolutions and what both read in 8, if told"
    bits: int = 8
    activations: bool = False

    def __post_init__(self) -> None:
        if self.bits not in ROUND:
            raise UserError(f"quantize{{bits={self.bits}}} is neither 8 nor 4; use one of them.")
        if self.activations and self.bits != 8:
            raise UserError("quantize{activations=true} multiplies int8 by int8; use it with bits=8.")

    def requires(self, graph: Graph, context: Context) -> None:
        if self.activations and convolutions(graph):
            require_calibration(context)

    def run(self, graph: Graph, context: Context) -> PassResult:
        ready = folded(graph) if self.activations else graph
        ranges = self.ranges(ready, context.calibration[:EXAMPLES])
        result = self.rounded(ready, context.configuration.rounded, ranges)
        return PassResult(graph if result is ready else result, result is not ready)

    def groups(self, graph: Graph) -> list[frozenset[str]]:
        found = weights(graph)
        if not self.activations:
            return [frozenset({name}) for name in found]
        alone = [frozenset({node.inputs[1].name}) for node in convolutions(graph)]
        pairs = ((node.inputs[0].name, node.inputs[1].name) for node in linears(graph) if node.inputs[1].name in found)
        joined = nx.connected_components(nx.Graph([(("read", source), name) for source, name in pairs]))
        return [*alone, *(frozenset(name for name in each if isinstance(name, str)) for each in joined)]

    def ranges(self, graph: Graph, calibration: Sequence[Inputs]) -> dict[str, float]:
        names = {node.inputs[0].name for node in convolutions(graph)} if self.activations else set[str]()
        return largest(graph, names, calibration) if names else {}

    def rounded(self, graph: Graph, chosen: Container[str] | None, ranges: Mapping[str, float]) -> Graph:
        found = [name for name in weights(graph) if chosen is None or name in chosen]
        layers = convolutions(graph) if self.activations else []
        layers = [node for node in layers if chosen is None or node.inputs[1].name in chosen]
        if layers:
            graph = with_rounded_convs(graph, layers, ranges)
        if found:
            graph = quantized(graph, found, self.bits)
        return with_rounded_rows(graph) if found and self.activations else graph


def weights(graph: Graph) -> list[str]:
    """The float32 matrices that linear layers read, alone or with embeddings."""
    readers: dict[str, set[str]] = {}
    for node in (node for point in graph.entries.values() for node in point.nodes):
        for value in node.inputs:
            reads_rows = node.kind in READERS and arguments(node)["weight"] == value
            readers.setdefault(value.name, set()).add(node.kind if reads_rows else "")
    return [
        name
        for name, parameter in graph.parameters.items()
        if parameter.role == "parameter" and parameter.value.type.dtype == torch.float32
        if "linear" in readers.get(name, ()) and readers[name] <= set(READERS)
    ]


def linears(graph: Graph) -> list[Node]:
    return [node for point in graph.entries.values() for node in point.nodes if node.kind == "linear"]


def quantized(graph: Graph, chosen: list[str], bits: int) -> Graph:
    """The graph with these weights in few bits and a new parameter of scales beside each."""
    parameters, state = dict(graph.parameters), dict(graph.state)
    pairs: dict[str, tuple[Value, Value]] = {}
    for name in chosen:
        scale_name = f"{name}_scale"
        state[name], state[scale_name] = ROUND[bits](graph.state[name].detach())
        pair = tuple(Value(each, TensorType.of(state[each])) for each in (name, scale_name))
        pairs[name] = pair[0], pair[1]
        parameters[name] = replace(parameters[name], value=pair[0])
        parameters[scale_name] = Parameter(pair[1], "parameter")
    for point in graph.entries.values():
        nodes = tuple(new for node in point.nodes for new in rewritten(node, pairs))
        graph = graph.with_entry(replace(point, nodes=nodes))
    return replace(graph, parameters=parameters, state=state)


def int4(weight: Tensor) -> tuple[Tensor, Tensor]:
    """The number that is largest in size becomes -8 in each group, as in llama.cpp's Q4_0: it loses nothing."""
    rows, columns = weight.shape
    padded = functional.pad(weight, (0, groups(columns) * GROUP - columns)).reshape(rows, -1, GROUP)
    largest = padded.gather(-1, padded.abs().argmax(-1, keepdim=True))
    scale = (largest / -ZERO).half()
    inverse = torch.where(scale == 0, 0.0, 1 / scale.float())
    numbers = ((padded * inverse).round() + ZERO).clamp(0, 2 * ZERO - 1).to(torch.uint8)
    low, high = numbers.split(GROUP // 2, -1)
    return (low + 16 * high).reshape(rows, -1), scale.squeeze(-1)


ROUND: Mapping[int, Callable[[Tensor], tuple[Tensor, Tensor]]] = MappingProxyType({8: int8, 4: int4})


def rewritten(node: Node, pairs: Mapping[str, tuple[Value, Value]]) -> Iterator[Node]:
    """The nodes that take the node's place."""
    weight = arguments(node)["weight"] if node.kind in READERS else None
    if not isinstance(weight, Value) or weight.name not in pairs:
        yield node
        return
    stored, scale = pairs[weight.name]
    if node.kind == "linear":
        full = Value(f"{node.name}.weight", weight.type)
        yield from spelled(stored, scale, full, node.module).nodes
        yield with_arguments(node, weight=full)
        return
    result, found = node.outputs[0], []
    for part, table in (("rows", stored), ("scales", scale)):
        shape = (*result.shape[:-1], table.shape[-1])
        found.append(Value(f"{node.name}.{part}", TensorType(shape, table.type.dtype)))
        yield replace(with_arguments(node, weight=table), outputs=(found[-1],))
    yield from spelled(found[0], found[1], result, node.module).nodes


def with_rounded_rows(graph: Graph) -> Graph:
    """The graph with what its layers of int8 weights read rounded by rows."""
    for point in graph.entries.values():
        graph = graph.with_entry(replace(point, nodes=tuple(reading_rounded(point))))
    return graph


def reading_rounded(point: EntryPoint) -> Iterator[Node]:
    """The nodes of an entry point, the rounding of a value before the first layer that reads it."""
    values: dict[str, Value] = {}
    for node in point.nodes:
        if stored_weight(point, node):
            source = node.inputs[0]
            if source.name not in values:
                values[source.name] = Value(f"{source.name}.rounded", source.type)
                yield from rounded.spelled(source, values[source.name], node.module)
            node = with_arguments(node, input=values[source.name])
        yield node
