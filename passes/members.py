"""Which entries of a tensor's dimension belong to which index of an axis."""

from __future__ import annotations

from functools import reduce

import numpy as np

from chipfit.ir.axes import Analysis, Axis
from chipfit.ir.extent import Extent

OUTSIDE = -1


def axis_indices(analysis: Analysis, axis: Axis, name: str, dim: int) -> np.ndarray:
    """The axis index of each entry along a dimension of a value or parameter; OUTSIDE for those of other axes."""
    return _indices(analysis.labels_of(name)[dim].root, analysis.atoms[axis.name].root)


def _indices(extent: Extent, atom: Extent) -> np.ndarray:
    if extent.form == "atom":
        return np.arange(extent.size) if extent is atom else np.full(extent.size, OUTSIDE)
    parts = [_indices(part.root, atom) for part in extent.parts]
    if extent.form == "concatenation":
        return np.concatenate(parts)
    return reduce(lambda outer, inner: np.maximum(outer[:, None], inner).ravel(), parts)  # OUTSIDE is less than any
