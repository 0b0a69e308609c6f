"""Normalisations. What a statistic runs over is inexact: fewer entries change it, unless the rewrite corrects it."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import torch

from chipfit.ir.extent import Extent
from chipfit.ir.graph import Arg, Node, TensorType, Value
from chipfit.ir.ops.context import Labelling, Labels, Resize, ZeroFlow
from chipfit.ir.ops.record import Op
from chipfit.ir.ops.signature import arguments, integers, overload, with_arguments
from chipfit.ir.unify import split, unify

AFFINE = ("weight", "bias")


def affine_zero(flow: ZeroFlow, node: Node) -> frozenset[Extent]:
    """Whatever comes in, a channel whose weight and bias are zero comes out zero."""
    given = arguments(node)
    weight, bias = given["weight"], given["bias"]
    return flow.zero(weight) & flow.zero(bias) if bias is not None else flow.zero(weight)


def channel_axes(context: Labelling, node: Node) -> tuple[Labels, ...]:
    """Batch and instance norm: one statistic for each channel."""
    given = arguments(node)
    x = context.of(given["input"])
    for name in (*AFFINE, "running_mean", "running_var"):
        for extent in context.of(given[name]):
            unify(x[1], extent)
    return (x,)


def layer_axes(context: Labelling, node: Node) -> tuple[Labels, ...]:
    labels = normalised_axes(context, node)
    for extent in labels[0][-len(integers(arguments(node)["normalized_shape"])) :]:
        extent.soften("normalised")
    return labels


def normalised_axes(context: Labelling, node: Node) -> tuple[Labels, ...]:
    """Layer and RMS norm: the last dimensions are normalised, and weight and bias have those dimensions."""
    given = arguments(node)
    x = context.of(given["input"])
    tail = x[-len(integers(given["normalized_shape"])) :]
    for name in AFFINE:
        for extent, other in zip(tail, context.of(given.get(name)), strict=False):
            unify(extent, other)
    for extent in tail:
        extent.use("hidden")
    return (x,)


def shape_rewrite(resize: Resize, node: Node) -> tuple[Node, ...]:
    return (with_arguments(node, normalized_shape=resize.shape(node.outputs[0])[-tail_rank(node) :]),)


def tail_rank(node: Node) -> int:
    return len(integers(arguments(node)["normalized_shape"]))


def rms_zero(flow: ZeroFlow, node: Node) -> frozenset[Extent]:
    given = arguments(node)
    x = given["input"]
    flow.sums_over(flow.of(x)[-tail_rank(node) :], node, x)
    return flow.zero(x) | flow.zero(given["weight"])


def rms_rewrite(resize: Resize, node: Node) -> tuple[Node, ...]:
    """Keeps the mean of squares over all n entries, removed ones zero, when n' = r n are left.

    x / sqrt(r m + e) = r^-1/2 x / sqrt(m + e / r), m the mean over the entries left.
    """
    (resized,) = shape_rewrite(resize, node)
    ratio = resize.ratio(resize.of(node.outputs[0])[-tail_rank(node) :])
    if ratio == 1:
        return (resized,)
    eps = arguments(node)["eps"]
    if not isinstance(eps, float):
        eps = torch.finfo(node.outputs[0].type.dtype).eps
    return rescaled(resize, with_arguments(resized, eps=eps / ratio), ratio**-0.5)


def rescaled(resize: Resize, node: Node, factor: float) -> tuple[Node, ...]:
    """The node under another name, then its product with `factor` under its own."""
    out = node.outputs[0]
    inner = Value(f"{out.name}_of_kept", TensorType(resize.shape(out), out.type.dtype))
    return (
        replace(node, outputs=(inner,)),
        Node("aten.mul.Tensor", (inner, factor), (), node.outputs, node.module),
    )


def layer_mask(resize: Resize, node: Node) -> tuple[Node, ...]:
    """Layer norm by statistics over the kept entries alone, where the removed ones are zero."""
    given, rank = arguments(node), tail_rank(node)
    x, ratio = node.inputs[0], resize.ratio(resize.of(node.outputs[0])[-rank:])
    if ratio == 1:
        return (node,)
    dims = tuple(range(len(x.shape) - rank, len(x.shape)))
    steps = Steps(node)
    mean = steps.add("mul.Tensor", steps.add("mean.dim", x, dims, True), 1 / ratio)
    squares = steps.add("mul.Tensor", steps.add("mean.dim", steps.add("mul.Tensor", x, x), dims, True), 1 / ratio)
    variance = steps.add("sub.Tensor", squares, steps.add("mul.Tensor", mean, mean))
    scale = steps.add("rsqrt.default", steps.add("add.Tensor", variance, given["eps"]))
    y = steps.add("mul.Tensor", steps.add("sub.Tensor", x, mean), scale)
    y = y if given["weight"] is None else steps.add("mul.Tensor", y, given["weight"])
    steps.add("add.Tensor", y, 0.0 if given["bias"] is None else given["bias"])
    return steps.finished()


@dataclass
class Steps:
    """Nodes in place of one, with the types that PyTorch gives them."""

    node: Node
    nodes: list[Node] = field(default_factory=list)

    def add(self, op: str, *args: Arg) -> Value:
        function = overload(f"aten.{op}")
        assert function is not None
        samples = (torch.empty(a.shape, dtype=a.type.dtype, device="meta") if isinstance(a, Value) else a for a in args)
        result = function(*samples)
        name = f"{self.node.name}_masked_{len(self.nodes)}"
        self.nodes.append(Node(f"aten.{op}", args, (), (Value(name, TensorType.of(result)),), self.node.module))
        return self.nodes[-1].outputs[0]

    def finished(self) -> tuple[Node, ...]:
        """The steps, the last one under the name of the node."""
        return (*self.nodes[:-1], replace(self.nodes[-1], outputs=self.node.outputs))


def group_axes(context: Labelling, node: Node) -> tuple[Labels, ...]:
    given = arguments(node)
    x, groups = context.of(given["input"]), given["num_groups"]
    assert isinstance(groups, int)
    for name in AFFINE:
        for extent in context.of(given[name]):
            unify(x[1], extent)
    _, inner = split(x[1], groups, x[1].size // groups)
    inner.soften("normalised")
    return (x,)


def group_rewrite(resize: Resize, node: Node) -> tuple[Node, ...]:
    given = arguments(node)
    channels, groups = resize.of(given["input"])[1], given["num_groups"]
    assert isinstance(groups, int)
    group, _ = split(channels, groups, channels.size // groups)
    return (with_arguments(node, num_groups=resize.size(group)),)


OPS = (
    Op("batch_norm", channel_axes, affine_zero),
    Op("instance_norm", channel_axes, affine_zero),
    Op("layer_norm", layer_axes, affine_zero, shape_rewrite, layer_mask),
    Op("rms_norm", normalised_axes, rms_zero, rms_rewrite),
    Op("group_norm", group_axes, affine_zero, group_rewrite),
)
