"""A library against PyTorch: fast and wrong is worthless."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from chipfit.ir.emit import run
from chipfit.ir.fusion import kernels
from chipfit.ir.graph import Graph, Value
from chipfit.ir.precision import DTYPES

# Of the output's largest magnitude: sums of float32 in another order, through some hundred layers; and where layers
# multiply in fewer bits. Of sums of bfloat16 PyTorch keeps 8 bits and our kernels all; of float16 ours keep 11 for some
# products (2.3e-2 seen in SmolLM2's 30 layers); an int8 may be taken for its neighbour.
TOLERANCE, TOLERANCE_NARROW = 2e-4, 3e-2
LAST_BIT = 2.0**-23  # of a float32, relative
NUDGES = 3  # tries of what last bits do: in one of MiniLM they did half of what they did in another
LEEWAY = 4  # times that: a sum of n terms has n roundings too. 1.5 seen in SmolLM2 at a third of its latency
LEEWAY_ROUNDED = 2  # sums of whole numbers have none

Run = Callable[..., Sequence[npt.NDArray[Any]]]  # input arrays -> output arrays


class WrongResult(Exception):  # noqa: N818
    """The compiled library's numbers are not PyTorch's: a fault of chipfit, not of the user."""


def check(library: Run, graph: Graph, inputs: Sequence[Tensor]) -> float:
    """The largest error relative to the output's largest magnitude. Raises WrongResult above the tolerance."""
    expected = run(graph, *inputs)
    found = errors(graph, library(*(tensor.numpy() for tensor in inputs)), expected)
    worst = max(found, default=0.0)
    if not worst <= usual_tolerance(graph) and not worst <= tolerance(graph, inputs, expected):
        wrong = graph.forward.outputs[int(np.argmax(found))].name
        raise WrongResult(f"Output {wrong} of the library differs from PyTorch by {worst:.1e} of its scale.")
    return worst


def errors(graph: Graph, found: Sequence[npt.NDArray[Any]], expected: Mapping[str, Tensor]) -> list[float]:
    """The relative error of each output."""
    pairs = zip(graph.forward.outputs, found, strict=True)
    return [relative_error(array, expected[value.name].numpy()) for value, array in pairs]


def usual_tolerance(graph: Graph) -> float:
    """How far from PyTorch's numbers a sound network's may be."""
    dtypes = {value.type.dtype for node in graph.forward.nodes for value in node.outputs}
    return TOLERANCE if dtypes.isdisjoint(DTYPES) and not is_rounded(graph) else TOLERANCE_NARROW


def is_rounded(graph: Graph) -> bool:
    return any(kernel.rounded for kernel in kernels(graph.forward))


def tolerance(graph: Graph, inputs: Sequence[Tensor], expected: Mapping[str, Tensor]) -> float:
    """How far from PyTorch's numbers the library's may be.

    Some networks make much of little. Where layers multiply whole numbers, the last bit of a sum decides what a number
    halfway between two whole ones becomes, and layer by layer more of them follow. Where much was cut, one position of
    a text may hang on the difference of large numbers. So it is at least some times what the last bits of the weights
    do to PyTorch's own numbers, at most, in a few tries.
    """
    leeway = LEEWAY_ROUNDED if is_rounded(graph) else LEEWAY
    moves = [run(nudged(graph, seed), *inputs) for seed in range(NUDGES)]
    moved = ([move[value.name].numpy() for value in graph.forward.outputs] for move in moves)
    found = (error for arrays in moved for error in errors(graph, arrays, expected))
    return max([usual_tolerance(graph), *(leeway * error for error in found)])


def nudged(graph: Graph, seed: int) -> Graph:
    """The graph with float32 parameters that differ in their last bits."""
    generator = torch.Generator().manual_seed(seed)

    def other(tensor: Tensor) -> Tensor:
        return tensor * (1 + LAST_BIT * torch.randn(tensor.shape, generator=generator))

    wide = {name: other(tensor) for name, tensor in graph.state.items() if tensor.dtype == torch.float32}
    return graph.with_state(wide)


def relative_error(found: npt.NDArray[Any], expected: npt.NDArray[Any]) -> float:
    """Infinite if one is not finite where the other is."""
    if not np.array_equal(np.isfinite(found), np.isfinite(expected)):
        return float("inf")
    finite = np.isfinite(expected)
    difference = np.abs(found[finite].astype(np.float64) - expected[finite])
    return float(difference.max(initial=0) / max(np.abs(expected[finite]).max(initial=0), 1e-6))


def probe(graph: Graph) -> tuple[Tensor, ...]:
    """Made-up inputs: normal numbers, and integers that every embedding that reads them has."""
    generator = torch.Generator().manual_seed(0)
    return tuple(made_up(value, graph, generator) for value in graph.forward.inputs)


def made_up(value: Value, graph: Graph, generator: torch.Generator) -> Tensor:
    if value.type.dtype.is_floating_point:
        return torch.randn(value.shape, generator=generator, dtype=value.type.dtype)
    tables = [node.inputs[0] for node in graph.forward.consumers.get(value.name, ()) if node.kind == "embedding"]
    if not tables:
        return torch.ones(value.shape, dtype=value.type.dtype)
    rows = min(table.shape[0] for table in tables)
    return torch.randint(0, rows, value.shape, generator=generator, dtype=value.type.dtype)
