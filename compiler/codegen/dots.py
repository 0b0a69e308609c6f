"""How a register tile multiplies and adds: float32, float16, or int8 by fours into int32 by a chip's dot products."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from tvm.tirx.script import builder as T

from chipfit.codegen.kernel import Expr, Simd
from chipfit.targets.tile import QUAD, Unit


@dataclass(frozen=True)
class Arithmetic:
    """Sums of `dtype`, one for each lane; `add(simd, sum, a, b)` gives the sum with the product of two vectors."""

    dtype: str
    add: Callable[[Simd, Expr, Expr, Expr], Expr]
    taken: int = 1  # elements along k in one step

    def zero(self, simd: Simd) -> Expr:
        return T.broadcast(T.cast(T.int32(0), self.dtype), simd.lanes)


def _vnni(simd: Simd, total: Expr, a: Expr, b: Expr) -> Expr:
    """VPDPBUSD: numbers without a sign times such with one (Intel SDM, volume 2)."""
    return _dot(f"llvm.x86.avx512.vpdpbusd.{32 * simd.lanes}", simd, total, a, b)


def _sdot(simd: Simd, total: Expr, a: Expr, b: Expr) -> Expr:
    """SDOT (Arm Architecture Reference Manual, FEAT_DotProd)."""
    return _dot("llvm.aarch64.neon.sdot", simd, total, a, b)


def _dot(name: str, simd: Simd, total: Expr, a: Expr, b: Expr) -> Expr:
    numbers = f"int8x{QUAD * simd.lanes}"
    factors = (T.reinterpret(numbers, each) for each in (a, b))
    return T.call_llvm_pure_intrin(f"int32x{simd.lanes}", T.llvm_lookup_intrinsic_id(name), total, *factors)


def _multiply_add(simd: Simd, total: Expr, a: Expr, b: Expr) -> Expr:
    return total + a * b


FLOAT, HALF = Arithmetic("float32", _multiply_add), Arithmetic("float16", _multiply_add)
ARITHMETIC: Mapping[Unit, Arithmetic] = MappingProxyType(
    {"vector": FLOAT, "vnni": Arithmetic("int32", _vnni, QUAD), "sdot": Arithmetic("int32", _sdot, QUAD)}
)
