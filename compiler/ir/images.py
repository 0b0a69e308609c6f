"""Images between kernels: what convolutions and pools need around them, and which values lie so on a CPU.

There an image is stored channels last, with a halo of zeros as wide as its widest reader needs; an input of few
channels, which only convolutions read, plane by plane. Other kernels read dense tensors, so that a value may lie both
ways, copied once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from chipfit.ir.graph import Arg, Node, Value
from chipfit.ir.kernel import Kernel
from chipfit.ir.kinds import CONVS, kind_of
from chipfit.ir.ops.signature import arguments

ROUNDING = frozenset({"to", "clamp", "round", "mul"})  # what a layer in fewer bits does to its factors first
FEW_CHANNELS = 4  # an input with no more than these is read plane by plane

Halo = tuple[int, int, int, int]  # top, bottom, left, right
NO_HALO: Halo = (0, 0, 0, 0)
Shape = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Image:
    """A batch of images. Physically (batch, top + height + bottom, left + width + right, stored channels).

    The halo holds zeros, which its producer writes. Stored channels are `channels` rounded up to `lanes`, the vector
    width; what lies in the lanes beyond `channels` is undefined and no kernel reads it as data. A planar image is
    (batch, channels, rows, columns) with the same halo, for inputs of few channels.
    """

    batch: int
    height: int
    width: int
    channels: int
    lanes: int
    halo: Halo = NO_HALO
    planar: bool = False

    @property
    def stored_channels(self) -> int:
        return self.channels if self.planar else -(-self.channels // self.lanes) * self.lanes

    @property
    def rows(self) -> int:
        return self.halo[0] + self.height + self.halo[1]

    @property
    def columns(self) -> int:
        return self.halo[2] + self.width + self.halo[3]

    @property
    def shape(self) -> Shape:
        """The physical shape."""
        if self.planar:
            return (self.batch, self.channels, self.rows, self.columns)
        return (self.batch, self.rows, self.columns, self.stored_channels)

    @property
    def logical(self) -> Shape:
        """(batch, height, width, channels), what operands broadcast against."""
        return (self.batch, self.height, self.width, self.channels)


def planar_shape(image: Image) -> Shape:
    """(batch, channels, height, width), as PyTorch has it."""
    return (image.batch, image.channels, image.height, image.width)


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


def geometry(kernel: Kernel) -> Geometry | None:
    """None for transposed convolutions, for other than two dimensions, and for what is no convolution."""
    node = kernel.anchor
    if node.kind not in CONVS:
        return None
    given = arguments(node)
    source, weight = (unrounded(kernel, value) for value in node.inputs[:2])
    if given.get("transposed") or len(weight.shape) != 4 or len(node.outputs[0].shape) != 4:
        return None
    stride, padding, dilation, groups = (given[name] for name in ("stride", "padding", "dilation", "groups"))
    bias = given["bias"] if isinstance(given["bias"], Value) else None
    before, source = padded_by(kernel, source)
    own = same_padding(padding, weight, pair(dilation)) if isinstance(padding, str) else pair(padding)
    total = (own[0] + before[0], own[1] + before[1])
    return Geometry(source, weight, bias, pair(stride), total, pair(dilation), int(groups))  # type: ignore[arg-type]


def unrounded(kernel: Kernel, value: Value) -> Value:
    """What a layer in bfloat16 or int8 rounds."""
    rounding = {node.name: node for node in kernel.nodes[: kernel.nodes.index(kernel.anchor)] if node.kind in ROUNDING}
    while value.name in rounding:
        value = rounding[value.name].inputs[0]
    return value


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
        if shape := geometry(kernel):
            known = widest.get(shape.source.name, NO_HALO)
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
    shape = geometry(kernel)
    return kernel.kind == "conv" and shape is not None and shape.groups == 1


def pools_globally(node: Node) -> bool:
    """Whether a reduction is over height and width of a batch of images."""
    axes = node.args[1] if len(node.args) > 1 else None
    if node.kind == "adaptive_avg_pool2d":
        return len(node.outputs[0].shape) == 4 and node.outputs[0].shape[2:] == (1, 1)
    return node.kind in ("mean", "amax") and len(node.inputs[0].shape) == 4 and axes in ((2, 3), (3, 2), (-1, -2))


@dataclass(frozen=True, slots=True)
class Windows:
    """Pooling by windows of one size; `padding` is (top, left)."""

    size: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int]


def windows(node: Node) -> Windows | None:
    """None for dilation, rounding up, another divisor, windows of several sizes, and for what pools no images."""
    (*_, height, width), out = node.inputs[0].shape, node.outputs[0].shape[2:]
    if len(node.outputs[0].shape) != 4:
        return None
    if node.kind == "adaptive_avg_pool2d":
        size = (height // out[0], width // out[1])
        return None if height % out[0] or width % out[1] else Windows(size, size, (0, 0))
    given = arguments(node)
    other = given["ceil_mode"] or given.get("divisor_override") is not None or not given.get("count_include_pad", True)
    if other or pair(given.get("dilation", 1)) != (1, 1):
        return None
    size = pair(given["kernel_size"])
    return Windows(size, pair(given["stride"]) if given["stride"] else size, pair(given["padding"]))


def reads_images(kernel: Kernel, lies: Callable[[str], bool]) -> frozenset[str]:
    """The values that a kernel reads as images; `lies` says whether a value lies as one already."""
    alike = (value.name for value in kernel.inputs if value.shape == kernel.output.shape)
    if shape := geometry(kernel):
        return frozenset((shape.source.name, *alike))
    source = kernel.anchor.inputs[0].name if kernel.anchor.inputs else ""
    if pools_globally(kernel.anchor):
        return frozenset((source,)) if lies(source) and kernel.nodes[-1] is kernel.anchor else frozenset()
    if kernel.kind == "pool" and windows(kernel.anchor):
        return frozenset((source, *alike))
    plain = all(kind_of(node) == "pointwise" for node in kernel.nodes)
    found = frozenset(alike) if plain else frozenset[str]()
    return found if any(map(lies, found)) else frozenset()


def writes_image(kernel: Kernel, read: frozenset[str]) -> bool:
    """Whether a kernel that reads these as images writes one."""
    return bool(read) and not pools_globally(kernel.anchor)
