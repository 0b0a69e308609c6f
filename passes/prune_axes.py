"""prune-axes: cut the axes to the indices that the configuration keeps."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from chipfit.errors import UserError
from chipfit.ir.apply import apply
from chipfit.ir.axes import Axis, analyse
from chipfit.ir.configuration import Configuration
from chipfit.ir.graph import Graph
from chipfit.passes.base import Context, Pass, PassResult, PostconditionError, PreconditionError, require_calibration
from chipfit.passes.importance import CRITERIA, DATA_FREE, best, rank
from chipfit.passes.statistics import Statistics


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
        axes, known = analyse(graph).axes, analyse(context.teacher).axes
        for name, kept in context.configuration.widths.items():
            if name not in known:
                raise PreconditionError(f"the model has no axis {name}; its axes are listed by chipfit explain.")
            if not self.ratio and name in axes and axes[name].size <= kept[-1]:
                raise PreconditionError(f"axis {name} has only {axes[name].size} indices left; prune each axis once.")

    def run(self, graph: Graph, context: Context) -> PassResult:
        wanted = self._choose(graph, context) if self.ratio else context.configuration
        axes = analyse(graph).axes
        there = {name: kept for name, kept in wanted.widths.items() if name in axes}  # others went with their block
        result = apply(graph, Configuration(there)) if there else graph
        return PassResult(result, bool(there), wanted)

    def ensures(self, before: Graph, after: Graph, context: Context) -> None:
        if [value.type for value in before.forward.outputs] != [value.type for value in after.forward.outputs]:
            raise PostconditionError("the model's outputs changed their shapes; freeze the axes that outputs carry.")

    def _choose(self, graph: Graph, context: Context) -> Configuration:
        statistics = Statistics(graph, context.calibration, context.seed)
        axes = [axis for axis in analyse(graph).axes.values() if axis.state == "exact" and axis.size > 1]
        widths = {axis.name: self._keep(statistics, axis) for axis in axes}
        return Configuration(widths, context.configuration.dropped)

    def _keep(self, statistics: Statistics, axis: Axis) -> tuple[int, ...]:
        count = max(1, round(axis.size * (1 - self.ratio)))
        return best(rank(statistics, axis, self.criterion), count)
