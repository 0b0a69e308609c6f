"""One compilation as a chain of stages; every property is a stage's result, made once and found again after a kill."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property, partial
from pathlib import Path

from chipfit.ir import store
from chipfit.ir.apply import apply
from chipfit.ir.configuration import UNCHANGED, Configuration
from chipfit.ir.graph import Graph
from chipfit.passes.base import Context, Pass
from chipfit.passes.factorize import with_factors
from chipfit.passes.pipeline import Pipeline, run_pass
from chipfit.quality import Quality, assess
from chipfit.search.budget import Budget
from chipfit.search.choose import SLACK, Choice, Measured, choose, ensure_reachable
from chipfit.search.problem import Landscape
from chipfit.search.strategies.base import Strategy
from chipfit.search.strategies.registry import code_of
from chipfit.stages import Done, Stages, write_json
from chipfit.study import Study
from chipfit.targets.registry import Target
from chipfit.tune import AS_RANKED, Tuning
from chipfit.workbench import Pair, Workbench

QUICK = 2**28  # bytes of weights: up to so many a model is compiled and timed in seconds
RECOVERY = "distill"  # the pass without which quality is judged too


@dataclass(frozen=True)
class Job:
    """All that decides the outcome: the same job in the same work directory goes on where it stopped."""

    study: Study
    target: Target
    budget: Budget
    approach: type[Strategy]
    tuning: Tuning = AS_RANKED
    tries: int = 0  # configurations that may be measured as a whole to refine the choice
    excess: float = 1.0  # by what factor what became of an earlier choice took longer than measured when it was made

    @property
    def teacher(self) -> Graph:
        return self.study.teacher

    @property
    def stages(self) -> Stages:
        return self.study.stages

    @cached_property
    def workbench(self) -> Workbench:
        return Workbench(self.study, self.target, self.tuning)

    # What it costs

    @cached_property
    def strategy(self) -> Strategy:
        return self.study.strategy(self.approach, self.target, self.tries)

    @property
    def landscape(self) -> Landscape:
        return self.strategy.task.landscape

    @cached_property
    def baseline(self) -> dict[str, float]:
        """The uncompressed model's latency (ms, measured where the chip is here), peak memory and weights (bytes), and
        energy (mJ) as estimated."""
        latency = {"latency": self.baseline_ms} if self.target.is_host else {}
        return {**self.predicted_baseline, **latency, "memory": self.workbench.peak_bytes(self.teacher)}

    @cached_property
    def predicted_baseline(self) -> dict[str, float]:
        """The same by the cost model alone."""
        cost = self.study.landscape(self.target, surveyed=False).cost(UNCHANGED)
        energy = {} if cost.energy_mj is None else {"energy": cost.energy_mj}
        return {"latency": cost.latency_ms, "memory": cost.peak_memory_bytes, "size": cost.weight_bytes, **energy}

    @cached_property
    def baseline_ms(self) -> float:
        return self.workbench.alone_ms(self.teacher)

    # What to remove

    @cached_property
    def choice(self) -> Choice:
        """What the strategy chose within the budget, as measured where the chip is here."""
        self.ensure_reachable()
        measure = self.candidate_ms if self.target.is_host else None

        def make(folder: Path) -> None:
            found = choose(self.strategy, self.budget, self.baseline, measure)
            write_json(folder / "result.json", found.to_json())

        given = {
            **self.study.origin,
            "strategy": self.approach.name,
            "code": code_of(self.approach),
            "passes": [one.name for one in self.study.pipeline.passes],
            "limits": self.budget.absolute(self.baseline),
            "chip": self.chip,
            "seed": self.study.seed,
            "tries": self.tries,
            "excess": self.excess,
            **asdict(self.tuning),
        }
        return Choice.from_json(self.stages.run("choice", given, make).json())

    def ensure_reachable(self) -> None:
        """Raises InfeasibleBudgetError for a budget that nothing meets, before minutes go into what removals cost."""
        if not self.approach.surveyed:
            return

        def make(folder: Path) -> None:
            outline, predicted = self.study.outline(self.target), self.predicted_baseline
            quick = self.target.is_host and predicted["size"] <= QUICK
            ensure_reachable(outline, self.budget, predicted, self.target.is_host, self.glanced_ms if quick else None)
            write_json(folder / "result.json", True)

        passes = [one.name for one in self.study.pipeline.passes]
        given = {**self.study.origin, "passes": passes, "budget": str(self.budget), "chip": self.chip}
        self.stages.run("reachable", given, make)

    @property
    def chip(self) -> str:
        """What predictions rest on; the host's are corrected by measuring, and its probes never say the same twice."""
        return self.target.name if self.target.is_host else repr(sorted(self.target.profile.figures.items()))

    def candidate_ms(self, configuration: Configuration) -> Measured:
        """Measured with weights as they are once sliced and rounded: how well they are trained changes no time.

        What may be taken is compared as often as the result will be, whose code is the same: were it less often, what
        came out too fast by chance would be taken, trained, and found to be too slow.
        """
        most = self.allowed_ms / self.baseline_ms / self.excess
        pair = self.workbench.compared(self.candidate(configuration), (most * (1 - SLACK), most))
        return Measured(pair.ratio * self.excess * self.baseline_ms, pair.error)

    def glanced_ms(self, configuration: Configuration) -> tuple[float, float]:
        """Of the uncompressed model, and at most of this one beside it."""
        pair = self.workbench.glanced(self.candidate(configuration))
        return pair.baseline_ms, pair.at_most * pair.baseline_ms

    def candidate(self, configuration: Configuration) -> Graph:
        """The teacher sliced and rounded, and no more."""
        whole = with_factors(self.teacher, self.study.factored, configuration.widths)
        return self.study.rounded(apply(whole, configuration), configuration)

    @property
    def allowed_ms(self) -> float:
        """The latency that is allowed, in ms."""
        return self.budget.absolute(self.baseline).get("latency", math.inf)

    @cached_property
    def measured(self) -> Pair | None:
        """The result beside the uncompressed model, None for a chip that is not here."""
        return self.workbench.compared(self.result) if self.target.is_host else None

    def corrected(self) -> Job:
        """This job, or if the result is slower than allowed one that chooses anew, knowing by how much it was missed.

        That happens where a pass adds to the graph.
        """
        chosen, found = self.choice.measured_ms, self.measured
        taken = found.ratio * self.baseline_ms if found else 0.0
        if chosen is None or taken <= self.allowed_ms:
            return self
        self.study.progress(f"choosing anew: {taken / self.allowed_ms:.1%} of the latency allowed", 0.0)
        return replace(self, excess=taken / chosen)

    # Removing it, and recovering

    @cached_property
    def passed(self) -> list[tuple[Pass, Done]]:
        """Every pass of the pipeline with the stage that holds its graph."""
        return self._chain(self.study.pipeline.passes)

    @cached_property
    def unrecovered(self) -> list[tuple[Pass, Done]]:
        """The same without recovery, so that what it makes good can be told."""
        return self._chain([one for one in self.study.pipeline.passes if one.name != RECOVERY])

    def _chain(self, passes: Sequence[Pass]) -> list[tuple[Pass, Done]]:
        done = list[tuple[Pass, Done]]()
        for one in passes:
            inputs = {**self.study.origin, "configuration": self.choice.configuration.digest, "seed": self.study.seed}
            before = done[-1][1].key if done else ""
            make = partial(self._apply, one, list(done))
            done.append((one, self.stages.run(one.name, {**inputs, "pass": str(Pipeline((one,))), "on": before}, make)))
        return done

    def _apply(self, one: Pass, done: list[tuple[Pass, Done]], folder: Path) -> None:
        graph = store.load(done[-1][1].folder) if done else self.teacher
        configuration = Configuration.from_json(done[-1][1].json()["configuration"]) if done else None
        exact = [stage for before, stage in done if before.exact]
        context = Context(
            teacher=store.load(exact[-1].folder) if exact else self.teacher,
            configuration=configuration or self.choice.configuration,
            calibration=self.study.calibration,
            train=self.study.examples,
            validation=self.study.data.validation,
            factored=self.study.factored,
            metric=self.study.data.metric,
            workdir=folder,
            seed=self.study.seed,
            progress=self.study.progress,
        )
        result, seconds = run_pass(one, graph, context, [before.name for before, _ in done])
        after = result.configuration or context.configuration
        store.save(result.graph, folder)
        record = {"modified": result.modified, "seconds": seconds, "configuration": after.to_json()}
        write_json(folder / "result.json", record)

    @property
    def configuration(self) -> Configuration:
        """How the result differs from the teacher: what the search chose, unless a pass chose for itself."""
        last = self.passed[-1][1].json()["configuration"] if self.passed else self.choice.configuration.to_json()
        return Configuration.from_json(last)

    def after(self, passed: Sequence[tuple[Pass, Done]]) -> Graph:
        """The graph after some passes."""
        return store.load(passed[-1][1].folder) if passed else self.teacher

    @cached_property
    def result(self) -> Graph:
        return self.after(self.passed)

    def quality(self, passed: Sequence[tuple[Pass, Done]]) -> Quality:
        """How good the graph after some passes is."""

        def make(folder: Path) -> None:
            self.study.progress("assessing quality", 0.0)
            reference = self.quality(()).value if passed and self.study.data.metric else None
            found = assess(self.after(passed), self.teacher, self.study.data, reference)
            write_json(folder / "result.json", asdict(found))

        key = passed[-1][1].key if passed else ""
        return Quality(**self.stages.run("quality", {**self.study.origin, "on": key}, make).json())
