"""Convolutions, pooling and resizing. Channels are (groups, channels per group); spatial sizes are frozen."""

from __future__ import annotations

from chipfit.ir.extent import Extent, product
from chipfit.ir.graph import Node
from chipfit.ir.ops.context import Labelling, Labels, Resize, ZeroFlow, fresh
from chipfit.ir.ops.linear import product_zero
from chipfit.ir.ops.record import Op, carried_zero
from chipfit.ir.ops.signature import arguments, with_arguments
from chipfit.ir.unify import split, unify


def groups_of(node: Node) -> int:
    groups = arguments(node)["groups"]
    assert isinstance(groups, int)
    return groups


def is_transposed(node: Node) -> bool:
    return bool(arguments(node).get("transposed")) or node.kind.startswith("conv_transpose")


def channel_place(x: Labels, weight: Labels) -> int:
    """1, or 0 for an input without a batch dimension."""
    return len(x) - len(weight) + 1


def conv_axes(context: Labelling, node: Node) -> tuple[Labels, ...]:
    """Ordinary: in = (g, i), weight = ((g, o), i). Transposed: weight = ((g, i), o). Out = (g, o) either way."""
    given = arguments(node)
    x, weight, bias = (context.of(given[name]) for name in ("input", "weight", "bias"))
    groups, place = groups_of(node), channel_place(x, weight)
    channels = x[place]
    group, inner = split(channels, groups, channels.size // groups)
    weight_group, weight_inner = split(weight[0], groups, weight[0].size // groups)
    if groups > 1:
        unify(group, weight_group)
    if is_transposed(node):
        unify(inner, weight_inner)
        out = product([group, weight[1]]) if groups > 1 else weight[1]
    else:
        unify(inner, weight[1])
        out = weight[0]
    for extent in bias:
        unify(extent, out)
    for extent in (channels, out):
        extent.use("channels")
    for extent in weight[2:]:
        extent.fix("kernel window")
    return ((*x[:place], out, *fresh(node.outputs[0].shape[place + 1 :], "spatial")),)


def conv_zero(flow: ZeroFlow, node: Node) -> frozenset[Extent]:
    given = arguments(node)
    x, weight = given["input"], given["weight"]
    labels, kernel, groups = flow.of(x), flow.of(weight), groups_of(node)
    place = channel_place(labels, kernel)
    group, inner = split(labels[place], groups, labels[place].size // groups)
    flow.sums_over([inner], node, x, weight)
    out = kernel[1] if is_transposed(node) else kernel[0]
    kept = (*labels[:place], group) if groups > 1 else labels[:place]
    return product_zero(flow, node.outputs[0], (x, kept), (weight, (out,)), bias=given["bias"])


def conv_rewrite(resize: Resize, node: Node) -> tuple[Node, ...]:
    groups = groups_of(node)
    if groups == 1:
        return (node,)
    given = arguments(node)
    x, weight = resize.of(given["input"]), resize.of(given["weight"])
    channels = x[channel_place(x, weight)]
    group, _ = split(channels, groups, channels.size // groups)
    return (with_arguments(node, groups=resize.size(group)),)


def spatial_axes(context: Labelling, node: Node) -> tuple[Labels, ...]:
    """Batch and channels pass, each channel is pooled or resized alone."""
    x = context.of(node.inputs[0])
    rank = spatial_rank(node)
    x[-rank - 1].use("channels")
    return tuple((*x[:-rank], *fresh(output.shape[-rank:], "spatial")) for output in node.outputs)


def spatial_rank(node: Node) -> int:
    return next(int(digit) for digit in reversed(node.kind.removesuffix("_with_indices")[:-1]) if digit.isdigit())


def shuffle_axes(context: Labelling, node: Node) -> tuple[Labels, ...]:
    """(c r r, h, w) -> (c, h r, w r); the r x r block is frozen."""
    x, factor = context.of(node.inputs[0]), arguments(node)["upscale_factor"]
    assert isinstance(factor, int)
    channels, block = split(x[-3], x[-3].size // factor**2, factor**2)
    block.fix("pixel shuffle")
    return ((*x[:-3], channels, *fresh(node.outputs[0].shape[-2:], "spatial")),)


CONVOLUTIONS = ("conv1d", "conv2d", "conv3d", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d", "convolution")
POOLS = ("max_pool1d", "max_pool2d", "max_pool3d", "max_pool2d_with_indices", "avg_pool1d", "avg_pool2d", "avg_pool3d")
ADAPTIVE = (
    *("adaptive_avg_pool1d", "adaptive_avg_pool2d", "adaptive_avg_pool3d", "_adaptive_avg_pool2d"),
    *("adaptive_max_pool1d", "adaptive_max_pool2d", "adaptive_max_pool3d"),
)
RESIZES = ("upsample_nearest1d", "upsample_nearest2d", "upsample_linear1d", "upsample_bilinear2d", "upsample_bicubic2d")
OPS = (
    *(Op(name, conv_axes, conv_zero, conv_rewrite) for name in CONVOLUTIONS),
    *(Op(name, spatial_axes, carried_zero) for name in (*POOLS, *ADAPTIVE, *RESIZES)),
    Op("pixel_shuffle", shuffle_axes, carried_zero),
)
