"""What a kernel computes, as plain data: the contract between lowering, which writes specs, and the generators.

Every generator is `build_*(spec, tile, name, shapes=None) -> PrimFunc`. Its parameters come in the order of
`spec.arguments(tile)`: activations, weight, the epilogue's operands, output, scratch. `shapes` lets the caller declare
each argument with the shape that its tensor happens to have (same number of elements), so that views cost nothing. All
numbers are float32, but for weights in few bits and rows rounded to int8.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from chipfit.ir.images import Image, Shape, planar_shape
from chipfit.ir.stored import GROUP, Format
from chipfit.targets.packed import (
    ROW_BLOCK,
    Packed,
    depthwise_filters,
    filters,
    matrix,
    round_up,
    rounded_image,
    rounded_matrix,
    row_words,
    transformed_filters,
)
from chipfit.targets.tiles import Tile


@dataclass(frozen=True, slots=True)
class Operand:
    """A tensor read by an epilogue. A shape broadcasts against the kernel's logical output as in numpy.

    Logical outputs are (batch, m, n) for a matmul, `Image.logical` (channels last) wherever the output is an image,
    and the spec's own shape elsewhere. So (n,) is a bias, the whole shape a residual, (batch, 1, 1, channels) a gate.
    """

    layout: Shape | Image

    @property
    def shape(self) -> Shape:
        return self.layout.shape if isinstance(self.layout, Image) else self.layout


@dataclass(frozen=True, slots=True)
class Result:
    """The value of an earlier step of the same epilogue; index -1 is the accumulator before the first step."""

    index: int


Multiplied = Literal["float32", "bfloat16", "int8"]  # what a convolution multiplies
StepArg = Literal["acc"] | int | float | Result


@dataclass(frozen=True, slots=True)
class Step:
    """One pointwise op by its ATen name. An argument is `"acc"` (the latest value), an operand's index (int), a
    constant (float, never int) or a `Result`. Parameters of the op follow as constants: clamp takes low and high,
    leaky_relu its slope; gelu is exact and `gelu_tanh` its approximation.
    """

    op: str
    args: tuple[StepArg, ...] = ("acc",)


@dataclass(frozen=True, slots=True)
class Epilogue:
    """Steps run on each output vector before it is stored."""

    steps: tuple[Step, ...] = ()
    operands: tuple[Operand, ...] = ()


@dataclass(frozen=True)
class Packing:
    """How the runtime lays out a parameter, done once at load time by `packing.pack`. Plain data, JSON-able.

    Kinds, with what they take in brackets:
    matrices: `panels` (`lanes`, `nr`, `transposed`), `halves` and `float16` (the same, in bfloat16 and in float16),
    `pairs` (bfloat16 for AMX; `transposed`), `nibbles` (int4; `lanes`, `nr`, `k`, `group`), `quads` (int8 for dot
    products; `lanes`, `nr`, and `zero` of the other factor), `quad_pairs` (int8 for AMX; `zero`);
    filters (OC, IC / groups, R, S): `conv` (`lanes`, `nr`, `groups`, `half` to round to bfloat16), `conv_pairs` (as
    `pairs` over (R, S, IC); `planar` fills up rows of taps, else each tap), `conv_quads` (as `quads` over (R, S, IC),
    each tap filled up), `conv_tiles` (int8 for AMX), `winograd` (3 x 3; `lanes`, `nr`);
    filters (C, 1, R, S): `depthwise` (`lanes`).
    """

    kind: str
    params: Mapping[str, int | bool] = field(default_factory=dict)


@dataclass(frozen=True)
class Argument:
    """One parameter of a kernel's function: its role, its natural shape, and for a weight how it is packed."""

    role: Literal["activation", "weight", "operand", "output", "scratch"]
    shape: Shape
    packing: Packing | None = None
    dtype: str = "float32"


def weight(size: Packed, packing: Packing) -> Argument:
    return Argument("weight", (size.size,), packing, size.dtype)


def scratch(size: Packed | None) -> tuple[Argument, ...]:
    """What a kernel writes for itself, after its output."""
    return (Argument("scratch", (size.size,), None, size.dtype),) if size else ()


class KernelSpec(Protocol):
    def arguments(self, tile: Tile) -> tuple[Argument, ...]: ...


def _operands(operands: tuple[Operand, ...]) -> tuple[Argument, ...]:
    return tuple(Argument("operand", operand.shape) for operand in operands)


