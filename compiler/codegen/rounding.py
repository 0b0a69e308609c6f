"""Rows rounded to int8, each with its scale: written here, and read by products of whole numbers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tvm.tirx import PrimFunc
from tvm.tirx.script import builder as T

from chipfit.codegen.kernel import Buffer, Expr, Simd, function, jobs, pieces
from chipfit.codegen.rows import PARALLEL, Row
from chipfit.codegen.spec_rows import RoundSpec
from chipfit.ir.images import Shape
from chipfit.ir.rounded import LARGEST, LEAST
from chipfit.targets.packed import row_words, scale_word
from chipfit.targets.tile import QUAD, Tile


def build_rounding(spec: RoundSpec, tile: Tile, name: str, shapes: Sequence[Shape] | None = None) -> PrimFunc:
    """Arguments: x, the rounded rows."""
    simd = Simd(tile.lanes)

    def body(x: Buffer, words: Buffer) -> None:
        with jobs(spec.rows, parallel=spec.rows * spec.width >= PARALLEL) as (r,):
            _round(simd, spec.width, tile.zero, (x, r * spec.width), (words, r * row_words(spec.width)))

    return function(name, spec.arguments(tile), body, shapes)


def _round(simd: Simd, width: int, zero: int, source: tuple[Buffer, Expr], target: tuple[Buffer, Expr]) -> None:
    """One row, by the operations of `ir.rounded` in their order: the numbers are PyTorch's to the last bit."""
    (x, start), (words, first) = source, target

    def size(i: Expr, valid: int) -> Expr:
        value = T.bind(simd.load(x, start + i, valid))
        return T.max(value, simd.splat(0) - value)

    top = T.bind(T.max(Row(simd, width).maximum(size), simd.splat(LEAST)))
    steps = T.bind(simd.splat(1) / top * simd.splat(LARGEST))

    def vector(i: Expr, valid: int, _: int) -> None:
        number = T.nearbyint(simd.load(x, start + i, valid) * steps)
        whole = T.cast(number, f"int32x{simd.lanes}") + T.broadcast(T.int32(zero), simd.lanes)
        store_words(simd, words, first + i // QUAD, T.cast(whole, f"int8x{simd.lanes}"))

    Row(simd, width).each(vector)
    scale = T.reinterpret(f"int32x{simd.lanes}", top * simd.splat(1 / LARGEST))
    T.buffer_store(words, scale, [T.ramp(first + scale_word(width), 1, simd.lanes)])


def store_words(simd: Simd, words: Buffer, index: Expr, numbers: Expr) -> None:
    """A vector of int8 as words of four."""
    count = simd.lanes // QUAD
    dtype, where = ("int32", index) if count == 1 else (f"int32x{count}", T.ramp(index, 1, count))
    T.buffer_store(words, T.reinterpret(dtype, numbers), [where])


def _load(simd: Simd, words: Buffer, index: Expr) -> Expr:
    """A vector of int8 from words of four."""
    count = simd.lanes // QUAD
    return T.reinterpret(f"int8x{simd.lanes}", words[index if count == 1 else T.ramp(index, 1, count)])


@dataclass(frozen=True)
class RoundedRows:
    """Rounded rows as a product reads them."""

    simd: Simd
    words: Buffer
    rows: int
    width: int

    def scale(self, row: Expr) -> Expr:
        """In every lane."""
        word = self.words[row * row_words(self.width) + scale_word(self.width)]
        return self.simd.splat(T.reinterpret("float32", word))

    def number(self, total: Expr, row: Expr) -> Expr:
        """A sum of whole numbers of this row, scaled."""
        return T.bind(T.cast(total, f"float32x{self.simd.lanes}") * self.scale(row))

    def widened(self, wide: Buffer) -> Buffer:
        """The whole numbers as dense float32, (rows, width), for chips that don't multiply int8."""
        lanes, stride = self.simd.lanes, row_words(self.width)
        with jobs(self.rows) as (row,):

            def vector(i: Expr, valid: int) -> None:
                number = T.cast(_load(self.simd, self.words, row * stride + i // QUAD), f"float32x{lanes}")
                self.simd.store(wide, row * self.width + i, number, valid)

            pieces(self.width, lanes, vector)
        return wide
