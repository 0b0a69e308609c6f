"""Products of int8 by int8: rows are rounded as PyTorch rounds them, and the sums of whole numbers are exact."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from kernel_runner import LANES, run_kernel

from chipfit.codegen.amx import build_amx_matmul
from chipfit.codegen.matmul import build_matmul
from chipfit.codegen.rounding import build_rounding
from chipfit.codegen.runtime import allow_matrix_unit
from chipfit.codegen.spec import Epilogue, Operand, Step
from chipfit.codegen.spec_matmuls import MatmulSpec
from chipfit.codegen.spec_rows import RoundSpec
from chipfit.targets.detect import detect_host, has_int8
from chipfit.targets.packed import scale_word
from chipfit.targets.registry import get_target
from chipfit.targets.tile import Tile
from chipfit.targets.tiles import int8_unit

RANDOM = np.random.default_rng(0)
TILES = {
    "vector": Tile(LANES, 3, 2 * LANES, "columns", 2),
    "vnni": Tile(16, 3, 32, "columns", 2, True, unit="vnni"),
    "vnni of AVX2": Tile(8, 3, 16, "rows", 2, unit="vnni"),
    "amx": Tile(16, 32, 32, "columns", 2, True, unit="amx"),
}
UNITS = [
    name if name == "vector" else pytest.param(name, marks=pytest.mark.skipif(not has_int8(), reason="no such unit"))
    for name in TILES
]


def rounded(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Whole numbers and the scale of each row, by PyTorch."""
    rows = torch.from_numpy(x)
    top = rows.abs().amax(-1, keepdim=True).clamp_min(1e-20)
    return (rows * (top.reciprocal() * 127)).round().numpy(), (top * (1 / 127)).numpy()


def written(x: np.ndarray, tile: Tile) -> np.ndarray:
    """The rounded rows as a kernel writes them."""
    return run_kernel(build_rounding, RoundSpec(*x.shape), x, tile=tile)[None]


@pytest.mark.parametrize("unit", ["vector", "vnni"])
@settings(max_examples=6, deadline=None)
@given(st.integers(1, 40), st.integers(1, 150), st.sampled_from([4, 8, 16]))
def test_rows_are_rounded_to_the_last_bit_as_pytorch_does(unit: str, rows: int, width: int, lanes: int) -> None:
    x = RANDOM.standard_normal((rows, width), np.float32) * np.float32(10) ** RANDOM.integers(-9, 9, (rows, 1))
    x = x.astype(np.float32)
    x[0] = 0
    tile = Tile(lanes, 1, lanes, "rows", 2, unit=unit)
    words = written(x, tile)[0, :rows]
    numbers, scales = rounded(x)
    found = words.view(np.int8)[:, :width] if unit == "vector" else words.view(np.uint8)[:, :width].astype(int) - 128
    np.testing.assert_array_equal(found, numbers)
    np.testing.assert_array_equal(words.view(np.float32)[:, scale_word(width)], scales[:, 0])


@pytest.mark.parametrize("unit", UNITS)
@settings(max_examples=6, deadline=None)
@given(st.integers(1, 70), st.integers(1, 70), st.integers(1, 200))
def test_sums_are_exact(unit: str, m: int, n: int, k: int) -> None:
    allow_matrix_unit() if unit == "amx" else None
    tile = TILES[unit]
    x, b = RANDOM.standard_normal((m, k), np.float32), RANDOM.integers(-128, 128, (n, k)).astype(np.int8)
    numbers, scales = rounded(x)
    spec = MatmulSpec(1, m, n, k, stored="int8", rounded=True)
    build = build_amx_matmul if unit == "amx" else build_matmul
    found = run_kernel(build, spec, written(x, tile), b, tile=tile)
    exact = (numbers.astype(int) @ b.astype(int).T).astype(np.float32) * scales
    np.testing.assert_array_equal(found[0], exact)


@pytest.mark.parametrize("unit", UNITS)
@pytest.mark.parametrize("last", ["relu", "gelu"])
def test_scales_of_columns_and_what_follows_are_the_epilogue(unit: str, last: str) -> None:
    allow_matrix_unit() if unit == "amx" else None
    m, n, k, tile = 19, 37, 70, TILES[unit]
    x, b = RANDOM.standard_normal((m, k), np.float32), RANDOM.integers(-128, 128, (n, k)).astype(np.int8)
    column, bias = RANDOM.random(n, np.float32) / 100, RANDOM.standard_normal(n, np.float32)
    steps = (Step("mul", ("acc", 0)), Step("add", ("acc", 1)), Step(last))
    spec = MatmulSpec(1, m, n, k, stored="int8", rounded=True, epilogue=Epilogue(steps, (Operand((n,)),) * 2))
    build = build_amx_matmul if unit == "amx" else build_matmul
    found = run_kernel(build, spec, written(x, tile), b, column, bias, tile=tile)
    numbers, scales = rounded(x)
    expected = getattr(torch, last, torch.nn.functional.gelu)(
        torch.from_numpy((numbers * scales) @ (b * column[:, None]).T + bias)
    )
    np.testing.assert_allclose(found[0], expected.numpy(), rtol=1e-4, atol=1e-4)


@pytest.mark.skipif(not has_int8(), reason="no such unit")
def test_this_machine_uses_its_units() -> None:
    cpu = get_target("host").cpu
    assert detect_host(get_target("host").profile).si("matrix_int8_mac_per_cycle") == 1024
    assert (int8_unit(cpu, 128), int8_unit(cpu, 1)) == ("amx", "vnni")
    assert int8_unit(replace(cpu, matrix_int8_macs=0, int8_macs=0), 128) == "vector"
