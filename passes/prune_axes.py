"""prune-axes: cut the axes to the indices that the configuration keeps."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from chipfit.errors import UserError
from chipfit.ir.apply import apply
from chipfit.ir.axes import Axis, analyse
from chipfit.ir.configuration import Configuration
from chipfit.ir.graph import Graph
from chipfit.passes.base import Context, Pass, PassResult, PostconditionError, PreconditionError, require_calibration
from chipfit.passes.importance import CRITERIA, DATA_FREE, best, rank
from chipfit.passes.members import axis_indices
from chipfit.passes.statistics import EXAMPLES, Statistics


@dataclass(frozen=True)
class PruneAxes(Pass):
    """Slice every tensor along the pruned axes.

    before: down[576, 1536] @ act(up[1536, 576] @ x)
    after:  down[576, 768] @ act(up[768, 576] @ x)   with 768 of 1,536 indices kept

    With a `ratio` the pass itself removes that share of every exact axis, lowest scores first, in place of the
    widths that the search chose.
    """

    name: ClassVar[str] = "prune-axes"
    summary: ClassVar[str] = "cut channels, heads and hidden widths to the indices that are kept"
    ratio: float = 0.0
    criterion: str = "activation"

    def __post_init__(self) -> None:
        if not 0 <= self.ratio < 1:
            raise UserError(f"prune-axes can't remove {self.ratio} of an axis; give a ratio of at least 0 and below 1.")
        if self.criterion not in CRITERIA:
            raise UserError(f"There is no criterion {self.criterion}; the criteria are {', '.join(CRITERIA)}.")

    def requires(self, graph: Graph, context: Context) -> None:
        if self.ratio and self.criterion not in DATA_FREE:
            require_calibration(context)
        for name in set(context.configuration.widths) - set(analyse(context.teacher).axes):
            raise PreconditionError(f"the model has no axis {name}; its axes are listed by chipfit explain.")
        if not self.ratio:
            _translated(context.configuration, context.teacher, graph)

    def run(self, graph: Graph, context: Context) -> PassResult:
        wanted = self._choose(graph, context) if self.ratio else context.configuration
        there = _translated(wanted, context.teacher, graph)
        result = apply(graph, there) if there.widths else graph
        return PassResult(result, bool(there.widths), wanted)

    def ensures(self, before: Graph, after: Graph, context: Context) -> None:
        if [value.type for value in before.forward.outputs] != [value.type for value in after.forward.outputs]:
            raise PostconditionError("the model's outputs changed their shapes; freeze the axes that outputs carry.")

    def _choose(self, graph: Graph, context: Context) -> Configuration:
        statistics = Statistics(context.teacher, context.calibration[:EXAMPLES], context.seed)
        axes = [axis for axis in analyse(context.teacher).axes.values() if axis.state == "exact"]
        widths = {axis.name: self._keep(statistics, axis) for axis in axes}
        return replace(context.configuration, widths=widths)

    def _keep(self, statistics: Statistics, axis: Axis) -> tuple[int, ...]:
        count = max(1, round(axis.size * (1 - self.ratio)))
        return best(rank(statistics, axis, self.criterion), count)


def _translated(wanted: Configuration, teacher: Graph, graph: Graph) -> Configuration:
    """The widths by the graph's names of the teacher's axes; axes that went with a dropped block are left out.

    An axis is named after its first member, so it changes its name when a block that holds it is dropped.
    """
    known = analyse(teacher).axes
    names = {name: _counterpart(known[name], teacher, graph) for name in wanted.widths}
    return Configuration({new: wanted.widths[old] for old, new in names.items() if new})


def _counterpart(axis: Axis, teacher: Graph, graph: Graph) -> str | None:
    """The graph's axis along the same entries of the same parameter; None if none of its parameters is left."""
    left = [member for member in axis.members if member[0] in graph.parameters]
    if not left:
        return None
    entries = axis_indices(analyse(teacher), axis, *left[0])
    for other in analyse(graph).axes.values():
        if left[0] in other.members and np.array_equal(axis_indices(analyse(graph), other, *left[0]), entries):
            return other.name
    raise PreconditionError(f"axis {axis.name} is not as wide as in the teacher; prune each axis once.")
