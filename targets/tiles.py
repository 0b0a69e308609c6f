"""Tile sizes by analysis: the one place that both the cost model and the code generator ask."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol


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


@dataclass(frozen=True, slots=True)
class Tile:
    """A register tile of `mr` rows by `nr` columns, `nr` a multiple of `lanes` (float32 values in a vector).

    order: which blocks run in parallel, `columns` (each thread keeps a weight panel) or `rows`.
    """

    lanes: int
    mr: int
    nr: int
    order: Literal["columns", "rows"]
    threads: int
    prefetch: bool = False
    pack_a: bool = False


def lanes(chip: CpuShape) -> int:
    """float32 values in one vector register."""
    return chip.vector_bits // 32
