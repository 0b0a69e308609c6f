"""Matrix products of any size, packed or not, against numpy."""

from __future__ import annotations

import platform
from typing import Literal

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from kernel_runner import LANES, TILE, run_kernel

from chipfit.codegen.matmul import build_matmul
from chipfit.codegen.spec import Epilogue, Operand, Step, View
from chipfit.codegen.spec_matmuls import MatmulSpec
from chipfit.passes.quantize import int4
from chipfit.targets.tile import Tile

RANDOM = np.random.default_rng(0)


def random(*shape: int) -> np.ndarray:
    return RANDOM.standard_normal(shape, dtype=np.float32)


def tiles() -> st.SearchStrategy[Tile]:
    return st.builds(
        lambda mr, nv, order, prefetch: Tile(LANES, mr, nv * LANES, order, 2, prefetch),
        st.integers(1, 5),
        st.integers(1, 3),
        st.sampled_from(["rows", "columns"]),
        st.booleans(),
    )


@settings(max_examples=10, deadline=None)
@given(st.integers(1, 2), st.integers(1, 20), st.integers(1, 60), st.integers(1, 40), tiles(), st.booleans())
def test_packed_weight(batch: int, m: int, n: int, k: int, tile: Tile, transposed: bool) -> None:
    a, b = random(batch, m, k), random(k, n)
    spec = MatmulSpec(batch, m, n, k, transposed=transposed)
    c = run_kernel(build_matmul, spec, a, b.T if transposed else b, tile=tile)
    np.testing.assert_allclose(c, a @ b, rtol=1e-4, atol=1e-4)


@pytest.mark.skipif(platform.machine() != "x86_64", reason="the fence is an instruction of x86")
@pytest.mark.parametrize("order", ["rows", "columns"])
@pytest.mark.parametrize("op", ["relu", "gelu"])  # the second is finished in a loop of its own
def test_past_the_caches(order: Literal["rows", "columns"], op: str) -> None:
    a, b = random(2, 20, 30), random(30, 5 * LANES)
    spec = MatmulSpec(2, 20, 5 * LANES, 30, transposed=False, epilogue=Epilogue((Step(op),)), nontemporal=True)
    c = run_kernel(build_matmul, spec, a, b, tile=Tile(LANES, 3, 2 * LANES, order, 2))
    expected = {"relu": torch.relu, "gelu": torch.nn.functional.gelu}[op](torch.from_numpy(a @ b))
    np.testing.assert_allclose(c, expected, rtol=1e-4, atol=1e-4)


@settings(max_examples=6, deadline=None)
@given(st.integers(1, 3), st.integers(1, 2), st.integers(1, 9), st.integers(1, 40), st.integers(1, 20), tiles())
def test_two_activations(heads: int, share: int, m: int, n: int, k: int, tile: Tile) -> None:
    a, b = random(heads * share, m, k), random(heads, k, n)
    expected = a @ np.repeat(b, share, axis=0)
    for transposed, operand in ((False, b), (True, b.transpose(0, 2, 1))):
        spec = MatmulSpec(heads * share, m, n, k, "activation", transposed, share)
        np.testing.assert_allclose(
            run_kernel(build_matmul, spec, a, operand, tile=tile), expected, rtol=1e-4, atol=1e-4
        )


def heads_view(batch: int, sequence: int, heads: int, width: int) -> View:
    """Matrices (sequence, width) for each head of a (batch, sequence, heads * width) tensor."""
    row = heads * width
    return View((batch, sequence, row), row, head=width, heads=heads, batch=sequence * row)


