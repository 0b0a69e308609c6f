"""Attention in one kernel: softmax(scale Q K^T + mask) V, a block of query rows at a time, scores kept in scratch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tvm.tirx import PrimFunc, Select
from tvm.tirx.script import builder as T

from chipfit.codegen.epilogue import Finish, Layout, dense_layout
from chipfit.codegen.kernel import Buffer, Expr, Simd, function, jobs, pieces, split
from chipfit.codegen.register import Multiply, Output, RegisterTile
from chipfit.codegen.rows import Row, Value, softmax_row
from chipfit.codegen.spec import NO_STEPS
from chipfit.codegen.spec_matmuls import AttentionSpec
from chipfit.codegen.transpose import Matrix, transpose_matrix
from chipfit.ir.images import Shape
from chipfit.targets.packed import round_up
from chipfit.targets.tile import Tile


def build_attention(spec: AttentionSpec, tile: Tile, name: str, shapes: Sequence[Shape] | None = None) -> PrimFunc:
    """Arguments: Q, K, V, mask if there is one, output. Raises ValueError unless vectors are dense in all of them."""
    if any(view.column != 1 for view in (spec.q_view, spec.k_view, spec.v_view, spec.c_view)):
        raise ValueError(f"Kernel {name} reads and writes rows that are dense.")

    def body(q: Buffer, k: Buffer, v: Buffer, *rest: Buffer) -> None:
        mask = rest[0] if spec.mask else None
        _Attention(spec, tile, Simd(tile.lanes), q, k, v, mask, rest[-1]).emit()

    return function(name, spec.arguments(tile), body, shapes)


@dataclass(frozen=True)
class _Attention:
    """The state of one kernel's emission. A job is a head of K with a block of rows of each query head that uses it."""

    spec: AttentionSpec
    tile: Tile
    simd: Simd
    q: Buffer
    k: Buffer
    v: Buffer
    mask: Buffer | None
    c: Buffer

    @property
    def stride(self) -> int:
        """Of a row of scores."""
        return round_up(self.spec.n, self.simd.lanes)

    def emit(self) -> None:
        spec, block = self.spec, self.tile.block
        with jobs(spec.batch * spec.heads // spec.share, -(-spec.m // block)) as (z, b):
            split(spec.m, block, b, lambda rows: self._job(z, b * block, rows))

    def _job(self, z: Expr, m: Expr, rows: int) -> None:
        scores = T.alloc_buffer((self.spec.share * rows * self.stride,), "float32", scope="global", layout=None)
        self._multiply_keys(scores, z, m, rows)
        with T.serial(0, self.spec.share) as head, T.serial(0, rows) as row:
            start = (head * rows + row) * self.stride
            score = self._score(scores, start, z * self.spec.share + head, m + row)
            softmax_row(Row(self.simd, self.spec.n), False, score, scores, start)
        self._multiply_values(scores, z, m, rows)

    def _multiply_keys(self, scores: Buffer, z: Expr, m: Expr, rows: int) -> None:
        """scores (share, rows, n) = Q K^T, a transposed panel of K at a time."""
        spec, lanes = self.spec, self.simd.lanes

        def panel(n: Expr, keys: int) -> None:
            width = round_up(keys, lanes)
            turned = T.alloc_buffer((spec.k * width,), "float32", scope="global", layout=None)
            source = Matrix(self.k, spec.k_view.start(z) + n * spec.k_view.row, spec.k_view.row)
            transpose_matrix(self.simd, source, Matrix(turned, 0, width), (keys, spec.k), padded=True)

            def vectors(k: Expr) -> list[Expr]:
                return [self.simd.load(turned, k * width + j) for j in range(0, width, lanes)]

            def tile(head: Expr, row: Expr, height: int) -> None:
                start = spec.q_view.start(z * spec.share + head) + (m + row) * spec.q_view.row
                target = Layout((head * rows + row) * self.stride + n, (self.stride, 1))
                output = Output(scores, target, self._plain)
                self._product(self.q, start, spec.q_view.row, spec.k, vectors, (height, keys), output)

            self._each_tile(rows, tile)

        def needed(n: Expr, keys: int) -> None:
            if not spec.causal:
                panel(n, keys)
                return
            with T.If(n < m + rows), T.Then():
                panel(n, keys)

        pieces(spec.n, self.tile.nr, needed)

    def _multiply_values(self, scores: Buffer, z: Expr, m: Expr, rows: int) -> None:
        """C (share, rows, width) = weights V; in a causal attention as far as the tile's last row sees."""
        spec, lanes = self.spec, self.simd.lanes

        def panel(column: Expr, columns: int) -> None:
            def vectors(k: Expr) -> list[Expr]:
                at = spec.v_view.start(z) + k * spec.v_view.row + column
                return [self.simd.load(self.v, at + j, min(lanes, columns - j)) for j in range(0, columns, lanes)]

            def tile(head: Expr, row: Expr, height: int) -> None:
                seen = T.min(T.int32(spec.n), m + row + height) if spec.causal else spec.n
                base = spec.c_view.start(z * spec.share + head) + (m + row) * spec.c_view.row + column
                output = Output(self.c, Layout(base, (spec.c_view.row, 1)), self._plain)
                start = (head * rows + row) * self.stride
                self._product(scores, start, self.stride, seen, vectors, (height, columns), output)

            self._each_tile(rows, tile)

        pieces(spec.width, self.tile.nr, panel)

    def _each_tile(self, rows: int, tile: Callable[[Expr, Expr, int], None]) -> None:
        with T.serial(0, self.spec.share) as head:
            pieces(rows, self.tile.mr, lambda row, height: tile(head, row, height))

    def _product(
        self,
        a: Buffer,
        start: Expr,
        stride: int,
        depth: Expr,
        vectors: Callable[[Expr], list[Expr]],
        size: tuple[int, int],
        output: Output,
    ) -> None:
        """A tile of `size` (rows, columns): rows of `a`, `stride` apart, times `depth` vectors of the other factor."""

        def reduce(multiply: Multiply) -> None:
            with T.serial(0, depth) as k:
                multiply([a[start + i * stride + k] for i in range(size[0])], vectors(k))

        RegisterTile(self.simd, *size).emit(reduce, lambda row, column: (row, column), output)

    @property
    def _plain(self) -> Finish:
        return Finish(self.simd, NO_STEPS, (), (1, 1))

    def _score(self, scores: Buffer, start: Expr, z: Expr, row: Expr) -> Value:
        """scale * score + mask along one row; what a causal attention hides is as low as can be."""
        spec, simd = self.spec, self.simd

        def score(i: Expr, valid: int) -> Expr:
            value = simd.load(scores, start + i, valid) * simd.splat(spec.scale)
            if self.mask is not None and spec.mask is not None:
                layout = dense_layout(spec.mask, (spec.batch, spec.heads, spec.m, spec.n))
                at = layout.at((z // spec.heads, z % spec.heads, row, i))
                value = value + simd.vector(self.mask, at, valid, layout.strides[-1])
            if spec.causal:
                position = T.ramp(T.cast(i, "int32"), 1, simd.lanes)
                seen = position <= T.broadcast(T.cast(row, "int32"), simd.lanes)
                value = Select(seen, value, simd.splat(-float("inf")))
            return T.bind(value)

        return score
