"""Ops that take a dimension apart or put pieces together: concatenations."""

from __future__ import annotations

from chipfit.ir.extent import Extent, concatenation
from chipfit.ir.graph import Node
from chipfit.ir.ops.context import Labelling, Labels, Resize, ZeroFlow, broadcast, fresh
from chipfit.ir.ops.record import Op, carried_zero
from chipfit.ir.ops.shape import carry_index, dimension, number
from chipfit.ir.ops.signature import arguments, integers, with_arguments
from chipfit.ir.unify import pieces, split, unify

END = 2**63 - 1


def replaced(labels: Labels, place: int, *extents: Extent) -> Labels:
    return (*labels[:place], *extents, *labels[place + 1 :])


def cat_axes(context: Labelling, node: Node) -> tuple[Labels, ...]:
    operands = [context.of(value) for value in node.inputs]
    place = dimension(node)
    for other in operands[1:]:
        for dim, (extent, same) in enumerate(zip(operands[0], other, strict=True)):
            if dim != place:
                unify(extent, same)
    whole = concatenation(labels[place] for labels in operands if labels[place].size)
    return (replaced(operands[0], place, whole),)


def stack_axes(context: Labelling, node: Node) -> tuple[Labels, ...]:
    operands = [context.of(value) for value in node.inputs]
    for other in operands[1:]:
        for extent, same in zip(operands[0], other, strict=True):
            unify(extent, same)
    place = dimension(node, extra=1)
    (new,) = fresh((len(operands),))
    new.fix("stack")
    return ((*operands[0][:place], new, *operands[0][place:]),)


def split_axes(context: Labelling, node: Node) -> tuple[Labels, ...]:
    carry_index(context, node)
    x, place = context.of(node.inputs[0]), dimension(node)
    parts = pieces(x[place], [output.shape[place] for output in node.outputs])
    return tuple(replaced(x, place, part) for part in parts)


def split_rewrite(resize: Resize, node: Node) -> tuple[Node, ...]:
    """Every way to split becomes `split_with_sizes`: equal pieces needn't stay equal."""
    place = dimension(node)
    sizes = tuple(resize.shape(output)[place] for output in node.outputs)
    args = (node.inputs[0], sizes, place)
    return (Node("aten.split_with_sizes.default", args, (), node.outputs, node.module),)


def pick_axes(context: Labelling, node: Node) -> tuple[Labels, ...]:
    """`select` and `unbind` name entries along a dimension, which goes."""
    carry_index(context, node)
    x, place = context.of(node.inputs[0]), dimension(node)
    x[place].fix(node.kind)
    return (replaced(x, place),) * len(node.outputs)


def bounds(node: Node, length: int) -> tuple[int, int]:
    """Start and step of a slice that takes `length` entries."""
    size = node.inputs[0].shape[dimension(node)]
    start = number(node, "start")
    return max(start + size, 0) if start < 0 else min(start, size - length), number(node, "step", 1)


def sliced(extent: Extent, start: int, step: int, length: int) -> Extent | None:
    """A contiguous slice is a piece; every s-th entry is the outer factor of (n / s, s). None for any other."""
    if length == 0 or (step > 1 and length * step != extent.size):
        return None
    if step > 1:
        out, inner = split(extent, length, step)
        inner.fix("strided slice")
        return out
    sizes = [piece for piece in (start, length, extent.size - start - length) if piece]
    return pieces(extent, sizes)[1 if start else 0]


def slice_axes(context: Labelling, node: Node) -> tuple[Labels, ...]:
    carry_index(context, node)
    x, place = context.of(node.inputs[0]), dimension(node)
    length = node.outputs[0].shape[place]
    out = sliced(x[place], *bounds(node, length), length)
    if out is None:
        x[place].fix("slice")
        (out,) = fresh((length,), "slice")
    return (replaced(x, place, out),)


