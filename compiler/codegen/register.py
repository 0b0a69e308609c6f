"""The register tile: a block of accumulators that stays in vector registers through the whole reduction."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tvm.tirx.script import builder as T

from chipfit.codegen.epilogue import Finish, Layout
from chipfit.codegen.kernel import Buffer, Expr, Simd

Multiply = Callable[[Sequence[Expr], Sequence[Expr]], None]  # (one scalar per row, one vector per column vector)


@dataclass(frozen=True)
class Output:
    """Where finished vectors go."""

    buffer: Buffer
    layout: Layout
    finish: Finish


@dataclass(frozen=True)
class RegisterTile:
    """`rows` by `columns` results; the columns lie along the vectors, the last of which may be partly used.

    Where the output is stored with whole vectors (`padded`), its last vector is written whole.
    """

    simd: Simd
    rows: int
    columns: int
    padded: bool = False

    @property
    def vectors(self) -> int:
        return -(-self.columns // self.simd.lanes)

    def valid(self, vector: int) -> int:
        """How many lanes of a vector are inside."""
        return min(self.simd.lanes, self.columns - vector * self.simd.lanes)

    def emit(
        self, reduce: Callable[[Multiply], None], position: Callable[[Expr, int], Sequence[Expr]], output: Output
    ) -> None:
        """Accumulate by `reduce`, which emits the loops and calls `multiply` in them, then finish and store.

        `position(row, column)` is the output's logical index.
        """
        accumulators = [[self.simd.register(self.simd.splat(0)) for _ in range(self.vectors)] for _ in range(self.rows)]

        def multiply(scalars: Sequence[Expr], vectors: Sequence[Expr]) -> None:
            for row, scalar in zip(accumulators, scalars, strict=True):
                factor = self.simd.splat(scalar)
                for accumulator, vector in zip(row, vectors, strict=True):
                    self.simd.set(accumulator, self.simd.get(accumulator) + factor * vector)

        reduce(multiply)
        self._store(accumulators, position, output)

    def _store(
        self, accumulators: list[list[Buffer]], position: Callable[[Expr, int], Sequence[Expr]], output: Output
    ) -> None:
        heavy = output.finish.heavy
        for row, registers in enumerate(accumulators):
            for vector, register in enumerate(registers):
                where = position(row, vector * self.simd.lanes)
                value = self.simd.get(register)
                self._write(output, where, value if heavy else output.finish(value, where, self.valid(vector)), vector)
        if heavy:
            self._finish_again(position, output)

    def _finish_again(self, position: Callable[[Expr, int], Sequence[Expr]], output: Output) -> None:
        """A long epilogue runs in a loop over the stored tile, still in the first cache: inlined it would spill."""
        with T.serial(0, self.rows) as row:
            for vector in range(self.vectors):
                where = position(row, vector * self.simd.lanes)
                value = T.bind(self.simd.load(output.buffer, output.layout.at(where), self._stored(vector)))
                self._write(output, where, output.finish(value, where, self.valid(vector)), vector)

    def _write(self, output: Output, where: Sequence[Expr], value: Expr, vector: int) -> None:
        self.simd.store(output.buffer, output.layout.at(where), value, self._stored(vector))

    def _stored(self, vector: int) -> int | None:
        return None if self.padded else self.valid(vector)
