"""Softmax, norms and pointwise groups as specs."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING

import torch

from chipfit.codegen import lower_images
from chipfit.codegen.program import Tensor
from chipfit.codegen.spec import Operand
from chipfit.codegen.spec_rows import NormSpec, PointwiseSpec, RoundSpec, SoftmaxSpec
from chipfit.codegen.steps import Steps
from chipfit.codegen.views import Unsupported, collapse, strided
from chipfit.ir.graph import Node, Value
from chipfit.ir.images import Shape, pools_globally, reads_images
from chipfit.ir.kernel import Kernel, rounds_rows
from chipfit.ir.kinds import STRIDED
from chipfit.ir.ops.signature import arguments
from chipfit.ir.patterns import is_factor
from chipfit.targets.tiles import int8_unit

if TYPE_CHECKING:
    from chipfit.codegen.lower import Lowering


def lower_reduce(low: Lowering, kernel: Kernel) -> None:
    node = kernel.anchor
    if pools_globally(node) and len(kernel.nodes) == 1:
        lower_images.lower_global_pool(low, kernel, "avg" if node.kind == "mean" else "max")
    elif node.kind in ("softmax", "log_softmax"):
        lower_softmax(low, kernel)
    elif node.kind == "layer_norm":
        lower_layer_norm(low, kernel)
    elif node.kind == "mean" and len(kernel.nodes) > 1:
        lower_rms_norm(low, kernel)
    elif rounds_rows(kernel):
        lower_rounding(low, kernel)
    else:
        raise Unsupported(node.op)


def lower_softmax(low: Lowering, kernel: Kernel) -> None:
    node = kernel.anchor
    source = node.inputs[0]
    if node.args[1] not in (-1, len(source.shape) - 1) or source.type.dtype != torch.float32:
        raise Unsupported("a softmax over other than the last axis, or with a cast")
    spec = SoftmaxSpec(source.shape, log=node.kind == "log_softmax")
    low.emit_dense(kernel.output, spec, low.plain_tile, [low.dense(source)])


def lower_layer_norm(low: Lowering, kernel: Kernel) -> None:
    node = kernel.anchor
    given = arguments(node)
    source, axes, weight, bias = node.inputs[0], given["normalized_shape"], given["weight"], given["bias"]
    eps = float(given["eps"])  # type: ignore[arg-type]
    if not isinstance(axes, tuple) or len(axes) != 1 or (bias is not None and weight is None):
        raise Unsupported("a layer norm over several axes, or with a bias alone")
    affine = [value for value in (weight, bias) if isinstance(value, Value)]
    lower_norm(low, kernel, "layer", source, affine, eps, node)


def lower_rms_norm(low: Lowering, kernel: Kernel) -> None:
    """The nodes that the fusion plan recognised: square, mean, add, rsqrt, mul and perhaps the weight's mul.

    Between mean and add there may be a factor r: then the mean is over 1 / r times the width.
    """
    square, mean, *rest = kernel.nodes
    source, share = square.inputs[0], 1.0
    if is_factor(rest[0], mean):
        share = next(float(argument) for argument in rest.pop(0).args if isinstance(argument, int | float))
    add, _, scaled, *rest = rest
    last, affine = scaled, []
    if rest and rest[0].kind == "mul":
        others = [value for value in rest[0].inputs if value.name != scaled.name]
        if others and low.is_fixed(others[0]) and others[0].shape == source.shape[-1:]:
            last, affine = rest[0], others
    eps = next(float(argument) for argument in add.args if isinstance(argument, int | float))
    lower_norm(low, kernel, "rms", source, affine, eps, last, share)


def lower_norm(
    low: Lowering,
    kernel: Kernel,
    kind: str,
    source: Value,
    affine: list[Value],
    eps: float,
    last: Node,
    share: float = 1,
) -> None:
    """A norm whose own nodes end with `last`; what follows is its epilogue."""
    width = source.shape[-1]
    rows = math.prod(source.shape) // width
    steps = Steps(lambda value: row_operand(value, (rows, width)), last.name)
    for node in kernel.nodes[kernel.nodes.index(last) + 1 :]:
        steps.add(node)
    settings = (rows, width, eps, bool(affine), len(affine) > 1, steps.epilogue, round(width / share))
    spec = NormSpec(kind, *settings)  # type: ignore[arg-type]
    tensors = [low.dense(value) for value in (source, *affine, *steps.values)]
    low.emit_dense(kernel.output, spec, low.plain_tile, tensors)


def lower_rounding(low: Lowering, kernel: Kernel) -> None:
    """Rows of int8 for the products that alone read them."""
    (source,), width = kernel.inputs, kernel.output.shape[-1]
    rows = math.prod(source.shape) // width
    spec, tile = RoundSpec(rows, width), replace(low.plain_tile, unit=int8_unit(low.cpu, rows))
    result = Tensor(kernel.name, spec.arguments(tile)[-1].shape, "int32")
    low.emit(kernel.name, spec, tile, [low.dense(source)], result)
    low.rounded[kernel.name] = result


def row_operand(value: Value, logical: Shape) -> Operand:
    """A value beside a (rows, width) norm: a number, a row, or the whole."""
    size = math.prod(value.shape)
    if size not in (1, math.prod(logical)) and not size == value.shape[-1] == logical[-1]:
        raise Unsupported(f"an operand of shape {value.shape} beside {logical}")
    return Operand(logical if size == math.prod(logical) else (size,))


def lower_pointwise(low: Lowering, kernel: Kernel) -> None:
    if reads_images(kernel, low.images.__contains__):
        lower_images.lower_pointwise(low, kernel)
        return
    views = leading_views(kernel)
    steps = Steps(lambda value: Operand(value.shape))
    for node in kernel.nodes:
        if node.name not in views:
            steps.add(replace(node, args=(low.number(node.inputs[0]), *node.args[1:])) if chooses(node) else node)
    spec = PointwiseSpec(kernel.output.shape, steps.epilogue)
    tensors = [viewed(low, kernel, value) if value.name in views else low.dense(value) for value in steps.values]
    low.emit_dense(kernel.output, spec, low.plain_tile, tensors)


def chooses(node: Node) -> bool:
    """Whether a node picks from two values by a condition."""
    return node.kind == "where" and node.inputs[0].type.dtype == torch.bool


def leading_views(kernel: Kernel) -> frozenset[str]:
    """The nodes of a kernel that only view what it reads."""
    made = {node.name for node in kernel.nodes}
    views: set[str] = set()
    for node in kernel.nodes:
        if node.kind in STRIDED and (node.inputs[0].name in views or node.inputs[0].name not in made):
            views.add(node.name)
    return frozenset(views - {kernel.name})


def viewed(low: Lowering, kernel: Kernel, value: Value) -> Tensor:
    """The tensor that a view starts from, under the view's shape. Raises Unsupported where elements change places."""
    source = strided(value, kernel.nodes)
    if source.share > 1 or collapse(source.shape, source.strides) not in ((), ((math.prod(source.shape), 1),)):
        raise Unsupported(f"{value.name} is no flat view")
    return replace(low.dense(source.root), shape=value.shape)
