"""drop-blocks: leave out the residual branches that the configuration drops."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from chipfit.errors import UserError
from chipfit.ir.apply import drop
from chipfit.ir.blocks import find_blocks
from chipfit.ir.configuration import Configuration
from chipfit.ir.graph import Graph
from chipfit.ir.shapes import replacements
from chipfit.passes.base import Context, Pass, PassResult, PostconditionError, PreconditionError


@dataclass(frozen=True)
class DropBlocks(Pass):
    """Replace a branch's sum by what it would have been added to.

    before: y = x + mlp(norm(x));  z = f(y)
    after:  z = f(x)

    With `last` the pass drops that many whole layers from the end, in place of the blocks that the search chose.
    """

    name: ClassVar[str] = "drop-blocks"
    summary: ClassVar[str] = "leave out attentions, MLPs or whole layers"
    last: int = 0

    def __post_init__(self) -> None:
        if self.last < 0:
            raise UserError(f"drop-blocks can't drop {self.last} layers; give a number of at least 0.")

    def requires(self, graph: Graph, context: Context) -> None:
        layers, blocks = _layers(graph), find_blocks(context.teacher)
        if self.last > len(layers):
            raise PreconditionError(f"it is to drop {self.last} layers, but there are {len(layers)}; drop fewer.")
        for name in sorted(context.configuration.dropped - set(blocks)):
            raise PreconditionError(f"the model has no block {name}; its blocks are listed by chipfit explain.")

    def run(self, graph: Graph, context: Context) -> PassResult:
        """The search's blocks are the teacher's: in a graph that was cut since they may go by other names."""
        chosen, of = context.configuration.dropped, context.teacher
        if self.last:
            chosen, of = frozenset(_layers(graph)[-self.last :]), graph
        left = drop(graph, replacements(of, Configuration(dropped=chosen)))
        return PassResult(left, left is not graph, replace(context.configuration, dropped=chosen))

    def ensures(self, before: Graph, after: Graph, context: Context) -> None:
        if [value.type for value in before.forward.outputs] != [value.type for value in after.forward.outputs]:
            raise PostconditionError("the model's outputs changed their shapes; drop only residual branches.")


def _layers(graph: Graph) -> list[str]:
    return [name for name, block in find_blocks(graph).items() if block.kind == "layer"]
