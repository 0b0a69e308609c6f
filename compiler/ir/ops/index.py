"""Ops that read or write by integer positions. What the integers index is known, or the dimension is frozen."""

from __future__ import annotations

from chipfit.ir.extent import Extent
from chipfit.ir.graph import Arg, Node, Value
from chipfit.ir.ops.context import Labelling, Labels, Resize, ZeroFlow, broadcast, fresh, prunable
from chipfit.ir.ops.pieces import replaced
from chipfit.ir.ops.record import Op, carried_zero
from chipfit.ir.ops.shape import carry_index, dimension, number
from chipfit.ir.ops.signature import arguments, with_arguments
from chipfit.ir.unify import unify


def relate(context: Labelling, index: Arg, extent: Extent, reason: str) -> None:
    """The positions in `index` are along `extent`; unknown positions freeze it."""
    known = context.index(index)
    if known is not None and known.size == extent.size:
        unify(known, extent)
        return
    extent.freeze(reason)
    if known is not None:
        known.freeze(reason)


def embedding_axes(context: Labelling, node: Node) -> tuple[Labels, ...]:
    given = arguments(node)
    weight = context.of(given["weight"])
    relate(context, given["indices"], weight[0], "indexed by data")
    weight[0].use("vocabulary")
    return ((*context.of(given["indices"]), weight[1]),)


def embedding_zero(flow: ZeroFlow, node: Node) -> frozenset[Extent]:
    given = arguments(node)
    weight, indices = given["weight"], given["indices"]
    assert isinstance(indices, Value)
    return flow.zero(weight) & flow.atoms(node.outputs[0]) - flow.atoms(indices)


def index_axes(context: Labelling, node: Node) -> tuple[Labels, ...]:
    """x[i, :, j]: the indexed dimensions give way to the broadcast of the indices, where NumPy puts it."""
    x = context.of(node.inputs[0])
    carry_index(context, node)
    indices = arguments(node)["indices"]
    assert isinstance(indices, tuple)
    places = [place for place, index in enumerate(indices) if index is not None]
    for place in places:
        relate(context, indices[place], x[place], "indexed by data")
    kept = [extent for place, extent in enumerate(x) if place not in places]
    adjacent = places == list(range(places[0], places[-1] + 1))
    front = places[0] if adjacent else 0
    shape = node.outputs[0].shape
    chosen = shape[front : front + len(shape) - len(kept)]
    common = broadcast([context.of(indices[place]) for place in places], chosen)
    return ((*kept[:front], *common, *kept[front:]),)


def index_select_axes(context: Labelling, node: Node) -> tuple[Labels, ...]:
    x, place = context.of(node.inputs[0]), dimension(node)
    carry_index(context, node)
    index = arguments(node)["index"]
    relate(context, index, x[place], "indexed by data")
    return (replaced(x, place, *context.of(index)),)


def source_zero(flow: ZeroFlow, node: Node) -> frozenset[Extent]:
    """Zero where the source is, along the dimensions that the index doesn't choose."""
    source, *indices = node.inputs
    chosen = frozenset().union(*(flow.atoms(index) for index in indices))
    return flow.zero(source) & flow.atoms(node.outputs[0]) - chosen


def gather_axes(context: Labelling, node: Node) -> tuple[Labels, ...]:
    """out[.., i, ..] = x[.., index[.., i, ..], ..]."""
    x, place = context.of(node.inputs[0]), dimension(node)
    index = arguments(node)["index"]
    carry_index(context, node)
    relate(context, index, x[place], "indexed by data")
    positions = context.of(index)
    align(x, positions, place)
    return (positions,)


def gather_zero(flow: ZeroFlow, node: Node) -> frozenset[Extent]:
    """Zero where the source is, along the dimensions that aren't gathered."""
    source = node.inputs[0]
    return flow.zero(source) - prunable([flow.of(source)[dimension(node)]])


def align(x: Labels, positions: Labels, place: int) -> None:
    """Gather and scatter walk the other dimensions of both together."""
    for dim, (extent, same) in enumerate(zip(x, positions, strict=True)):
        if dim == place:
            continue
        if extent.size == same.size:
            unify(extent, same)
        else:
            extent.fix("part of a dimension")
            same.fix("part of a dimension")


def scatter_axes(context: Labelling, node: Node) -> tuple[Labels, ...]:
    x, place, given = context.of(node.inputs[0]), dimension(node), arguments(node)
    index = given["index"]
    relate(context, index, x[place], "indexed by data")
    align(x, context.of(index), place)
    for extent, same in zip(context.of(index), context.of(given.get("src")), strict=False):
        if extent.size == same.size:
            unify(extent, same)
    return (x,)


