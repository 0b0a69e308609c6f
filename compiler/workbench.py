"""Graphs as compiled code on one chip: each structure compiled once, timed and weighed beside the uncompressed model.

Every result is a stage's, made once and found again after a kill.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean

from chipfit.codegen.library import compile_graph, fixed_values, numpy_weights
from chipfit.codegen.runtime import LIBRARY, Library, read_record
from chipfit.cross.compile import cross_compile
from chipfit.energy import find_counter, measured_mj
from chipfit.ir import store
from chipfit.ir.apply import rebatch
from chipfit.ir.graph import Graph
from chipfit.ir.text import to_text
from chipfit.measure import (
    CALM,
    PATIENCE,
    Timing,
    calm,
    copies_of,
    median_when_calm,
    over_copies,
    paired_error,
    paired_ratio,
    repeated,
)
from chipfit.passes.fold_batch_norm import folded
from chipfit.stages import Done, Stages, sha256, write_json
from chipfit.study import Study
from chipfit.targets.registry import Target
from chipfit.tune import AS_RANKED, Tuning

SECONDS = 5.0  # for one interleaved comparison of two libraries
COMPARISONS = 4  # of the same code, for a ratio to rely on
ENOUGH = 2 * COMPARISONS  # where the machine is never calm
GLANCES = 2  # of the same code, where it must take just seconds: ResNet-20's least moves by 6% between them
# By how much the ratio of the same code moves between comparisons, relative, which errors inside one don't show: two of
# MiniLM's, minutes apart, differed by 1.9% in the quadratic mean of eight pairs, of which 0.6% were as told.
DRIFT = 0.013
SURE = 2.0  # standard errors that a ratio is taken to be off by, at most


@dataclass(frozen=True)
class Pair:
    """Two libraries timed side by side, in ms; `ratio` is the median over rounds of the second over the first.

    `error` is the ratio's standard error, relative.
    """

    baseline_ms: float
    result_ms: float
    ratio: float
    error: float

    @property
    def at_most(self) -> float:
        """The ratio, by its error."""
        return self.ratio * (1 + SURE * self.error)


def pooled(pairs: Sequence[Pair]) -> Pair:
    """What comparisons of the same code say together: their means."""
    count = len(pairs)
    return Pair(
        baseline_ms=fmean(one.baseline_ms for one in pairs),
        result_ms=fmean(one.result_ms for one in pairs),
        ratio=fmean(one.ratio for one in pairs),
        error=math.hypot(DRIFT * math.sqrt(count), *(one.error for one in pairs)) / count,
    )


def calmest(pairs: Sequence[Pair], least: float = math.inf) -> list[Pair]:
    """Those in which the baseline took at most CALM times the least, of all pairs if not less was known."""
    least = min([least, *(one.baseline_ms for one in pairs)])
    return [one for one in pairs if one.baseline_ms <= CALM * least]


def is_known(pairs: Sequence[Pair], limits: Sequence[float]) -> bool:
    """Whether comparisons of the same code tell on which side of each limit its ratio is."""
    if not (pairs and limits):
        return False
    found = pooled(pairs)
    return all(abs(found.ratio - limit) > SURE * found.error * found.ratio for limit in limits)


@dataclass(frozen=True)
class Workbench:
    """What the model and what is made of it come to on a chip."""

    study: Study
    target: Target
    tuning: Tuning = AS_RANKED

    @property
    def stages(self) -> Stages:
        return self.study.stages

    def library(self, graph: Graph) -> Done:
        """Compiled code for the graph's structure; of its weights only what is computed at compile time counts."""
        deployed = self.deployed(graph)

        def make(folder: Path) -> None:
            self.study.progress("compiling", 0.0)
            if not self.target.is_host:
                cross_compile(deployed, self.target, folder / "library")
                return
            effort = self.tuning.effort(deployed, self.target, self.study.inputs, self.study.progress)
            compile_graph(deployed, self.target, folder / "library", effort=effort)

        inputs = {"structure": to_text(deployed), "fixed": store.tensors_digest(fixed_values(deployed))}
        profile = self.target.profile
        chip = {"cpu": repr(self.target.cpu), "llvm": [profile.triple, profile.arch, *profile.features]}
        return self.stages.run("library", {**inputs, **chip, **asdict(self.tuning)}, make)

    def deployed(self, graph: Graph) -> Graph:
        ready = folded(graph)
        return rebatch(ready, self.study.batch) if ready.batch else ready

    def alone_ms(self, graph: Graph) -> float:
        """The latency of the graph's library with nothing beside it.

        What is longer than the cost model's upper bound was measured while the machine was busy, or else the model is
        wrong: it is measured again, ENOUGH times in all at most, and the calm rounds count.
        """
        library = self.library(graph)

        def make(folder: Path) -> None:
            upper = self.upper_ms(graph)
            times = repeated(
                lambda: self._timed({"baseline": (library, graph)}, upper, PATIENCE),
                lambda found: median_when_calm(found, "baseline") <= upper,
                ENOUGH,
            )
            write_json(folder / "result.json", median_when_calm(times, "baseline"))

        return float(self.stages.run("baseline", {"library": library.key}, make).json())

    def upper_ms(self, graph: Graph) -> float:
        """The upper bound of what the graph takes on a calm machine, infinite where the cost model tells none."""
        cost = self.target.cost_model.cost(self.deployed(graph), batch=self.study.batch)
        return cost.upper_ms if cost.interval_ms else math.inf

    def compared(self, graph: Graph, limits: Sequence[float] = ()) -> Pair:
        """The graph's library timed beside the uncompressed model's, COMPARISONS times while the machine was calm.

        With `limits` to the ratio only until it is sure on which side of each of them the ratio is. Graphs of the same
        code share their comparisons: weights change no time. After ENOUGH those count that are as calm as any: where it
        was waited for a calm machine in vain it is waited less the next time.
        """
        libraries = self._beside(graph)
        codes = {name: sha256(library.folder / "library" / LIBRARY) for name, (library, _) in libraries.items()}
        alone, pairs = self.alone_ms(self.study.teacher), list[Pair]()

        def make(folder: Path) -> None:
            self.study.progress("measuring beside the uncompressed model", 0.0)
            patience = PATIENCE / (1 + len(pairs) - len(calmest(pairs, alone)))
            write_json(folder / "result.json", asdict(self._pair(libraries, CALM * alone, patience)))

        while len(pairs) < ENOUGH:
            pairs.append(Pair(**self.stages.run("compare", {**codes, "index": len(pairs)}, make).json()))
            counted = calmest(pairs, alone)
            if len(counted) >= COMPARISONS or is_known(counted, limits):
                return pooled(counted)
        return pooled(calmest(pairs))

    def glanced(self, graph: Graph) -> Pair:
        """The slower of GLANCES comparisons, be the machine calm or not: good to a few percent, in seconds."""
        libraries = self._beside(graph)

        def make(folder: Path) -> None:
            self.study.progress("measuring beside the uncompressed model", 0.0)
            pairs = [self._pair(libraries, math.inf, 0.0) for _ in range(GLANCES)]
            write_json(folder / "result.json", asdict(pooled([max(pairs, key=lambda one: one.ratio)])))

        keys = {name: library.key for name, (library, _) in libraries.items()}
        return Pair(**self.stages.run("glance", keys, make).json())

    def peak_bytes(self, graph: Graph) -> int:
        """What a call of the graph's library holds: weights as they are packed, inputs, outputs and the arena."""
        return held_bytes(self.library(graph))

    def measured_mj(self, graph: Graph) -> float | None:
        """Energy of one call, None where the chip is not here or nothing counts."""
        counter = find_counter(self.target.family) if self.target.is_host else None
        if counter is None:
            return None
        library = self.library(graph)

        def make(folder: Path) -> None:
            self.study.progress("measuring energy", 0.0)
            write_json(folder / "result.json", measured_mj(counter, self._caller(library, graph)))

        return float(self.stages.run("energy", {"library": library.key}, make).json())

    def _beside(self, graph: Graph) -> dict[str, tuple[Done, Graph]]:
        """The libraries of the uncompressed model and of the graph."""
        teacher = self.study.teacher
        return {"baseline": (self.library(teacher), teacher), "result": (self.library(graph), graph)}

    def _pair(self, libraries: Mapping[str, tuple[Done, Graph]], baseline_ms: float, patience: float) -> Pair:
        """One comparison of `_beside`; the rest as for `_timed`."""
        times = self._timed(libraries, baseline_ms, patience)
        undisturbed = calm(times, "baseline", "result")
        medians = undisturbed["baseline"].median_ms, undisturbed["result"].median_ms
        ratio, error = (of(undisturbed, "result", "baseline") for of in (paired_ratio, paired_error))
        return Pair(*medians, ratio, error)

    def _timed(
        self, libraries: Mapping[str, tuple[Done, Graph]], baseline_ms: float, patience: float
    ) -> Mapping[str, Timing]:
        """Libraries, each with its graph, side by side.

        It is waited up to `patience` seconds for a calm machine, on which the baseline takes at most so long.
        """
        copies = copies_of(sum(held_bytes(library) for library, _ in libraries.values()))

        def load() -> Mapping[str, Callable[[], object]]:
            return {name: self._caller(*pair) for name, pair in libraries.items()}

        return over_copies(load, copies, SECONDS, {"baseline": baseline_ms}, patience)

    def _caller(self, library: Done, graph: Graph) -> Callable[[], object]:
        loaded = Library.load(library.folder / "library", numpy_weights(folded(graph)))
        inputs = [tensor.numpy() for tensor in self.study.inputs]
        return lambda: loaded(*inputs)


def held_bytes(library: Done) -> int:
    return int(read_record(library.folder / "library")["memory_bytes"])
