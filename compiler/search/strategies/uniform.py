"""uniform: the same part of every axis."""

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
class Uniform(Threshold):
    """The same ratio in all axes, the smallest weights first: Li et al. 2017 (arXiv 1608.08710) at one ratio.

    Departs from it in ranking by the L2 norm over all layers of an axis, as torch-pruning does, not by one filter's L1.
    """

    name: ClassVar[str] = "uniform"
    summary: ClassVar[str] = "the same ratio in every axis, by magnitude"

    def score(self, axis: Axis) -> NDArray[np.float64]:
        return rank(self.task.statistics, axis, "magnitude")

    def scope(self, axis: Axis) -> Hashable:
        return axis.name
