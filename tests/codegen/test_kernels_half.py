"""Products in float16: by vectors of it where the chip has them, from weights stored so anywhere."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kernel_runner import LANES, run_kernel

from chipfit.codegen.half import build_half_matmul
from chipfit.codegen.matmul import build_matmul
from chipfit.codegen.spec import Epilogue, Operand, Step
from chipfit.codegen.spec_matmuls import MatmulSpec
from chipfit.targets.tile import Tile

RANDOM = np.random.default_rng(0)


def half(x: np.ndarray) -> np.ndarray:
    """float32 rounded to float16."""
    return x.astype(np.float16).astype(np.float32)


def factors(m: int, n: int, k: int) -> tuple[np.ndarray, np.ndarray]:
    return RANDOM.standard_normal((1, m, k), np.float32), RANDOM.standard_normal((n, k), np.float32)


@pytest.mark.parametrize("order", ["rows", "columns"])
@settings(max_examples=6, deadline=None)
@given(st.integers(1, 40), st.integers(1, 70), st.integers(1, 200))
def test_sums_are_as_near_as_blocks_of_float16_are(order: str, m: int, n: int, k: int) -> None:
    a, b = factors(m, n, k)
    steps = Epilogue((Step("add", ("acc", 0)), Step("gelu")), (Operand((1, m, n)),))
    far = 200  # above the largest sum, where GELU changes nothing
    spec, residual = MatmulSpec(1, m, n, k, stored="float16", epilogue=steps), np.full((1, m, n), far, np.float32)
    found = run_kernel(build_half_matmul, spec, a, b, residual, tile=Tile(8, 3, 16, order, 2, unit="half"))  # type: ignore[arg-type]
    exact = half(a) @ half(b).T
    assert np.abs(found - far - exact).max() <= 5e-3 * max(np.abs(exact).max(), np.sqrt(k))


@pytest.mark.parametrize("m", [1, 5])
def test_weights_of_float16_anywhere(m: int) -> None:
    a, b = factors(m, 37, 50)
    spec = MatmulSpec(1, m, 37, 50, stored="float16")
    found = run_kernel(build_matmul, spec, a, b, tile=Tile(LANES, 3, 2 * LANES, "columns", 2))
    np.testing.assert_allclose(found, a @ half(b).T, rtol=1e-4, atol=1e-4)