def test_attention_reads_and_writes_heads_in_place() -> None:
    batch, sequence, heads, groups, width = 2, 11, 6, 2, 10
    q, k, v = random(batch, sequence, 60), random(batch, sequence, 20), random(batch, sequence, 20)
    many, few = heads_view(batch, sequence, heads, width), heads_view(batch, sequence, groups, width)
    scores = MatmulSpec(batch * heads, sequence, sequence, width, "activation", True, 3, a_view=many, b_view=few)
    mixed = MatmulSpec(batch * heads, sequence, width, sequence, "activation", False, 3, b_view=few, c_view=many)
    p = run_kernel(build_matmul, scores, q, k)
    out = run_kernel(build_matmul, mixed, p, v)

    def split(x: np.ndarray, count: int) -> np.ndarray:
        return np.repeat(x.reshape(batch, sequence, count, width).transpose(0, 2, 1, 3), heads // count, axis=1)

    expected = split(q, heads) @ split(k, groups).transpose(0, 1, 3, 2)
    np.testing.assert_allclose(p.reshape(expected.shape), expected, rtol=1e-4, atol=1e-4)
    expected = (expected @ split(v, groups)).transpose(0, 2, 1, 3).reshape(out.shape)
    np.testing.assert_allclose(out, expected, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("last", ["mul", "gelu"])
def test_epilogue_reads_columns_residuals_and_gates(last: str) -> None:
    batch, m, n, k = 2, 7, 21, 5
    a, w, bias, residual, gate = random(batch, m, k), random(n, k), random(n), random(batch, m, n), random(batch, 1, 1)
    steps = (Step("add", ("acc", 0)), Step("relu"), Step("sub", (1, "acc")), Step("mul", ("acc", 2)))
    steps += (Step(last, ("acc", 2.0)),) if last == "mul" else (Step("tanh"),)
    operands = (Operand(bias.shape), Operand(residual.shape), Operand(gate.shape))
    spec = MatmulSpec(batch, m, n, k, epilogue=Epilogue(steps, operands))
    expected = (residual - np.maximum(a @ w.T + bias, 0)) * gate
    expected = expected * 2 if last == "mul" else np.tanh(expected)
    out = run_kernel(build_matmul, spec, a, w, bias, residual, gate)
    np.testing.assert_allclose(out, expected, rtol=1e-4, atol=1e-5)


def test_shapes_of_views_are_declared_and_checked() -> None:
    a, w = random(4, 6), random(3, 6)
    spec = MatmulSpec(1, 4, 3, 6)
    size = spec.arguments(TILE)[1].shape
    out = run_kernel(build_matmul, spec, a, w, shapes=[(4, 6), size, (2, 2, 3)])
    np.testing.assert_allclose(out.reshape(4, 3), a @ w.T, rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match="no views"):
        build_matmul(spec, TILE, "main", [(4, 6), size, (4, 4)])


def test_strided_output_is_refused() -> None:
    spec = MatmulSpec(1, 4, 4, 4, c_view=View((4, 4), row=1, column=4))
    with pytest.raises(ValueError, match="strided output"):
        build_matmul(spec, TILE, "main")


@settings(max_examples=12, deadline=None)
@given(st.integers(1, 4), st.integers(1, 60), st.integers(1, 100), st.integers(1, 3), st.sampled_from([4, 8, 16]))
def test_weights_of_four_bits(m: int, n: int, k: int, vectors: int, lanes: int) -> None:
    a = random(1, m, k)
    numbers, scales = int4(torch.from_numpy(random(n, k)))
    spec = MatmulSpec(1, m, n, k, stored="int4", epilogue=Epilogue((Step("relu"),)))
    tile = Tile(lanes, 2, vectors * lanes, "columns", 2)
    c = run_kernel(build_matmul, spec, a, numbers.numpy(), scales.numpy(), tile=tile)
    np.testing.assert_allclose(c, np.maximum(a @ whole(numbers, scales, k).T, 0), rtol=1e-4, atol=1e-4)


def whole(numbers: torch.Tensor, scales: torch.Tensor, k: int) -> np.ndarray:
    pairs = numbers.reshape(len(numbers), -1, 16)
    centred = torch.cat([pairs % 16, pairs // 16], -1).float() - 8
    return (centred * scales.float()[..., None]).reshape(len(numbers), -1)[:, :k].numpy()
