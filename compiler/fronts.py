"""One model, many chips: what each can have at which quality, and what one chip's choice costs on another.

Nothing is trained and nothing compiled. What removals cost in quality is measured once; a chip adds its own costs and a
dozen exact solves.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from chipfit.errors import UserError
from chipfit.ir.configuration import UNCHANGED, Configuration
from chipfit.picture import picture
from chipfit.search.problem import Landscape
from chipfit.search.program import InfeasibleError
from chipfit.search.solve import Solution, smallest, solve
from chipfit.stages import write_json
from chipfit.study import Study
from chipfit.targets.registry import Target

RECORD, PICTURE = "search.json", "fronts.svg"
POINTS = 12  # of a front
WIDEST, NARROWEST = 0.95, 0.25  # of the uncompressed model's predicted latency, which the points are spread between
COMPARED = 0.5  # of it: the first chip's loss there is that at which chips are compared


@dataclass(frozen=True)
class Point:
    """One configuration on a front: predicted milliseconds, expected loss, bytes of weights.

    The loss is the sum of those measured for each part alone: a divergence in nats, or a relative error.
    """

    latency_ms: float
    quality_loss: float
    weight_bytes: int
    configuration: Configuration


@dataclass(frozen=True)
class Front:
    """The best quality at falling latencies on one chip; `seconds` is what finding it took."""

    whole_ms: float  # of the uncompressed model
    points: tuple[Point, ...]
    seconds: float
    status: str

    def to_json(self) -> dict[str, Any]:
        points = [{**asdict(point), "configuration": point.configuration.to_json()} for point in self.points]
        return {"front": points, "seconds": self.seconds, "status": self.status}


@dataclass(frozen=True)
class Comparison:
    """Fronts by chip. `regret[a][b]` is how many times longer a's choice takes on b than b's own, at one loss."""

    source: str
    fronts: Mapping[str, Front]
    regret: Mapping[str, Mapping[str, float]]
    sensitivity_seconds: float

    def to_json(self) -> dict[str, Any]:
        return {
            "targets": {name: front.to_json() for name, front in self.fronts.items()},
            "regret": {name: dict(row) for name, row in self.regret.items()},
            "sensitivity_seconds": self.sensitivity_seconds,
        }


def compare(source: str, study: Study, targets: Sequence[Target]) -> Comparison:
    """The fronts of all targets and the regret among them; the study's sensitivity is measured if it wasn't yet."""
    landscapes = {target.name: study.landscape(target) for target in targets}
    fronts = {}
    for done, (name, landscape) in enumerate(landscapes.items()):
        study.progress(f"solving for {name}", done / len(landscapes))
        fronts[name] = front(landscape)
    study.progress("comparing the chips", 0.0)
    return Comparison(source, fronts, regret(landscapes), study.curves.seconds)


def write_comparison(found: Comparison, folder: Path) -> None:
    """`search.json` and the fronts drawn in `fronts.svg`, each chip's latency as a part of its uncompressed one."""
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / RECORD, found.to_json())
    lines = {
        f"{name} ({front.status})": [(point.latency_ms / front.whole_ms, point.quality_loss) for point in front.points]
        for name, front in found.fronts.items()
    }
    labels = ("predicted latency, as a part of the uncompressed model's", "expected loss")
    (folder / PICTURE).write_text(picture(found.source, labels, lines), encoding="utf-8")


def front(landscape: Landscape) -> Front:
    """The best quality at evenly spread latencies, as far down as there is any; what two of them give is there once."""
    start = time.perf_counter()
    whole = landscape.cost(UNCHANGED)
    shares = [WIDEST + (NARROWEST - WIDEST) * index / (POINTS - 1) for index in range(POINTS)]
    points = []
    for share in shares:
        try:
            points.append(point(landscape, solve(landscape.problem, {"latency": share * whole.latency_ms})))
        except InfeasibleError:
            break
    return Front(whole.latency_ms, tuple(dict.fromkeys(points)), time.perf_counter() - start, whole.status)


def point(landscape: Landscape, solution: Solution) -> Point:
    """What the tables tell, but where only the cost of the whole does: what is left of dropped blocks may fuse
    otherwise, and fewer weights fit into a cache better."""
    problem, configuration = landscape.problem, landscape.configuration(solution)
    latency, size = (problem.amount(name, solution.levels, solution.dropped) for name in ("latency", "size"))
    if solution.dropped or landscape.cost_model.model.cold:
        cost = landscape.cost(configuration)
        latency, size = cost.latency_ms, cost.weight_bytes
    return Point(latency, problem.loss(solution.levels, solution.dropped), round(size), configuration)


def regret(landscapes: Mapping[str, Landscape]) -> dict[str, dict[str, float]]:
    """Chip -> chip -> latency there of the first one's choice over that of the second one's own.

    All choices are of one quality: each chip takes the shortest latency at no more loss than the first chip has at
    half of its latency. Of what the solves for all chips find each takes what is best on it, so no ratio is below 1.
    """
    if not landscapes:
        return {}
    first = next(iter(landscapes.values()))
    loss = halfway(first)
    found = [landscape.configuration(smallest(landscape.problem, "latency", loss)) for landscape in landscapes.values()]
    taken = {
        name: {configuration: landscape.cost(configuration).latency_ms for configuration in found}
        for name, landscape in landscapes.items()
    }
    own = {name: min(times, key=lambda configuration: times[configuration]) for name, times in taken.items()}
    return {a: {b: taken[b][own[a]] / taken[b][own[b]] for b in landscapes} for a in landscapes}


def halfway(landscape: Landscape) -> float:
    """The least loss at half of the latency, or where that can't be had at the shortest one."""
    whole = landscape.cost(UNCHANGED).latency_ms
    try:
        solution = solve(landscape.problem, {"latency": COMPARED * whole})
    except InfeasibleError:
        solution = smallest(landscape.problem, "latency")
    return landscape.problem.loss(solution.levels, solution.dropped)


def distinct(names: Iterable[str]) -> list[str]:
    """The names; UserError if one is given twice."""
    found = list(names)
    doubled = next((name for name in found if found.count(name) > 1), None)
    if doubled:
        raise UserError(f"The target {doubled} is named twice: name each once.")
    return found
