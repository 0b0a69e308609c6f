"""Matrix products: dimensions that are summed over, or carried by both operands, agree."""

from __future__ import annotations

from collections.abc import Iterable

from chipfit.ir.extent import Extent
from chipfit.ir.graph import Arg, Node, Value
from chipfit.ir.ops.context import Labelling, Labels, ZeroFlow, broadcast, prunable
from chipfit.ir.ops.opaque import frozen_axes
from chipfit.ir.ops.record import Op
from chipfit.ir.ops.signature import arguments
from chipfit.ir.unify import unify


def product_zero(flow: ZeroFlow, out: Value, *operands: tuple[Arg, Labels], bias: Arg = None) -> frozenset[Extent]:
    """Zeros of a product plus `bias`; `operands` come with the dimensions that survive the sum.

    An atom along two dimensions of the output needs every operand that brings it to be zero.
    """
    once = [atom for extent in flow.labels[out.name] for atom in extent.atoms()]

    def vanishes(atom: Extent) -> bool:
        bringing = [atom in flow.zero(operand) for operand, kept in operands if atom in prunable(kept)]
        product = any(bringing) if once.count(atom) == 1 else bool(bringing) and all(bringing)
        return product and (bias is None or atom in flow.zero(bias))

    return frozenset(atom for atom in flow.atoms(out) if vanishes(atom))


def linear_axes(context: Labelling, node: Node) -> tuple[Labels, ...]:
    given = arguments(node)
    x, weight, bias = (context.of(given[name]) for name in ("input", "weight", "bias"))
    unify(x[-1], weight[-1]).use("read")
    for extent in (*bias, *weight[:-1]):
        unify(extent, weight[0]).use("written")
    return ((*x[:-1], *weight[:-1]),)


def linear_zero(flow: ZeroFlow, node: Node) -> frozenset[Extent]:
    given = arguments(node)
    x, weight = given["input"], given["weight"]
    flow.sums_over(flow.of(x)[-1:], node, x, weight)
    operands = (x, flow.of(x)[:-1]), (weight, flow.of(weight)[:-1])
    return product_zero(flow, node.outputs[0], *operands, bias=given["bias"])


def operands_of(node: Node) -> tuple[Value, Value, Arg]:
    """Left, right and what is added, for every spelling of a matrix product."""
    given = arguments(node)
    for left, right in (("mat1", "mat2"), ("batch1", "batch2"), ("self", "vec")):
        if right in given and left in given:
            return typed(given[left]), typed(given[right]), given["self"] if left != "self" else None
    return typed(given["self"]), typed(given["mat2"] if "mat2" in given else given["other"]), None


def typed(arg: Arg) -> Value:
    assert isinstance(arg, Value)
    return arg


def matmul_axes(context: Labelling, node: Node) -> tuple[Labels, ...]:
    left, right, added = operands_of(node)
    x, w = context.of(left), context.of(right)
    shared = unify(x[-1], w[-2] if len(w) > 1 else w[0])
    rows, columns = x[-2:-1], w[-1:] if len(w) > 1 else ()
    rank = max(len(x[:-2]), len(w[:-2]))
    batch = broadcast([x[:-2], w[:-2]], node.outputs[0].shape[:rank])
    mark_attention(x, w, shared, columns, batch)
    out = (*batch, *rows, *columns)
    return (broadcast([out, context.of(added)], node.outputs[0].shape),)


def mark_attention(x: Labels, w: Labels, shared: Extent, columns: Labels, batch: Labels) -> None:
    """A product of two batched values is how attention is spelt out; a plain one reads and writes widths."""
    if min(len(x), len(w)) > 3:
        for extent in batch[1:]:
            extent.use("heads")
        for extent in (shared, *columns):
            extent.use("head-dim")
    elif len(w) == 2:
        shared.use("read")
        columns[0].use("written")


def matmul_zero(flow: ZeroFlow, node: Node) -> frozenset[Extent]:
    left, right, added = operands_of(node)
    x, w = flow.of(left), flow.of(right)
    flow.sums_over(x[-1:], node, left, right)
    kept = (*w[:-2], *w[-1:]) if len(w) > 1 else ()
    return product_zero(flow, node.outputs[0], (left, x[:-1]), (right, kept), bias=added)


def equation(node: Node) -> tuple[list[str], str, tuple[Value, ...]] | None:
    """Subscripts of the operands and of the output; None for an einsum with an ellipsis or without an output."""
    given = arguments(node)
    text, tensors = str(given["equation"]).replace(" ", ""), given["tensors"]
    if "." in text or "->" not in text or not isinstance(tensors, tuple):
        return None
    left, right = text.split("->")
    return left.split(","), right, tuple(typed(tensor) for tensor in tensors)


def einsum_axes(context: Labelling, node: Node) -> tuple[Labels, ...]:
    parsed = equation(node)
    if parsed is None:
        return frozen_axes(context, node)
    subscripts, out, tensors = parsed
    letters: dict[str, Extent] = {}
    for letter, extent in pairs(subscripts, (context.of(tensor) for tensor in tensors)):
        known = letters.get(letter)
        if known is None or known.size == 1:
            letters[letter] = extent
        elif extent.size != 1:
            unify(known, extent)
    return (tuple(letters[letter] for letter in out),)


def pairs(subscripts: list[str], labels: Iterable[Labels]) -> list[tuple[str, Extent]]:
    return [
        pair for letters, extents in zip(subscripts, labels, strict=True) for pair in zip(letters, extents, strict=True)
    ]


def einsum_zero(flow: ZeroFlow, node: Node) -> frozenset[Extent]:
    parsed = equation(node)
    if parsed is None:
        return frozenset()
    subscripts, out, tensors = parsed
    labels = [flow.of(tensor) for tensor in tensors]
    summed = [extent for letter, extent in pairs(subscripts, labels) if letter not in out]
    flow.sums_over(summed, node, *tensors)
    kept = [
        (tensor, tuple(extent for letter, extent in zip(letters, extents, strict=True) if letter in out))
        for letters, extents, tensor in zip(subscripts, labels, tensors, strict=True)
    ]
    return product_zero(flow, node.outputs[0], *kept)


def grouped_axes(context: Labelling, node: Node) -> tuple[Labels, ...]:
    """Rows of x in consecutive runs, each with its own matrix: (t, k) x (e, k, n) -> (t, n); `ends` of the runs (e)."""
    x, weight, ends = (context.of(value) for value in node.inputs[:3])
    if (len(x), len(weight), len(ends)) != (2, 3, 1):
        return frozen_axes(context, node)
    unify(x[1], weight[1]).use("read")
    unify(weight[0], ends[0])
    weight[2].use("written")
    return ((x[0], weight[2]),)


def grouped_zero(flow: ZeroFlow, node: Node) -> frozenset[Extent]:
    x, weight = node.inputs[:2]
    if len(flow.of(weight)) != 3:
        return frozenset()
    flow.sums_over(flow.of(x)[-1:], node, x, weight)
    return product_zero(flow, node.outputs[0], (x, flow.of(x)[:1]), (weight, flow.of(weight)[2:]))


OPS = (
    Op("linear", linear_axes, linear_zero),
    *(Op(name, matmul_axes, matmul_zero) for name in ("matmul", "mm", "bmm", "mv", "addmm", "baddbmm")),
    Op("einsum", einsum_axes, einsum_zero),
    *(Op(name, grouped_axes, grouped_zero) for name in ("_grouped_mm", "grouped_mm_fallback")),
)
