"""A library against PyTorch: fast and wrong is worthless."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from chipfit.ir.emit import run
from chipfit.ir.fusion import kernels, rounds_rows
from chipfit.ir.graph import Graph, Value

# Of the output's largest magnitude: sums of float32 in another order, through some hundred layers; and where layers
# multiply in bfloat16 or float16, of whose sums PyTorch keeps 8 and 11 bits and our kernels about as many or all. Where
# layers read rows of int8, a number that lies between two whole ones comes out as the other for the last bit of a sum,
# and layer by layer more of them.
TOLERANCE, TOLERANCE_BFLOAT16, TOLERANCE_FLOAT16, TOLERANCE_INT8 = 2e-4, 3e-2, 1e-2, 3e-2

Run = Callable[..., Sequence[npt.NDArray[Any]]]  # input arrays -> output arrays


class WrongResult(Exception):  # noqa: N818
    """The compiled library's numbers are not PyTorch's: a fault of chipfit, not of the user."""


def check(library: Run, graph: Graph, inputs: Sequence[Tensor]) -> float:
    """The largest error relative to the output's largest magnitude. Raises WrongResult above the tolerance."""
    expected = run(graph, *inputs)
    results = library(*(tensor.numpy() for tensor in inputs))
    pairs = zip(graph.forward.outputs, results, strict=True)
    errors = [relative_error(found, expected[value.name].numpy()) for value, found in pairs]
    worst = max(errors, default=0.0)
    if not worst <= tolerance(graph):
        wrong = graph.forward.outputs[int(np.argmax(errors))].name
        raise WrongResult(f"Output {wrong} of the library differs from PyTorch by {worst:.1e} of its scale.")
    return worst


def tolerance(graph: Graph) -> float:
    if any(rounds_rows(kernel) for kernel in kernels(graph.forward)):
        return TOLERANCE_INT8
    found = {value.type.dtype for node in graph.forward.nodes for value in node.outputs}
    if torch.bfloat16 in found:
        return TOLERANCE_BFLOAT16
    return TOLERANCE_FLOAT16 if torch.float16 in found else TOLERANCE


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
