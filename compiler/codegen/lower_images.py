"""Convolutions and pooling as specs on images: channels last, padded to vectors, with halos of zeros."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Literal

from chipfit.codegen.program import Tensor
from chipfit.codegen.spec import Operand
from chipfit.codegen.spec_images import ConvSpec, DepthwiseSpec, GlobalPoolSpec, Multiplied, PoolSpec, WinogradSpec
from chipfit.codegen.spec_rows import PointwiseSpec
from chipfit.codegen.steps import Steps
from chipfit.codegen.views import Unsupported
from chipfit.ir.graph import Node, Value
from chipfit.ir.images import Geometry, Image, geometry, pools_globally, windows
from chipfit.ir.kernel import Kernel
from chipfit.ir.precision import narrow
from chipfit.ir.rounded_conv import rounded_conv
from chipfit.targets.matrix_unit import convolution_tiles
from chipfit.targets.tile import Tile
from chipfit.targets.tiles import depthwise_tile
from chipfit.targets.winograd import winograd_tile

if TYPE_CHECKING:
    from chipfit.codegen.lower import Lowering


def lower_conv(low: Lowering, kernel: Kernel) -> None:
    """Raises Unsupported for transposed convolutions and for other than two dimensions."""
    shape = geometry(kernel)
    if shape is None or not low.is_fixed(shape.weight):
        raise Unsupported("a convolution that is transposed, not of two dimensions, or by an activation")
    anchor = kernel.anchor.outputs[0]
    target = target_image(low, kernel)
    half, rounded = narrow(low.entry, kernel.anchor), rounded_conv(low.entry, kernel.anchor)
    steps = collected(low, kernel, target, shape.bias, half.result if half else kernel.anchor)
    tensor, source = low.image(shape.source)
    if rounded and source.planar:
        raise Unsupported("a convolution of int8 on planes")
    batch, channels, height, width = anchor.shape
    r, s = shape.weight.shape[2:]
    settings = ((r, s), shape.stride, shape.padding, shape.dilation)
    spec: ConvSpec | DepthwiseSpec | WinogradSpec
    if kernel.kind == "depthwise" and channels == source.channels:
        spec = DepthwiseSpec(source, target, *settings, steps.epilogue)
        tile = depthwise_tile(low.cpu, batch, height, width, channels)
    elif not half and not rounded and (fast := fast_tile(low, kernel, shape, source)):
        spec = WinogradSpec(source, target, shape.padding, steps.epilogue)
        tile = fast
    else:
        stored: Multiplied = "bfloat16" if half else "int8" if rounded else "float32"
        spec = ConvSpec(source, target, *settings, shape.groups, steps.epilogue, stored)
        tile = plain_tile(low, spec)
    factors = [tensor, low.weight(shape.weight, spec.arguments(tile)[1])]
    if rounded:
        factors.append(low.weight(rounded.steps))
    low.emit_image(kernel.output, spec, tile, [*factors, *operands(low, steps)], target)


def plain_tile(low: Lowering, spec: ConvSpec) -> Tile:
    source, target = spec.source, spec.target
    sizes = (target.batch, target.height, target.width, source.channels, target.channels)
    return low.choose(spec, convolution_tiles(low.cpu, sizes, spec.kernel, spec.groups, spec.stored, source.planar))


def fast_tile(low: Lowering, kernel: Kernel, shape: Geometry, source: Image) -> Tile | None:
    """Winograd's tile, where its way is open and shorter."""
    plain = shape.stride == shape.dilation == (1, 1) and shape.groups == 1 and not source.planar
    if not plain or shape.weight.shape[2:] != (3, 3):
        return None
    batch, channels, height, width = kernel.anchor.outputs[0].shape
    return winograd_tile(low.cpu, batch, height, width, source.channels, channels)


def target_image(low: Lowering, kernel: Kernel) -> Image:
    batch, channels, height, width = kernel.output.shape
    return Image(batch, height, width, channels, low.lanes, low.halo(kernel.output))


def collected(
    low: Lowering, kernel: Kernel, target: Image, bias: Value | None = None, last: Node | None = None
) -> Steps:
    """The epilogue: what follows the anchor, or `last` of the kernel's nodes."""
    last = last or kernel.anchor
    steps = Steps(lambda value: operand(low, value, target), last.name)
    if bias is not None:
        steps.prepare("add", bias, Operand((target.channels,)))
    for node in kernel.nodes[kernel.nodes.index(last) + 1 :]:
        steps.add(node)
    return steps


def operand(low: Lowering, value: Value, target: Image) -> Operand:
    """A value beside an image: a number, a channel each, a gate per example and channel, or a whole image."""
    batch, channels = target.batch, target.channels
    if value.shape == (batch, channels, target.height, target.width):
        return Operand(low.image(value)[1])
    if math.prod(value.shape) == 1:
        return Operand((1,))
    if value.shape[-3:] == (channels, 1, 1) and math.prod(value.shape) == channels:
        return Operand((channels,))
    if value.shape == (batch, channels, 1, 1):
        return Operand((batch, 1, 1, channels))
    raise Unsupported(f"an operand of shape {value.shape} beside an image")


def operands(low: Lowering, steps: Steps) -> list[Tensor]:
    pairs = zip(steps.values, steps.operands, strict=True)
    return [low.image(value)[0] if isinstance(op.layout, Image) else low.dense(value) for value, op in pairs]


def lower_pool(low: Lowering, kernel: Kernel) -> None:
    if pools_globally(kernel.anchor):
        lower_global_pool(low, kernel, "avg")
        return
    found = windows(kernel.anchor)
    if found is None:
        raise Unsupported("pooling of other than two dimensions, or by other than windows of one size")
    op: Literal["max", "avg"] = "max" if kernel.anchor.kind == "max_pool2d" else "avg"
    target = target_image(low, kernel)
    steps = collected(low, kernel, target)
    tensor, source = low.image(kernel.anchor.inputs[0])
    spec = PoolSpec(op, source, target, found.size, found.stride, found.padding, epilogue=steps.epilogue)
    low.emit_image(kernel.output, spec, low.plain_tile, [tensor, *operands(low, steps)], target)


def lower_global_pool(low: Lowering, kernel: Kernel, op: Literal["max", "avg"]) -> None:
    """The mean or maximum over height and width, dense."""
    source = kernel.anchor.inputs[0]
    if kernel.nodes[-1] is not kernel.anchor or source.name not in low.images:
        raise Unsupported("global pooling of a dense tensor, or with an epilogue")
    tensor, image = low.images[source.name]
    if image.planar:
        raise Unsupported("global pooling of planes")
    spec = GlobalPoolSpec(op, image)
    low.emit_dense(kernel.output, spec, low.plain_tile, [tensor])


def lower_pointwise(low: Lowering, kernel: Kernel) -> None:
    target = target_image(low, kernel)
    steps = Steps(lambda value: operand(low, value, target))
    for node in kernel.nodes:
        steps.add(node)
    spec = PointwiseSpec(target, steps.epilogue)
    low.emit_image(kernel.output, spec, low.plain_tile, operands(low, steps), target)
