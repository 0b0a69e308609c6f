"""What of a graph may be kept in few bits, and the graph with some of it so: rounding as a survey tries it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import networkx as nx

from chipfit.ir.configuration import Configuration
from chipfit.ir.graph import Graph
from chipfit.passes.base import Inputs, Rounding
from chipfit.passes.factorize import joined, split_weights
from chipfit.passes.fold_batch_norm import folded


@dataclass(frozen=True)
class Roundings:
    """Of a graph, by a pass. `plain` is the graph without the splits, where layers were split to give them a rank."""

    rounding: Rounding
    graph: Graph
    plain: Graph | None
    examples: Sequence[Inputs]  # which tell the ranges of values

    @cached_property
    def groups(self) -> dict[str, frozenset[str]]:
        """The weights that are rounded together or not at all, by the first of their names.

        A layer that is split or not, as its rank is cut or not, is rounded either way.
        """
        found = list(self.rounding.groups(folded(self.graph)))
        if self.plain:
            found += [*self.rounding.groups(folded(self.plain)), *split_weights(self.plain)]
        joint = nx.Graph([(name, min(group)) for group in found for name in group])
        return {min(group): frozenset(group) for group in nx.connected_components(joint)}

    def rounded(self, changed: Graph, configuration: Configuration) -> Graph:
        """What became of the graph, its weights rounded as a configuration says, with ranges as they were in it."""
        if not configuration.rounded:
            return changed
        return self.alone(self.ready(changed, configuration), configuration.rounded)

    def ready(self, changed: Graph, configuration: Configuration) -> Graph:
        """The graph as the pass finds it: batch norms folded, and layers whole whose rank isn't cut."""
        return folded(joined(self.plain, changed, configuration.widths) if self.plain else changed)

    def alone(self, ready: Graph, weights: frozenset[str]) -> Graph:
        return self.rounding.rounded(ready, weights, self._ranges)

    @cached_property
    def _ranges(self) -> Mapping[str, float]:
        return self.rounding.ranges(folded(self.graph), self.examples)