@dataclass(frozen=True, slots=True)
class View:
    """Where a stack of matrices lies in a dense tensor of `shape`.

    Element (b, i, j) is at (b // heads) * batch + (b % heads) * head + i * row + j * column, all in elements. So the
    heads of attention are read from, and written to, (batch, sequence, heads * width) without a transpose.
    """

    shape: Shape
    row: int
    head: int = 0
    heads: int = 1
    batch: int = 0
    column: int = 1

    def start(self, b: Any) -> Any:
        """The offset of matrix `b`, a number or a TVM expression."""
        return b // self.heads * self.batch + (b % self.heads * self.head if self.heads > 1 else 0)


@dataclass(frozen=True)
class MatmulSpec:
    """C[b] = A[b] @ B[b // share] for b < batch, then the epilogue. A is (batch, m, k), C is (batch, m, n).

    weight: `packed`: B is one parameter for all b (share = batch is implied), stored as PyTorch has it, (n, k) if
    `transposed` as in aten.linear, else (k, n), and packed by the runtime. Its numbers are `stored` so: an int8's scale
    is the epilogue's matter, an int4's are a second weight (both as in `ir.stored`); beside float16 and bfloat16 A may
    be rounded too. `rounded`: beside int8 A is as `RoundSpec` writes it. `activation`: B is a tensor of (batch / share,
    k, n), or (batch / share, n, k) if `transposed`, as in Q @ K^T.
    Views override the dense layouts; the B view is indexed by b // share. `nontemporal`: C, whose rows are whole
    vectors, is written past the caches.
    """

    batch: int
    m: int
    n: int
    k: int
    weight: Literal["packed", "activation"] = "packed"
    transposed: bool = True
    share: int = 1
    stored: Literal["float32", "float16", "bfloat16"] | Format = "float32"
    epilogue: Epilogue = Epilogue()
    a_view: View | None = None
    b_view: View | None = None
    c_view: View | None = None
    rounded: bool = False
    nontemporal: bool = False

    def a_layout(self) -> View:
        if self.rounded:
            return dense(1, round_up(self.m, ROW_BLOCK), row_words(self.k))
        return self.a_view or dense(self.batch, self.m, self.k)

    def b_layout(self) -> View:
        rows, columns = (self.n, self.k) if self.transposed else (self.k, self.n)
        return self.b_view or dense(self.batch // self.share, rows, columns)

    def c_layout(self) -> View:
        return self.c_view or dense(self.batch, self.m, self.n)

    def arguments(self, tile: Tile) -> tuple[Argument, ...]:
        kind = "int32" if self.rounded else "float32"
        a = Argument("activation", self.a_layout().shape, dtype=kind)
        c = Argument("output", self.c_layout().shape)
        own = rounded_matrix(tile, self.m, self.k, self.stored, self.rounded)
        return (a, *self._factor(tile), *_operands(self.epilogue.operands), c, *scratch(own))

    def _factor(self, tile: Tile) -> tuple[Argument, ...]:
        """B, and its scales where they are a weight of their own."""
        if self.weight == "activation":
            return (Argument("activation", self.b_layout().shape),)
        sizes = matrix(tile, self.n, self.k, self.stored, self.rounded)
        packings = (self._packing(tile), Packing("panels", self._panels(tile)))
        return tuple(weight(size, packing) for size, packing in zip(sizes, packings, strict=False))

    def _panels(self, tile: Tile) -> Mapping[str, int | bool]:
        return {"lanes": tile.lanes, "nr": tile.nr, "transposed": self.transposed}

    def _packing(self, tile: Tile) -> Packing:
        shape = {"lanes": tile.lanes, "nr": tile.nr}
        if self.stored == "bfloat16":
            amx = Packing("pairs", {"transposed": self.transposed})
            return amx if tile.unit == "amx" else Packing("halves", self._panels(tile))
        if self.rounded and tile.unit != "vector":
            amx = Packing("quad_pairs", {"zero": tile.zero})
            return amx if tile.unit == "amx" else Packing("quads", {**shape, "zero": tile.zero})
        if self.stored == "int4":
            return Packing("nibbles", {**shape, "k": self.k, "group": GROUP})
        return Packing("float16" if self.stored == "float16" else "panels", self._panels(tile))


@dataclass(frozen=True)
class RoundSpec:
    """Rows of (rows, width) rounded to int8 as `ir.rounded` describes.

    The output is made of words of four numbers, to each of which the tile's `zero` is added. A row of it has its
    numbers, filled up to `ROW_STEP` with no matter what, then a cache line that begins with its scale, as the bits of
    a float32. So rows of a power of two don't share cache sets. There are rows up to a multiple of `ROW_BLOCK`.
    """

    rows: int
    width: int

    def arguments(self, tile: Tile) -> tuple[Argument, ...]:
        output = (round_up(self.rows, ROW_BLOCK), row_words(self.width))
        return (Argument("activation", (self.rows, self.width)), Argument("output", output, dtype="int32"))


@dataclass(frozen=True)
class ConvSpec:
    """2-D convolution, (groups, any channels); `padding` is (top, left), bottom and right follow from the sizes.

    Of a weight `stored` in bfloat16 only that many bits count, and the source may be rounded too. With int8 the source
    is rounded as `ir.rounded_conv` describes, by a number that is an argument behind the weight. The source's halo must
    cover the padding on all sides; a planar source (groups = 1) is for few channels.
    """

    source: Image
    target: Image
    kernel: tuple[int, int]
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int] = (0, 0)
    dilation: tuple[int, int] = (1, 1)
    groups: int = 1
    epilogue: Epilogue = Epilogue()
    stored: Multiplied = "float32"

    def arguments(self, tile: Tile) -> tuple[Argument, ...]:
        planar, channels = self.source.planar, (self.target.channels, self.source.channels)
        size = filters(tile, *channels, self.kernel, self.groups, planar, self.stored)
        source, target = Argument("activation", self.source.shape), Argument("output", self.target.shape)
        steps = (Argument("operand", (1,)),) if self.stored == "int8" else ()
        own = rounded_image(tile, self.source, self.stride, self.target.width, self.stored)
        factors = (source, weight(size, self._packing(tile)), *steps)
        return (*factors, *_operands(self.epilogue.operands), target, *scratch(own))

    def _packing(self, tile: Tile) -> Packing:
        if tile.unit == "amx":
            return (
                Packing("conv_tiles")
                if self.stored == "int8"
                else Packing("conv_pairs", {"planar": self.source.planar})
            )
        shape = {"lanes": tile.lanes, "nr": tile.nr}
        if tile.unit != "vector":
            return Packing("conv_quads", {**shape, "zero": tile.zero})
        return Packing("conv", {**shape, "groups": self.groups, "half": self.stored == "bfloat16"})


