"""What a strategy is: a way to choose what to remove from a model so that it fits its limits on a chip.

Whatever chooses, all that follows is the same: the choice is compiled and measured, the aim corrected, the layers
repaired and the model trained. So strategies can be compared at equal measured latency.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import ClassVar

from chipfit.ir.apply import mask
from chipfit.ir.axes import Axis
from chipfit.ir.blocks import find_blocks
from chipfit.ir.configuration import Configuration
from chipfit.ir.graph import Graph
from chipfit.passes.base import Inputs, Progress, silent
from chipfit.passes.statistics import Statistics
from chipfit.search.curves import step_of
from chipfit.search.probe import Probe, calibration_size
from chipfit.search.problem import Landscape
from chipfit.search.sensitivity import STATISTICS, Survey, candidates
from chipfit.targets.cost import Cost


@dataclass(frozen=True)
class Task:
    """What every strategy is given. The landscape answers what a configuration costs on the chip."""

    teacher: Graph
    examples: Sequence[Inputs]
    landscape: Landscape
    granularity: int  # what widths are multiples of
    narrow: bool = True
    drop: bool = True
    seed: int = 0
    tries: int = 0  # configurations whose loss may be measured as a whole to refine a choice
    survey: Survey | None = None  # which measures those
    progress: Progress = field(default=silent, compare=False)

    @cached_property
    def axes(self) -> Mapping[str, Axis]:
        """The axes that may be narrowed."""
        return candidates(self.teacher)[0] if self.narrow else {}

    @cached_property
    def branches(self) -> tuple[str, ...]:
        """The smallest blocks that may be dropped."""
        return tuple(candidates(self.teacher)[1]) if self.drop else ()

    @cached_property
    def layers(self) -> tuple[str, ...]:
        """Whole layers where the model is made of equal ones, else its smallest blocks."""
        found = find_blocks(self.teacher).values() if self.drop else ()
        return tuple(block.name for block in found if block.kind == "layer") or self.branches

    @cached_property
    def statistics(self) -> Statistics:
        return Statistics(self.teacher, self.examples[:STATISTICS], self.seed)

    @cached_property
    def probe(self) -> Probe:
        return Probe.on(self.teacher, self.examples[: calibration_size(self.teacher)])

    def loss(self, configuration: Configuration) -> float:
        """How far the outputs move on calibration data, nothing repaired."""
        return self.probe.loss(mask(self.probe.graph, configuration))

    def step(self, axis: Axis) -> int:
        return step_of(axis.size, self.granularity)

    def fits(self, configuration: Configuration, limits: Mapping[str, float]) -> bool:
        found = amounts(self.landscape.cost(configuration))
        return all(found[quantity] <= limit for quantity, limit in limits.items())

    def unreachable(self, smallest: Configuration, limits: Mapping[str, float]) -> UnreachableError:
        """The error for limits that not even the smallest configuration of a strategy meets."""
        found = amounts(self.landscape.cost(smallest))
        quantity = max(limits, key=lambda name: found[name] / limits[name])
        return UnreachableError((quantity, found[quantity]))


def amounts(cost: Cost) -> dict[str, float]:
    """A cost by the names that budgets use: ms, bytes, and mJ where they are known."""
    energy = {} if cost.energy_mj is None else {"energy": cost.energy_mj}
    return {"latency": cost.latency_ms, "memory": cost.peak_memory_bytes, "size": cost.weight_bytes, **energy}


@dataclass(frozen=True)
class Proposal:
    """What a strategy would remove. `loss` is what it minimises, in its own unit: comparable within a strategy only.

    `gap` is how far at most that is from the least, relative; None where the strategy can't tell.
    """

    configuration: Configuration
    loss: float
    gap: float | None = None


class UnreachableError(Exception):
    """Nothing that the strategy could choose meets the limits.

    `nearest` is the quantity to loosen and the least that the strategy reaches of it (None: loosening one won't do).
    """

    def __init__(self, nearest: tuple[str, float] | None) -> None:
        super().__init__(f"nearest: {nearest}")
        self.nearest = nearest


@dataclass(frozen=True)
class Strategy(ABC):
    """A way to choose. What it learns about the model it keeps between proposals."""

    name: ClassVar[str]
    summary: ClassVar[str]
    surveyed: ClassVar[bool] = False  # whether it reads the sensitivity library
    needs: ClassVar[tuple[str, ...]] = ()  # passes without which it has nothing to choose
    task: Task

    @abstractmethod
    def propose(self, limits: Mapping[str, float]) -> Proposal:
        """The choice within the limits: predicted ms of `latency`, bytes of `memory` and `size`, mJ of `energy`.

        Raises UnreachableError where there is none.
        """
