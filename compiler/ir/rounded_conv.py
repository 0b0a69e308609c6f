"""Convolutions of int8 by int8: how a graph spells them, written and recognised in one place.

A convolution y = f(x, W) becomes s f(R, Q). R are the whole numbers nearest to t x, ties to even, those beyond 127 cut
off; t is one number for the whole source, fixed beforehand. Q are int8 of W's shape, and s, for each output channel,
is what a sum of such products is worth. t, float32 [1], Q, and s, float32 [channels, 1, 1], are parameters.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch

from chipfit.ir.graph import EntryPoint, Node, Value
from chipfit.ir.ops.signature import trimmed, with_arguments
from chipfit.ir.rounded import LARGEST
from chipfit.ir.spelling import Writer, same


@dataclass(frozen=True)
class RoundedConv:
    """A convolution of whole numbers: its parameters, and the `nodes` that it is spelled as, last the scaled sums."""

    source: Value
    steps: Value
    numbers: Value
    scales: Value
    nodes: tuple[Node, ...]

    @property
    def result(self) -> Node:
        return self.nodes[-1]

    @property
    def weight(self) -> Node:
        """What makes numbers of the weight's bytes."""
        return next(node for node in self.nodes if node.kind == "to")


def spelled(layer: Node, source: Value, parameters: tuple[Value, Value, Value], result: Value) -> tuple[Node, ...]:
    """`result` as what the convolution `layer` makes of `source`, without its bias; parameters: t, Q and s."""
    return tuple(_nodes(Writer(result, layer.module), layer, source, *parameters))


def rounded_conv(entry: EntryPoint, layer: Node) -> RoundedConv | None:
    """A convolution that is spelled so, if nothing else reads what it is made of, and its weight is a parameter."""
    if layer.kind != "conv2d" or len(layer.inputs) != 2:
        return None
    cut, cast = (entry.producers.get(value.name) for value in layer.inputs)
    whole = _before(entry, cut)
    scaled, result = _before(entry, whole), next(iter(entry.consumers.get(layer.name, ())), None)
    if not cut or not whole or not scaled or not cast or not result:
        return None
    if len(scaled.inputs) != 2 or len(result.inputs) != 2:
        return None
    (source, steps), (numbers,), scales = scaled.inputs, cast.inputs, result.inputs[1]
    nodes = (scaled, whole, cut, cast, layer, result)
    parameters = (steps, numbers, scales)
    expected = spelled(layer, source, parameters, result.outputs[0])
    alike = same(nodes, expected, (source, *parameters)) and numbers.type.dtype == torch.int8
    inside, inner = {node.name for node in nodes}, {node.name for node in nodes[:-1]}
    alone = all(reader.name in inside for name in inner for reader in entry.consumers[name])
    alone = alone and inner.isdisjoint(value.name for value in entry.outputs)
    fixed = not any(value.name in entry.producers or value in entry.inputs for value in parameters)
    return RoundedConv(source, steps, numbers, scales, nodes) if alike and alone and fixed else None


def _before(entry: EntryPoint, node: Node | None) -> Node | None:
    """What makes the first value that a node reads."""
    return entry.producers.get(node.inputs[0].name) if node and node.inputs else None


def _nodes(write: Writer, layer: Node, source: Value, steps: Value, numbers: Value, scales: Value) -> Iterator[Node]:
    shape, largest = source.shape, float(LARGEST)
    yield (scaled := write.node("scaled", "aten.mul.Tensor", (source, steps), shape))
    yield (whole := write.node("whole", "aten.round.default", (scaled.outputs[0],), shape))
    yield (cut := write.node("cut", "aten.clamp.default", (whole.outputs[0], -largest, largest), shape))
    yield (cast := write.node("weight", "aten.to.dtype", (numbers, torch.float32), numbers.shape))
    plain = trimmed(with_arguments(layer, input=cut.outputs[0], weight=cast.outputs[0], bias=None))
    yield (sums := write.node("sums", layer.op, plain.args, write.result.shape, plain.kwargs))
    yield write.last("aten.mul.Tensor", (sums.outputs[0], scales))
