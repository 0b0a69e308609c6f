"""Transposing through vector registers."""

from __future__ import annotations

from dataclasses import dataclass

from tvm.tirx import Shuffle
from tvm.tirx.script import builder as T

from chipfit.codegen.kernel import Buffer, Expr, Simd, pieces


@dataclass(frozen=True)
class Matrix:
    """A matrix in a buffer: its first element and the distance between rows."""

    buffer: Buffer
    start: Expr
    stride: int


def transpose(lanes: int, rows: list[Expr]) -> list[Expr]:
    """The transpose of a square block of `lanes` vectors, by log2(lanes) rounds of perfect interleaving."""
    half = lanes // 2
    low = [index for i in range(half) for index in (i, lanes + i)]
    high = [index + half for index in low]
    for _ in range(lanes.bit_length() - 1):
        pairs = [(rows[i], rows[i + half]) for i in range(half)]
        rows = [T.bind(Shuffle(list(pair), indices)) for pair in pairs for indices in (low, high)]
    return rows


def transpose_matrix(simd: Simd, source: Matrix, target: Matrix, size: tuple[int, int], padded: bool) -> None:
    """Write the transpose of a source of `size` (rows, columns).

    If `padded`, the target's rows have room for whole vectors, and zeros are written there.
    """

    def block(i: Expr, rows: int, j: Expr, columns: int) -> None:
        start = source.start + i * source.stride + j
        vectors = [T.bind(simd.load(source.buffer, start + r * source.stride, columns)) for r in range(rows)]
        zeros = [simd.splat(0)] * (simd.lanes - rows)
        for k, vector in enumerate(transpose(simd.lanes, vectors + zeros)[:columns]):
            to = target.start + (j + k) * target.stride + i
            simd.store(target.buffer, to, vector, None if padded else rows)

    rows, columns = size
    pieces(rows, simd.lanes, lambda i, r: pieces(columns, simd.lanes, lambda j, c: block(i, r, j, c)))
