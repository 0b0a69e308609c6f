"""quantize: weights of linear layers as int8 with a scale for each output; what is computed stays float32."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from chipfit.ir.graph import Graph, Node, Parameter, TensorType, Value
from chipfit.ir.ops.signature import arguments, with_arguments
from chipfit.passes.base import Context, Pass, PassResult

LARGEST = 127  # of the symmetric int8 range
READERS = ("linear", "embedding")  # whose weight is stored by rows


@dataclass(frozen=True)
class Quantize(Pass):
    """Round each row of a linear layer's weight to 255 steps (weight-only, symmetric, round to nearest).

    before: y = x W'
    after:  y = x (s Q)'   Q int8 [outputs, inputs], s float32 [outputs, 1]

    A quarter of the bytes, which is what a single token waits for. An embedding that shares the weight looks up rows of
    Q and s. Q can't be trained: whatever trains goes before.
    """

    name: ClassVar[str] = "quantize"
    summary: ClassVar[str] = "store the weights of linear layers as int8, with a scale for each output"

    def run(self, graph: Graph, context: Context) -> PassResult:
        chosen = weights(graph)
        return PassResult(quantized(graph, chosen), bool(chosen))


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


def quantized(graph: Graph, chosen: list[str]) -> Graph:
    """The graph with these weights as int8 and a new parameter of scales beside each."""
    parameters, state = dict(graph.parameters), dict(graph.state)
    pairs: dict[str, tuple[Value, Value]] = {}
    for name in chosen:
        scale_name = f"{name}_scale"
        state[name], state[scale_name] = rounded(graph.state[name].detach())
        pair = tuple(Value(each, TensorType.of(state[each])) for each in (name, scale_name))
        pairs[name] = pair[0], pair[1]
        parameters[name] = replace(parameters[name], value=pair[0])
        parameters[scale_name] = Parameter(pair[1], "parameter")
    for point in graph.entries.values():
        nodes = tuple(new for node in point.nodes for new in rewritten(node, pairs))
        graph = graph.with_entry(replace(point, nodes=nodes))
    return replace(graph, parameters=parameters, state=state)


def rounded(weight: Tensor) -> tuple[Tensor, Tensor]:
    """int8 [rows, columns] and the scale of each row, [rows, 1]."""
    scale = (weight.abs().amax(1, keepdim=True) / LARGEST).clamp_min(torch.finfo(weight.dtype).tiny)
    return (weight / scale).round().to(torch.int8), scale


def rewritten(node: Node, pairs: Mapping[str, tuple[Value, Value]]) -> Iterator[Node]:
    """The nodes that take the node's place."""
    weight = arguments(node)["weight"] if node.kind in READERS else None
    if not isinstance(weight, Value) or weight.name not in pairs:
        yield node
        return
    stored, scale = pairs[weight.name]
    if node.kind == "linear":
        full = Value(f"{node.name}.weight", weight.type)
        yield from dequantized(stored, scale, full, node.module)
        yield with_arguments(node, weight=full)
        return
    rows = Value(f"{node.name}.rows", TensorType(node.outputs[0].shape, torch.int8))
    scales = Value(f"{node.name}.scales", TensorType((*node.outputs[0].shape[:-1], 1), torch.float32))
    for table, found in ((stored, rows), (scale, scales)):
        yield replace(with_arguments(node, weight=table), outputs=(found,))
    yield from dequantized(rows, scales, node.outputs[0], node.module)


def dequantized(stored: Value, scale: Value, result: Value, module: str) -> Iterator[Node]:
    """`result` as the stored numbers times their scales."""
    number = Value(f"{result.name}.cast", TensorType(stored.shape, torch.float32))
    yield Node("aten.to.dtype", (stored, torch.float32), (), (number,), module)
    yield Node("aten.mul.Tensor", (number, scale), (), (result,), module)
