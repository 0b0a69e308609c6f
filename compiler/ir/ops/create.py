"""Ops that make tensors out of nothing: sizes are free until something meets them."""

from __future__ import annotations

from chipfit.ir.extent import Extent
from chipfit.ir.graph import Node
from chipfit.ir.ops.context import Labelling, Labels, Resize, ZeroFlow, fresh
from chipfit.ir.ops.pointwise import broadcast_axes
from chipfit.ir.ops.record import Op, no_zero
from chipfit.ir.ops.signature import arguments, with_arguments


def filled_axes(context: Labelling, node: Node) -> tuple[Labels, ...]:
    return (fresh(node.outputs[0].shape),)


def filled_rewrite(resize: Resize, node: Node) -> tuple[Node, ...]:
    return (with_arguments(node, size=resize.shape(node.outputs[0])),)


def all_zero(flow: ZeroFlow, node: Node) -> frozenset[Extent]:
    return flow.atoms(node.outputs[0])


def counts_from_zero(node: Node) -> bool:
    given = arguments(node)
    integral = not node.outputs[0].type.dtype.is_floating_point
    return given.get("start", 0) == 0 and given.get("step", 1) == 1 and integral


def arange_axes(context: Labelling, node: Node) -> tuple[Labels, ...]:
    """0, 1, 2, ... names all positions along an extent of that size; any other sequence is data."""
    if not counts_from_zero(node):
        labels = fresh(node.outputs[0].shape)
        labels[0].fix("arange")
        return (labels,)
    (extent,) = fresh(node.outputs[0].shape)
    context.indexes[node.outputs[0].name] = extent
    return ((extent,),)


def arange_rewrite(resize: Resize, node: Node) -> tuple[Node, ...]:
    return (with_arguments(node, end=resize.shape(node.outputs[0])[0]),) if counts_from_zero(node) else (node,)


def data_axes(context: Labelling, node: Node) -> tuple[Labels, ...]:
    labels = fresh(node.outputs[0].shape)
    for extent in labels:
        extent.fix(node.kind)
    return (labels,)


OPS = (
    *(Op(name, filled_axes, all_zero, filled_rewrite) for name in ("zeros", "new_zeros")),
    *(
        Op(name, filled_axes, no_zero, filled_rewrite)
        for name in ("ones", "full", "empty", "rand", "randn", "new_ones", "new_full", "new_empty")
    ),
    *(Op(name, broadcast_axes) for name in ("empty_like", "ones_like", "full_like", "rand_like", "randn_like")),
    Op("zeros_like", broadcast_axes, all_zero),
    Op("arange", arange_axes, no_zero, arange_rewrite),
    *(Op(name, data_axes) for name in ("linspace", "logspace", "scalar_tensor", "eye", "tril_indices")),
)
