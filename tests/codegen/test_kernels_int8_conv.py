"""Convolutions of int8 by int8: sources are rounded as PyTorch rounds them, and the sums of whole numbers are exact."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from kernel_runner import LANES, from_image, run_kernel, to_image

from chipfit.codegen.amx_conv import build_amx_conv
from chipfit.codegen.amx_planes import build_amx_planes
from chipfit.codegen.conv import build_conv
from chipfit.codegen.runtime import allow_matrix_unit
from chipfit.codegen.spec import Epilogue, Operand, Step
from chipfit.codegen.spec_images import ConvSpec
from chipfit.ir.images import Image
from chipfit.targets.detect import has_int8
from chipfit.targets.tile import Tile

TILES = {
    "vector": Tile(LANES, 5, 2 * LANES, "columns", 2, True),
    "vnni": Tile(16, 5, 32, "columns", 2, True, unit="vnni"),
    "vnni of AVX2": Tile(8, 7, 8, "rows", 2, unit="vnni"),
    "amx": Tile(16, 32, 32, "columns", 2, True, 64, "amx"),
    "amx by rows": Tile(16, 32, 32, "rows", 2, True, 32, "amx"),
}
UNITS = [
    name if name == "vector" else pytest.param(name, marks=pytest.mark.skipif(not has_int8(), reason="no such unit"))
    for name in TILES
]


@pytest.mark.parametrize("unit", UNITS)
@settings(max_examples=8, deadline=None)
@given(
    size=st.tuples(st.integers(1, 2), st.integers(5, 12), st.integers(5, 12)),
    channels=st.tuples(st.integers(1, 70), st.integers(1, 70)),
    kernel=st.sampled_from([1, 2, 3]),
    stride=st.integers(1, 2),
    dilation=st.integers(1, 2),
)
def test_sums_are_exact(
    unit: str, size: tuple[int, int, int], channels: tuple[int, int], kernel: int, stride: int, dilation: int
) -> None:
    allow_matrix_unit() if "amx" in unit else None
    (batch, height, width), (ins, outs), padding, tile = size, channels, kernel // 2, TILES[unit]
    torch.manual_seed(ins)
    x, steps = 3 * torch.randn(batch, ins, height, width), torch.tensor([50.0])
    weight = torch.randint(-127, 128, (outs, ins, kernel, kernel), dtype=torch.int8)
    scales, bias = torch.rand(outs) / 1000, torch.randn(outs)
    whole = (x * steps).round().clamp(-127, 127)  # what lies beyond 127 is cut off
    assert (whole.abs() == 127).any() or x.numel() < 1000
    exact = F.conv2d(whole.double(), weight.double(), None, stride, padding, dilation).float()
    expected = F.relu(exact * scales.reshape(-1, 1, 1) + bias.reshape(-1, 1, 1))
    source = Image(batch, height, width, ins, tile.lanes, (padding, padding + 1) * 2)
    target = Image(batch, *expected.shape[2:], outs, tile.lanes, (1, 0, 2, 1))
    epilogue = Epilogue((Step("mul", ("acc", 0)), Step("add", ("acc", 1)), Step("relu")), (Operand((outs,)),) * 2)
    window = ((kernel,) * 2, (stride,) * 2, (padding,) * 2, (dilation,) * 2)
    spec = ConvSpec(source, target, *window, 1, epilogue, "int8")
    build = build_amx_conv if "amx" in unit else build_conv
    out = run_kernel(build, spec, to_image(source, x), weight, steps, scales, bias, tile=tile)
    np.testing.assert_allclose(from_image(target, out), expected.numpy(), rtol=1e-6, atol=1e-6)


def test_groups_and_planes_are_refused() -> None:
    source, target = Image(1, 5, 5, 32, LANES), Image(1, 5, 5, 32, LANES)
    spec = ConvSpec(source, target, (1, 1), groups=2, stored="int8")
    with pytest.raises(ValueError, match="takes no groups and no planes"):
        build_conv(spec, TILES["vector"], "main")
    planes = replace(spec, groups=1, source=Image(1, 5, 5, 3, LANES, planar=True))
    for build in (build_conv, build_amx_conv, build_amx_planes):
        with pytest.raises(ValueError, match=r"takes (no groups|planes in bfloat16)"):
            build(planes, TILES["amx"], "main")
