"""What products of matrices compute, as plain data: linear layers and attention."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from chipfit.codegen.spec import NO_STEPS, Argument, Epilogue, Packing, View, dense, read_by, scratch, weight
from chipfit.ir.images import Shape
from chipfit.ir.stored import GROUP, Format
from chipfit.targets.packed import ROW_BLOCK, matrix, round_up, rounded_matrix, row_words
from chipfit.targets.tile import Tile


@dataclass(frozen=True)
class MatmulSpec:
    """C[b] = A[b] @ B[b // share] for b < batch, then the epilogue. A is (batch, m, k), C is (batch, m, n).

    weight: `packed`: B is one parameter for all b (share = batch is implied), stored as PyTorch has it, (n, k) if
    `transposed` as in aten.linear, else (k, n), and packed by the runtime. Its numbers are `stored` so: an int8's scale
    is the epilogue's matter, an int4's are a second weight (both as in `ir.stored`); beside float16 and bfloat16 A may
    be rounded too. `rounded`: beside int8 A is as `RoundSpec` writes it. `activation`: B is a tensor of (batch / share,
    k, n), or (batch / share, n, k) if `transposed`, as in Q @ K^T.
    Views override the dense layouts; the B view is indexed by b // share. `nontemporal`: C, whose rows are whole
    vectors, is written past the caches.
    """

    batch: int
    m: int
    n: int
    k: int
    weight: Literal["packed", "activation"] = "packed"
    transposed: bool = True
    share: int = 1
    stored: Literal["float32", "float16", "bfloat16"] | Format = "float32"
    epilogue: Epilogue = NO_STEPS
    a_view: View | None = None
    b_view: View | None = None
    c_view: View | None = None
    rounded: bool = False
    nontemporal: bool = False

    def a_layout(self) -> View:
        if self.rounded:
            return dense(1, round_up(self.m, ROW_BLOCK), row_words(self.k))
        return self.a_view or dense(self.batch, self.m, self.k)

    def b_layout(self) -> View:
        rows, columns = (self.n, self.k) if self.transposed else (self.k, self.n)
        return self.b_view or dense(self.batch // self.share, rows, columns)

    def c_layout(self) -> View:
        return self.c_view or dense(self.batch, self.m, self.n)

    def arguments(self, tile: Tile) -> tuple[Argument, ...]:
        kind = "int32" if self.rounded else "float32"
        a = Argument("activation", self.a_layout().shape, dtype=kind)
        c = Argument("output", self.c_layout().shape)
        own = rounded_matrix(tile, self.m, self.k, self.stored, self.rounded)
        return (a, *self._factor(tile), *read_by(self.epilogue), c, *scratch(own))

    def _factor(self, tile: Tile) -> tuple[Argument, ...]:
        """B, and its scales where they are a weight of their own."""
        if self.weight == "activation":
            return (Argument("activation", self.b_layout().shape),)
        sizes = matrix(tile, self.n, self.k, self.stored, self.rounded)
        packings = (self._packing(tile), Packing("panels", self._panels(tile)))
        return tuple(weight(size, packing) for size, packing in zip(sizes, packings, strict=False))

    def _panels(self, tile: Tile) -> Mapping[str, int | bool]:
        return {"lanes": tile.lanes, "nr": tile.nr, "transposed": self.transposed}

    def _packing(self, tile: Tile) -> Packing:
        shape = {"lanes": tile.lanes, "nr": tile.nr}
        if self.stored == "bfloat16":
            amx = Packing("pairs", {"transposed": self.transposed})
            return amx if tile.unit == "amx" else Packing("halves", self._panels(tile))
        if self.rounded and tile.unit != "vector":
            amx = Packing("quad_pairs", {"zero": tile.zero})
            return amx if tile.unit == "amx" else Packing("quads", {**shape, "zero": tile.zero})
        if self.stored == "int4":
            return Packing("nibbles", {**shape, "k": self.k, "group": GROUP})
        return Packing("float16" if self.stored == "float16" else "panels", self._panels(tile))


@dataclass(frozen=True)
class AttentionSpec:
    """softmax(scale Q K^T + mask) V for each of `batch * heads` heads: Q (m, k), K (n, k), V (n, width).

    `share` heads of Q in a row use one head of K and V. The mask's shape broadcasts to (batch, heads, m, n); in a
    causal attention row i sees the columns up to i. A row that sees nothing gives zeros.
    """

    batch: int
    heads: int
    m: int
    n: int
    k: int
    width: int
    scale: float
    q_view: View
    k_view: View
    v_view: View
    c_view: View
    share: int = 1
    mask: Shape | None = None
    causal: bool = False

    def arguments(self, tile: Tile) -> tuple[Argument, ...]:
        mask = () if self.mask is None else (Argument("operand", self.mask),)
        factors = (Argument("activation", view.shape) for view in (self.q_view, self.k_view, self.v_view))
        return (*factors, *mask, Argument("output", self.c_view.shape))
