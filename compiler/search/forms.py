"""The forms of a graph that configurations are cut in: with some layers split, and some weights rounded.

A form is what its costs depend on, shapes alone: it holds no weights, so that it is made in a moment and can be kept.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache, cached_property, lru_cache

from chipfit.ir.configuration import Configuration
from chipfit.ir.graph import Graph
from chipfit.passes.base import Rounding
from chipfit.passes.factorize import down_weight, rank_axis, tall_layers, with_factors
from chipfit.passes.layers import Layer

NOTHING = frozenset[str]()
KEPT = 16  # of the forms in which some weights are rounded and some aren't; each is a plan of kernels

Names = frozenset[str]


class Forms:
    """All forms of one model, made once for all chips.

    `graph` is the one that codegen plans kernels for. Where layers were split to give them a rank, `plain` is the graph
    without the splits: a rank that isn't cut costs what the whole layer does. `rounding` is the pass that keeps weights
    in few bits, if there is one.
    """

    def __init__(self, graph: Graph, plain: Graph | None = None, rounding: Rounding | None = None) -> None:
        self.graph = graph.weightless
        self.rounding = rounding
        self._plain = plain.weightless if plain else None
        self._split_at = cache(self._with_factors)
        self._wholly_rounded = cache(self._rounded)
        self._partly_rounded = lru_cache(KEPT)(self._rounded)

    def of(self, configuration: Configuration) -> Graph:
        """That with those layers split whose rank the configuration cuts, and rounded as it says."""
        return self.form(configuration.widths, configuration.rounded)

    def form(self, axes: Iterable[str], rounded: Names | None) -> Graph:
        """That with those layers split whose rank is among the axes, and with these weights rounded (None: all)."""
        ranks = self._ranks.intersection(axes)
        if self.rounding is None or rounded == NOTHING:
            return self._split_at(ranks)
        return self._wholly_rounded(ranks, None) if rounded is None else self._partly_rounded(ranks, rounded)

    def split(self, rounded: Names | None) -> Graph:
        """That with all layers split."""
        return self.form(self._ranks, rounded)

    def whole(self, rounded: Names | None) -> Graph:
        """That with no layer split."""
        return self.form(NOTHING, rounded)

    @cached_property
    def layers(self) -> list[Layer]:
        """Those that are split; whole they depend on what their two halves do."""
        found = tall_layers(self._plain) if self._plain else []
        return [layer for layer in found if down_weight(layer.node) in self.graph.parameters]

    @cached_property
    def _ranks(self) -> Names:
        return frozenset(rank_axis(layer.node) for layer in self.layers)

    def _with_factors(self, ranks: Names) -> Graph:
        if self._plain is None or ranks == self._ranks:
            return self.graph
        return with_factors(self._plain, self.graph, ranks)

    def _rounded(self, ranks: Names, rounded: Names | None) -> Graph:
        assert self.rounding
        return self.rounding.rounded(self._split_at(ranks), rounded, {})
