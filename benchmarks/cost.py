"""Compares predicted with measured latency over random configurations and writes docs/benchmarks/cost.md.

Calibration fits its coefficients to small chains of layers (chipfit.calibration.probes): it has seen none of these
networks. A shared machine is faster in some minutes than in others, by a fifth within five: so both are timed by turns,
a part of the calibration and then every network, several times, and of each the least counts.
"""

import argparse
import hashlib
import random
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path

import numpy as np
from cells import Cells, Record, at_once, conditions, interruptible, prepare, table
from latency import MODELS
from pruned import cut, named, random_configuration, whole
from scipy.stats import spearmanr

import chipfit.codegen
import chipfit.targets
from chipfit.calibration.host import PACE, compiled, fit_and_keep, timed
from chipfit.calibration.host import SECONDS as CALIBRATION
from chipfit.calibration.kept import recalled
from chipfit.calibration.undisturbed import PASSES, SHORT_MS, Least, Pace, Stopwatch
from chipfit.codegen import Library, compile_graph
from chipfit.codegen.check import probe
from chipfit.codegen.library import numpy_weights
from chipfit.ir.blocks import find_blocks
from chipfit.ir.configuration import Configuration
from chipfit.ir.fusion import kernels
from chipfit.ir.graph import Graph
from chipfit.ir.shapes import what_if
from chipfit.ir.work import work
from chipfit.measure import milliseconds
from chipfit.passes.base import silent
from chipfit.progress import shown
from chipfit.targets.cost import CostModel
from chipfit.targets.registry import Target, get_target
from chipfit.targets.roofline import Roofline

DROPPED = 0.3  # of the blocks, at most
VISITS = 3
SECONDS = 6.0  # of timing for each configuration, at most, in all visits
CALLS = 300  # for which a long one is timed longer: each of its kernels has to run undisturbed once
ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "build" / "bench-cost"
READY = FOLDER / "ready"
PAGE = ROOT / "docs" / "benchmarks" / "cost.md"
OURS, ROOFLINE, FLOPS = "our cost model", "roofline", "FLOPs"
CLOCKED = f"{OURS}, clock taken out"
FUSION = ("fusion", "images", "kernel", "kinds", "patterns")  # the modules of ir that code depends on
TILES = ("attention_tiles", "detect", "matrix_unit", "packed", "tile", "tiles", "winograd")  # and those of targets


@dataclass(frozen=True)
class Row:
    """One configuration: its model, milliseconds measured and predicted, and the upper bound.

    `calm`: it ran undisturbed now and then while it was timed, so that `measured` is its own time.
    """

    model: str
    measured: float
    calm: bool
    predicted: Mapping[str, float]
    upper: float


@dataclass(frozen=True)
class Drawn:
    """The configuration of a model that an index gives: the whole of it, or random widths and drops of blocks.

    `code` changes with what makes code: what another made is no part of this page.
    """

    code: str
    source: str
    index: int
    visit: int = 0

    @property
    def key(self) -> str:
        return f"{self.name}-{self.visit}"

    @property
    def name(self) -> str:
        """Of the library, the same at every visit."""
        return f"{self.code}-{named(self.source)}-{self.index:02d}"

    @property
    def graph(self) -> Graph:
        return cut(self.source, self.configuration)

    @property
    def configuration(self) -> Configuration:
        """Dropped blocks don't lie in each other."""
        graph, _ = whole(self.source)
        if not self.index:
            return Configuration()
        blocks, chance, dropped = find_blocks(graph), random.Random(self.index), set[str]()
        for name in chance.sample(sorted(blocks), round(chance.uniform(0, DROPPED) * len(blocks))):
            if all(blocks[name].nodes.isdisjoint(blocks[other].nodes) for other in dropped):
                dropped.add(name)
        return Configuration(random_configuration(graph, self.index).widths, frozenset(dropped))


def prepared(drawn: Drawn) -> Path:
    """A folder with its library, made unless it is there."""
    folder = READY / drawn.name
    if not folder.exists():
        graph = drawn.graph
        with at_once(folder) as made:
            compile_graph(graph, get_target("host"), made / "library", probe(graph))
    return folder


