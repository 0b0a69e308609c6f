"""A register tile, and what a chip tells of itself so that one can be picked."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol

Order = Literal["columns", "rows"]
Unit = Literal["vector", "amx", "vnni", "sdot", "half"]


class CpuShape(Protocol):
    """What tile choice needs to know of a chip."""

    @property
    def vector_bits(self) -> int: ...

    @property
    def registers(self) -> int: ...

    @property
    def l1_bytes(self) -> int: ...

    @property
    def l2_bytes(self) -> int: ...

    @property
    def threads(self) -> int: ...

    @property
    def bf16_macs(self) -> int: ...

    @property
    def matrix_int8_macs(self) -> int: ...

    @property
    def int8_macs(self) -> int: ...

    @property
    def fp16_flops(self) -> int: ...

    @property
    def machine(self) -> str: ...


@dataclass(frozen=True, slots=True)
class Tile:
    """A register tile of `mr` rows by `nr` columns, `nr` a multiple of `lanes` (float32 values in a vector).

    `order` says which blocks run in parallel: `columns` (each thread keeps a weight panel) or `rows`. `prefetch`
    fetches the next weight panel while the current one is used.
    """

    lanes: int
    mr: int
    nr: int
    order: Order
    threads: int
    prefetch: bool = False
    block: int = 0  # rows of an attention, or patches of Winograd's, in one job
    unit: Unit = "vector"

    @property
    def zero(self) -> int:
        """What stands for 0 in rows of int8: the units of x86 multiply numbers without a sign by such with one."""
        return 128 if self.unit in ("amx", "vnni") else 0


QUAD = 4  # numbers of int8 in a lane, which a dot product takes at once


def lanes(chip: CpuShape) -> int:
    """float32 values in one vector register."""
    return chip.vector_bits // 32
