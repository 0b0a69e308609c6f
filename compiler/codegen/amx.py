"""Matrix multiplication on Intel's AMX, in bfloat16 or int8: tiles of 16 rows by 64 bytes, epilogue fused.

Intel 64 and IA-32 Architectures Software Developer's Manual, volume 1, chapter 18: eight tile registers, here four sums
in a square, two tiles of A and two of B; TDPBF16PS adds the products of 16 x 32 by 32 x 16 numbers to a tile of sums,
TDPBUSD those of 16 x 64 by 64 x 16.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tvm.tirx import PrimFunc
from tvm.tirx.script import builder as T

from chipfit.codegen.epilogue import Finish, Layout
from chipfit.codegen.kernel import LINE, Buffer, Expr, Simd, function, jobs, pieces, split
from chipfit.codegen.nontemporal import fence, nontemporal, store
from chipfit.codegen.rounding import RoundedRows
from chipfit.codegen.spec_matmuls import MatmulSpec
from chipfit.ir.images import Shape
from chipfit.targets.packed import AMX_DEPTH, AMX_PANEL, AMX_SIDE, AMX_SKEW, ROW_STEP, round_up
from chipfit.targets.tile import Tile

TILE_BYTES = 64  # of a row of a tile
A, B = 4, 6  # the first tile register of each factor; the sums are in 0 to 3


@dataclass(frozen=True)
class Numbers:
    """What the unit multiplies: how many along k fill a row of a tile, and as what they lie in buffers and are summed.

    `header`: elements of a packed panel before its tiles.
    """

    depth: int
    item: int  # bytes of a buffer's element
    instruction: str
    sums: str
    header: int = 0

    @property
    def row(self) -> int:
        """Elements of a tile's row."""
        return TILE_BYTES // self.item


BFLOAT16 = Numbers(AMX_DEPTH, 2, "tdpbf16ps", "float32")
INT8 = Numbers(ROW_STEP, 4, "tdpbusd", "int32", AMX_PANEL)  # by words of four; corrections come first


def build_amx_matmul(spec: MatmulSpec, tile: Tile, name: str, shapes: Sequence[Shape] | None = None) -> PrimFunc:
    """Arguments: A, B, operands, C. Raises ValueError unless A's and C's rows are dense."""
    if spec.a_layout().column != 1 or spec.c_layout().column != 1:
        raise ValueError(f"Kernel {name} reads and writes rows that are dense.")

    def body(a: Buffer, b: Buffer, *rest: Buffer, scratch: Buffer | None = None) -> None:
        simd = Simd(tile.lanes)
        finish = Finish(simd, spec.epilogue, rest[:-1], (spec.batch, spec.m, spec.n))
        _Amx(spec, simd, a, b, rest[-1], finish, scratch).emit()

    return function(name, spec.arguments(tile), body, shapes)


