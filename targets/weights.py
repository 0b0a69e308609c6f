"""The weights that a call of a graph holds: as PyTorch has them, and packed for the kernels that read them."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from chipfit.ir.axes import analyse
from chipfit.ir.fusion import folded, planned
from chipfit.ir.graph import Graph, Value, needed
from chipfit.ir.images import Halo, geometry, halos, planar_values
from chipfit.ir.kernel import Kernel
from chipfit.ir.memo import per_graph
from chipfit.targets.question import Key, Question, key_of

if TYPE_CHECKING:
    from chipfit.targets.storage import Storage

Shapes = Mapping[str, tuple[int, ...]]
# Axes -> what looks their sizes up, the values along them, and the bytes of these at sizes asked about before.
Tables = dict[tuple[str, ...], tuple[Key, tuple[Value, ...], dict[Hashable, int]]]


def packed_by(kernel: Kernel, fixed: frozenset[str]) -> frozenset[str]:
    """The fixed values that a product or a convolution reads packed; scales of int8 rows multiply what comes out."""
    if shape := geometry(kernel):
        return fixed & {shape.weight.name}
    if kernel.kind != "matmul":
        return frozenset()
    second = kernel.anchor.inputs[2 if kernel.anchor.kind == "addmm" else 1]
    cone = needed(kernel.nodes, [second.name])
    leaves = {value for node in cone for value in node.inputs} - {node.outputs[0] for node in cone} or {second}
    whole = [value for value in leaves if not value.type.dtype.is_floating_point]
    int8 = any(value.type.dtype.is_signed for value in whole)
    names = {value.name for value in (whole if int8 else leaves)}
    two_dimensional = all(len(value.shape) == 2 for value in leaves)
    return frozenset(names) if names <= fixed and two_dimensional else frozenset()


@dataclass(frozen=True)
class Layout:
    """What stays the same of a graph's storage whatever its widths, on chips whose codegen packs weights.

    `kept` are the fixed values that kernels read as they are, `packing` the nodes that have a weight packed for them.
    """

    halos: Mapping[str, Halo]
    planar: frozenset[str]
    packing: frozenset[str]
    kept: tuple[Value, ...]


@per_graph
def layouts(graph: Graph) -> dict[int, Layout]:
    """By the lanes of the chip's vectors, once asked about."""
    return {}


def layout(graph: Graph, lanes: int) -> Layout:
    known = layouts(graph)
    if lanes not in known:
        plan = planned(graph)
        fixed = frozenset(graph.parameters) | {v.name for node in folded(graph.forward) for v in node.outputs}
        apart = {kernel.anchor.name: packed_by(kernel, fixed) for kernel in plan}
        kept = {v.name: v for k in plan for v in k.inputs if v.name in fixed - apart[k.anchor.name]}
        packing = frozenset(name for name, values in apart.items() if values)
        known[lanes] = Layout(halos(plan), planar_values(plan, lanes), packing, tuple(kept.values()))
    return known[lanes]


def kept_values(graph: Graph, storage: Storage | None) -> tuple[Value, ...]:
    """The parameters that are held as PyTorch has them, tied ones once; beside packed ones constants too."""
    if storage:
        return layout(graph, storage.lanes).kept
    return tuple(p.value for name, p in graph.parameters.items() if graph.forward.consumers.get(name))


def kept_bytes(asked: Question, storage: Storage | None) -> int:
    """Of what is held as PyTorch has it, whatever is packed beside it."""
    lanes = storage.lanes if storage else 0
    return total_bytes(asked, _tables(asked.graph).setdefault(lanes, {}), kept_values(asked.rest, storage))


def weight_bytes(asked: Question) -> int:
    """Of the parameters that are read."""
    return kept_bytes(asked, None)


@per_graph
def _tables(graph: Graph) -> dict[int, Tables]:
    """By the lanes of a chip's vectors, 0 for parameters as they are."""
    return {}


def total_bytes(asked: Question, tables: Tables, values: Sequence[Value]) -> int:
    """Of values, looked up from the second time on: those with the same axes together."""
    if asked.configuration.dropped:
        return sum(bytes_of(value, asked.shapes) for value in values)
    if not tables:
        tables.update({axes: (key_of(axes), found, {}) for axes, found in by_axes(asked.graph, values).items()})
    total = 0
    for key, found, table in tables.values():
        sizes = key(asked.sizes)
        if sizes not in table:
            table[sizes] = sum(bytes_of(value, asked.shapes) for value in found)
        total += table[sizes]
    return total


def by_axes(graph: Graph, values: Sequence[Value]) -> Mapping[tuple[str, ...], tuple[Value, ...]]:
    """The axes along some values -> these values."""
    analysis, groups = analyse(graph), dict[tuple[str, ...], list[Value]]()
    for value in values:
        groups.setdefault(tuple(sorted(analysis.axes_of(value.name))), []).append(value)
    return {axes: tuple(found) for axes, found in groups.items()}


def bytes_of(value: Value, shapes: Shapes) -> int:
    return math.prod(shapes[value.name]) * value.type.dtype.itemsize
