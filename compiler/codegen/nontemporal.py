"""Stores past the caches: a line that is written whole is not read from memory first, and drives nothing else out.

TVM has no such store, so a function of LLVM's own language brings it; LLVM inlines it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from tvm.tirx.script import builder as T

from chipfit.codegen.kernel import Buffer, Expr, Simd

# Internals of LLVM: https://llvm.org/docs/LangRef.html#store-instruction. linkonce_odr: several kernels may bring it.
_FUNCTION = """
define linkonce_odr i32 @{name}(ptr %address, <{lanes} x float> %value) alwaysinline {{
  store <{lanes} x float> %value, ptr %address, align {size}, !nontemporal !0
  ret i32 0
}}
!0 = !{{i32 1}}
"""


@contextmanager
def nontemporal(wanted: bool, simd: Simd) -> Iterator[None]:
    """Where `store` may be used if `wanted`."""
    if not wanted:
        yield
        return
    text = _FUNCTION.format(name=_name(simd), lanes=simd.lanes, size=4 * simd.lanes)
    with T.attr(T.int32(0), "pragma_import_llvm", text):
        yield


def store(simd: Simd, buffer: Buffer, offset: Expr, value: Expr) -> None:
    """A whole vector, to an address that is a multiple of its size."""
    T.evaluate(T.call_extern("int32", _name(simd), T.address_of(buffer[offset]), value))


def fence(wanted: bool) -> None:
    """Orders such stores before all later ones, as the one that tells other threads of this job's end."""
    if wanted:
        T.evaluate(T.call_llvm_intrin("void", T.llvm_lookup_intrinsic_id("llvm.x86.sse.sfence")))


def _name(simd: Simd) -> str:
    return f"store_past_caches_{simd.lanes}"
