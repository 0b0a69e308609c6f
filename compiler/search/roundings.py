"""What of a graph may be kept in few bits, and the graph with some of it so: rounding as a survey tries it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import networkx as nx

from chipfit.ir.graph import Graph
from chipfit.passes.base import Inputs, Rounding
from chipfit.passes.factorize import split_weights
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
            found += [*self.rounding.groups(self.whole), *split_weights(self.plain)]
        joint = nx.Graph([(name, min(group)) for group in found for name in group])
        return {min(group): frozenset(group) for group in nx.connected_components(joint)}

    @cached_property
    def whole(self) -> Graph:
        """The graph as the pass finds it where nothing is removed."""
        return folded(self.plain or self.graph)

    def rounded(self, whole: Graph, weights: frozenset[str]) -> Graph:
        """`whole`, at any batch, with these weights rounded."""
        return self.rounding.rounded(whole, weights, self._ranges)

    @cached_property
    def _ranges(self) -> Mapping[str, float]:
        return self.rounding.ranges(self.whole, self.examples)
