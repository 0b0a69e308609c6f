"""A mixed-integer program as its rows and columns are collected, and HiGHS to solve it."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import Bounds, LinearConstraint, milp
from scipy.sparse import coo_array

SECONDS = 30.0  # HiGHS stops here with the best it has; the gap that is left is reported
STANDARD_OUTPUT = 1  # its file descriptor, which C++ writes to
GAP = 1e-4  # relative optimality gap that counts as solved


class InfeasibleError(Exception):
    """No choice of levels and blocks satisfies the limits."""


@dataclass
class Program:
    """Every column lies between 0 and 1."""

    columns: int = 0
    integer: list[int] = field(default_factory=list)
    rows: list[tuple[list[int], list[float], float, float]] = field(default_factory=list)

    def new(self, count: int, integer: bool) -> list[int]:
        columns = list(range(self.columns, self.columns + count))
        self.columns += count
        self.integer += [int(integer)] * count
        return columns

    def row(self, columns: Iterable[int], values: Iterable[float], low: float, high: float) -> None:
        self.rows.append((list(columns), list(values), low, high))

    def limit(self, form: NDArray[np.float64], most: float) -> None:
        """`form`, over the first columns, is at most so much; a row near one is what a solver's tolerances are for."""
        nonzero = np.flatnonzero(form)
        self.row(nonzero.tolist(), (form[nonzero] / max(most, 1e-12)).tolist(), -np.inf, 1.0)

    def minimise(self, form: NDArray[np.float64]) -> tuple[NDArray[np.float64], float, float]:
        """The columns at which `form` is least, how much it is, and the relative gap that is left (0: proved)."""
        target = np.zeros(self.columns)
        target[: len(form)] = form
        entries = list(self._entries())
        rows, columns, values = (np.array(part) for part in zip(*entries, strict=True))
        matrix = coo_array((values, (rows, columns)), shape=(len(self.rows), self.columns)).tocsr()
        low, high = (np.array([row[side] for row in self.rows]) for side in (2, 3))
        with _unheard():
            result = milp(
                target / max(np.abs(target).max(), 1e-12),
                constraints=LinearConstraint(matrix, low, high),
                integrality=np.array(self.integer),
                bounds=Bounds(0.0, 1.0),
                # Where fractions are among the columns HiGHS 1.12's presolve loses the optimum of one program in 2000
                # and says that none is better, as in its issues 3073 and 3094; without it those take no longer.
                options={"time_limit": SECONDS, "mip_rel_gap": GAP, "presolve": all(self.integer)},
            )
        if result.x is None:
            raise InfeasibleError(result.message)
        gap = float(result.mip_gap or 0.0)
        return result.x, float(target @ result.x), gap if gap > GAP else 0.0

    def _entries(self) -> Iterator[tuple[int, int, float]]:
        for index, (columns, values, _, _) in enumerate(self.rows):
            for column, value in zip(columns, values, strict=True):
                yield index, column, value


@contextmanager
def _unheard() -> Iterator[None]:
    """Keeps what HiGHS prints past all its options out of the standard output, which scripts read."""
    sys.stdout.flush()
    kept, nowhere = os.dup(STANDARD_OUTPUT), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, STANDARD_OUTPUT)
        yield
    finally:
        os.dup2(kept, STANDARD_OUTPUT)
        os.close(kept)
        os.close(nowhere)
