"""Ops that give the same entries another shape or order."""

from __future__ import annotations

from collections.abc import Iterable

from chipfit.ir.extent import Extent, conflict, product
from chipfit.ir.graph import Node
from chipfit.ir.ops.context import Labelling, Labels, Resize, fresh
from chipfit.ir.ops.record import Op, carried_zero
from chipfit.ir.ops.signature import arguments, integers, with_arguments
from chipfit.ir.unify import split, take


def carry_index(context: Labelling, node: Node) -> None:
    """Entries that are positions along an extent still are, wherever they have moved."""
    index = context.index(node.inputs[0])
    if index is not None:
        for output in node.outputs:
            context.indexes[output.name] = index


def number(node: Node, name: str, default: int = 0) -> int:
    arg = arguments(node).get(name)
    return arg if isinstance(arg, int) else default


def dimension(node: Node, name: str = "dim", extra: int = 0) -> int:
    """A dimension counted from the front; `extra` dimensions are about to be added."""
    return number(node, name) % (len(node.inputs[0].shape) + extra)


def regroup(extents: Iterable[Extent], shape: tuple[int, ...]) -> Labels:
    """Row-major entries read in another shape: its dimensions take factors of the old ones from the right."""
    parts = [extent.root for extent in extents if extent.size != 1]
    rest = list(parts)
    out: list[Extent] = []
    for size in reversed(shape):
        taken = take(rest, size) if size else None
        if taken is None:
            unknown = fresh(shape)
            conflict("reshape", *parts, *unknown)
            return unknown
        out.append(taken)
    return tuple(reversed(out))


def reshape_axes(context: Labelling, node: Node) -> tuple[Labels, ...]:
    carry_index(context, node)
    return (regroup(context.of(node.inputs[0]), node.outputs[0].shape),)


def reshape_rewrite(resize: Resize, node: Node) -> tuple[Node, ...]:
    """Every way to reshape becomes `reshape` to the sizes that the labels tell."""
    return (
        Node("aten.reshape.default", (node.inputs[0], resize.shape(node.outputs[0])), (), node.outputs, node.module),
    )


def permute_axes(context: Labelling, node: Node) -> tuple[Labels, ...]:
    carry_index(context, node)
    x = context.of(node.inputs[0])
    return (tuple(x[dim] for dim in integers(arguments(node)["dims"])),)


def movedim_axes(context: Labelling, node: Node) -> tuple[Labels, ...]:
    carry_index(context, node)
    x, given = context.of(node.inputs[0]), arguments(node)
    sources = [dim % len(x) for dim in integers(given["source"])]
    targets = [dim % len(x) for dim in integers(given["destination"])]
    rest = (extent for dim, extent in enumerate(x) if dim not in sources)
    moved_to = {target: x[source] for source, target in zip(sources, targets, strict=True)}
    return (tuple(moved_to[dim] if dim in moved_to else next(rest) for dim in range(len(x))),)


def transpose_axes(context: Labelling, node: Node) -> tuple[Labels, ...]:
    carry_index(context, node)
    x = list(context.of(node.inputs[0]))
    names = ("axis0", "axis1") if "axis0" in arguments(node) else ("dim0", "dim1")
    first, second = (dimension(node, name) for name in names)
    x[first], x[second] = x[second], x[first]
    return (tuple(x),)


def matrix_transpose_axes(context: Labelling, node: Node) -> tuple[Labels, ...]:
    """`t` and `mT` swap the last two dimensions of a matrix; `t` of a vector is the vector."""
    carry_index(context, node)
    x = context.of(node.inputs[0])
    return ((*x[:-2], *reversed(x[-2:])),)


def unsqueeze_axes(context: Labelling, node: Node) -> tuple[Labels, ...]:
    carry_index(context, node)
    x = context.of(node.inputs[0])
    place = dimension(node, extra=1)
    return ((*x[:place], Extent(1), *x[place:]),)


def expand_axes(context: Labelling, node: Node) -> tuple[Labels, ...]:
    """A dimension that grows from 1, or is new, is a new atom."""
    carry_index(context, node)
    x, shape = context.of(node.inputs[0]), node.outputs[0].shape
    new = len(shape) - len(x)
    same = [place >= new and x[place - new].size == size for place, size in enumerate(shape)]
    return (tuple(x[place - new] if same[place] else Extent(size) for place, size in enumerate(shape)),)


