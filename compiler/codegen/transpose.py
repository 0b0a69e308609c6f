"""Transposing through vector registers."""

from __future__ import annotations

from tvm.tirx import Shuffle
from tvm.tirx.script import builder as T

from chipfit.codegen.kernel import Buffer, Expr, Simd, pieces


def transpose(lanes: int, rows: list[Expr]) -> list[Expr]:
    """The transpose of a square block of `lanes` vectors, by log2(lanes) rounds of perfect interleaving."""
    low = [index for i in range(lanes // 2) for index in (i, lanes + i)]
    high = [index + lanes // 2 for index in low]
    half = lanes // 2
    for _ in range(lanes.bit_length() - 1):
        pairs = [(rows[i], rows[i + half]) for i in range(half)]
        rows = [T.bind(Shuffle(list(pair), indices)) for pair in pairs for indices in (low, high)]
    return rows


def pack_transposed(
    simd: Simd, source: Buffer, start: Expr, stride: int, size: tuple[int, int], target: Buffer, width: int
) -> None:
    """target[j * width + i] = source[start + i * stride + j] for i, j below `size`; columns up to `width` are zero."""
    rows, columns = size

    def block(i: int, j: Expr, valid: int) -> None:
        inside = [simd.load(source, start + (i + r) * stride + j, valid) for r in range(min(simd.lanes, rows - i))]
        vectors = [T.bind(vector) for vector in inside]
        zero = [simd.splat(0)] * (simd.lanes - len(vectors))
        for k, vector in enumerate(transpose(simd.lanes, vectors + zero)[:valid]):
            simd.store(target, (j + k) * width + i, vector)

    for i in range(0, width, simd.lanes):
        pieces(columns, simd.lanes, lambda j, valid, i=i: block(i, j, valid))
