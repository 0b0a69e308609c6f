"""Multiplying in bfloat16 or float16 between values of float32: how a graph spells it, written and recognised here.

A layer y = f(x, W) becomes to(f(to(x), to(W))): both factors rounded, what comes out float32 again. W itself stays a
float32 parameter, which can be trained. A kernel for it need not round the sum.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch

from chipfit.ir.graph import EntryPoint, Node, TensorType, Value
from chipfit.ir.ops.signature import arguments, trimmed, with_arguments

LAYERS = ("linear", "conv2d")
DTYPES = (torch.bfloat16, torch.float16)


@dataclass(frozen=True)
class Narrow:
    """A layer in fewer bits: the casts of its source and its weight, itself, and the cast of its result."""

    cast: Node
    weight: Node
    layer: Node
    result: Node

    @property
    def dtype(self) -> torch.dtype:
        return self.layer.outputs[0].type.dtype

    @property
    def source(self) -> Value:
        """What is rounded."""
        return self.cast.inputs[0]

    @property
    def nodes(self) -> tuple[Node, ...]:
        return self.cast, self.weight, self.layer, self.result


def spelled(layer: Node, dtype: torch.dtype) -> Iterator[Node]:
    """The nodes that take a layer's place to multiply in `dtype`; its bias is added in float32."""
    given = arguments(layer)
    source, weight = given["input"], given["weight"]
    if not isinstance(source, Value) or not isinstance(weight, Value):
        raise TypeError(f"{layer.name} has no source or weight.")
    result, whole = layer.outputs[0], unbiased(layer)
    halves = [_value(result, name, value.shape, dtype) for name, value in (("x", source), ("w", weight))]
    for value, half in zip((source, weight), halves, strict=True):
        yield Node("aten.to.dtype", (value, dtype), (), (half,), layer.module)
    product = _value(result, "y", result.shape, dtype)
    plain = trimmed(with_arguments(layer, input=halves[0], weight=halves[1], bias=None))
    yield Node(layer.op, plain.args, plain.kwargs, (product,), layer.module)
    yield Node("aten.to.dtype", (product, torch.float32), (), (whole,), layer.module)
    yield from biased(layer)


def unbiased(layer: Node) -> Value:
    """What a layer gives before its bias is added, in float32: its result, if it has none."""
    result = layer.outputs[0]
    return result if arguments(layer)["bias"] is None else _value(result, "sum", result.shape, torch.float32)


def biased(layer: Node) -> Iterator[Node]:
    """The nodes that make a layer's result of what is `unbiased`."""
    bias = arguments(layer)["bias"]
    if not isinstance(bias, Value):
        return
    result = layer.outputs[0]
    if layer.kind == "conv2d":
        column = (*bias.shape, 1, 1)
        beside = _value(result, "bias", column, torch.float32)
        yield Node("aten.reshape.default", (bias, column), (), (beside,), layer.module)
        bias = beside
    yield Node("aten.add.Tensor", (unbiased(layer), bias), (), (result,), layer.module)


def narrow(entry: EntryPoint, layer: Node) -> Narrow | None:
    """A layer that is spelled so, with casts that nothing else reads and a weight that is a parameter."""
    if layer.kind not in LAYERS or layer.outputs[0].type.dtype not in DTYPES or len(layer.inputs) != 2:
        return None
    source, weight = (entry.producers.get(value.name) for value in layer.inputs)
    readers = entry.consumers.get(layer.name, ())
    if not source or not weight or len(readers) != 1:
        return None
    found = Narrow(source, weight, layer, readers[0])
    alone = all(len(entry.consumers[cast.name]) == 1 for cast in (source, weight))
    casts = all(node.kind == "to" for node in (source, weight, found.result))
    wide = all(v.type.dtype == torch.float32 for v in (source.inputs[0], weight.inputs[0], found.result.outputs[0]))
    inputs = {value.name for value in entry.inputs}
    fixed = weight.inputs[0].name not in entry.producers and weight.inputs[0].name not in inputs
    return found if alone and casts and wide and fixed else None


def _value(result: Value, name: str, shape: tuple[int, ...], dtype: torch.dtype) -> Value:
    return Value(f"{result.name}.{name}", TensorType(shape, dtype))