@dataclass(frozen=True)
class _Amx:
    """The state of one kernel's emission: A is rounded by all threads, if it isn't yet, then each takes panels of B."""

    spec: MatmulSpec
    simd: Simd
    a: Buffer
    b: Buffer
    c: Buffer
    finish: Finish
    scratch: Buffer | None

    @property
    def numbers(self) -> Numbers:
        return INT8 if self.spec.rounded else BFLOAT16

    @property
    def depth(self) -> int:
        return round_up(self.spec.k, self.numbers.depth)

    @property
    def steps(self) -> int:
        return self.depth // self.numbers.depth

    @property
    def stride(self) -> int:
        """Elements from one rounded row of A to the next."""
        return self.spec.a_layout().row if self.spec.rounded else self.depth + AMX_SKEW

    @property
    def step(self) -> int:
        """Elements of a panel of B for one step along k."""
        return AMX_PANEL * self.numbers.row

    def panel(self, p: Expr) -> Expr:
        """Where panel `p` of B starts."""
        return p * (self.numbers.header + self.steps * self.step)

    def emit(self) -> None:
        rows = self.a if self.scratch is None else self._rounded(self.scratch)
        past = self.spec.nontemporal
        with nontemporal(past, self.simd), jobs(-(-self.spec.n // AMX_PANEL)) as (p,):
            configure()
            split(self.spec.n, AMX_PANEL, p, lambda columns: self._panel(rows, p, columns))
            fence(past)
            instruction("tilerelease")

    def _rounded(self, halves: Buffer) -> Buffer:
        """A in bfloat16."""
        with jobs(self.spec.m) as (row,):
            self._round(halves, row)
        return halves

    def _round(self, halves: Buffer, row: Expr) -> None:
        """One row of A as bfloat16, to the nearest, ties to even; zeros behind its end."""
        view, lanes = self.spec.a_layout(), self.simd.lanes
        start = view.start(0) + row * view.row

        def vector(k: Expr, valid: int) -> None:
            value = self.simd.load(self.a, start + k, valid)
            T.buffer_store(halves, rounded(self.simd, value), [T.ramp(row * self.stride + k, 1, lanes)])

        pieces(self.spec.k, lanes, vector)
        for k in range(round_up(self.spec.k, lanes), self.depth, lanes):
            T.buffer_store(halves, T.broadcast(T.uint16(0), lanes), [T.ramp(row * self.stride + k, 1, lanes)])

    def _panel(self, rows: Buffer, p: Expr, columns: int) -> None:
        size = 2 * AMX_SIDE * AMX_PANEL
        sums = T.alloc_buffer((size,), self.numbers.sums, scope="global", layout=None)
        T.buffer_store(sums, T.cast(T.int32(0), self.numbers.sums), [size - 1])  # as for A
        blocks = -(-self.spec.m // (2 * AMX_SIDE))

        def block(m: Expr, height: int) -> None:
            down, across = -(-height // AMX_SIDE), -(-columns // AMX_SIDE)
            self._multiply(rows, sums, (m, p), (down, across), blocks)
            with T.serial(0, height) as row:
                pieces(columns, self.simd.lanes, lambda j, valid: self._store(sums, m, row, p, j, valid))

        pieces(self.spec.m, 2 * AMX_SIDE, block)

    def _multiply(self, rows: Buffer, sums: Buffer, at: tuple[Expr, Expr], tiles: tuple[int, int], blocks: int) -> None:
        """The sums of `tiles` (down, across) at row `at[0]` and panel `at[1]`, into scratch."""
        (m, p), (down, across), numbers = at, tiles, self.numbers
        square = [(i, j) for i in range(down) for j in range(across)]
        for i, j in square:
            instruction("tilezero", T.int8(2 * i + j))
        with T.serial(0, self.steps) as k:
            here = self.panel(p) + numbers.header + k * self.step
            for i in range(down):
                load(A + i, rows, (m + i * AMX_SIDE) * self.stride + k * numbers.row, numbers.item * self.stride)
            for j in range(across):
                load(B + j, self.b, here + j * AMX_SIDE * numbers.row, TILE_BYTES)
            for i, j in square:
                instruction(numbers.instruction, T.int8(2 * i + j), T.int8(A + i), T.int8(B + j))
            self._prefetch(here + self.panel(1), m // (2 * AMX_SIDE), blocks)
        for i, j in square:
            address = T.address_of(sums[i * AMX_SIDE * AMX_PANEL + j * AMX_SIDE])
            instruction("tilestored64", T.int8(2 * i + j), address, T.int64(4 * AMX_PANEL))

    def _prefetch(self, offset: Expr, block: Expr, blocks: int) -> None:
        """This step of the next panel, shared out among the blocks of rows."""
        lines = self.step * self.numbers.item // LINE
        for line in range(-(-lines // blocks)):
            at = block * -(-lines // blocks) + line
            self.simd.prefetch(self.b, offset + at * (LINE // self.numbers.item))

    def _store(self, sums: Buffer, m: Expr, row: Expr, p: Expr, j: Expr, valid: int) -> None:
        view, n = self.spec.c_layout(), p * AMX_PANEL + j
        value = self.simd.load(sums, row * AMX_PANEL + j)
        if self.spec.rounded:
            right = value + self.simd.load(self.b, self.panel(p) + j)
            value = RoundedRows(self.simd, self.a, self.spec.m, self.spec.k).number(right, m + row)
        layout = Layout(view.start(0), (0, view.row, 1))
        where = (0, m + row, n)
        finished = self.finish(T.bind(value), where, valid)
        if self.spec.nontemporal:
            store(self.simd, self.c, layout.at(where), finished)
        else:
            self.simd.store(self.c, layout.at(where), finished, valid)


def rounded(simd: Simd, value: Expr) -> Expr:
    """float32 as the bits of bfloat16, to the nearest, ties to even: VCVTNEPS2BF16, which chips with AMX have."""
    name = T.llvm_lookup_intrinsic_id(f"llvm.x86.avx512bf16.cvtneps2bf16.{32 * simd.lanes}")
    bits = T.call_llvm_pure_intrin(f"int16x{simd.lanes}", name, value)  # TVM would make float32 of a bfloat16
    return T.reinterpret(f"uint16x{simd.lanes}", bits)


def configure() -> None:
    """All eight tiles 16 rows of 64 bytes: palette 1, then sizes in bytes from byte 16 on and rows from byte 48 on."""
    words = T.alloc_buffer((16,), "int32", scope="global", layout=None)
    content = {0: 1} | dict.fromkeys(range(4, 8), TILE_BYTES << 16 | TILE_BYTES) | dict.fromkeys((12, 13), 0x10101010)
    for index in range(16):
        T.buffer_store(words, T.int32(content.get(index, 0)), [index])
    instruction("ldtilecfg", T.address_of(words[0]))


def load(register: int, buffer: Buffer, offset: Expr, stride: int) -> None:
    """`stride` in bytes."""
    instruction("tileloadd64", T.int8(register), T.address_of(buffer[offset]), T.int64(stride))


def instruction(name: str, *arguments: Expr) -> None:
    T.evaluate(T.call_llvm_intrin("void", T.llvm_lookup_intrinsic_id(f"llvm.x86.{name}"), *arguments))
