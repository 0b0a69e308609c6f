"""The record of an op, and the rules that many ops share."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from chipfit.ir.extent import Extent
from chipfit.ir.graph import Arg, Node, Value, values_in
from chipfit.ir.ops.context import Labelling, Labels, Resize, ZeroFlow

Shapes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True, slots=True)
class Work:
    """What one application of an op does: floating-point operations (a multiply-add is two) and bytes moved."""

    flops: int
    bytes_read: int
    bytes_written: int


def no_zero(flow: ZeroFlow, node: Node) -> frozenset[Extent]:
    return frozenset()


def carried_zero(flow: ZeroFlow, node: Node) -> frozenset[Extent]:
    """For ops that only move entries: zero where every input that has the atom is zero along it."""
    atoms = frozenset().union(*(flow.atoms(value) for value in node.outputs))
    for value in node.inputs:
        atoms -= flow.atoms(value) - flow.zero(value)
    return atoms


def unchanged(resize: Resize, node: Node) -> tuple[Node, ...]:
    return (node,)


def volume(value: Arg, shapes: Shapes) -> int:
    """Elements of a value."""
    return math.prod(shapes[value.name]) if isinstance(value, Value) else 0


def size_in_bytes(values: Iterable[Value], shapes: Shapes) -> int:
    distinct = {value.name: value for value in values}.values()
    return sum(volume(value, shapes) * value.type.dtype.itemsize for value in distinct)


def counted(flops: int, node: Node, shapes: Shapes) -> Work:
    """`flops`, each input read once and each output written once."""
    return Work(flops, size_in_bytes(node.inputs, shapes), size_in_bytes(node.outputs, shapes))


def per_output(flops: int) -> Callable[[Node, Shapes], Work]:
    return lambda node, shapes: counted(flops * sum(volume(value, shapes) for value in node.outputs), node, shapes)


def per_input(flops: int) -> Callable[[Node, Shapes], Work]:
    """That many operations for every element of the first input."""

    def work(node: Node, shapes: Shapes) -> Work:
        first = next(values_in(node.args), None)
        return counted(flops * volume(first, shapes), node, shapes)

    return work


def moved(node: Node, shapes: Shapes) -> Work:
    """Copies exactly what comes out."""
    size = size_in_bytes(node.outputs, shapes)
    return Work(0, size, size)


def free(node: Node, shapes: Shapes) -> Work:
    """Another reading of the same bytes."""
    return Work(0, 0, 0)


@dataclass(frozen=True, slots=True)
class Op:
    """All that the compiler knows of an op, keyed by `Node.kind`."""

    name: str
    axes: Callable[[Labelling, Node], tuple[Labels, ...]]  # labels of each output
    kernel: str  # matmul, conv, pool, reduce, pointwise, move or opaque
    work: Callable[[Node, Shapes], Work]
    zero: Callable[[ZeroFlow, Node], frozenset[Extent]] = no_zero  # atoms on which all outputs are zero once masked
    rewrite: Callable[[Resize, Node], tuple[Node, ...]] = unchanged  # baked constants at other sizes
    mask: Callable[[Resize, Node], tuple[Node, ...]] = unchanged  # full size, statistics over the kept entries alone