@dataclass(frozen=True)
class WinogradSpec:
    """2-D convolution of 3x3 taps, one group, stride and dilation 1; `padding` is (top, left)."""

    source: Image
    target: Image
    padding: tuple[int, int] = (0, 0)
    epilogue: Epilogue = Epilogue()

    def arguments(self, tile: Tile) -> tuple[Argument, ...]:
        size = transformed_filters(tile.lanes, self.target.channels, self.source.channels)
        filters = weight(size, Packing("winograd", {"lanes": tile.lanes, "nr": tile.nr}))
        source, target = Argument("activation", self.source.shape), Argument("output", self.target.shape)
        return (source, filters, *_operands(self.epilogue.operands), target)


@dataclass(frozen=True)
class DepthwiseSpec:
    """Depthwise convolution, one filter per channel (source.channels == target.channels == groups)."""

    source: Image
    target: Image
    kernel: tuple[int, int]
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int] = (0, 0)
    dilation: tuple[int, int] = (1, 1)
    epilogue: Epilogue = Epilogue()

    def arguments(self, tile: Tile) -> tuple[Argument, ...]:
        size = depthwise_filters(tile.lanes, self.source.channels, self.kernel)
        filters = weight(size, Packing("depthwise", {"lanes": tile.lanes}))
        source, target = Argument("activation", self.source.shape), Argument("output", self.target.shape)
        return (source, filters, *_operands(self.epilogue.operands), target)


@dataclass(frozen=True)
class PoolSpec:
    """Window pooling; `op` is `max` or `avg`. Windows are clipped to the image, so the source needs no halo."""

    op: Literal["max", "avg"]
    source: Image
    target: Image
    kernel: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int] = (0, 0)
    count_include_pad: bool = True
    epilogue: Epilogue = Epilogue()

    def arguments(self, tile: Tile) -> tuple[Argument, ...]:
        source, target = Argument("activation", self.source.shape), Argument("output", self.target.shape)
        return (source, *_operands(self.epilogue.operands), target)


