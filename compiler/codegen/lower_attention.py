"""Attention as a spec of its kernel: heads read where they lie, written side by side where the graph merges them."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from chipfit.codegen.lower_matmuls import matrices
from chipfit.codegen.program import Tensor
from chipfit.codegen.spec import View, dense
from chipfit.codegen.spec_matmuls import AttentionSpec
from chipfit.codegen.views import Unsupported, strided
from chipfit.ir.graph import Value
from chipfit.ir.kernel import Kernel
from chipfit.ir.ops.signature import arguments
from chipfit.targets.attention_tiles import attention_tile

if TYPE_CHECKING:
    from chipfit.codegen.lower import Lowering


def lower(low: Lowering, kernel: Kernel) -> None:
    """Raises Unsupported."""
    anchor = kernel.anchor
    query, key, value = anchor.inputs[:3]
    given = arguments(anchor)
    mask, scale = given["attn_mask"], given["scale"]
    if given["dropout_p"] or (mask is not None and not isinstance(mask, Value)) or len(query.shape) != 4:
        raise Unsupported("attention with dropout, or of other than four dimensions")
    batch, heads, m, k = query.shape
    n, width = value.shape[-2:]
    q_view, q_tensor, _ = dense_rows(low, kernel, query, shares=False)
    k_view, k_tensor, k_share = dense_rows(low, kernel, key)
    v_view, v_tensor, v_share = dense_rows(low, kernel, value)
    share = heads // key.shape[1] * k_share
    if share != heads // value.shape[1] * v_share:
        raise Unsupported("keys and values that are shared differently")
    c_view = dense(batch * heads, m, width)
    if kernel.output.name != anchor.name:
        c_view = View(kernel.output.shape, heads * width, width, heads, m * heads * width)
    table = low.additive_mask(mask, kernel) if mask is not None else None
    factor = 1 / math.sqrt(k) if scale is None else float(scale)  # type: ignore[arg-type]
    causal = bool(given["is_causal"])
    spec = AttentionSpec(
        *(batch, heads, m, n, k, width, factor, q_view, k_view, v_view, c_view),
        *(share, None if table is None else table.shape, causal),
    )
    tile = attention_tile(low.cpu, batch * heads, share, m, n, k, width)
    tensors = [q_tensor, k_tensor, v_tensor, *([] if table is None else [table])]
    low.emit_dense(kernel.output, spec, tile, tensors)


def dense_rows(low: Lowering, kernel: Kernel, value: Value, shares: bool = True) -> tuple[View, Tensor, int]:
    """As `matrices`, copied where a row is not dense."""
    view, tensor, share = matrices(low, kernel, value, shares)
    if view.column != 1:
        view, tensor, share = strided(value, ()).matrices(), low.dense(value, kernel.nodes), 1
    return view, tensor, share
