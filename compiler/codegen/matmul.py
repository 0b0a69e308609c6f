"""Matrix multiplication: packed weights or two activations, any sizes, epilogue fused."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from tvm.tirx import PrimFunc
from tvm.tirx.script import builder as T

from chipfit.codegen.dots import ARITHMETIC, FLOAT, Arithmetic
from chipfit.codegen.epilogue import Finish, Layout
from chipfit.codegen.kernel import Buffer, Expr, Simd, function, jobs, pieces, split
from chipfit.codegen.nibbles import Nibbles
from chipfit.codegen.nontemporal import fence, nontemporal
from chipfit.codegen.register import Multiply, Output, RegisterTile
from chipfit.codegen.rounding import RoundedRows
from chipfit.codegen.spec import View, dense
from chipfit.codegen.spec_matmuls import MatmulSpec
from chipfit.codegen.transpose import Matrix, transpose_matrix
from chipfit.ir.images import Shape
from chipfit.targets.packed import round_up
from chipfit.targets.tile import Tile

Columns = Callable[[Expr], list[Expr]]  # reduction index -> the vectors of B there


def build_matmul(spec: MatmulSpec, tile: Tile, name: str, shapes: Sequence[Shape] | None = None) -> PrimFunc:
    """Arguments: A, B, operands, C. Raises ValueError if C, or both dimensions of B, are strided."""
    if spec.c_layout().column != 1:
        raise ValueError(f"Kernel {name} cannot store vectors into a strided output.")

    def body(a: Buffer, b: Buffer, *rest: Buffer, scratch: Buffer | None = None) -> None:
        simd = Simd(tile.lanes)
        scales, rest = (rest[0], rest[1:]) if spec.stored == "int4" else (None, rest)
        finish = Finish(simd, spec.epilogue, rest[:-1], (spec.batch, spec.m, spec.n))
        nibbles = Nibbles(simd, spec.k, b, scales) if spec.stored == "int4" else None
        rounded = RoundedRows(simd, a, spec.m, spec.k) if spec.rounded else None
        view = spec.a_layout()
        if rounded and scratch is not None:
            a, view = rounded.widened(scratch), dense(1, spec.m, spec.k)
        _Matmul(spec, tile, simd, a, view, b, rest[-1], finish, nibbles, rounded).emit()

    return function(name, spec.arguments(tile), body, shapes)


@dataclass(frozen=True)
class _Matmul:
    """The state of one kernel's emission."""

    spec: MatmulSpec
    tile: Tile
    simd: Simd
    a: Buffer
    a_view: View
    b: Buffer
    c: Buffer
    finish: Finish
    nibbles: Nibbles | None
    rounded: RoundedRows | None

    def emit(self) -> None:
        with nontemporal(self.spec.nontemporal, self.simd):
            self._jobs()

    def _jobs(self) -> None:
        spec, tile = self.spec, self.tile
        if tile.order == "rows" and not self._fills_panels:
            with jobs(spec.batch, -(-spec.m // tile.mr)) as (z, t):
                split(spec.m, tile.mr, t, lambda rows: self._row_block(z, t * tile.mr, rows))
                fence(spec.nontemporal)
        else:
            with jobs(spec.batch, -(-spec.n // tile.nr)) as (z, p):
                split(spec.n, tile.nr, p, lambda columns: self._column_block(z, p * tile.nr, columns))
                fence(spec.nontemporal)

    @property
    def _arithmetic(self) -> Arithmetic:
        return ARITHMETIC[self.tile.unit]

    @property
    def _steps(self) -> int:
        """Of the reduction."""
        return -(-self.spec.k // self._arithmetic.taken)

    @property
    def _header(self) -> int:
        """Rows of a packed panel before those along k: what sums of int8 start from."""
        return int(self._arithmetic is not FLOAT)

    @property
    def _b_strides(self) -> tuple[int, int]:
        """The strides of an activation B along k and along n."""
        view = self.spec.b_layout()
        return (view.column, view.row) if self.spec.transposed else (view.row, view.column)

    @property
    def _transposes(self) -> bool:
        return self.spec.weight == "activation" and self._b_strides[1] != 1

    @property
    def _fills_panels(self) -> bool:
        """Whether a panel of B is brought into shape in scratch before its tiles are computed."""
        return self._transposes or (self.nibbles is not None and self.spec.m > 1)

    def _row_block(self, z: Expr, start: Expr, rows: int) -> None:
        def panel(n: Expr, columns: int) -> None:
            self._tile(z, start, rows, n, columns, self._columns(z, n, columns))

        pieces(self.spec.n, self.tile.nr, panel)

    def _column_block(self, z: Expr, n: Expr, columns: int) -> None:
        vectors = self._filled_panel(z, n, columns) if self._fills_panels else self._columns(z, n, columns)
        pieces(self.spec.m, self.tile.mr, lambda m, rows: self._tile(z, m, rows, n, columns, vectors))

    def _columns(self, z: Expr, n: Expr, columns: int) -> Columns:
        """The vectors of B at column `n`, read from a packed weight or from a B whose columns are dense."""
        lanes, width = self.simd.lanes, round_up(columns, self.simd.lanes)
        if self.spec.weight == "packed":
            start = n * (self._header + self._steps) + self._header * width
            return lambda k: [self._read(start + k * width + j) for j in range(0, width, lanes)]
        start, row = self.spec.b_layout().start(z // self.spec.share) + n, self._b_strides[0]
        return lambda k: [
            self.simd.load(self.b, start + k * row + j, min(lanes, columns - j)) for j in range(0, width, lanes)
        ]

    def _read(self, offset: Expr) -> Expr:
        """A vector of a packed weight as the sums take it."""
        if self._header:
            return self.simd.load(self.b, offset)
        half = self.spec.stored == "bfloat16"
        return self.simd.load_bfloat16(self.b, offset) if half else self.simd.load_as_float(self.b, offset)

    def _filled_panel(self, z: Expr, n: Expr, columns: int) -> Columns:
        """The vectors of B at column `n` from scratch: a panel of int4 as numbers, or of rows along k transposed."""
        lanes, width = self.simd.lanes, round_up(columns, self.simd.lanes)
        panel = T.alloc_buffer((self.spec.k * width,), "float32", scope="global", layout=None)
        if self.nibbles:
            self.nibbles.fill(panel, n, width)
        else:
            self._transpose(panel, z, n, columns)
        return lambda k: [self.simd.load(panel, k * width + j) for j in range(0, width, lanes)]

    def _transpose(self, panel: Buffer, z: Expr, n: Expr, columns: int) -> None:
        along_k, along_n = self._b_strides
        if along_k != 1:
            raise ValueError("An activation B needs one dense dimension.")
        start = self.spec.b_layout().start(z // self.spec.share) + n * along_n
        source, target = Matrix(self.b, start, along_n), Matrix(panel, 0, round_up(columns, self.simd.lanes))
        transpose_matrix(self.simd, source, target, (columns, self.spec.k), padded=True)

    def _tile(self, z: Expr, m: Expr, rows: int, n: Expr, columns: int, vectors: Columns) -> None:
        view = self.a_view
        start = view.start(z) + m * view.row

        def reduce(multiply: Multiply) -> None:
            if self.nibbles and not self._fills_panels:
                self.nibbles.multiply(multiply, self.a, Layout(start, (view.column,)), n, columns)
                return
            with T.serial(0, self._steps) as k:
                values = vectors(k)
                self._prefetch(m, n, k, columns)
                multiply([self.a[start + i * view.row + k * view.column] for i in range(rows)], values)

        tile = RegisterTile(self.simd, rows, columns, arithmetic=self._arithmetic)
        starts = vectors(-1) if self._header else None
        tile.emit(reduce, lambda row, column: (z, m + row, n + column), self._output(z, m), starts)

    def _output(self, z: Expr, m: Expr) -> Output:
        """Of a tile from row `m` on."""
        rounded, past = self.rounded, self.spec.nontemporal
        output = Output(self.c, self._c_layout(z), self.finish, nontemporal=past)
        return replace(output, number=lambda total, row: rounded.number(total, m + row)) if rounded else output

    def _c_layout(self, z: Expr) -> Layout:
        """C's layout within matrix z, whose own offset holds what the head and batch strides add."""
        view = self.spec.c_layout()
        return Layout(view.start(z), (0, view.row, 1))

    def _prefetch(self, m: Expr, n: Expr, k: Expr, columns: int) -> None:
        """Fetch the next panel of weights while this one is used, spread evenly over the row tiles."""
        spec, tile, rows = self.spec, self.tile, self._header + self._steps
        if spec.stored in ("int8", "bfloat16", "float16") and spec.m <= tile.mr:
            width = round_up(columns, tile.lanes)
            self.simd.prefetch_ahead(self.b, n * rows + k * width, width)
        elif tile.prefetch and spec.weight == "packed" and (spec.stored == "float32" or self._header):
            tiles, panel = -(-spec.m // tile.mr), rows * tile.nr
            within = (m // tile.mr * self._steps + k) * tile.nr // tiles
            self.simd.prefetch(self.b, n * rows + panel + within)
