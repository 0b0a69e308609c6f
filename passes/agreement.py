"""One figure for how far a graph's outputs are from its teacher's, whatever kind of model it is."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from chipfit.ir.graph import Graph
from chipfit.passes.losses import divergence, relative_error
from chipfit.passes.matching import find_head


def disagreement(teacher: Graph, given: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> float:
    """Of outputs by the teacher's names: KL divergence in nats a row for logits, relative squared error otherwise."""
    names = [value.name for value in teacher.forward.outputs]
    if find_head(teacher) is None:
        return sum(float(relative_error(given[name], wanted[name])) for name in names) / len(names)
    (name,) = names
    return float(divergence(given[name].flatten(0, -2), wanted[name].flatten(0, -2)))
