"""What is asked about a graph: a configuration at a batch, and by which sizes an answer can be looked up again."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from operator import itemgetter

from chipfit.ir.apply import can_rebatch, drop
from chipfit.ir.axes import analyse
from chipfit.ir.configuration import Configuration
from chipfit.ir.graph import Graph
from chipfit.ir.shapes import Shapes, replacements, what_if

BATCH = ""  # stands for the batch among the names of axes
Sizes = Mapping[str, int | None]  # of the batch and of axes, None where they are as in the graph
Key = Callable[[Sizes], Hashable]  # the sizes that something depends on


@dataclass(frozen=True)
class Question:
    """A configuration of a graph at a batch, None for the batch of its trace. Shapes are found once they are needed."""

    graph: Graph
    configuration: Configuration
    batch: int | None

    @staticmethod
    def of(graph: Graph, configuration: Configuration | None, batch: int) -> Question:
        """Raises ValueError for a configuration that is none of this graph's."""
        configuration = configuration or Configuration()
        analyse(graph).kept_atoms(configuration)
        return Question(graph, configuration, batch if can_rebatch(graph) else None)

    @cached_property
    def shapes(self) -> Shapes:
        return what_if(self.graph, self.configuration, self.batch)

    @cached_property
    def rest(self) -> Graph:
        """The graph without the dropped blocks, in full width: what is left of them may fuse otherwise."""
        dropped = self.configuration.dropped
        return drop(self.graph, replacements(self.graph, self.configuration)) if dropped else self.graph

    @cached_property
    def sizes(self) -> Sizes:
        """Axis -> its size where it is narrowed, else None."""
        narrowed = {axis: len(kept) for axis, kept in self.configuration.widths.items()}
        return {BATCH: self.batch, **dict.fromkeys(analyse(self.graph).axes), **narrowed}


def key_of(axes: Sequence[str]) -> Key:
    """By the batch and these axes."""
    return itemgetter(BATCH, *axes)
