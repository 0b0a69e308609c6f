"""What kernels on rows and elements compute, as plain data: norms, softmax, pointwise steps, rounding."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from chipfit.codegen.spec import NO_STEPS, Argument, Epilogue, read_by
from chipfit.ir.images import Image, Shape
from chipfit.targets.packed import ROW_BLOCK, round_up, row_words
from chipfit.targets.tile import Tile


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
class PointwiseSpec:
    """Steps over operands alone; the first step may not use `"acc"`. The output is a dense shape or an Image."""

    target: Shape | Image
    epilogue: Epilogue

    def arguments(self, tile: Tile) -> tuple[Argument, ...]:
        shape = self.target.shape if isinstance(self.target, Image) else self.target
        return (*read_by(self.epilogue), Argument("output", shape))


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
    epilogue: Epilogue = NO_STEPS
    count: int | None = None

    def arguments(self, tile: Tile) -> tuple[Argument, ...]:
        affine = (Argument("operand", (self.width,)),) * (self.weight + self.bias)
        matrix = (self.rows, self.width)
        operands = read_by(self.epilogue)
        return (Argument("activation", matrix), *affine, *operands, Argument("output", matrix))
