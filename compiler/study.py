"""A model as a search sees it, whatever the chip: what may be removed, and what that costs in quality.

Every property is a stage's result, made once and found again after a kill, by a search and a compilation alike.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from torch import Tensor

from chipfit.frontend.data import Data
from chipfit.ir import store
from chipfit.ir.configuration import Configuration
from chipfit.ir.graph import Graph
from chipfit.passes.base import Inputs, Progress, Rounding
from chipfit.passes.factorize import factorized, factorized_shapes
from chipfit.passes.fold_batch_norm import folded
from chipfit.passes.pipeline import Pipeline
from chipfit.search.curves import Curves
from chipfit.search.forms import Forms
from chipfit.search.known import Known
from chipfit.search.problem import Landscape
from chipfit.search.sensitivity import Survey
from chipfit.search.strategies.base import Strategy, Task
from chipfit.stages import Stages, write_json
from chipfit.targets.registry import Target

CALIBRATION = 512  # examples on which passes may calibrate


@dataclass(frozen=True)
class Study:
    """The uncompressed model, its data, and the passes that may be used."""

    teacher: Graph
    inputs: tuple[Tensor, ...]  # example inputs at the batch to deploy
    data: Data
    pipeline: Pipeline
    stages: Stages
    progress: Progress
    seed: int = 0

    @cached_property
    def origin(self) -> dict[str, str]:
        """Digests of the model and of the data."""
        rows = (*self.data.train, *self.data.heldout)
        tensors = {f"{i}.{j}": tensor for i, row in enumerate(rows) for j, tensor in enumerate(row)}
        return {"model": store.digest(self.teacher), "data": store.tensors_digest(tensors)}

    @property
    def batch(self) -> int:
        return len(self.inputs[0]) if self.teacher.batch else 1

    @property
    def examples(self) -> Sequence[Inputs]:
        """What the compressed model is fitted to."""
        return self.data.training

    @property
    def calibration(self) -> list[Inputs]:
        return list(self.examples[:CALIBRATION])

    @cached_property
    def factored(self) -> Graph:
        """The teacher with every layer split that `factorize` may split, so that its rank is an axis."""
        if not self.uses("factorize"):
            return self.teacher

        def make(folder: Path) -> None:
            self.progress("factorize", 0.0)
            store.save(factorized(self.teacher, self.calibration), folder)

        return store.load(self.stages.run("factorize", self.origin, make).folder)

    @cached_property
    def _shapes(self) -> Graph:
        """The same without weights, which takes no time."""
        return factorized_shapes(self.teacher) if self.uses("factorize") else self.teacher.weightless

    @cached_property
    def survey(self) -> Survey:
        known = Known(self.stages.growing("losses", self._surveyed) / "result.json")
        return self._survey_of(self.factored, known)

    def _survey_of(self, graph: Graph, known: Known) -> Survey:
        plain = self.teacher if self.uses("factorize") else None
        return Survey(graph, self.examples, **self._may, rounding=self.rounding, plain=plain, known=known)

    @property
    def _surveyed(self) -> dict[str, Any]:
        """What losses depend on."""
        return {**self.origin, "factorize": self.uses("factorize"), **self._may, "rounding": str(self.rounding)}

    @property
    def _may(self) -> dict[str, bool]:
        """What the passes at hand can do."""
        return {"narrow": self.uses("prune-axes"), "drop": self.uses("drop-blocks"), "repair": self.uses("compensate")}

    @cached_property
    def curves(self) -> Curves:
        """The sensitivity library, from which every chip takes its levels."""

        def make(folder: Path) -> None:
            found = self.survey.measure(folder / "checkpoint.json", self.progress)
            write_json(folder / "result.json", found.to_json())

        return Curves.from_json(self.stages.run("sensitivity", self._surveyed, make).json())

    def landscape(self, target: Target, surveyed: bool = True) -> Landscape:
        """What there is to choose on a chip; not `surveyed`, it has no choice and answers what configurations cost."""
        return self._over(self.curves if surveyed else Curves({}, {}), target)

    def outline(self, target: Target) -> Landscape:
        """The same choice with nothing measured: what can be reached at all, whatever it costs in quality."""
        return self._over(self._survey_of(self._shapes, Known()).unmeasured, target)

    def _over(self, curves: Curves, target: Target) -> Landscape:
        sensitivity = curves.offered(target.granularity)
        return Landscape(self._forms, sensitivity, target.cost_model, self.batch)

    def strategy(self, cls: type[Strategy], target: Target, tries: int = 0) -> Strategy:
        task = Task(
            teacher=self.teacher,
            examples=self.examples,
            landscape=self.landscape(target, cls.surveyed),
            granularity=target.granularity,
            narrow=self.uses("prune-axes"),
            drop=self.uses("drop-blocks"),
            seed=self.seed,
            tries=tries,
            survey=self.survey,
            progress=self.progress,
        )
        return cls(task)

    @cached_property
    def _forms(self) -> Forms:
        """Of the model as kernels are planned for it."""
        return Forms(folded(self._shapes), folded(self.teacher.weightless), self.rounding)

    def rounded(self, graph: Graph, configuration: Configuration) -> Graph:
        """A graph with weights in few bits as a configuration says, to be timed: values have no ranges."""
        return self.rounding.rounded(folded(graph), configuration.rounded, {}) if self.rounding else graph

    @property
    def rounding(self) -> Rounding | None:
        """The pass whose weights the search chooses."""
        return next((one for one in self.pipeline.passes if isinstance(one, Rounding)), None)

    def uses(self, name: str) -> bool:
        return any(one.name == name for one in self.pipeline.passes)
