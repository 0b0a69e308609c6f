"""The optimal brain surgeon: which indices of an axis to cut if the layers that read it are refitted to what is left.

With W refitted to what is kept and H the inverse of its inputs' damped Gram matrix, cutting the columns S next adds
tr(W_S (H_SS)^-1 W_S') to the squared error of the output, and changes W and H in closed form (Hassibi and Stork 1992,
"Second order derivatives for network pruning"; for several columns at once Kurtic et al. 2023, arXiv 2302.04089). Of
two channels that say the same, one is cut at no cost and then the other is dear: scores of each alone can't tell.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from chipfit.ir.axes import Axis
from chipfit.passes.importance import column_owners, readers
from chipfit.passes.members import OUTSIDE
from chipfit.passes.statistics import Statistics

DAMPING = 0.01  # of the mean of a Gram matrix's diagonal
PARTS = 64  # of an axis, one of which is cut before costs are told anew
TINY = 1e-30  # in place of the energy of no output

Indices = NDArray[np.int64]


@dataclass(frozen=True)
class Reading:
    """A matrix [outputs, columns] that reads an axis, its inputs' Gram matrix, and each column's index or OUTSIDE."""

    squares: Tensor
    matrix: Tensor
    owners: Indices

    def error(self, change: Tensor) -> float:
        """The squared error of the output if the matrix changes by this, relative to the output."""
        return self._energy(change) / self.whole

    @property
    def whole(self) -> float:
        """The energy of the output."""
        return max(self._energy(self.matrix), TINY)

    def _energy(self, matrix: Tensor) -> float:
        return float((matrix @ self.squares * matrix).sum())


def readings(statistics: Statistics, axis: Axis, grams: Mapping[str, Tensor]) -> list[Reading]:
    """Of each layer that reads the axis, group after group; `grams` comes from `Statistics.grams`."""
    found = list[Reading]()
    for layer in readers(statistics, axis):
        matrices = layer.matrix(statistics.graph.state[layer.weight]).double()
        owners = column_owners(statistics, layer, axis)
        for squares, matrix, own in zip(grams[layer.node.name], matrices, owners, strict=True):
            if (own != OUTSIDE).any():
                found.append(Reading(squares[: len(own), : len(own)], matrix, own))
    return found


def order(size: int, found: Sequence[Reading]) -> tuple[int, ...]:
    """The indices of an axis of this size, those that matter most first: the last one is cut first."""
    surgeons = [Surgeon.of(reading) for reading in found]
    kept, cut = np.arange(size), list[int]()
    while len(kept):
        costs = np.sum([surgeon.costs(size) for surgeon in surgeons], axis=0)[kept]
        first = np.argsort(costs, kind="stable")[: max(1, size // PARTS)]
        for surgeon in surgeons:
            surgeon.cut(kept[first])
        cut += kept[first].tolist()
        kept = np.delete(kept, first)
    return tuple(cut[::-1])


@dataclass
class Surgeon:
    """A matrix, refitted as its columns are cut, in units in which its whole output has the energy 1.

    `columns` [indices, n] are those of each of `indices`; `inverse` is H, nothing where columns were cut.
    """

    weight: Tensor
    inverse: Tensor
    indices: Indices
    columns: Tensor

    @staticmethod
    def of(reading: Reading) -> Surgeon:
        squares = reading.squares
        indices = np.unique(reading.owners[reading.owners != OUTSIDE])
        columns = torch.from_numpy(np.stack([np.flatnonzero(reading.owners == index) for index in indices]))
        ridge = (DAMPING * squares.diagonal().mean()).clamp_min(torch.finfo(squares.dtype).tiny)
        inverse = torch.linalg.inv(squares + ridge * torch.eye(len(squares), dtype=squares.dtype))
        return Surgeon(reading.matrix / math.sqrt(reading.whole), inverse, indices, columns)

    def costs(self, size: int) -> NDArray[np.float64]:
        """The squared error that cutting an index next adds, for each of `size`; nothing for those cut already."""
        blocks = self.inverse[self.columns[:, :, None], self.columns[:, None, :]]  # [indices, n, n]
        parts = self.weight[:, self.columns].movedim(0, -1)  # [indices, n, outputs]
        found = np.zeros(size)
        found[self.indices] = (torch.linalg.solve(blocks, parts) * parts).sum((1, 2)).numpy()
        return found

    def cut(self, cut: Indices) -> None:
        """Refits what is left once these indices are gone."""
        mine = np.isin(self.indices, cut)
        if not mine.any():
            return
        gone = self.columns[torch.from_numpy(mine)].flatten()
        rows = torch.linalg.solve(self.inverse[gone][:, gone], self.inverse[gone])
        self.weight = self.weight - self.weight[:, gone] @ rows
        self.inverse = self.inverse - self.inverse[:, gone] @ rows
        self.indices, self.columns = self.indices[~mine], self.columns[torch.from_numpy(~mine)]
