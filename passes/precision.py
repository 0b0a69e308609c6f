"""Precision in which models run while they are studied and trained; codegen is another matter."""

from __future__ import annotations

import time
from contextlib import AbstractContextManager
from functools import cache

import torch

SIZE, TRIES = 512, 8  # of square matrices, and products of them of which the fastest counts


@cache
def fast_bfloat16() -> bool:
    """Whether this CPU multiplies bfloat16 faster than float32.

    That it has instructions for it doesn't say so: a Xeon whose matrix unit is switched off takes 1.8 times as long
    with those of AVX-512. So it is timed, once, where there are any.
    """
    able = torch.cpu.get_capabilities()
    if not any(able.get(name, False) for name in ("amx_bf16", "avx512_bf16", "bf16")):
        return False
    return product_seconds(torch.bfloat16) < product_seconds(torch.float32)


def product_seconds(dtype: torch.dtype) -> float:
    """The fastest product of two square matrices."""
    matrix, found = torch.ones(SIZE, SIZE, dtype=dtype), list[float]()
    for _ in range(TRIES):
        start = time.perf_counter()
        torch.mm(matrix, matrix)
        found.append(time.perf_counter() - start)
    return min(found)


def autocast() -> AbstractContextManager[object]:
    return torch.autocast("cpu", torch.bfloat16, enabled=fast_bfloat16())
