"""Examples joined to the batches that training runs on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import prod

import torch

from chipfit.ir.graph import Graph
from chipfit.passes.base import Inputs

# Elements in all values of a batch, views counted too. More steps on fewer examples recover more in the same time, as
# long as a step's time goes into examples and not into the optimiser (for each parameter) or calls (for each op).
PER_PARAMETER = 8
LEAST, MOST = 100_000_000, 600_000_000  # the second was seen to take 2 GB
LARGEST = 128  # examples


def batch_size(graph: Graph, wanted: int, *splits: Sequence[Inputs]) -> int | None:
    """`wanted`, or with 0 a power of two that keeps steps short but busy; None for a graph that mixes its examples.

    Never more than the smallest split has.
    """
    if graph.batch is None:
        return None
    elements = sum(prod(value.shape) for node in graph.forward.nodes for value in node.outputs) // graph.batch
    aimed = max(LEAST, min(MOST, PER_PARAMETER * graph.parameter_count))
    fitting = min(LARGEST, max(1, aimed // max(1, elements)))
    return min(wanted or 1 << (fitting.bit_length() - 1), *(len(split) for split in splits))


def joined(examples: Sequence[Inputs]) -> Inputs:
    return tuple(torch.cat(parts) for parts in zip(*examples, strict=True))


def endless_batches(examples: Sequence[Inputs], size: int, seed: int) -> Iterator[Inputs]:
    """`size` examples at a time without end, each epoch in another order; what is left of an epoch is left out."""
    generator = torch.Generator().manual_seed(seed)
    while True:
        order = torch.randperm(len(examples), generator=generator)
        for rows in order[: len(order) // size * size].view(-1, size).tolist():
            yield joined([examples[row] for row in rows])


def first_batches(examples: Sequence[Inputs], size: int, count: int) -> list[Inputs]:
    """The first `count` examples in full batches, rounded up where there are enough."""
    wanted = min(-(-count // size), len(examples) // size)
    return [joined(examples[batch * size : (batch + 1) * size]) for batch in range(wanted)]
