"""Closed-form repair: the weights that, from what is left of a layer's input, best give what the layer gave before.

For rows X' of what is left, wanted outputs Y and the sliced weight W the repaired one minimises
|Y - X'(W + D)'|^2 + damping * m * |D|^2 with m the mean of the diagonal of X'^T X', by its normal equations in float64.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from operator import add

import numpy as np
import torch
from torch import Tensor

from chipfit.ir.axes import Axis
from chipfit.passes.importance import column_owners
from chipfit.passes.layers import Layer, with_ones
from chipfit.passes.matching import chosen
from chipfit.passes.members import OUTSIDE
from chipfit.passes.statistics import Statistics, gram

DAMPINGS = (0.003, 0.01, 0.03, 0.1, 0.3)  # the fewer rows there are for each column, the more it takes
DAMPING = 0.1  # good at about two rows for each column, where a smaller one fits noise (seen on SmolLM2's FFNs)


def correction(squares: Tensor, cross: Tensor, damping: float) -> Tensor:
    """D transposed, [..., columns, outputs], from X'^T X' [..., columns, columns] and X'^T R with R = Y - X'W'."""
    diagonal = squares.diagonal(dim1=-2, dim2=-1)
    ridge = (damping * diagonal.mean(-1, keepdim=True)).clamp_min(torch.finfo(squares.dtype).tiny)
    factor = torch.linalg.cholesky(squares + torch.diag_embed(ridge.expand_as(diagonal)))
    return torch.cholesky_solve(cross, factor)


@dataclass(frozen=True)
class NormalEquations:
    """Sums over rows: X'^T X', X'^T R and |R|^2, in float64; the groups of a convolution side by side."""

    squares: Tensor
    cross: Tensor
    residual: float

    @staticmethod
    def at(layer: Layer, given: Tensor, missing: Tensor, relevant: Tensor | None = None) -> NormalEquations:
        """Of what the layer reads and what its output lacks, where that is relevant (see `padding.py`)."""
        rows = layer.rows(chosen(given, relevant).float())
        return NormalEquations.of(with_ones(rows) if layer.bias else rows, layer.output_rows(chosen(missing, relevant)))

    @staticmethod
    def of(rows: Tensor, residual: Tensor) -> NormalEquations:
        """`rows` [groups, rows, columns] and what is missing there [groups, rows, outputs]."""
        return NormalEquations(gram(rows), (rows.mT @ residual).double(), float(residual.double().square().sum()))

    def __add__(self, other: NormalEquations) -> NormalEquations:
        residual = self.residual + other.residual
        return NormalEquations(self.squares + other.squares, self.cross + other.cross, residual)

    def solve(self, damping: float) -> Tensor:
        return correction(self.squares, self.cross, damping)

    def gain(self, found: Tensor) -> float:
        """By how much the correction lowers |R|^2, as a fraction of it."""
        change = (found * (self.squares @ found - 2 * self.cross)).sum()
        return -float(change) / self.residual if self.residual else 0.0


def refitted(
    layer: Layer, alive: Mapping[str, Tensor], parts: Sequence[NormalEquations], damping: float = 0.0
) -> dict[str, Tensor]:
    """New values of the layer's parameters that lower the error of these equations, one for each part of the data.

    The last part chooses the damping, unless one is given, and has a say whether there is a repair at all: none where
    it would not lower the error there.
    """
    fit, check = reduce(add, parts[:-1] or parts), parts[-1]
    choices = (damping,) if damping else DAMPINGS if len(parts) > 1 else DAMPINGS[-1:]
    gains = {choice: check.gain(fit.solve(choice)) for choice in choices}
    best = max(gains, key=gains.__getitem__)
    if gains[best] <= 0:
        return {}
    added = reduce(add, parts).solve(best).mT  # [groups, outputs, columns]
    matrix = layer.matrix(alive[layer.weight]).double()
    repaired = {layer.weight: layer.weight_of(matrix + added[..., : matrix.shape[-1]], alive[layer.weight])}
    if layer.bias:
        repaired[layer.bias] = (alive[layer.bias] + added[..., -1].flatten()).to(alive[layer.bias].dtype)
    return repaired


def masked_repair(
    statistics: Statistics,
    layer: Layer,
    grams: Mapping[str, Tensor],
    axis: Axis,
    kept: Sequence[int],
    damping: float = DAMPING,
) -> dict[str, Tensor]:
    """The parameters of a layer that reads `axis`, repaired for keeping only `kept` of it: name -> full-size tensor.

    `grams` comes from `Statistics.grams` of the graph as it is, so that any number of kept sets costs no further run.
    """
    stays = torch.from_numpy(np.isin(column_owners(statistics, layer, axis), [*kept, OUTSIDE]))
    state = statistics.graph.state
    weight, bias = state[layer.weight], state[layer.bias] if layer.bias else None
    matrix = layer.matrix(weight)
    found = torch.stack(
        [repaired_matrix(*group, damping) for group in zip(grams[layer.node.name], matrix, stays, strict=True)]
    )
    width = matrix.shape[2]
    repaired = {layer.weight: layer.weight_of(found[..., :width], weight)}
    if layer.bias and bias is not None:
        repaired[layer.bias] = (bias + found[..., width:].flatten()).to(bias.dtype)
    return repaired


def repaired_matrix(squares: Tensor, matrix: Tensor, stays: Tensor, damping: float) -> Tensor:
    """One group: the matrix [outputs, columns] with zeros where `stays` [columns] is False and the rest repaired.

    With a column of ones in `squares` the result has one column more, by which the bias changes.
    """
    ones = len(squares) - len(stays)
    left = torch.cat([stays, stays.new_ones(ones)]).nonzero().flatten()
    gone = (~stays).nonzero().flatten()
    repaired = torch.cat([matrix.double() * stays, matrix.new_zeros(len(matrix), ones).double()], 1)
    if len(gone) and stays.any():
        cross = squares[left][:, gone] @ matrix[:, gone].double().T
        repaired[:, left] += correction(squares[left][:, left], cross, damping).T
    return repaired
