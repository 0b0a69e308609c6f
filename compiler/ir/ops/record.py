"""The record of an op, and the rules that many ops share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from chipfit.ir.extent import Extent
from chipfit.ir.graph import Node
from chipfit.ir.ops.context import Labelling, Labels, Resize, ZeroFlow


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


@dataclass(frozen=True, slots=True)
class Op:
    """All that the compiler knows of an op, keyed by `Node.kind`."""

    name: str
    axes: Callable[[Labelling, Node], tuple[Labels, ...]]  # labels of each output
    zero: Callable[[ZeroFlow, Node], frozenset[Extent]] = no_zero  # atoms on which all outputs are zero once masked
    rewrite: Callable[[Resize, Node], tuple[Node, ...]] = unchanged  # baked constants at other sizes
    mask: Callable[[Resize, Node], tuple[Node, ...]] = unchanged  # full size, statistics over the kept entries alone
    opaque: bool = False  # unknown inside: no dimension can be pruned within it
