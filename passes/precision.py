"""Precision in which models run while they are studied and trained; codegen is another matter."""

from __future__ import annotations

from contextlib import AbstractContextManager

import torch


def fast_bfloat16() -> bool:
    """Whether this CPU multiplies bfloat16 faster than float32."""
    able = torch.cpu.get_capabilities()
    return any(able.get(name, False) for name in ("amx_bf16", "avx512_bf16", "bf16"))


def autocast() -> AbstractContextManager[object]:
    return torch.autocast("cpu", torch.bfloat16, enabled=fast_bfloat16())
