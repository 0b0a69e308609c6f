"""Matrix multiplication in float16 by vectors: twice the lanes of float32, sums in float32 after every few steps.

A sum of `HALF_BLOCK` products in float16 is off by about 1e-3 of itself; where such sums are added up in float32, their
errors average out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tvm.tirx import PrimFunc
from tvm.tirx.script import builder as T

from chipfit.codegen.dots import HALF
from chipfit.codegen.epilogue import Finish, Layout
from chipfit.codegen.kernel import Buffer, Expr, Simd, function, jobs, pieces, split
from chipfit.codegen.register import Multiply, Output, RegisterTile
from chipfit.codegen.spec import Epilogue, Operand, Step
from chipfit.codegen.spec_matmuls import MatmulSpec
from chipfit.ir.images import Shape
from chipfit.targets.packed import round_up
from chipfit.targets.tile import Tile
from chipfit.targets.tiles import HALF_BLOCK


def build_half_matmul(spec: MatmulSpec, tile: Tile, name: str, shapes: Sequence[Shape] | None = None) -> PrimFunc:
    """Arguments: A, B, operands, C, scratch. Raises ValueError unless A's and C's rows are dense."""
    if spec.a_layout().column != 1 or spec.c_layout().column != 1:
        raise ValueError(f"Kernel {name} reads and writes rows that are dense.")

    def body(a: Buffer, b: Buffer, *rest: Buffer, scratch: Buffer) -> None:
        simd = Simd(tile.lanes)
        finish = Finish(simd, spec.epilogue, rest[:-1], (spec.batch, spec.m, spec.n))
        _Half(spec, tile, simd, a, b, rest[-1], finish, scratch).emit()

    return function(name, spec.arguments(tile), body, shapes)


@dataclass(frozen=True)
class _Half:
    """The state of one kernel's emission: A is rounded into scratch by all threads, then each takes panels or rows."""

    spec: MatmulSpec
    tile: Tile
    simd: Simd
    a: Buffer
    b: Buffer
    c: Buffer
    finish: Finish
    scratch: Buffer

    def emit(self) -> None:
        spec, tile, rows = self.spec, self.tile, self._rounded()
        if tile.order == "rows":
            with jobs(-(-spec.m // tile.mr)) as (t,):
                split(spec.m, tile.mr, t, lambda height: self._row_block(rows, t * tile.mr, height))
        else:
            with jobs(-(-spec.n // tile.nr)) as (p,):
                split(spec.n, tile.nr, p, lambda columns: self._column_block(rows, p * tile.nr, columns))

    def _rounded(self) -> Buffer:
        """A in float16, (m, k)."""
        view, lanes, spec = self.spec.a_layout(), self.simd.lanes, self.spec
        width = round_up(spec.k, lanes)
        halves = self.scratch
        with jobs(spec.m) as (row,):

            def vector(k: Expr, valid: int) -> None:
                value = self.simd.load(self.a, view.start(0) + row * view.row + k, valid)
                T.buffer_store(halves, T.cast(value, f"float16x{lanes}"), [T.ramp(row * width + k, 1, lanes)])

            pieces(spec.k, lanes, vector)
        return halves

    def _row_block(self, rows: Buffer, m: Expr, height: int) -> None:
        pieces(self.spec.n, self.tile.nr, lambda n, columns: self._tile(rows, m, height, n, columns))

    def _column_block(self, rows: Buffer, n: Expr, columns: int) -> None:
        pieces(self.spec.m, self.tile.mr, lambda m, height: self._tile(rows, m, height, n, columns))

    def _tile(self, rows: Buffer, m: Expr, height: int, n: Expr, columns: int) -> None:
        """Whole sums in scratch, then finished."""
        simd, width = self.simd, round_up(columns, self.simd.lanes)
        sums = T.alloc_buffer((height * width,), "float32", scope="global", layout=None)
        with T.serial(0, height * width // simd.lanes) as i:
            simd.store(sums, i * simd.lanes, simd.splat(0))
        pieces(self.spec.k, HALF_BLOCK, lambda k, steps: self._block(rows, sums, (m, n), (height, columns), k, steps))
        view = self.spec.c_layout()
        layout = Layout(view.start(0), (0, view.row, 1))

        def vector(row: Expr, column: Expr, valid: int) -> None:
            where = (0, m + row, n + column)
            value = T.bind(simd.load(sums, row * width + column))
            simd.store(self.c, layout.at(where), self.finish(value, where, valid), valid)

        with T.serial(0, height) as row:
            pieces(columns, simd.lanes, lambda column, valid: vector(row, column, valid))

    def _block(
        self, rows: Buffer, sums: Buffer, at: tuple[Expr, Expr], size: tuple[int, int], start: Expr, steps: int
    ) -> None:
        """Adds the products of some steps along k to the sums."""
        (m, n), (height, columns), simd = at, size, self.simd
        width, stride = round_up(columns, simd.lanes), round_up(self.spec.k, simd.lanes)

        def reduce(multiply: Multiply) -> None:
            with T.serial(0, steps) as step:
                k = start + step
                vectors = [simd.load(self.b, n * self.spec.k + k * width + j) for j in range(0, width, simd.lanes)]
                multiply([rows[(m + i) * stride + k] for i in range(height)], vectors)

        place = (height, width)
        add = Finish(simd, Epilogue((Step("add", ("acc", 0)),), (Operand(place),)), (sums,), place)
        output = Output(sums, Layout(0, (width, 1)), add, lambda total, row: T.cast(total, f"float32x{simd.lanes}"))
        tile = RegisterTile(simd, height, columns, padded=True, arithmetic=HALF)
        tile.emit(reduce, lambda row, column: (row, column), output)
