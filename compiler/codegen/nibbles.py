"""Weights of four bits in a matmul: eight in each lane of a vector of words, a scale for every group of a column."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from tvm.tirx.script import builder as T

from chipfit.codegen.epilogue import Layout
from chipfit.codegen.kernel import Buffer, Expr, Simd
from chipfit.codegen.register import Multiply
from chipfit.ir.stored import GROUP, ZERO, groups
from chipfit.targets.packed import WORD, round_up

AVX512_LANES = 16  # vectors of so many float32 are AVX-512's
BITS = 4

Visit = Callable[[Expr, int, list[Expr]], None]  # (first row of a word, row in the word, vectors of numbers there)


@dataclass(frozen=True)
class Nibbles:
    """B (k, n) as `packing` lays out nibbles and their scales: panels of words, panels of float16."""

    simd: Simd
    k: int
    words: Buffer
    scales: Buffer

    def multiply(self, multiply: Multiply, a: Buffer, row: Layout, n: Expr, columns: int) -> None:
        """One row times the panel at column `n`. The sum of each group is scaled once."""
        width = round_up(columns, self.simd.lanes)
        partial = [self.simd.register() for _ in range(0, width, self.simd.lanes)]

        def step(k: Expr, index: int, numbers: list[Expr]) -> None:
            factor = self.simd.splat(a[row.at([k + index])])
            for register, number in zip(partial, numbers, strict=True):
                self.simd.set(register, self.simd.get(register) + factor * number)

        def group(g: Expr, size: int) -> None:
            for register in partial:
                self.simd.set(register, self.simd.splat(0))
            self._numbers(g, size, n, width, step, streams=True)
            pairs = zip(partial, self._scales(g, n, width), strict=True)
            scaled = [self.simd.get(register) * scale for register, scale in pairs]
            multiply([T.float32(1)], scaled)

        self._groups(group)

    def fill(self, panel: Buffer, n: Expr, width: int) -> None:
        """Writes the panel at column `n` as float32 (k, width)."""

        def group(g: Expr, size: int) -> None:
            scales = [T.bind(scale) for scale in self._scales(g, n, width)]

            def step(k: Expr, index: int, numbers: list[Expr]) -> None:
                for vector, (number, scale) in enumerate(zip(numbers, scales, strict=True)):
                    self.simd.store(panel, (k + index) * width + vector * self.simd.lanes, number * scale)

            self._numbers(g, size, n, width, step)

        self._groups(group)

    def _groups(self, group: Callable[[Expr, int], None]) -> None:
        whole, rest = divmod(self.k, GROUP)
        if whole:
            with T.serial(0, whole) as g:
                group(g, GROUP)
        if rest:
            group(whole, rest)

    def _numbers(self, g: Expr, size: int, n: Expr, width: int, step: Visit, streams: bool = False) -> None:
        """Emits `step(k, index, vectors at k + index)` for the rows of group `g`, of which there are `size`."""
        lanes, start = self.simd.lanes, n * -(-self.k // WORD)
        table = self._table()

        def word(w: Expr, count: int) -> None:
            offset = start + (g * (GROUP // WORD) + w) * width
            words = [T.bind(self.simd.load(self.words, offset + j)) for j in range(0, width, lanes)]
            if streams:
                self.simd.prefetch_ahead(self.words, offset, width)
            for index in range(count):
                step(g * GROUP + w * WORD, index, [self._number(each, index, table) for each in words])

        whole, rest = divmod(size, WORD)
        if whole:
            with T.serial(0, whole) as w:
                word(w, WORD)
        if rest:
            word(whole, rest)

    def _scales(self, g: Expr, n: Expr, width: int) -> list[Expr]:
        offset = n * groups(self.k) + g * width
        return [self.simd.load_as_float(self.scales, offset + j) for j in range(0, width, self.simd.lanes)]

    def _table(self) -> Expr | None:
        """What each four bits stand for, where one instruction looks up every lane (AVX-512's vpermps)."""
        if self.simd.lanes != AVX512_LANES:
            return None
        lanes = T.cast(T.ramp(T.int32(-ZERO), 1, AVX512_LANES), f"float32x{AVX512_LANES}")
        return T.bind(lanes)

    def _number(self, words: Expr, index: int, table: Expr | None) -> Expr:
        shifted = T.shift_right(words, self._integer(BITS * index)) if index else words
        if table is not None:  # it looks at the lowest four bits alone
            lookup = T.llvm_lookup_intrinsic_id("llvm.x86.avx512.permvar.sf.512")
            return T.call_llvm_pure_intrin(f"float32x{AVX512_LANES}", lookup, table, shifted)
        low = T.bitwise_and(shifted, self._integer(2**BITS - 1)) - self._integer(ZERO)
        return T.cast(low, f"float32x{self.simd.lanes}")

    def _integer(self, value: int) -> Expr:
        return T.broadcast(T.int32(value), self.simd.lanes)
