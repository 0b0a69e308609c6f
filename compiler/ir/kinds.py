"""What kind of kernel a node needs, by its op."""

from __future__ import annotations

from functools import cache

import torch

from chipfit.ir.emit import resolve
from chipfit.ir.graph import Node

MATMULS = frozenset({"linear", "matmul", "mm", "bmm", "addmm"})
CONVS = frozenset({"conv2d", "convolution"})
POOLS = frozenset({"max_pool2d", "avg_pool2d", "adaptive_avg_pool2d"})
REDUCTIONS = frozenset({"softmax", "log_softmax", "layer_norm", "rms_norm", "group_norm", "native_layer_norm"})
REDUCTIONS |= frozenset({"sum", "mean", "amax", "amin", "var", "std", "prod", "argmax", "cumsum", "max", "min"})
VIEWS = frozenset({"reshape", "view", "flatten", "unflatten", "squeeze", "unsqueeze"})  # free on a dense tensor
STRIDED = VIEWS | {"transpose", "permute", "t", "expand"}  # free for a kernel that reads by strides
MOVES = STRIDED | {"slice", "select", "cat", "stack", "repeat", "flip", "roll", "constant_pad_nd", "pad"}
MOVES |= {"embedding", "index", "index_select", "gather", "narrow", "tile", "movedim", "split", "chunk", "unbind"}
MOVES |= {"split_with_sizes", "pixel_shuffle", "channel_shuffle"}
UNTAGGED = frozenset({"to", "__and__", "__or__", "__xor__"})  # pointwise ops that ATen does not tag
ATTENTION = "scaled_dot_product_attention"

# What a generated kernel can do to each element before it stores it.
EPILOGUE = frozenset({"add", "sub", "mul", "div", "maximum", "minimum", "relu", "relu6", "hardtanh", "clamp", "silu"})
EPILOGUE |= {"gelu", "sigmoid", "tanh", "hardswish", "hardsigmoid", "leaky_relu", "neg", "abs", "exp", "sqrt"}


@cache
def tags(op: str) -> frozenset[str]:
    return frozenset(tag.name for tag in resolve(op).tags)


def kind_of(node: Node) -> str:
    """The kind of kernel that a node needs, taken alone."""
    if node.kind in MATMULS:
        return "matmul"
    if node.kind == ATTENTION:
        return "attention"
    if node.kind in CONVS:
        return conv_kind(node.inputs[0].shape, node.inputs[1].shape)
    if node.kind in POOLS:
        return "pool"
    if node.kind in REDUCTIONS:
        return "reduce"
    if node.kind in MOVES:
        return "move"
    return "pointwise" if torch.Tag.pointwise.name in tags(node.op) or node.kind in UNTAGGED else "opaque"


def conv_kind(source: tuple[int, ...], weight: tuple[int, ...]) -> str:
    """Depthwise is one filter a channel: the weight is (channels, 1, r, s) and there are as many groups."""
    return "depthwise" if weight[1] == 1 and weight[0] == source[1] > 1 else "conv"
