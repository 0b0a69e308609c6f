"""What a pass is: a frozen dataclass that turns a graph into another, with its preconditions and its promises."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, Protocol

from torch import Tensor

from chipfit.errors import UserError
from chipfit.ir.configuration import Configuration
from chipfit.ir.graph import Graph

Inputs = tuple[Tensor, ...]
Predict = Callable[[Inputs], tuple[Tensor, ...]]
Progress = Callable[[str, float], None]  # what is being done, and the fraction of it that is done


class Metric(Protocol):
    """How good a model is on the held-out data."""

    @property
    def name(self) -> str: ...
    @property
    def unit(self) -> str: ...
    @property
    def higher_is_better(self) -> bool: ...
    @property
    def score(self) -> Callable[[Predict], float | Mapping[str, float]]: ...


def silent(what: str, fraction: float) -> None:
    """The progress callback of whoever needs none."""


@dataclass(frozen=True)
class Context:
    """What a pass may look at besides the graph.

    `configuration` says how the graph differs, or is to differ, from the teacher, in the teacher's axes and indices.
    Calibration, train and validation data are input tuples, batch first, without labels. `factored` is the teacher with
    every layer split that can be, if the search has looked at that. `seconds` is the time that a
    pass may take where it can choose, `workdir` a folder for its checkpoints (None: it keeps none).
    """

    teacher: Graph
    configuration: Configuration = field(default_factory=Configuration)
    calibration: Sequence[Inputs] = ()
    train: Sequence[Inputs] = ()
    validation: Sequence[Inputs] = ()
    metric: Metric | None = None
    factored: Graph | None = None
    workdir: Path | None = None
    seed: int = 0
    seconds: float = math.inf
    progress: Progress = silent


@dataclass(frozen=True)
class PassResult:
    """The graph after a pass. A pass that itself chose what to remove says so in `configuration` (None: unchanged)."""

    graph: Graph
    modified: bool
    configuration: Configuration | None = None


class PassError(Exception):
    """A pass failed. `problem` says what to fix; the runner adds the pass's name and the passes that ran before it."""

    manner = "failed"

    def __init__(self, problem: str, name: str = "", before: Sequence[str] = ()) -> None:
        self.problem, self.name, self.before = problem, name, tuple(before)
        passes = ", ".join(self.before) if self.before else "no other pass"
        super().__init__(f"Pass {name} {self.manner} (run before it: {passes}): {problem}" if name else problem)


class PreconditionError(PassError, UserError):
    """The graph or the context is not what the pass requires: another pipeline or other data is needed."""

    manner = "can't run"


class PostconditionError(PassError):
    """The pass broke its own promise: a fault of the pass, whose author should fix it."""

    manner = "broke its promise"


@dataclass(frozen=True)
class Pass(ABC):
    """A rewrite of graphs. A subclass is a frozen dataclass; its fields are its options: bool, int, float or str.

    Every field has a default. Values that can't be are refused in `__post_init__` by a `UserError`.
    """

    name: ClassVar[str]  # kebab-case
    summary: ClassVar[str]  # one line, for `chipfit passes list`
    exact: ClassVar[bool] = False  # the result computes what the graph did, and has all its axes: a new teacher

    def requires(self, graph: Graph, context: Context) -> None:  # noqa: B027
        """Raise `PreconditionError` unless the pass can run."""

    @abstractmethod
    def run(self, graph: Graph, context: Context) -> PassResult:
        """The rewritten graph; the one given stays as it is."""

    def ensures(self, before: Graph, after: Graph, context: Context) -> None:  # noqa: B027
        """Raise `PostconditionError` if the pass did not do what it is for."""


@dataclass(frozen=True)
class Rounding(Pass):
    """A pass that keeps weights in fewer bits; which ones is a choice of the search, in `Configuration.rounded`."""

    @abstractmethod
    def groups(self, graph: Graph) -> Sequence[frozenset[str]]:
        """The weights that it can round, those together that are rounded all or not at all."""

    @abstractmethod
    def ranges(self, graph: Graph, calibration: Sequence[Inputs]) -> Mapping[str, float]:
        """The largest number in size, over all examples, of each value whose range has to be fixed beforehand."""

    @abstractmethod
    def rounded(self, graph: Graph, chosen: Container[str] | None, ranges: Mapping[str, float]) -> Graph:
        """The graph with the chosen weights rounded (None: all that can be); a value without a range has that of 1."""


def require_calibration(context: Context) -> None:
    """The precondition of passes that read activations."""
    if not context.calibration:
        raise PreconditionError("it needs calibration data; give some inputs with --data.")
