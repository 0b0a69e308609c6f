"""Products in bfloat16: on the matrix unit where this machine has one, and by vectors anywhere."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kernel_runner import LANES, run_kernel

from chipfit.codegen.amx import build_amx_matmul
from chipfit.codegen.matmul import build_matmul
from chipfit.codegen.packing import bfloat16
from chipfit.codegen.runtime import allow_matrix_unit
from chipfit.codegen.spec import Epilogue, Operand, Step
from chipfit.codegen.spec_matmuls import MatmulSpec
from chipfit.targets.detect import has_amx
from chipfit.targets.tile import Tile

RANDOM = np.random.default_rng(0)
AMX = Tile(16, 32, 32, "columns", 2, unit="amx")
STEPS = Epilogue((Step("add", ("acc", 0)), Step("gelu")), (Operand((1,)),))


def narrow(x: np.ndarray) -> np.ndarray:
    """float32 rounded to bfloat16."""
    return (bfloat16(x).astype(np.uint32) << 16).view(np.float32)


def factors(m: int, n: int, k: int) -> tuple[np.ndarray, np.ndarray]:
    return RANDOM.standard_normal((1, m, k), np.float32), RANDOM.standard_normal((n, k), np.float32)


@pytest.mark.skipif(not has_amx(), reason="this processor has no AMX")
@settings(max_examples=12, deadline=None)
@given(st.integers(1, 70), st.integers(1, 70), st.integers(1, 100))
def test_on_the_matrix_unit(m: int, n: int, k: int) -> None:
    allow_matrix_unit()
    a, b = factors(m, n, k)
    spec = MatmulSpec(1, m, n, k, stored="bfloat16", epilogue=Epilogue((Step("relu"),)))
    found = run_kernel(build_amx_matmul, spec, a, b, tile=AMX)
    np.testing.assert_allclose(found, np.maximum(narrow(a) @ narrow(b).T, 0), rtol=1e-4, atol=1e-4)


@pytest.mark.skipif(not has_amx(), reason="this processor has no AMX")
def test_past_the_caches_on_the_matrix_unit() -> None:
    allow_matrix_unit()
    a, b = factors(37, 80, 50)
    spec = MatmulSpec(1, 37, 80, 50, stored="bfloat16", nontemporal=True)
    found = run_kernel(build_amx_matmul, spec, a, b, tile=AMX)
    np.testing.assert_allclose(found, narrow(a) @ narrow(b).T, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("m", [1, 5])
def test_by_vectors(m: int) -> None:
    a, b = factors(m, 37, 50)
    spec = MatmulSpec(1, m, 37, 50, stored="bfloat16")
    found = run_kernel(build_matmul, spec, a, b, tile=Tile(LANES, 3, 2 * LANES, "columns", 2))
    np.testing.assert_allclose(found, a @ narrow(b).T, rtol=1e-4, atol=1e-4)


def test_rounding_is_to_nearest_with_ties_to_even() -> None:
    ties = np.array([1 + 2**-8, 1 + 3 * 2**-8, -(1 + 2**-8), 1 + 2**-8 + 2**-20], np.float32)
    np.testing.assert_array_equal(narrow(ties), np.array([1, 1 + 2**-6, -1, 1 + 2**-7], np.float32))
