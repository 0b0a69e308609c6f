"""Precision in which models run while they are studied and trained; codegen is another matter."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
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
    found = product_seconds(torch.bfloat16, torch.float32)
    return found[torch.bfloat16] < found[torch.float32]


def product_seconds(*types: torch.dtype) -> dict[torch.dtype, float]:
    """The fastest product of two square matrices of each type, the types in turn.

    Of one thread, and only while it runs: beside other processes two threads wait for each other, and bfloat16 was
    taken for six times as slow as it is. A run that goes on after a kill must not find another answer.
    """
    matrices = {dtype: torch.ones(SIZE, SIZE, dtype=dtype) for dtype in types}
    found = dict.fromkeys(types, math.inf)
    with _one_thread():
        for _ in range(TRIES):
            for dtype, matrix in matrices.items():
                start = time.thread_time()
                torch.mm(matrix, matrix)
                found[dtype] = min(found[dtype], time.thread_time() - start)
    return found


@contextmanager
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def autocast() -> AbstractContextManager[object]:
    return torch.autocast("cpu", torch.bfloat16, enabled=fast_bfloat16())
