"""Scaled dot-product attention as one op."""

from __future__ import annotations

from chipfit.ir.extent import Extent
from chipfit.ir.graph import Node, Value
from chipfit.ir.ops.context import Labelling, Labels, Resize, ZeroFlow, broadcast
from chipfit.ir.ops.linear import product_zero, typed
from chipfit.ir.ops.record import Op
from chipfit.ir.ops.signature import arguments, with_arguments
from chipfit.ir.unify import split, unify


def operands(node: Node) -> tuple[Value, Value, Value]:
    given = arguments(node)
    return typed(given["query"]), typed(given["key"]), typed(given["value"])


def attention_axes(context: Labelling, node: Node) -> tuple[Labels, ...]:
    """q (..., h, t, d), k (..., h, s, d), v (..., h, s, e) -> (..., h, t, e); grouped queries: h = (h of k, group)."""
    query, key, value = (context.of(operand) for operand in operands(node))
    unify(query[-1], key[-1])
    unify(key[-2], value[-2])
    key[-2].soften("softmax")
    for place, (ours, theirs, same) in enumerate(zip(query[:-2], key[:-2], value[:-2], strict=True)):
        unify(theirs, same)
        if ours.size == theirs.size:
            unify(ours, theirs)
        elif 1 not in (ours.size, theirs.size):
            group, _ = split(ours, theirs.size, ours.size // theirs.size)
            unify(group, theirs)
        if place:
            ours.use("heads")
    for extent in (query[-1], value[-1]):
        extent.use("head-dim")
    mask = context.of(arguments(node)["attn_mask"])
    full = (*query[:-1], key[-2])
    broadcast([full, mask], tuple(extent.size for extent in full))
    return ((*query[:-1], value[-1]),)


def attention_zero(flow: ZeroFlow, node: Node) -> frozenset[Extent]:
    """Scores sum over d; a head or a column of v that is zero comes out zero, whatever its weights."""
    query, key, value = operands(node)
    flow.sums_over(flow.of(query)[-1:], node, query, key)
    kept = flow.of(value)
    return product_zero(flow, node.outputs[0], (value, (*kept[:-2], kept[-1])))


def attention_rewrite(resize: Resize, node: Node) -> tuple[Node, ...]:
    """The default scale d^-1/2 is that of the head dimension the model was trained with."""
    if arguments(node)["scale"] is not None:
        return (node,)
    query, _, _ = operands(node)
    return (with_arguments(node, scale=float(query.shape[-1]) ** -0.5),)


OPS = (Op("scaled_dot_product_attention", attention_axes, attention_zero, attention_rewrite),)
