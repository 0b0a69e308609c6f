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

from chipfit.ir.images import Image, Shape
from chipfit.targets.packed import Packed
from chipfit.targets.tile import Tile


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


NO_STEPS = Epilogue()


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


def read_by(epilogue: Epilogue) -> tuple[Argument, ...]:
    """An epilogue's operands as arguments."""
    return tuple(Argument("operand", operand.shape) for operand in epilogue.operands)


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


def dense(batch: int, rows: int, columns: int) -> View:
    """The view of a dense (batch, rows, columns) tensor."""
    return View((batch, rows, columns), row=columns, batch=rows * columns)
