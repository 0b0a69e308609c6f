"""Softmax, norms, elementary functions and broadcasting, against torch in double precision."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from kernel_runner import LANES, from_image, run_kernel, to_image
from torch import Tensor

from chipfit.codegen.pointwise import build_pointwise, collapse
from chipfit.codegen.rows import build_norm, build_softmax
from chipfit.codegen.spec import Epilogue, Operand, Result, Step
from chipfit.codegen.spec_rows import NormSpec, PointwiseSpec, SoftmaxSpec
from chipfit.codegen.vector import POINTWISE
from chipfit.ir.images import Image

SHAPES = [
    ((2, 3, 5, 128), (1, 1, 5, 128)),
    ((7, 33), None),
    ((2, 3, 100), (2, 1, 100)),
    ((4, 5), (4, 1)),
    ((3, 1), None),
]


@pytest.mark.parametrize("log", [False, True])
@pytest.mark.parametrize(("shape", "mask_shape"), SHAPES)
def test_softmax(shape: tuple[int, ...], mask_shape: tuple[int, ...] | None, log: bool) -> None:
    torch.manual_seed(0)
    x = 8 * torch.randn(shape)
    mask = None if mask_shape is None else torch.where(torch.rand(mask_shape) < 0.3, torch.finfo().min, 0.0)
    scores = 0.5 * x if mask is None else 0.5 * x + mask
    expected = F.log_softmax(scores.double(), -1) if log else F.softmax(scores.double(), -1)
    spec = SoftmaxSpec(shape, 0.5, mask_shape, log)
    out = run_kernel(build_softmax, spec, x, *([] if mask is None else [mask]))
    np.testing.assert_allclose(out, expected, rtol=2e-6, atol=1e-6)


def test_a_row_masked_throughout_is_zero() -> None:
    x, mask = torch.randn(2, 13), torch.tensor([[0.0], [-torch.inf]])
    out = run_kernel(build_softmax, SoftmaxSpec((2, 13), mask=(2, 1)), x, mask)
    np.testing.assert_allclose(out.sum(1), [1, 0], rtol=1e-6)


@pytest.mark.parametrize("width", [1, 7, 33, 384])
@pytest.mark.parametrize(
    ("kind", "weight", "bias"), [("layer", True, True), ("layer", False, False), ("rms", True, False)]
)
def test_norm(kind: str, weight: bool, bias: bool, width: int) -> None:
    torch.manual_seed(0)
    x, w, b, residual = 1 + 3 * torch.randn(5, width), torch.randn(width), torch.randn(width), torch.randn(5, width)
    if kind == "layer":
        expected = F.layer_norm(x, (width,), w if weight else None, b if bias else None, 1e-5)
    else:
        expected = F.rms_norm(x, (width,), w, 1e-5)
    epilogue = Epilogue((Step("add", ("acc", 0)),), (Operand((5, width)),))
    affine = [w] * weight + [b] * bias
    out = run_kernel(build_norm, NormSpec(kind, 5, width, 1e-5, weight, bias, epilogue), x, *affine, residual)
    np.testing.assert_allclose(out, expected + residual, rtol=1e-4, atol=1e-5)


UNARY: dict[str, Callable[[Tensor], Tensor]] = {
    "abs": torch.abs,
    "erf": torch.erf,
    "exp": torch.exp,
    "gelu": F.gelu,
    "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"),
    "hardsigmoid": F.hardsigmoid,
    "hardswish": F.hardswish,
    "log": torch.log,
    "neg": torch.neg,
    "reciprocal": torch.reciprocal,
    "relu": F.relu,
    "relu6": F.relu6,
    "rsqrt": torch.rsqrt,
    "sigmoid": torch.sigmoid,
    "silu": F.silu,
    "sqrt": torch.sqrt,
    "square": torch.square,
    "tanh": torch.tanh,
}
POSITIVE = ("log", "reciprocal", "rsqrt", "sqrt")


@pytest.mark.parametrize("op", UNARY)
def test_elementary_functions(op: str) -> None:
    grid = torch.cat([torch.linspace(-20, 20, 1001), torch.tensor([-1e4, -100, -1e-5, 0, 1e-5, 88, 1e3])])
    x = grid.abs() + 1e-6 if op in POSITIVE else grid.clamp(max=88) if op == "exp" else grid
    spec = PointwiseSpec(tuple(x.shape), Epilogue((Step(op, (0,)),), (Operand(tuple(x.shape)),)))
    np.testing.assert_allclose(run_kernel(build_pointwise, spec, x), UNARY[op](x.double()), rtol=1e-6, atol=6e-7)


BINARY: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "add": torch.add,
    "div": torch.div,
    "maximum": torch.maximum,
    "minimum": torch.minimum,
    "mul": torch.mul,
    "rsub": torch.rsub,
    "sub": torch.sub,
}


@pytest.mark.parametrize("op", BINARY)
def test_binary_ops(op: str) -> None:
    torch.manual_seed(0)
    a, b = torch.randn(3, 11), torch.randn(3, 11)
    spec = PointwiseSpec((3, 11), Epilogue((Step(op, (0, 1)),), (Operand((3, 11)),) * 2))
    np.testing.assert_allclose(run_kernel(build_pointwise, spec, a, b), BINARY[op](a, b), rtol=1e-6)


LIMITED: dict[str, tuple[tuple[float, ...], Callable[[Tensor], Tensor]]] = {
    "clamp": ((-0.5, 0.75), lambda x: x.clamp(-0.5, 0.75)),
    "clamp_max": ((0.5,), lambda x: x.clamp(max=0.5)),
    "clamp_min": ((0.5,), lambda x: x.clamp(min=0.5)),
    "hardtanh": ((-1.0, 1.0), F.hardtanh),
    "leaky_relu": ((0.1,), lambda x: F.leaky_relu(x, 0.1)),
}


@pytest.mark.parametrize("op", LIMITED)
def test_ops_with_constants(op: str) -> None:
    x = torch.linspace(-2, 2, 50)
    constants, function = LIMITED[op]
    spec = PointwiseSpec((50,), Epilogue((Step(op, (0, *constants)),), (Operand((50,)),)))
    np.testing.assert_allclose(run_kernel(build_pointwise, spec, x), function(x), rtol=1e-6)


def test_where() -> None:
    torch.manual_seed(0)
    condition, a, b = torch.randn(3, 11) > 0, torch.randn(3, 11), torch.randn(11)
    operands = (Operand((3, 11)), Operand((3, 11)), Operand((11,)))
    spec = PointwiseSpec((3, 11), Epilogue((Step("where", (0, 1, 2)),), operands))
    found = run_kernel(build_pointwise, spec, condition.float(), a, b)
    np.testing.assert_array_equal(found, torch.where(condition, a, b))


def test_every_op_of_the_table_is_tested() -> None:
    assert set(POINTWISE) == {"where", *UNARY, *BINARY, *LIMITED}


@pytest.mark.parametrize("shape", [(3, 4, 5, 37), (70, 4, 16, 8)])
def test_broadcasting_and_earlier_results(shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    a, b, c = torch.randn(*shape[:2], 1, shape[3]), torch.randn(shape[2:]), torch.randn(shape[1], 1, 1)
    steps = (Step("mul", (0, 1)), Step("sigmoid"), Step("add", ("acc", 2)), Step("mul", (Result(0), Result(2))))
    operands = tuple(Operand(tuple(x.shape)) for x in (a, b, c))
    out = run_kernel(build_pointwise, PointwiseSpec(shape, Epilogue(steps, operands)), a, b, c)
    np.testing.assert_allclose(out, a * b * (torch.sigmoid(a * b) + c), rtol=1e-5, atol=1e-5)


def test_long_flat_tensors_are_cut_into_chunks() -> None:
    x = torch.arange(40003, dtype=torch.float32)
    spec = PointwiseSpec((40003,), Epilogue((Step("add", (0, 1.0)),), (Operand((40003,)),)))
    np.testing.assert_array_equal(run_kernel(build_pointwise, spec, x), x + 1)


def test_dimensions_are_joined_where_all_operands_allow_it() -> None:
    shapes = ((2, 3, 4, 5), (4, 5), (2, 3, 1, 1), ())
    shape, epilogue = collapse((2, 3, 4, 5), Epilogue((), tuple(Operand(shape) for shape in shapes)))
    assert shape == (6, 20)
    assert [operand.shape for operand in epilogue.operands] == [(6, 20), (1, 20), (6, 1), (1, 1)]


def test_pointwise_on_images_with_different_halos() -> None:
    torch.manual_seed(0)
    a, b, gate = torch.randn(2, 11, 4, 5), torch.randn(2, 11, 4, 5), torch.randn(2, 11)
    left, right = Image(2, 4, 5, 11, LANES, (1, 1, 1, 1)), Image(2, 4, 5, 11, LANES)
    target = Image(2, 4, 5, 11, LANES, (0, 2, 1, 0))
    operands = (Operand(left), Operand(right), Operand((2, 1, 1, 11)))
    spec = PointwiseSpec(target, Epilogue((Step("add", (0, 1)), Step("mul", ("acc", 2))), operands))
    out = run_kernel(build_pointwise, spec, to_image(left, a), to_image(right, b), gate.reshape(2, 1, 1, 11))
    np.testing.assert_allclose(from_image(target, out), (a + b) * gate[..., None, None], rtol=1e-6, atol=1e-6)


def test_operands_that_do_not_broadcast_are_refused() -> None:
    spec = PointwiseSpec((4, 6), Epilogue((Step("relu", (0,)),), (Operand((3, 6)),)))
    with pytest.raises(ValueError, match="does not broadcast"):
        run_kernel(build_pointwise, spec, torch.zeros(3, 6))
