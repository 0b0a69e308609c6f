"""Convolution, pooling and layout conversion on haloed images, against torch."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from kernel_runner import LANES, TILE, from_image, round_trip, run_kernel, to_image
from torch import Tensor

from chipfit.codegen.amx_conv import build_amx_conv
from chipfit.codegen.amx_planes import build_amx_planes
from chipfit.codegen.conv import build_conv
from chipfit.codegen.depthwise import build_depthwise
from chipfit.codegen.images import build_pack_image
from chipfit.codegen.pool import build_global_pool, build_pool
from chipfit.codegen.runtime import allow_matrix_unit
from chipfit.codegen.spec import Epilogue, Operand, Step
from chipfit.codegen.spec_images import ConvSpec, DepthwiseSpec, GlobalPoolSpec, PackImageSpec, PoolSpec, WinogradSpec
from chipfit.codegen.winograd import build_winograd
from chipfit.ir.images import Image
from chipfit.targets.detect import has_amx
from chipfit.targets.tile import Tile

HALO = (1, 0, 2, 1)


def size_after(size: int, kernel: int, stride: int, padding: int, dilation: int = 1) -> int:
    return (size + 2 * padding - dilation * (kernel - 1) - 1) // stride + 1


@settings(max_examples=15, deadline=None)
@given(
    size=st.tuples(st.integers(1, 2), st.integers(3, 9), st.integers(3, 12)),
    channels=st.tuples(st.integers(1, 20), st.integers(1, 40)),
    padding=st.tuples(st.integers(0, 1), st.integers(0, 1)),
    tile=st.builds(
        lambda mr, nv, block: Tile(LANES, mr, nv * LANES, "rows", 2, prefetch=True, block=block),
        *(st.integers(1, 9), st.integers(1, 3), st.integers(1, 12)),
    ),
)
def test_winograd(size: tuple[int, int, int], channels: tuple[int, int], padding: tuple[int, int], tile: Tile) -> None:
    (batch, height, width), (ins, outs) = size, channels
    torch.manual_seed(0)
    x, w, bias = torch.randn(batch, ins, height, width), torch.randn(outs, ins, 3, 3), torch.randn(outs)
    expected = F.conv2d(x, w, bias, padding=padding)
    source = Image(batch, height, width, ins, LANES, (padding[0],) * 2 + (padding[1],) * 2)
    target = Image(batch, expected.shape[2], expected.shape[3], outs, LANES, HALO)
    epilogue = Epilogue((Step("add", ("acc", 0)), Step("silu")), (Operand((outs,)),))
    spec = WinogradSpec(source, target, padding, epilogue)
    out = run_kernel(build_winograd, spec, to_image(source, x), w, bias, tile=tile)
    np.testing.assert_allclose(from_image(target, out), F.silu(expected), rtol=1e-4, atol=1e-4)


@pytest.mark.skipif(not has_amx(), reason="this processor has no AMX")
@settings(max_examples=15, deadline=None)
@given(
    size=st.tuples(st.integers(1, 2), st.integers(3, 12), st.integers(3, 12)),
    channels=st.tuples(st.integers(1, 70), st.integers(1, 70)),
    kernel=st.sampled_from([1, 2, 3]),
    stride=st.integers(1, 2),
    dilation=st.integers(1, 2),
    block=st.sampled_from([32, 64, 256]),
)
def test_conv_on_the_matrix_unit(
    size: tuple[int, int, int], channels: tuple[int, int], kernel: int, stride: int, dilation: int, block: int
) -> None:
    check_on_the_matrix_unit(build_amx_conv, size, channels, kernel, stride, dilation, block)


@pytest.mark.skipif(not has_amx(), reason="this processor has no AMX")
@settings(max_examples=10, deadline=None)
@given(
    size=st.tuples(st.integers(1, 2), st.integers(3, 12), st.integers(3, 50)),
    channels=st.tuples(st.integers(1, 4), st.integers(1, 70)),
    kernel=st.sampled_from([1, 3, 7]),
    stride=st.integers(1, 2),
    block=st.sampled_from([32, 256]),
)
def test_planes_on_the_matrix_unit(
    size: tuple[int, int, int], channels: tuple[int, int], kernel: int, stride: int, block: int
) -> None:
    check_on_the_matrix_unit(build_amx_planes, size, channels, kernel, stride, 1, block)


def check_on_the_matrix_unit(
    build: Any,
    size: tuple[int, int, int],
    channels: tuple[int, int],
    kernel: int,
    stride: int,
    dilation: int,
    block: int,
) -> None:
    allow_matrix_unit()
    (batch, height, width), (ins, outs), padding = size, channels, kernel // 2 * dilation
    torch.manual_seed(0)
    x, w, bias = torch.randn(batch, ins, height, width), torch.randn(outs, ins, kernel, kernel), torch.randn(outs)
    if min(height, width) + 2 * padding < (kernel - 1) * dilation + 1:
        return
    expected = F.conv2d(x.bfloat16().float(), w.bfloat16().float(), bias, stride, padding, dilation)
    source = Image(batch, height, width, ins, 16, (padding,) * 4, planar=build is build_amx_planes)
    target = Image(batch, expected.shape[2], expected.shape[3], outs, 16, HALO)
    epilogue = Epilogue((Step("add", ("acc", 0)), Step("relu")), (Operand((outs,)),))
    window = ((kernel,) * 2, (stride,) * 2, (padding,) * 2, (dilation,) * 2)
    spec = ConvSpec(source, target, *window, 1, epilogue, "bfloat16")
    tile = Tile(16, 32, 32, "columns", 2, True, block, "amx")
    out = run_kernel(build, spec, to_image(source, x), w, bias, tile=tile)
    np.testing.assert_allclose(from_image(target, out), F.relu(expected), rtol=1e-4, atol=1e-4)


@settings(max_examples=12, deadline=None)
@given(
    data=st.data(),
    kernel=st.sampled_from([1, 2, 3]),
    stride=st.integers(1, 2),
    dilation=st.integers(1, 2),
    groups=st.sampled_from([1, 1, 2]),
    order=st.sampled_from(["rows", "columns"]),
    mr=st.integers(1, 12),
)
def test_conv(data: st.DataObject, kernel: int, stride: int, dilation: int, groups: int, order: str, mr: int) -> None:
    batch, height, width = data.draw(st.tuples(st.integers(1, 2), st.integers(5, 9), st.integers(5, 12)))
    ins, outs = (groups * data.draw(st.integers(1, 20)) for _ in range(2))
    padding = data.draw(st.integers(0, kernel // 2))
    planar = groups == 1 and ins < 4
    torch.manual_seed(0)
    x, w, bias = (
        torch.randn(batch, ins, height, width),
        torch.randn(outs, ins // groups, kernel, kernel),
        torch.randn(outs),
    )
    expected = F.conv2d(x, w, bias, stride, padding, dilation, groups)
    residual = torch.randn_like(expected)
    source = Image(batch, height, width, ins, LANES, (padding,) * 4, planar)
    target = Image(batch, expected.shape[2], expected.shape[3], outs, LANES, HALO)
    steps = (Step("add", ("acc", 0)), Step("relu"), Step("add", ("acc", 1)))
    epilogue = Epilogue(steps, (Operand((outs,)), Operand(target)))
    spec = ConvSpec(source, target, (kernel,) * 2, (stride,) * 2, (padding,) * 2, (dilation,) * 2, groups, epilogue)
    tile = Tile(LANES, mr, 2 * LANES, order, 2, prefetch=True)
    out = run_kernel(build_conv, spec, to_image(source, x), w, bias, to_image(target, residual), tile=tile)
    np.testing.assert_allclose(from_image(target, out), F.relu(expected) + residual, rtol=1e-4, atol=1e-4)


def test_conv_with_asymmetric_padding_and_a_gate_per_image() -> None:
    torch.manual_seed(0)
    x, w, gate = torch.randn(2, 8, 6, 7), torch.randn(5, 8, 3, 3), torch.rand(2, 1, 1, 5)
    expected = F.silu(F.conv2d(F.pad(x, (0, 1, 0, 1)), w, stride=2)) * gate.permute(0, 3, 1, 2)
    source, target = Image(2, 6, 7, 8, LANES, (0, 1, 0, 1)), Image(2, 3, 3, 5, LANES)
    epilogue = Epilogue((Step("silu"), Step("mul", ("acc", 0))), (Operand((2, 1, 1, 5)),))
    spec = ConvSpec(source, target, (3, 3), (2, 2), epilogue=epilogue)
    out = run_kernel(build_conv, spec, to_image(source, x), w, gate)
    np.testing.assert_allclose(from_image(target, out), expected, rtol=1e-4, atol=1e-4)


def test_a_halo_that_does_not_cover_the_padding_is_refused() -> None:
    spec = ConvSpec(Image(1, 5, 5, 8, LANES), Image(1, 5, 5, 8, LANES), (3, 3), padding=(1, 1))
    with pytest.raises(ValueError, match=r"must be at least \(1, 1, 1, 1\)"):
        build_conv(spec, TILE, "main")


@pytest.mark.parametrize("order", ["rows", "columns"])
@pytest.mark.parametrize(("kernel", "stride", "channels", "width"), [(3, 1, 20, 9), (5, 2, 8, 14), (3, 2, 3, 30)])
def test_depthwise(kernel: int, stride: int, channels: int, width: int, order: str) -> None:
    torch.manual_seed(0)
    padding = kernel // 2
    x, w = torch.randn(2, channels, 11, width), torch.randn(channels, 1, kernel, kernel)
    expected = F.relu6(F.conv2d(x, w, None, stride, padding, groups=channels))
    source = Image(2, 11, width, channels, LANES, (padding,) * 4)
    target = Image(2, expected.shape[2], expected.shape[3], channels, LANES, HALO)
    spec = DepthwiseSpec(
        source, target, (kernel,) * 2, (stride,) * 2, (padding,) * 2, epilogue=Epilogue((Step("relu6"),))
    )
    tile = Tile(LANES, 7, LANES, order, 2)
    out = run_kernel(build_depthwise, spec, to_image(source, x), w, tile=tile)
    np.testing.assert_allclose(from_image(target, out), expected, rtol=1e-4, atol=1e-4)


def pooled(x: Tensor, spec: PoolSpec) -> Tensor:
    arguments = (x, spec.kernel, spec.stride, spec.padding)
    if spec.op == "max":
        return F.max_pool2d(*arguments, ceil_mode=True)
    return F.avg_pool2d(*arguments, ceil_mode=True, count_include_pad=spec.count_include_pad)


@pytest.mark.parametrize(("kernel", "stride", "padding"), [(3, 2, 1), (2, 2, 0), (3, 2, 0)])
@pytest.mark.parametrize(("op", "count"), [("max", True), ("avg", True), ("avg", False)])
def test_pool_in_ceil_mode(op: str, count: bool, kernel: int, stride: int, padding: int) -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 11, 8, 9) - 2
    source = Image(2, 8, 9, 11, LANES)
    draft = PoolSpec(op, source, source, (kernel,) * 2, (stride,) * 2, (padding,) * 2, count)
    expected = pooled(x, draft)
    target = Image(2, expected.shape[2], expected.shape[3], 11, LANES, HALO)
    spec = PoolSpec(op, source, target, draft.kernel, draft.stride, draft.padding, count)
    out = run_kernel(build_pool, spec, to_image(source, x))
    np.testing.assert_allclose(from_image(target, out), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("op", ["max", "avg"])
def test_global_pool(op: str) -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 21, 5, 6)
    source = Image(2, 5, 6, 21, LANES, HALO)
    out = run_kernel(build_global_pool, GlobalPoolSpec(op, source), to_image(source, x))
    expected = x.amax((2, 3)) if op == "max" else x.mean((2, 3))
    np.testing.assert_allclose(out, expected, rtol=1e-5, atol=1e-5)


@settings(max_examples=4, deadline=None)
@given(st.integers(1, 2), st.integers(1, 20), st.integers(1, 4), st.integers(1, 20))
def test_layout_conversion_round_trip(batch: int, channels: int, height: int, width: int) -> None:
    x = np.random.default_rng(0).standard_normal((batch, channels, height, width), dtype=np.float32)
    image = Image(batch, height, width, channels, LANES, HALO)
    packed, back = round_trip(image, x)
    np.testing.assert_array_equal(from_image(image, packed), x)
    np.testing.assert_array_equal(back, x)


def test_planar_layout() -> None:
    x = np.random.default_rng(0).standard_normal((2, 3, 5, 21), dtype=np.float32)
    image = Image(2, 5, 21, 3, LANES, (3, 3, 3, 3), planar=True)
    np.testing.assert_array_equal(run_kernel(build_pack_image, PackImageSpec(image), x), to_image(image, x))
