"""The page of an Ascend's tiles: what is read off a planned kernel, and what counts as agreement."""

import ascend
import pytest
from ascend import Kernel, Row

from chipfit.targets.npu import npu_of
from chipfit.targets.products import Product
from chipfit.targets.registry import get_target

TO = "strides: [8, 1] : memref<?xf16, #hivm.address_space<gm>> to"
GM = "strided<[8, 1], offset: ?>, #hivm.address_space<gm>>"
PLAN = f"""
    %c0_i64 = arith.constant 0 : i64
    %c2048_i64 = arith.constant 2048 : i64
    %9 = hivm.hir.pointer_cast(%c0_i64) : memref<2x2x16x16xf32, #hivm.address_space<cc>>
    scf.for %arg10 = %c0 to %c768 step %c64 {{
      %view = memref.reinterpret_cast %arg3 to offset: [%13], sizes: [32, 64], {TO} memref<32x64xf16, {GM}
      %14 = hivm.hir.pointer_cast(%c0_i64) : memref<1x2x16x16xf16, #hivm.address_space<cbuf>>
      %15 = hivm.hir.pointer_cast(%c2048_i64) : memref<2x2x16x16xf16, #hivm.address_space<cbuf>>
      %cast_2 = memref.cast %view : memref<32x64xf16, {GM} to memref<?x?xf16, {GM}
      func.call @nd2nz_half(%cast_2, %cast_3) : (memref<?x?xf16>) -> ()
    }} {{fixpipe_for_mmad_result_already_inserted = true}}
    %rest = memref.reinterpret_cast %arg4 to offset: [%13], sizes: [32, 10], {TO} memref<32x10xf16, {GM}
    func.call @nd2nz_half(%rest, %cast_3) : (memref<?x?xf16>) -> ()
    %out = memref.reinterpret_cast %arg6 to offset: [%10], sizes: [32, 20], {TO} memref<32x20xf16, {GM}
    call @fixpipe_nz2nd_float_to_half_4d_to_2d(%cast, %out, %c1_i64) : (memref<?x?xf32>) -> ()
"""


def test_buffers_and_transfers_are_read_off_a_plan() -> None:
    found = ascend.read_plan(PLAN, 12)
    assert found == Kernel(l1=2048 + 2048, l0c=4096, read=2 * (12 * 32 * 64 + 32 * 10), written=2 * 32 * 20)


def test_edges_are_kernels_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    def exact(rows: int, columns: int, k: int) -> Kernel:
        return Kernel(0, 0, 2 * k * (rows + columns), 2 * rows * columns)

    monkeypatch.setattr(ascend, "kernel", exact)
    npu, whole, odd = npu_of(get_target("ascend-910b3").profile), Product(1, 64, 128, 32), Product(1, 65, 129, 32)
    assert ascend.moved_by_us(npu, whole, (32, 64)) == ascend.moved_by_compiler(whole, (32, 64))
    assert ascend.moved_by_us(npu, odd, (32, 64)) > (ascend.moved_by_compiler(odd, (32, 64)) or 0)


def test_the_page_counts_what_the_compiler_refuses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ascend, "version", lambda name: "0")
    product = Product(1, 64, 64, 64)
    rows = [Row(product, (16, 16 * n), True, 2.0 * n, 1.0 * n) for n in range(1, 6)]
    page = ascend.page([*rows, Row(product, (512, 512), True, 3.0, None), Row(product, (512, 256), False, 3.0, None)])
    assert "| our model says that they fit | 6 | 5 |" in page
    assert "| our model says that they don't | 1 | 0 |" in page
    assert "2.000 to 2.000 of 5" in page