@dataclass(frozen=True)
class Bench:
    """Times libraries undisturbed, as calibration takes them."""

    pace: Pace

    def timed(self, drawn: Drawn) -> Record:
        """Nothing that a cost model says: so a page can be made anew by another calibration."""
        folder, graph = prepared(drawn), drawn.graph
        library = Library.load(folder / "library", numpy_weights(graph))
        inputs = [tensor.numpy() for tensor in probe(graph)]
        watch = Stopwatch(library, inputs, self.pace, PASSES // VISITS)
        watch.run(max(SECONDS, CALLS * milliseconds(lambda: library(*inputs)) / 1e3) / VISITS)
        if drawn.visit == VISITS - 1:
            shutil.rmtree(folder)
        print(f"{watch.milliseconds:.2f} ms{'' if watch.is_calm else ' (disturbed)'}", flush=True)
        state = {"calm": watch.is_calm, "pace": watch.pace_ms, "least": asdict(watch.least)}
        return {"code": drawn.code, "source": drawn.source, "index": drawn.index, "visit": drawn.visit, **state}


def least(visits: Sequence[Record]) -> Least:
    """Of all visits to one library."""
    found = Least()
    for one in visits:
        found.add(one["least"]["call_ms"], one["least"]["take_ms"], [tuple(each) for each in one["least"]["kernels"]])
    return found


def row(visits: Sequence[Record], target: Target) -> Row:
    """What was measured beside what is predicted now."""
    drawn = Drawn(visits[0]["code"], visits[0]["source"], visits[0]["index"])
    measured, pace = least(visits).milliseconds, min(one["pace"] for one in visits)
    graph, batch = whole(drawn.source)
    cost = target.cost_model.cost(graph, drawn.configuration, batch)
    plain = CostModel(Roofline(target.profile)).cost(graph, drawn.configuration, batch)
    clocked = cost.latency_ms * pace / (1e3 * target.profile.si(PACE))
    predicted = {OURS: cost.latency_ms, CLOCKED: clocked, ROOFLINE: plain.latency_ms, FLOPS: flops(drawn.graph)}
    calm = any(one["calm"] for one in visits)
    return Row(named(drawn.source), measured, calm, predicted, cost.interval_ms[1])


def code_digest() -> str:
    """Changes with what makes code: generators, tiles, fusion, TVM."""
    package = Path(chipfit.codegen.__file__).parents[1]
    files = [*(package / "codegen").glob("*.py"), *(package / "ir" / f"{name}.py" for name in FUSION)]
    files += [Path(chipfit.targets.__path__[0]) / f"{name}.py" for name in TILES]
    parts = [version("apache-tvm").encode(), *(file.read_bytes() for file in sorted(files))]
    return hashlib.sha256(b"".join(parts)).hexdigest()[:16]


def flops(graph: Graph) -> float:
    shapes = what_if(graph, Configuration())
    return float(sum(work(kernel, shapes).flops for kernel in kernels(graph.forward)))


def scaled(found: Sequence[Row], model: str) -> np.ndarray:
    """Predicted milliseconds; a baseline, which has no calibration, is scaled to fit the median."""
    predicted = np.array([row.predicted[model] for row in found])
    factor = 1.0 if model in (OURS, CLOCKED) else float(np.median([row.measured for row in found] / predicted))
    return predicted * factor


def errors(found: Sequence[Row]) -> str:
    columns, rows = ("model", "configurations", "cost model", "median error", "95th percentile", "Spearman"), []
    names = [name for name in map(named, MODELS) if any(row.model == name for row in found)]
    for name in [*names, "all"]:
        index = [i for i, row in enumerate(found) if name in (row.model, "all")]
        times = np.array([found[i].measured for i in index])
        for model in (OURS, CLOCKED, ROOFLINE, FLOPS):
            predicted = scaled(found, model)[index]
            off, rank = np.abs(predicted / times - 1), spearmanr(predicted, times).statistic
            figures = (f"{np.median(off):.1%}", f"{np.quantile(off, 0.95):.1%}", f"{rank:.3f}")
            rows.append((name, str(len(index)), model, *figures))
    return table(columns, rows)


def page(records: Sequence[Record], rows: Sequence[Row], threads: int) -> str:
    found = [row for row in rows if row.calm]
    above = sum(row.measured > row.upper for row in found)
    clocked = sum(row.measured > row.upper * row.predicted[CLOCKED] / row.predicted[OURS] for row in found)
    models = len({row.model for row in found})
    return f"""# Predicted and measured latency

`make bench-cost`: {conditions(records)}

{len(found)} configurations of {models} networks, batch 1, float32, {threads} threads: each whole, and with every width
that a search may cut drawn evenly from 30% to all of it and up to {DROPPED:.0%} of its blocks dropped. Measured is the
least of many calls, in {VISITS} visits between which the probes of the calibration were timed; of calls over
{SHORT_MS:g} ms, which a shared machine never leaves undisturbed, the sum of the least times of the kernels and of
copying the inputs. Calibration saw none of these networks. The roofline takes the profile's peak and bandwidth; it and
FLOPs are scaled by one factor to fit the median of everything below, which our model is not. This machine's clock
drifts by a tenth from one minute to another: "clock taken out" multiplies what was predicted by what a small product
took while the configuration was timed, over what it took in calibration.

{len(rows) - len(found)} more configurations are left out: the machine was never left alone while they were timed.

The measured latency lies above the stated upper bound in {above} of {len(found)} cases ({above / len(found):.1%}),
where the bound's level allows 2.5%; with the clock taken out in {clocked}.

{errors(found)}
"""


def visit(drawn: Sequence[Drawn], cells: Cells, target: Target) -> None:
    """Times the probes of a calibration and these configurations by turns."""
    bench = Bench(Pace.of(target))
    with shown() as progress:
        subjects = compiled(target, bench.pace, progress, wanted=PASSES // VISITS)
    for turn in range(VISITS):
        timed(subjects, CALIBRATION / VISITS, silent)
        for subject in subjects:
            subject.watch.return_later()
        cells.fill([replace(one, visit=turn) for one in drawn], bench.timed)
    fit_and_keep(subjects, target)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", nargs="*", default=MODELS, help="only configurations of these")
    parser.add_argument("--count", type=int, default=20, help="configurations of each model")
    options = parser.parse_args()
    cells, code, target = Cells(FOLDER / "cells.jsonl"), code_digest(), get_target("host")
    drawn = [Drawn(code, model, index) for index in range(options.count) for model in options.models]
    missing = cells.missing([replace(one, visit=VISITS - 1) for one in drawn])
    prepare(missing, prepared)
    if missing:
        visit(missing, cells, target)
    target = recalled(target)
    records = [one for one in cells.found() if one["code"] == code]
    names = dict.fromkeys((one["source"], one["index"]) for one in records)
    visits = [[one for one in records if (one["source"], one["index"]) == name] for name in names]
    rows = [row(each, target) for each in visits]
    if not any(one.calm for one in rows):
        sys.exit("The machine was never left alone while anything was timed, so the page stays as it is: run it again.")
    text = page(records, rows, target.cpu.threads)
    PAGE.write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    interruptible(main)