def index_add_axes(context: Labelling, node: Node) -> tuple[Labels, ...]:
    """x[.., index[i], ..] += source[.., i, ..]."""
    x, place, given = context.of(node.inputs[0]), dimension(node), arguments(node)
    relate(context, given["index"], x[place], "indexed by data")
    source = context.of(given.get("source"))
    for dim, (extent, same) in enumerate(zip(x, source, strict=False)):
        if dim != place:
            unify(extent, same)
    for extent, same in zip(context.of(given["index"]), source[place : place + 1], strict=False):
        unify(extent, same)
    return (x,)


def index_put_axes(context: Labelling, node: Node) -> tuple[Labels, ...]:
    x, given = context.of(node.inputs[0]), arguments(node)
    indices = given["indices"]
    assert isinstance(indices, tuple)
    for extent, index in zip(x, indices, strict=False):
        if index is not None:
            relate(context, index, extent, "indexed by data")
    kept = [extent for place, extent in enumerate(x) if place >= len(indices) or indices[place] is None]
    for extent, same in zip(reversed(kept), reversed(context.of(given["values"])), strict=False):
        if extent.size == same.size:
            unify(extent, same)
    return (x,)


def topk_axes(context: Labelling, node: Node) -> tuple[Labels, ...]:
    """The k largest and their positions."""
    x, place = context.of(node.inputs[0]), dimension(node)
    x[place].soften("topk")
    x[place].use("experts")
    (chosen,) = fresh((node.outputs[0].shape[place],))
    chosen.fix("topk")
    context.indexes[node.outputs[1].name] = x[place]
    return (replaced(x, place, chosen),) * 2


def topk_rewrite(resize: Resize, node: Node) -> tuple[Node, ...]:
    left, k = resize.shape(node.inputs[0])[dimension(node)], number(node, "k")
    if left < k:
        raise ValueError(f"{node.name} takes the {k} largest of {left}: keep at least {k}.")
    return (node,)


def sort_axes(context: Labelling, node: Node) -> tuple[Labels, ...]:
    """Sorted values lose their places, so the dimension is frozen; sorted positions still are positions."""
    x, place = context.of(node.inputs[0]), dimension(node)
    known = context.index(node.inputs[0])
    x[place].freeze(node.kind)
    context.indexes[node.outputs[-1].name] = x[place]
    if known is not None and node.kind == "sort":
        context.indexes[node.outputs[0].name] = known
    return (x,) * len(node.outputs)


def one_hot_axes(context: Labelling, node: Node) -> tuple[Labels, ...]:
    labels, known = context.of(node.inputs[0]), context.index(node.inputs[0])
    classes = number(node, "num_classes")
    if known is None or known.size != classes:
        if known is not None:
            known.freeze("one_hot of another size")
        (new,) = fresh((node.outputs[0].shape[-1],))
        new.fix("one_hot")
        return ((*labels, new),)
    return ((*labels, known),)


def one_hot_rewrite(resize: Resize, node: Node) -> tuple[Node, ...]:
    return (with_arguments(node, num_classes=resize.shape(node.outputs[0])[-1]),)


def histc_axes(context: Labelling, node: Node) -> tuple[Labels, ...]:
    """Counts of the positions 0 .. n - 1, if the bins are just these."""
    known, given = context.index(node.inputs[0]), arguments(node)
    bins = number(node, "bins")
    if known is not None and known.size == bins and (given["min"], given["max"]) == (0, bins - 1):
        return ((known,),)
    if known is not None:
        known.freeze("histc of other bins")
    (counts,) = fresh((bins,))
    counts.fix("histc")
    return ((counts,),)


def histc_rewrite(resize: Resize, node: Node) -> tuple[Node, ...]:
    bins = resize.shape(node.outputs[0])[0]
    return (with_arguments(node, bins=bins, max=bins - 1),) if bins != number(node, "bins") else (node,)


OPS = (
    Op("embedding", embedding_axes, embedding_zero),
    Op("index", index_axes, source_zero),
    Op("index_select", index_select_axes, source_zero),
    Op("gather", gather_axes, gather_zero),
    *(Op(name, scatter_axes, carried_zero) for name in ("scatter", "scatter_add", "scatter_reduce")),
    *(Op(name, index_add_axes, carried_zero) for name in ("index_add", "index_copy", "index_fill")),
    Op("index_put", index_put_axes, carried_zero),
    Op("topk", topk_axes, carried_zero, topk_rewrite),
    *(Op(name, sort_axes, carried_zero) for name in ("sort", "argsort")),
    Op("one_hot", one_hot_axes, rewrite=one_hot_rewrite),
    Op("histc", histc_axes, rewrite=histc_rewrite),
)
