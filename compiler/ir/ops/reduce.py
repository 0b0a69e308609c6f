"""Reductions along dimensions, softmax and running sums."""

from __future__ import annotations

from chipfit.ir.extent import Extent
from chipfit.ir.graph import Node
from chipfit.ir.ops.context import Labelling, Labels, Resize, ZeroFlow
from chipfit.ir.ops.norm import rescaled
from chipfit.ir.ops.pointwise import broadcast_axes
from chipfit.ir.ops.record import Op, carried_zero
from chipfit.ir.ops.signature import arguments, integers


def reduced(node: Node) -> frozenset[int]:
    """The dimensions reduced: those given, or all."""
    rank = len(node.inputs[0].shape)
    dims = integers(arguments(node).get("dim"))
    return frozenset(dim % rank for dim in dims) if dims else frozenset(range(rank))


def reduce_axes(context: Labelling, node: Node) -> tuple[Labels, ...]:
    """Reduced dimensions go, or stay with size 1."""
    x, dims = context.of(node.inputs[0]), reduced(node)
    if node.kind == "mean":
        for dim in dims:
            x[dim].use("hidden")
    keep = len(node.outputs[0].shape) == len(x)
    labels = tuple(Extent(1) if dim in dims else extent for dim, extent in enumerate(x) if keep or dim not in dims)
    return (labels,) * len(node.outputs)


def softened_axes(context: Labelling, node: Node) -> tuple[Labels, ...]:
    """A statistic that entries of zero change: a maximum, a variance, an index of either."""
    if "other" in arguments(node):
        return broadcast_axes(context, node)
    x = context.of(node.inputs[0])
    for dim in reduced(node):
        x[dim].soften(node.kind)
    labels = reduce_axes(context, node)
    if node.kind in INDEXING and (node.kind.startswith("arg") or len(labels) == 2):
        relate_index(context, node, labels)
    return labels


def relate_index(context: Labelling, node: Node, labels: tuple[Labels, ...]) -> None:
    """argmax, and max along a dimension, give positions along it."""
    dims = reduced(node)
    if len(dims) == 1:
        context.indexes[node.outputs[-1].name] = context.of(node.inputs[0])[min(dims)]
        return
    for extent in context.of(node.inputs[0]):
        extent.freeze(f"flat index of {node.kind}")


def summed_zero(flow: ZeroFlow, node: Node) -> frozenset[Extent]:
    x = node.inputs[0]
    flow.sums_over((flow.of(x)[dim] for dim in reduced(node)), node, x)
    return carried_zero(flow, node)


def mean_rewrite(resize: Resize, node: Node) -> tuple[Node, ...]:
    """The mean over all n entries, removed ones zero: that over the n' left, times n' / n."""
    x = resize.of(node.inputs[0])
    ratio = resize.ratio(x[dim] for dim in sorted(reduced(node)))
    return (node,) if ratio == 1 else rescaled(resize, node, ratio)


def softmax_axes(context: Labelling, node: Node) -> tuple[Labels, ...]:
    x = context.of(node.inputs[0])
    for dim in reduced(node):
        x[dim].soften("softmax")
    return (x,)


def running_axes(context: Labelling, node: Node) -> tuple[Labels, ...]:
    return (context.of(node.inputs[0]),) * len(node.outputs)


def running_zero(flow: ZeroFlow, node: Node) -> frozenset[Extent]:
    """A running sum over zeros is right, and not zero itself where it passes them."""
    x = node.inputs[0]
    along = [flow.of(x)[dim] for dim in reduced(node)]
    flow.sums_over(along, node, x)
    return flow.zero(x) - {atom for extent in along for atom in extent.atoms()}


INDEXING = ("max", "min", "argmax", "argmin")
EXTREMES = (*INDEXING, "amax", "amin", "any", "all", "prod")
SPREADS = ("var", "std", "var_mean", "std_mean")
OPS = (
    Op("sum", reduce_axes, summed_zero),
    Op("mean", reduce_axes, summed_zero, mean_rewrite),
    *(Op(name, reduce_axes, summed_zero) for name in ("linalg_vector_norm", "norm")),
    *(Op(name, softened_axes, carried_zero) for name in (*EXTREMES, *SPREADS)),
    Op("logsumexp", softened_axes),
    *(Op(name, softmax_axes) for name in ("softmax", "_softmax", "log_softmax", "_log_softmax")),
    Op("cumsum", running_axes, running_zero),
)
