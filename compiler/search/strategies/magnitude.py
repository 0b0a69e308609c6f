"""magnitude: one threshold on weights' norms over the whole model."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from chipfit.ir.axes import Axis
from chipfit.passes.importance import rank
from chipfit.search.strategies.knob import Threshold


@dataclass(frozen=True)
class Magnitude(Threshold):
    """A global threshold (Han et al. 2015, arXiv 1506.02626) on structures' L2 norms.

    Departs from it in removing whole indices of axes, and in taking the scores of torch-pruning's
    `GroupMagnitudeImportance`, divided by their mean in each axis: layers of small weights would vanish first.
    """

    name: ClassVar[str] = "magnitude"
    summary: ClassVar[str] = "one threshold on L2 norms over all axes"

    def score(self, axis: Axis) -> NDArray[np.float64]:
        return rank(self.task.statistics, axis, "magnitude")

    def scope(self, axis: Axis) -> Hashable:
        return "all"
