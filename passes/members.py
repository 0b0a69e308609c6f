"""Which entries of a tensor's dimension belong to which index of an axis."""

from __future__ import annotations

import numpy as np

from chipfit.ir.axes import Analysis, Axis
from chipfit.ir.configuration import Configuration

OUTSIDE = -1


def axis_indices(analysis: Analysis, axis: Axis, name: str, dim: int, extent: int) -> np.ndarray:
    """The axis index of each of the `extent` entries along a dimension of a value or parameter; OUTSIDE for others.

    Read off what stays when the axis keeps only the indices with a certain bit: as many questions as bits.
    """

    def stays(indices: list[int]) -> np.ndarray:
        kept = analysis.kept(name, dim, Configuration({axis.name: tuple(indices)}))
        return np.ones(extent, bool) if kept is None else np.isin(np.arange(extent), kept)

    if axis.size == 1:
        raise ValueError(f"Axis {axis.name} has one index only, so nothing of it can be removed.")
    outside = stays([0]) & stays(list(range(1, axis.size)))
    found = np.zeros(extent, np.int64)
    for bit in range((axis.size - 1).bit_length()):
        found += stays([index for index in range(axis.size) if index >> bit & 1]) * (1 << bit)
    return np.where(outside, OUTSIDE, found)
