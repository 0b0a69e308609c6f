"""Attention in one kernel, at any sizes, against torch: heads shared and in place, masks, causal."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from kernel_runner import LANES, run_kernel
from torch.nn.functional import scaled_dot_product_attention

from chipfit.codegen.attention import build_attention
from chipfit.codegen.spec import View, dense
from chipfit.codegen.spec_matmuls import AttentionSpec
from chipfit.targets.tile import Tile


def attend(q, k, v, tile: Tile, mask=None, causal=False, scale=0.3) -> np.ndarray:
    (batch, heads, m, size), (n, width) = q.shape, v.shape[2:]
    share = heads // k.shape[1]
    views = (
        dense(batch * heads, m, size),
        dense(batch * heads // share, n, size),
        dense(batch * heads // share, n, width),
    )
    shape = None if mask is None else tuple(mask.shape)
    out = dense(batch * heads, m, width)
    spec = AttentionSpec(batch, heads, m, n, size, width, scale, *views, out, share, shape, causal)
    given = [t.reshape(view.shape).numpy() for t, view in zip((q, k, v), views, strict=True)]
    found = run_kernel(build_attention, spec, *given, *([] if mask is None else [mask.numpy()]), tile=tile)
    return found.reshape(batch, heads, m, width)


def expected(q, k, v, mask=None, causal=False, scale=0.3) -> np.ndarray:
    return scaled_dot_product_attention(
        q, k, v, attn_mask=mask, is_causal=causal, scale=scale, enable_gqa=q.shape[1] != k.shape[1]
    ).numpy()


def tiles() -> st.SearchStrategy[Tile]:
    return st.builds(
        lambda mr, nv, block: Tile(LANES, mr, nv * LANES, "rows", 2, block=block),
        st.integers(1, 5),
        st.integers(1, 3),
        st.integers(1, 12),
    )


@settings(max_examples=15, deadline=None)
@given(
    st.tuples(st.integers(1, 2), st.integers(1, 2), st.integers(1, 3)),
    st.tuples(st.integers(1, 20), st.integers(1, 40), st.integers(1, 20), st.integers(1, 20)),
    tiles(),
    st.sampled_from(["plain", "causal", "rows", "whole"]),
)
def test_any_sizes(stack: tuple[int, int, int], sizes: tuple[int, int, int, int], tile: Tile, kind: str) -> None:
    (batch, groups, share), (m, n, k, width) = stack, sizes
    torch.manual_seed(0)
    q, key, value = (
        torch.randn(batch, count, rows, columns)
        for count, rows, columns in ((groups * share, m, k), (groups, n, k), (groups, n, width))
    )
    shape = {"rows": (batch, 1, 1, n), "whole": (batch, groups * share, m, n)}.get(kind)
    mask = torch.where(torch.rand(shape) < 0.2, -torch.inf, torch.randn(shape)) if shape else None
    if mask is not None:
        mask[..., 0] = 0.0
    found = attend(q, key, value, tile, mask, kind == "causal")
    np.testing.assert_allclose(found, expected(q, key, value, mask, kind == "causal"), rtol=1e-4, atol=1e-5)


def test_heads_are_read_and_written_side_by_side() -> None:
    batch, rows, heads, groups, width = 2, 11, 6, 2, 10
    q, k, v = (torch.randn(batch, rows, count * width) for count in (heads, groups, groups))

    def view(count: int) -> View:
        row = count * width
        return View((batch, rows, row), row, head=width, heads=count, batch=rows * row)

    spec = AttentionSpec(
        batch,
        heads,
        rows,
        rows,
        width,
        width,
        0.3,
        view(heads),
        view(groups),
        view(groups),
        view(heads),
        heads // groups,
    )
    found = run_kernel(
        build_attention, spec, q.numpy(), k.numpy(), v.numpy(), tile=Tile(LANES, 3, LANES, "rows", 2, block=4)
    )
    apart = [t.unflatten(-1, (-1, width)).transpose(1, 2) for t in (q, k, v)]
    whole = expected(*apart).swapaxes(1, 2).reshape(found.shape)
    np.testing.assert_allclose(found, whole, rtol=1e-4, atol=1e-5)


def test_a_row_that_sees_nothing_is_zero() -> None:
    q, k, v = (torch.randn(1, 1, 3, 4) for _ in range(3))
    mask = torch.zeros(1, 1, 3, 3)
    mask[0, 0, 1] = -torch.inf
    assert (attend(q, k, v, Tile(LANES, 2, LANES, "rows", 1, block=3), mask)[0, 0, 1] == 0).all()


def test_strided_rows_are_refused() -> None:
    view = View((4, 4), row=1, column=4)
    spec = AttentionSpec(1, 1, 4, 4, 4, 4, 1.0, view, view, view, view)
    with pytest.raises(ValueError, match="rows that are dense"):
        build_attention(spec, Tile(LANES, 1, LANES, "rows", 1, block=4), "main")
