"""How good a graph is: by the user's own metric, or else by how far it agrees with its teacher."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch

from chipfit.frontend.data import Data, Metric, batched, batches
from chipfit.ir.apply import rebatch
from chipfit.ir.emit import emit, run
from chipfit.ir.graph import Graph
from chipfit.passes.agreement import disagreement
from chipfit.passes.base import Inputs

BATCH, MOST = 8, 256  # examples judged together
ROOM = 2**22  # elements that the largest value of a batch may have: more of a small model's examples go together
JUDGED = 64  # held-out examples on which agreement is measured


@dataclass(frozen=True)
class Quality:
    """One score and what part of the teacher's it keeps: 1 is the teacher's own quality."""

    metric: str
    unit: str
    value: float
    retention: float
    parts: Mapping[str, float] = field(default_factory=dict)  # of which `value` is the mean


def assess(graph: Graph, teacher: Graph, data: Data, reference: float | None = None) -> Quality:
    """The quality of `graph`. `reference` is the teacher's score by `data.metric` if it is known already."""
    if data.metric is None:
        value = agreement(graph, teacher, data.heldout[:JUDGED])
        return Quality("agreement with the teacher", "", value, value)
    value, parts = score(graph, data.metric)
    reference = score(teacher, data.metric)[0] if reference is None else reference
    return Quality(data.metric.name, data.metric.unit, value, retention(data.metric, value, reference), parts)


def retention(metric: Metric, value: float, reference: float) -> float:
    """The part of the reference kept: value over reference, or the reverse where lower is better."""
    return value / reference if metric.higher_is_better else reference / value


def score(graph: Graph, metric: Metric) -> tuple[float, Mapping[str, float]]:
    """The score by `metric` and the named parts that it is the mean of, if it has any."""
    size = together(graph)
    module = emit(rebatch(graph, size) if graph.batch else graph)
    with torch.no_grad():
        found = metric.score(batched(module, size))
    return (statistics.fmean(found.values()), found) if isinstance(found, Mapping) else (found, {})


def together(graph: Graph) -> int:
    """How many examples are judged at a time."""
    if not graph.batch:
        return 1
    values = (value for node in graph.forward.nodes for value in node.outputs)
    largest = max(math.prod(value.shape) for value in values) / graph.batch
    return min(MOST, max(BATCH, int(2 ** math.floor(math.log2(ROOM / largest)))))


def agreement(graph: Graph, teacher: Graph, heldout: Sequence[Inputs]) -> float:
    """exp(-disagreement) with the teacher's outputs, over batches: 1 where they are the same."""
    size = min(BATCH, len(heldout)) if graph.batch else 1
    student, other = (rebatch(one, size) if one.batch else one for one in (graph, teacher))
    found = [disagreement(other, run(student, *rows), run(other, *rows)) for rows in batches(heldout, size)]
    return math.exp(-max(0.0, statistics.fmean(found)))  # in float32 a divergence of next to nothing may fall below it