def scatter_axes(context: Labelling, node: Node) -> tuple[Labels, ...]:
    """x with a slice of it replaced by the source."""
    x, source = (context.of(value) for value in node.inputs)
    place = dimension(node)
    length = source[place].size
    part = sliced(x[place], *bounds(node, length), length)
    if part is None:
        x[place].fix("slice")
        source[place].fix("slice")
    for extent, same in zip(replaced(x, place, part or source[place]), source, strict=True):
        unify(extent, same)
    return (x,)


def slice_rewrite(resize: Resize, node: Node) -> tuple[Node, ...]:
    """Bounds count the entries left; a strided slice runs to the end."""
    place = dimension(node)
    extent = resize.of(node.inputs[0])[place]
    length = (node.inputs[-1] if node.kind == "slice_scatter" else node.outputs[0]).shape[place]
    start, step = bounds(node, length)
    if step > 1:
        return (with_arguments(node, end=END),) if length * step == extent.size else (node,)
    first, last = resize.before(extent, start), resize.before(extent, start + length)
    if node.kind == "narrow":
        return (with_arguments(node, start=first, length=last - first),)
    return (with_arguments(node, start=first, end=last),)


def pad_axes(context: Labelling, node: Node) -> tuple[Labels, ...]:
    """Constant padding puts frozen pieces around a dimension; any other kind, or a negative one, freezes it."""
    x, widths = list(context.of(node.inputs[0])), integers(arguments(node)["pad"])
    constant = arguments(node).get("mode", "constant") == "constant" and min(widths, default=0) >= 0
    for place in range(len(widths) // 2):
        before, after = widths[2 * place], widths[2 * place + 1]
        dim = len(x) - 1 - place
        if constant:
            around = fresh((before, after), "padding")
            x[dim] = concatenation(extent for extent in (around[0], x[dim], around[1]) if extent.size)
        elif before or after:
            x[dim].fix("padding")
            (x[dim],) = fresh((node.outputs[0].shape[dim],), "padding")
    return (tuple(x),)


def pad_zero(flow: ZeroFlow, node: Node) -> frozenset[Extent]:
    filled = arguments(node).get("value")
    return frozenset() if filled else carried_zero(flow, node)


def glu_axes(context: Labelling, node: Node) -> tuple[Labels, ...]:
    """x = (a, b) gives a sigmoid(b)."""
    x, place = context.of(node.inputs[0]), dimension(node)
    left, right = pieces(x[place], [x[place].size // 2] * 2)
    return (replaced(x, place, unify(left, right)),)


def grid_axes(context: Labelling, node: Node) -> tuple[Labels, ...]:
    """`broadcast_tensors` and `meshgrid`: every output has the common shape."""
    operands = [context.of(value) for value in node.inputs]
    if node.kind == "meshgrid":
        swapped = arguments(node).get("indexing") == "xy"
        order = [1, 0, *range(2, len(operands))] if swapped and len(operands) > 1 else range(len(operands))
        common: Labels = tuple(operands[place][0] for place in order)
    else:
        common = broadcast(operands, node.outputs[0].shape)
    return (common,) * len(node.outputs)


SPLITS = ("split", "split_with_sizes", "chunk", "tensor_split")
OPS = (
    *(Op(name, cat_axes, carried_zero) for name in ("cat", "concat", "concatenate")),
    Op("stack", stack_axes, carried_zero),
    *(Op(name, split_axes, carried_zero, split_rewrite) for name in SPLITS),
    *(Op(name, pick_axes, carried_zero) for name in ("select", "unbind")),
    *(Op(name, slice_axes, carried_zero, slice_rewrite) for name in ("slice", "narrow")),
    Op("slice_scatter", scatter_axes, carried_zero, slice_rewrite),
    *(Op(name, pad_axes, pad_zero) for name in ("pad", "constant_pad_nd")),
    Op("glu", glu_axes, carried_zero),
    *(Op(name, grid_axes, carried_zero) for name in ("broadcast_tensors", "meshgrid")),
)
