"""Weights kept in few bits: how a graph spells that they become numbers again, written and recognised in one place.

A matrix W of rows is kept as whole numbers Q and scales s, both parameters. `int8`: W = s Q with one s for each row, Q
int8 of W's shape, s float32 [rows, 1]. `int4`: W = s (Q - 8) with one s for every `GROUP` columns in a row, two Q of 0
to 15 in each byte: uint8 [rows, groups * GROUP / 2], s float16 [rows, groups]. The low halves of a group's bytes hold
its first columns, the high halves the others; columns that fill up the last group mean nothing.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Literal

import torch

from chipfit.ir.graph import EntryPoint, Node, Value
from chipfit.ir.memo import per_graph
from chipfit.ir.spelling import Writer, cone, same

GROUP = 32  # columns that share a scale; what llama.cpp's Q4_0 has
ZERO = 8  # the int4 that stands for 0
Format = Literal["int8", "int4"]
DTYPES: Mapping[torch.dtype, Format] = MappingProxyType({torch.int8: "int8", torch.uint8: "int4"})


@dataclass(frozen=True)
class Stored:
    """A matrix in few bits, or rows looked up in one, and the `nodes` that make it float32, last the matrix itself."""

    format: Format
    numbers: Value
    scales: Value
    nodes: tuple[Node, ...]

    @property
    def matrix(self) -> Value:
        return self.nodes[-1].outputs[0]


def groups(columns: int) -> int:
    return math.ceil(columns / GROUP)


def spelled(numbers: Value, scales: Value, result: Value, module: str = "") -> Stored:
    """`result`, (..., columns) float32, as the product of numbers (..., stored columns) and scales (..., groups)."""
    stored = DTYPES[numbers.type.dtype]
    write = _int8 if stored == "int8" else _int4
    return Stored(stored, numbers, scales, tuple(write(Writer(result, module), numbers, scales)))


def stored_weight(entry: EntryPoint, node: Node) -> Stored | None:
    """The matrix in few bits that a linear layer reads, if it is its only reader."""
    known = _known(entry)
    if node.name not in known:
        known[node.name] = _recognised(entry, node)
    return known[node.name]


@per_graph
def _known(entry: EntryPoint) -> dict[str, Stored | None]:
    """What was recognised before."""
    return {}


def _recognised(entry: EntryPoint, node: Node) -> Stored | None:
    producer = entry.producers.get(node.inputs[1].name) if node.kind == "linear" else None
    nodes = cone(entry, producer) if producer and producer.kind in _LAST else ()
    given = {value.name for value in entry.inputs}
    inside = {one.name for one in nodes}
    leaves = {value.name: value for one in nodes for value in one.inputs if value.name not in inside}
    parts = sorted(leaves.values(), key=lambda value: value.type.dtype.is_floating_point)
    if not producer or len(parts) != 2 or parts[0].type.dtype not in DTYPES or not given.isdisjoint(leaves):
        return None
    expected = spelled(parts[0], parts[1], producer.outputs[0])
    if not same(expected.nodes, nodes, parts):
        return None
    readers = {reader.name for one in nodes for reader in entry.consumers[one.name]}
    return replace(expected, nodes=nodes) if readers <= inside | {node.name} else None


def _int8(write: Writer, numbers: Value, scales: Value) -> Iterator[Node]:
    yield (cast := write.node("cast", "aten.to.dtype", (numbers, torch.float32), numbers.shape))
    yield write.last("aten.mul.Tensor", (cast.outputs[0], scales))


def _int4(write: Writer, numbers: Value, scales: Value) -> Iterator[Node]:
    """In exact float32: a byte is low + 16 high."""
    *lead, columns = write.result.shape
    count = groups(columns)
    half, whole, padded = (*lead, count, GROUP // 2), (*lead, count, GROUP), (*lead, count * GROUP)
    yield (cast := write.node("cast", "aten.to.dtype", (numbers, torch.float32), numbers.shape))
    yield (pairs := write.node("pairs", "aten.reshape.default", (cast.outputs[0], half), half))
    yield (ratio := write.node("ratio", "aten.mul.Tensor", (pairs.outputs[0], 1 / 16), half))
    yield (high := write.node("high", "aten.floor.default", (ratio.outputs[0],), half))
    yield (above := write.node("above", "aten.mul.Tensor", (high.outputs[0], 16.0), half))
    yield (low := write.node("low", "aten.sub.Tensor", (pairs.outputs[0], above.outputs[0]), half))
    yield (both := write.node("both", "aten.cat.default", ((low.outputs[0], high.outputs[0]), -1), whole))
    yield (centred := write.node("centred", "aten.sub.Tensor", (both.outputs[0], float(ZERO)), whole))
    yield (scale := write.node("scale", "aten.to.dtype", (scales, torch.float32), scales.shape))
    one = (*lead, count, 1)
    yield (column := write.node("column", "aten.reshape.default", (scale.outputs[0], one), one))
    yield (product := write.node("product", "aten.mul.Tensor", (centred.outputs[0], column.outputs[0]), whole))
    if columns == padded[-1]:
        yield write.last("aten.reshape.default", (product.outputs[0], padded))
        return
    yield (flat := write.node("flat", "aten.reshape.default", (product.outputs[0], padded), padded))
    yield write.last("aten.slice.Tensor", (flat.outputs[0], -1, 0, columns))


_LAST = ("mul", "reshape", "slice")  # what the spellings end with