def expand_rewrite(resize: Resize, node: Node) -> tuple[Node, ...]:
    return (with_arguments(node, size=resize.shape(node.outputs[0])),)


def repeat_axes(context: Labelling, node: Node) -> tuple[Labels, ...]:
    """The whole again and again: (times, extent)."""
    x = context.of(node.inputs[0])
    times = integers(arguments(node).get("repeats", arguments(node).get("dims")))
    times = (1,) * (len(x) - len(times)) + times
    x = (*fresh((1,) * (len(times) - len(x))), *x)
    return (tuple(product([Extent(count), extent]) for count, extent in zip(times, x, strict=True)),)


def repeat_rewrite(resize: Resize, node: Node) -> tuple[Node, ...]:
    shape, out = resize.shape(node.inputs[0]), resize.shape(node.outputs[0])
    shape = (1,) * (len(out) - len(shape)) + shape
    counts = tuple(big // small for big, small in zip(out, shape, strict=True))
    return (with_arguments(node, **{"repeats" if node.kind == "repeat" else "dims": counts}),)


def interleave_axes(context: Labelling, node: Node) -> tuple[Labels, ...]:
    """Each entry again and again: (extent, times)."""
    x = list(context.of(node.inputs[0]))
    place, times = dimension(node), number(node, "repeats", 1)
    x[place] = product([x[place], Extent(times)])
    return (tuple(x),)


def interleave_rewrite(resize: Resize, node: Node) -> tuple[Node, ...]:
    place = dimension(node)
    size, out = resize.shape(node.inputs[0])[place], resize.shape(node.outputs[0])[place]
    return (with_arguments(node, repeats=out // size, output_size=None),)


def channel_shuffle_axes(context: Labelling, node: Node) -> tuple[Labels, ...]:
    """(groups, inner) -> (inner, groups)."""
    x, groups = list(context.of(node.inputs[0])), number(node, "groups", 1)
    group, inner = split(x[1], groups, x[1].size // groups)
    x[1] = product([inner, group])
    return (tuple(x),)


def channel_shuffle_rewrite(resize: Resize, node: Node) -> tuple[Node, ...]:
    channels, groups = resize.of(node.inputs[0])[1], number(node, "groups", 1)
    group, _ = split(channels, groups, channels.size // groups)
    return (with_arguments(node, groups=resize.size(group)),)


def reordered_axes(context: Labelling, node: Node) -> tuple[Labels, ...]:
    """Positions along the dimensions named are told apart, so these are frozen."""
    x = context.of(node.inputs[0])
    for dim in integers(arguments(node)["dims"]) or range(len(x)):
        x[dim].freeze(node.kind)
    return (x,)


def triangle_axes(context: Labelling, node: Node) -> tuple[Labels, ...]:
    x = context.of(node.inputs[0])
    for extent in x[-2:]:
        extent.freeze("triangle")
    return (x,)


def complex_axes(context: Labelling, node: Node) -> tuple[Labels, ...]:
    x = context.of(node.inputs[0])
    if node.kind == "view_as_real":
        return ((*x, *fresh((2,), "real and imaginary part")),)
    x[-1].fix("real and imaginary part")
    return (x[:-1],)


RESHAPES = ("reshape", "view", "_unsafe_view", "view_copy", "flatten", "unflatten", "squeeze")
OPS = (
    *(Op(name, reshape_axes, carried_zero, reshape_rewrite) for name in RESHAPES),
    Op("permute", permute_axes, carried_zero),
    *(Op(name, transpose_axes, carried_zero) for name in ("transpose", "swapaxes", "swapdims")),
    Op("movedim", movedim_axes, carried_zero),
    *(Op(name, matrix_transpose_axes, carried_zero) for name in ("t", "mT")),
    Op("unsqueeze", unsqueeze_axes, carried_zero),
    *(Op(name, expand_axes, carried_zero, expand_rewrite) for name in ("expand", "broadcast_to")),
    *(Op(name, repeat_axes, carried_zero, repeat_rewrite) for name in ("repeat", "tile")),
    Op("repeat_interleave", interleave_axes, carried_zero, interleave_rewrite),
    Op("channel_shuffle", channel_shuffle_axes, carried_zero, channel_shuffle_rewrite),
    *(Op(name, reordered_axes, carried_zero) for name in ("roll", "flip")),
    *(Op(name, triangle_axes, carried_zero) for name in ("tril", "triu")),
    *(Op(name, complex_axes, carried_zero) for name in ("view_as_complex", "view_as_real")),
)