@dataclass(frozen=True)
class GlobalPoolSpec:
    """The mean (or max) over height and width: Image -> dense (batch, channels)."""

    op: Literal["max", "avg"]
    source: Image
    epilogue: Epilogue = Epilogue()

    def arguments(self, tile: Tile) -> tuple[Argument, ...]:
        output = Argument("output", (self.source.batch, self.source.channels))
        return (Argument("activation", self.source.shape), *_operands(self.epilogue.operands), output)


@dataclass(frozen=True)
class PackImageSpec:
    """Dense (batch, channels, height, width) -> Image (planar or not), halo zeroed."""

    target: Image

    def arguments(self, tile: Tile) -> tuple[Argument, ...]:
        return (Argument("activation", planar_shape(self.target)), Argument("output", self.target.shape))


@dataclass(frozen=True)
class UnpackImageSpec:
    """Image -> dense (batch, channels, height, width)."""

    source: Image

    def arguments(self, tile: Tile) -> tuple[Argument, ...]:
        return (Argument("activation", self.source.shape), Argument("output", planar_shape(self.source)))


@dataclass(frozen=True)
class PointwiseSpec:
    """Steps over operands alone; the first step may not use `"acc"`. The output is a dense shape or an Image."""

    target: Shape | Image
    epilogue: Epilogue

    def arguments(self, tile: Tile) -> tuple[Argument, ...]:
        shape = self.target.shape if isinstance(self.target, Image) else self.target
        return (*_operands(self.epilogue.operands), Argument("output", shape))


@dataclass(frozen=True)
class SoftmaxSpec:
    """softmax(scale * x + mask) over the last axis of `shape`; the mask's shape broadcasts to it, None is no mask.

    `log` gives log_softmax. A row masked with -inf throughout comes out as zeros.
    """

    shape: Shape
    scale: float = 1.0
    mask: Shape | None = None
    log: bool = False

    def arguments(self, tile: Tile) -> tuple[Argument, ...]:
        mask = () if self.mask is None else (Argument("operand", self.mask),)
        return (Argument("activation", self.shape), *mask, Argument("output", self.shape))


@dataclass(frozen=True)
class AttentionSpec:
    """softmax(scale Q K^T + mask) V for each of `batch * heads` heads: Q (m, k), K (n, k), V (n, width).

    `share` heads of Q in a row use one head of K and V. The mask's shape broadcasts to (batch, heads, m, n); in a
    causal attention row i sees the columns up to i. A row that sees nothing gives zeros.
    """

    batch: int
    heads: int
    m: int
    n: int
    k: int
    width: int
    scale: float
    q_view: View
    k_view: View
    v_view: View
    c_view: View
    share: int = 1
    mask: Shape | None = None
    causal: bool = False

    def arguments(self, tile: Tile) -> tuple[Argument, ...]:
        mask = () if self.mask is None else (Argument("operand", self.mask),)
        factors = (Argument("activation", view.shape) for view in (self.q_view, self.k_view, self.v_view))
        return (*factors, *mask, Argument("output", self.c_view.shape))


@dataclass(frozen=True)
class NormSpec:
    """Layer norm or RMS norm over the last axis of (rows, width), with weight (width,) and bias (width,) if told.

    Means divide by `count`, the width unless told: entries that pruning removed still count, as zeros.
    The order of arguments: x, weight, bias, the epilogue's operands, output. The epilogue sees (rows, width).
    """

    kind: Literal["layer", "rms"]
    rows: int
    width: int
    eps: float
    weight: bool = True
    bias: bool = False
    epilogue: Epilogue = Epilogue()
    count: int | None = None

    def arguments(self, tile: Tile) -> tuple[Argument, ...]:
        affine = (Argument("operand", (self.width,)),) * (self.weight + self.bias)
        matrix = (self.rows, self.width)
        operands = _operands(self.epilogue.operands)
        return (Argument("activation", matrix), *affine, *operands, Argument("output", matrix))


def dense(batch: int, rows: int, columns: int) -> View:
    """The view of a dense (batch, rows, columns) tensor."""
    return View((batch, rows, columns), row=columns, batch=rows * columns)
