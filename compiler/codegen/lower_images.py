"""Convolutions and pooling as specs on images: channels last, padded to vectors, with halos of zeros."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from chipfit.codegen.program import Tensor
from chipfit.codegen.spec import (
    AMX_DEPTH,
    ConvSpec,
    DepthwiseSpec,
    GlobalPoolSpec,
    Image,
    Operand,
    PointwiseSpec,
    PoolSpec,
    WinogradSpec,
)
from chipfit.codegen.steps import Steps, bound
from chipfit.codegen.views import Unsupported
from chipfit.ir.fusion import CONVS, Kernel
from chipfit.ir.graph import Arg, Node, Value
from chipfit.ir.precision import narrow
from chipfit.targets.tiles import FEW_CHANNELS, Tile, conv_tiles, depthwise_tile, matrix_unit_tile
from chipfit.targets.winograd import winograd_tile

if TYPE_CHECKING:
    from chipfit.codegen.lower import Lowering

Halo = tuple[int, int, int, int]  # top, bottom, left, right


@dataclass(frozen=True, slots=True)
class Geometry:
    """A 2-D convolution, the zero padding before it included; `padding` is (top, left)."""

    source: Value
    weight: Value
    bias: Value | None
    stride: tuple[int, int]
    padding: tuple[int, int]
    dilation: tuple[int, int]
    groups: int

    def halo(self, target: Value) -> Halo:
        """The zeros that the source needs around it."""
        sizes = zip(self.source.shape[2:], target.shape[2:], self.weight.shape[2:], strict=True)
        settings = zip(self.stride, self.padding, self.dilation, strict=True)
        after = [
            max(0, (out - 1) * stride + dilation * (taps - 1) + 1 - before - size)
            for (size, out, taps), (stride, before, dilation) in zip(sizes, settings, strict=True)
        ]
        return self.padding[0], after[0], self.padding[1], after[1]


def geometry(kernel: Kernel) -> Geometry:
    """Raises Unsupported for transposed convolutions and for other than two dimensions."""
    node = kernel.anchor
    given = bound(node)
    if given.get("transposed"):
        raise Unsupported("a transposed convolution")
    source, weight = (uncast(kernel, value) for value in node.inputs[:2])
    if len(weight.shape) != 4:
        raise Unsupported("a convolution of other than two dimensions")
    stride, padding, dilation, groups = (given[name] for name in ("stride", "padding", "dilation", "groups"))
    bias = given["bias"] if isinstance(given["bias"], Value) else None
    before, source = padded_by(kernel, source)
    own = same_padding(padding, weight, pair(dilation)) if isinstance(padding, str) else pair(padding)
    total = (own[0] + before[0], own[1] + before[1])
    return Geometry(source, weight, bias, pair(stride), total, pair(dilation), int(groups))  # type: ignore[arg-type]


def uncast(kernel: Kernel, value: Value) -> Value:
    """What a layer in bfloat16 rounds."""
    casts = {node.name: node for node in kernel.nodes if node.kind == "to"}
    return casts[value.name].inputs[0] if value.name in casts else value


def padded_by(kernel: Kernel, source: Value) -> tuple[tuple[int, int], Value]:
    """The (top, left) of a zero padding that the kernel took in, and what it pads."""
    producers = {node.name: node for node in kernel.nodes}
    if source.name not in producers:
        return (0, 0), source
    pads = producers[source.name].args[1]
    sizes = [int(size) for size in pads] if isinstance(pads, tuple) else []  # type: ignore[arg-type]
    left, _, top, _ = (*sizes, 0, 0)[:4]
    return (top, left), producers[source.name].inputs[0]


def same_padding(padding: str, weight: Value, dilation: tuple[int, int]) -> tuple[int, int]:
    """PyTorch's "same" puts the odd zero after."""
    height, width = (step * (taps - 1) // 2 for step, taps in zip(dilation, weight.shape[2:], strict=True))
    return (height, width) if padding == "same" else (0, 0)


def pair(argument: Arg) -> tuple[int, int]:
    """(vertical, horizontal) of an int, a sequence of one or a sequence of two."""
    sizes = argument if isinstance(argument, tuple) else (argument,)
    return int(sizes[0]), int(sizes[-1])  # type: ignore[arg-type]


def halos(plan: Sequence[Kernel]) -> dict[str, Halo]:
    """Value name -> the widest halo that the convolutions reading it need."""
    widest: dict[str, Halo] = {}
    for kernel in plan:
        if kernel.anchor.kind in CONVS and len(kernel.anchor.outputs[0].shape) == 4:
            try:
                shape = geometry(kernel)
            except Unsupported:
                continue
            known = widest.get(shape.source.name, (0, 0, 0, 0))
            needed = shape.halo(kernel.anchor.outputs[0])
            widest[shape.source.name] = tuple(map(max, known, needed))  # type: ignore[assignment]
    return widest


def planar_values(plan: Sequence[Kernel], lanes: int) -> frozenset[str]:
    """Inputs of so few channels that only their convolution should gather them."""
    made = {value.name for kernel in plan for value in kernel.outputs}
    readers: dict[str, list[Kernel]] = {}
    for kernel in plan:
        for value in kernel.inputs:
            readers.setdefault(value.name, []).append(kernel)
    sources = {value for kernel in plan if kernel.kind == "conv" for value in kernel.inputs if len(value.shape) == 4}
    few = (value.name for value in sources if value.shape[1] <= FEW_CHANNELS < lanes and value.name not in made)
    return frozenset(name for name in few if all(is_plain_conv(kernel) for kernel in readers[name]))


def is_plain_conv(kernel: Kernel) -> bool:
    try:
        return kernel.kind == "conv" and geometry(kernel).groups == 1
    except Unsupported:
        return False


def lower_conv(low: Lowering, kernel: Kernel) -> None:
    shape = geometry(kernel)
    anchor = kernel.anchor.outputs[0]
    if not low.is_fixed(shape.weight) or len(anchor.shape) != 4:
        raise Unsupported("a convolution by an activation")
    target = target_image(low, kernel)
    half = narrow(low.entry, kernel.anchor)
    steps = collected(low, kernel, target, shape.bias, half.result if half else kernel.anchor)
    tensor, source = low.image(shape.source)
    batch, channels, height, width = anchor.shape
    r, s = shape.weight.shape[2:]
    settings = ((r, s), shape.stride, shape.padding, shape.dilation)
    spec: ConvSpec | DepthwiseSpec | WinogradSpec
    if kernel.kind == "depthwise" and channels == source.channels:
        spec = DepthwiseSpec(source, target, *settings, steps.epilogue)
        tile = depthwise_tile(low.cpu, batch, height, width, channels)
    elif half:
        spec = ConvSpec(source, target, *settings, shape.groups, steps.epilogue, "bfloat16")
        tile = narrow_tile(low, spec)
    elif fast := fast_tile(low, kernel, shape, source):
        spec = WinogradSpec(source, target, shape.padding, steps.epilogue)
        tile = fast
    else:
        spec = ConvSpec(source, target, *settings, shape.groups, steps.epilogue)
        tile = plain_tile(low, spec)
    packed = spec.arguments(tile)[1]
    weight = low.weight(shape.weight, packed)
    low.emit_image(kernel.output, spec, tile, [tensor, weight, *operands(low, steps)], target)


def plain_tile(low: Lowering, spec: ConvSpec) -> Tile:
    source, target = spec.source, spec.target
    sizes = (target.batch, target.height, target.width, source.channels, target.channels)
    return low.choose(spec, conv_tiles(low.cpu, *sizes, *spec.kernel, spec.groups))


def narrow_tile(low: Lowering, spec: ConvSpec) -> Tile:
    """On the matrix unit where there is one, but for planes with wide windows."""
    source, target = spec.source, spec.target
    sizes = (target.batch, target.height, target.width, source.channels, target.channels)
    wide = source.planar and spec.kernel[1] * source.channels > AMX_DEPTH
    fast = None if wide or spec.groups > 1 else matrix_unit_tile(low.cpu, *sizes, math.prod(spec.kernel))
    return fast or plain_tile(low, spec)


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
    node = kernel.anchor
    if len(node.outputs[0].shape) != 4:
        raise Unsupported("pooling of other than two dimensions")
    if node.kind == "adaptive_avg_pool2d":
        lower_adaptive(low, kernel)
        return
    given = bound(node)
    window = pair(given["kernel_size"])
    stride = pair(given["stride"]) if given["stride"] else window
    rounded = given["ceil_mode"] or given.get("divisor_override") is not None
    if rounded or pair(given.get("dilation", 1)) != (1, 1) or not given.get("count_include_pad", True):
        raise Unsupported("pooling with dilation, rounding up or another divisor")
    padding = pair(given["padding"])
    lower_windows(low, kernel, "max" if node.kind == "max_pool2d" else "avg", window, stride, padding)


def lower_adaptive(low: Lowering, kernel: Kernel) -> None:
    """Windows of one size if the sizes divide."""
    (height, width), out = kernel.anchor.inputs[0].shape[2:], kernel.anchor.outputs[0].shape[2:]
    if out == (1, 1):
        lower_global_pool(low, kernel, "avg")
        return
    if height % out[0] or width % out[1]:
        raise Unsupported("adaptive pooling with windows of several sizes")
    window = (height // out[0], width // out[1])
    lower_windows(low, kernel, "avg", window, window, (0, 0))


def lower_windows(
    low: Lowering, kernel: Kernel, op: str, window: tuple[int, int], stride: tuple[int, int], padding: tuple[int, int]
) -> None:
    target = target_image(low, kernel)
    steps = collected(low, kernel, target)
    tensor, source = low.image(kernel.anchor.inputs[0])
    spec = PoolSpec(op, source, target, window, stride, padding, epilogue=steps.epilogue)  # type: ignore[arg-type]
    low.emit_image(kernel.output, spec, low.plain_tile, [tensor, *operands(low, steps)], target)


def lower_global_pool(low: Lowering, kernel: Kernel, op: str) -> None:
    """The mean or maximum over height and width, dense."""
    source = kernel.anchor.inputs[0]
    if kernel.nodes[-1] is not kernel.anchor or source.name not in low.images:
        raise Unsupported("global pooling of a dense tensor, or with an epilogue")
    tensor, image = low.images[source.name]
    if image.planar:
        raise Unsupported("global pooling of planes")
    spec = GlobalPoolSpec(op, image)  # type: ignore[arg-type]
    low.emit_dense(kernel.output, spec, low.plain_tile, [tensor])


def lower_pointwise(low: Lowering, kernel: Kernel) -> None:
    target = target_image(low, kernel)
    steps = Steps(lambda value: operand(low, value, target))
    for node in kernel.nodes:
        steps.add(node)
    spec = PointwiseSpec(target, steps.epilogue)
    low.emit_image(kernel.output, spec, low.plain_tile, operands(low, steps), target)


def reads_image(low: Lowering, kernel: Kernel) -> bool:
    """Whether one of the kernel's inputs, as large as its output, lies as an image."""
    return any(value.name in low.images and value.shape == kernel.output.shape for value in kernel.inputs)


def pools_globally(node: Node) -> bool:
    """Whether a reduction is over height and width of a batch of images."""
    axes = node.args[1] if len(node.args) > 1 else None
    return node.kind in ("mean", "amax") and len(node.inputs[0].shape) == 4 and axes in ((2, 3), (3, 2), (-1, -2))
