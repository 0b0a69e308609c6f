"""taylor: global pruning by first-order Taylor scores, among axes of the same structure."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from chipfit.ir.axes import Axis
from chipfit.passes.importance import rank
from chipfit.passes.pruning_group import structure
from chipfit.search.strategies.knob import Threshold


@dataclass(frozen=True)
class Taylor(Threshold):
    """torch-pruning's `GroupTaylorImportance` with `global_pruning` and `isomorphic`, by our axes.

    Scores are Molchanov et al. 2019's (arXiv 1906.10771); axes compete with those of isomorphic groups only (Fang et
    al. 2024, arXiv 2407.04616). Departs from both in a loss that needs no labels, and in pruning once, without steps.
    """

    name: ClassVar[str] = "taylor"
    summary: ClassVar[str] = "global isomorphic pruning by first-order Taylor scores"

    def score(self, axis: Axis) -> NDArray[np.float64]:
        return rank(self.task.statistics, axis, "taylor")

    def scope(self, axis: Axis) -> Hashable:
        return axis.kind, structure(self.task.teacher, axis)
