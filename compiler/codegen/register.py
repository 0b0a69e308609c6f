"""The register tile: a block of accumulators that stays in vector registers through the whole reduction."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tvm.tirx.script import builder as T

from chipfit.codegen.dots import FLOAT, Arithmetic
from chipfit.codegen.epilogue import Finish, Layout
from chipfit.codegen.kernel import Buffer, Expr, Simd, pieces
from chipfit.codegen.nontemporal import store

Position = Callable[[Expr, Expr], Sequence[Expr]]  # (row, column) of the tile -> the output's logical index
Multiply = Callable[[Sequence[Expr], Sequence[Expr]], None]  # (one scalar per row, one vector per column vector)
Number = Callable[[Expr, Expr], Expr]  # (a vector of sums, its row in the tile) -> float32


@dataclass(frozen=True)
class Output:
    """Where finished vectors go, and what makes numbers of the sums before they are finished.

    `nontemporal`: past the caches, all of them whole; but not where a long epilogue reads them again.
    """

    buffer: Buffer
    layout: Layout
    finish: Finish
    number: Number = lambda total, row: total
    nontemporal: bool = False


@dataclass(frozen=True)
class RegisterTile:
    """`rows` by `columns` results; the columns lie along the vectors, the last of which may be partly used.

    Where the output is stored with whole vectors (`padded`), its last vector is written whole.
    """

    simd: Simd
    rows: int
    columns: int
    padded: bool = False
    arithmetic: Arithmetic = FLOAT

    @property
    def vectors(self) -> int:
        return -(-self.columns // self.simd.lanes)

    def valid(self, vector: int) -> int:
        """How many lanes of a vector are inside."""
        return min(self.simd.lanes, self.columns - vector * self.simd.lanes)

    def emit(
        self,
        reduce: Callable[[Multiply], None],
        position: Position,
        output: Output,
        starts: Sequence[Expr] | None = None,
    ) -> None:
        """Accumulate by `reduce`, which emits the loops and calls `multiply` in them, then finish and store.

        `starts`: what each column vector's sums start from, zero unless told.
        """
        arithmetic, simd = self.arithmetic, self.simd
        starts = [arithmetic.zero(simd)] * self.vectors if starts is None else starts
        accumulators = [[simd.register(start, arithmetic.dtype) for start in starts] for _ in range(self.rows)]

        def multiply(scalars: Sequence[Expr], vectors: Sequence[Expr]) -> None:
            for row, scalar in zip(accumulators, scalars, strict=True):
                factor = simd.splat(scalar)
                for accumulator, vector in zip(row, vectors, strict=True):
                    simd.set(accumulator, arithmetic.add(simd, simd.get(accumulator), factor, vector))

        reduce(multiply)
        self._store(accumulators, position, output)

    def _store(self, accumulators: list[list[Buffer]], position: Position, output: Output) -> None:
        heavy = output.finish.heavy
        for row, registers in enumerate(accumulators):
            for vector, register in enumerate(registers):
                where, valid = position(row, vector * self.simd.lanes), self.valid(vector)
                value = output.number(self.simd.get(register), row)
                value = value if heavy else output.finish(value, where, valid)
                if output.nontemporal and not heavy:
                    store(self.simd, output.buffer, output.layout.at(where), value)
                else:
                    self.simd.store(output.buffer, output.layout.at(where), value, None if self.padded else valid)
        if heavy:
            self._finish_again(position, output)

    def _finish_again(self, position: Position, output: Output) -> None:
        """A long epilogue runs in a loop over the stored tile, still in the first cache: inlined it would spill."""
        lanes = self.simd.lanes

        def vector(row: Expr, column: Expr, valid: int) -> None:
            where = position(row, column)
            stored = None if self.padded else valid
            value = T.bind(self.simd.load(output.buffer, output.layout.at(where), stored))
            self.simd.store(output.buffer, output.layout.at(where), output.finish(value, where, valid), stored)

        with T.serial(0, self.rows) as row:
            pieces(self.columns, lanes, lambda column, valid: vector(row, column, valid))
