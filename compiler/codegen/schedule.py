"""A schedule for every function that TVM lowers by itself: on a CPU it would leave them serial and scalar."""

from __future__ import annotations

from typing import Any

import tvm
from tvm import s_tir, tirx
from tvm.s_tir.dlight.analysis import normalize_prim_func
from tvm.s_tir.dlight.base import try_inline

from chipfit.codegen.stock_search import searched

OURS = "chipfit.generated"  # the attribute of functions that come scheduled
PARALLEL_FROM = 1 << 13  # elements from which starting the threads (some microseconds) pays


def schedule_stock(module: Any, lanes: int, target: Any, trials: int) -> Any:
    """The module with every function that is not ours inlined, parallel over rows and vectorised along them.

    With `trials`, at the fastest schedule of so many that TVM's own search finds.
    """
    updated = {
        name: (searched(function, target, trials) if trials else None) or scheduled(function, lanes)
        for name, function in module.functions_items()
        if isinstance(function, tirx.PrimFunc) and OURS not in (function.attrs or {})
    }
    module = tvm.IRModule(dict(module.functions_items()), attrs=module.attrs)
    for name, function in updated.items():
        module[name] = function
    return module


def scheduled(function: Any, lanes: int) -> Any:
    """One function's schedule; functions that are no loops over blocks (sorting, say) stay as they are."""
    schedule = s_tir.Schedule(function)
    blocks = normalize_prim_func(schedule)
    if blocks is None:
        return function
    for block in try_inline(schedule, blocks):
        schedule_block(schedule, block, lanes)
    return schedule.mod["main"]


def schedule_block(schedule: Any, block: Any, lanes: int) -> None:
    loops, kinds = schedule.get_loops(block.block_rv), block.dom_kind()
    if len(loops) != len(kinds) or set(kinds) - {"S", "R"}:
        return
    spatial = [loop for loop, kind in zip(loops, kinds, strict=True) if kind == "S"]
    reduced = [loop for loop, kind in zip(loops, kinds, strict=True) if kind == "R"]
    if not spatial:
        return
    extents = [int(schedule.get(loop).extent) for loop in spatial]
    total = 1
    for extent in extents:
        total *= extent
    schedule.reorder(*spatial, *reduced)
    *outer, inner = spatial
    if not outer:
        outer, inner = list(schedule.split(inner, factors=[None, min(extents[-1], 4 * lanes)]))[:1], None
    fused = schedule.fuse(*outer) if len(outer) > 1 else outer[0]
    if total >= PARALLEL_FROM or reduced:
        schedule.parallel(fused)
    if inner is not None and not reduced and extents[-1] % lanes == 0:
        _, vector = schedule.split(inner, factors=[None, lanes])
        schedule.vectorize(vector)
