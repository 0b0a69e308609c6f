"""Compares predicted with measured latency over random configurations and writes docs/benchmarks/cost.md.

Calibration fits its coefficients to small chains of layers (chipfit.probes): it has seen none of these networks.
"""

import argparse
import hashlib
import json
import os
import random
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import date
from pathlib import Path

import numpy as np
from latency import MODELS, name_of, processor
from pruned import random_configuration
from scipy.stats import spearmanr

from chipfit.calibration import LOOK, calibrated, delta_path
from chipfit.codegen import compile_graph
from chipfit.codegen.check import probe
from chipfit.frontend.importer import import_model
from chipfit.frontend.source import load_source
from chipfit.ir.apply import apply, can_rebatch, rebatch
from chipfit.ir.blocks import find_blocks
from chipfit.ir.configuration import Configuration
from chipfit.ir.graph import Graph
from chipfit.ir.kernels import kernels, work
from chipfit.ir.shapes import what_if
from chipfit.passes.fold_batch_norm import folded
from chipfit.progress import shown
from chipfit.stages import write_json
from chipfit.targets.cost import CostModel
from chipfit.targets.registry import Target, get_target
from chipfit.targets.roofline import Roofline
from chipfit.undisturbed import SHORT_MS, Pace, Stopwatch

DROPPED = 0.3  # of the blocks, at most
PAGE = Path(__file__).parents[1] / "docs" / "benchmarks" / "cost.md"
OURS, ROOFLINE, FLOPS = "our cost model", "roofline", "FLOPs"


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


def configurations(graph: Graph, count: int) -> Iterator[Configuration]:
    """The whole graph, then random widths and random drops of blocks that don't lie in each other."""
    yield Configuration()
    blocks = find_blocks(graph)
    for seed in range(1, count):
        chance = random.Random(seed)
        widths = random_configuration(graph, seed).widths
        dropped = set[str]()
        for name in chance.sample(sorted(blocks), round(chance.uniform(0, DROPPED) * len(blocks))):
            if all(blocks[name].nodes.isdisjoint(blocks[other].nodes) for other in dropped):
                dropped.add(name)
        yield Configuration(widths, frozenset(dropped))


def rows(source: str, count: int, seconds: float, target: Target, pace: Pace) -> Iterator[Row]:
    loaded = load_source(source)
    graph = folded(import_model(loaded.model, loaded.example_inputs))
    for configuration in configurations(graph, count):
        small = apply(graph, configuration)
        small = rebatch(small, len(loaded.example_inputs[0])) if can_rebatch(small) else small
        cost = target.cost_model.cost(small)
        predicted = {
            OURS: cost.latency_ms,
            ROOFLINE: CostModel(Roofline(target.profile)).cost(small).latency_ms,
            FLOPS: flops(small),
        }
        watch = timed(small, seconds, target, pace)
        calm = watch.calm.passes > 0
        yield Row(name_of({"source": source}), watch.milliseconds, calm, predicted, cost.interval_ms[1])


def state_of() -> str:
    """Changes with the calibration, whose file is named after the kernels."""
    return hashlib.sha256(delta_path().read_bytes()).hexdigest()[:16]


def flops(graph: Graph) -> float:
    shapes = what_if(graph, Configuration())
    return float(sum(work(kernel, shapes).flops for kernel in kernels(graph.forward)))


def timed(graph: Graph, seconds: float, target: Target, pace: Pace) -> Stopwatch:
    """Undisturbed, as calibration takes it."""
    inputs = probe(graph)
    with tempfile.TemporaryDirectory(prefix="chipfit-bench-") as folder:
        library = compile_graph(graph, target, Path(folder) / "library", inputs)
        watch = Stopwatch(library, [tensor.numpy() for tensor in inputs], pace)
        watch.run(seconds)
        return watch


def scaled(found: Sequence[Row], model: str) -> np.ndarray:
    """Predicted milliseconds; a baseline, which has no calibration, is scaled to fit the median."""
    predicted = np.array([row.predicted[model] for row in found])
    factor = 1.0 if model == OURS else float(np.median([row.measured for row in found] / predicted))
    return predicted * factor


def table(found: Sequence[Row]) -> str:
    lines = ["| model | cost model | median error | 95th percentile | Spearman |", "| --- | --- | ---: | ---: | ---: |"]
    for name in [*dict.fromkeys(row.model for row in found), "all"]:
        for model in (OURS, ROOFLINE, FLOPS):
            index = [i for i, row in enumerate(found) if name in (row.model, "all")]
            times, predicted = np.array([found[i].measured for i in index]), scaled(found, model)[index]
            errors, rank = np.abs(predicted / times - 1), spearmanr(predicted, times).statistic
            figures = f"{np.median(errors):.1%} | {np.quantile(errors, 0.95):.1%} | {rank:.3f}"
            lines.append(f"| {name} | {model} | {figures} |")
    return "\n".join(lines)


def page(rows: Sequence[Row], command: str, load: float) -> str:
    found = [row for row in rows if row.calm]
    above = sum(row.measured > row.upper for row in found)
    models = len({row.model for row in found})
    return f"""# Predicted and measured latency

`{command}` on {date.today()}: {processor()}, batch 1, float32, {get_target("host").cpu.threads} threads. Load average
before it: {load:.1f}.

{len(found)} configurations of {models} networks: each whole, and with every width that a search may cut drawn evenly
from 30% to all of it and up to {DROPPED:.0%} of its blocks dropped. Measured is the least of many calls; of calls over
{SHORT_MS:g} ms, which a shared machine never leaves undisturbed, the sum of the least times of the kernels and of
copying the inputs. Calibration saw none of these networks. The roofline takes the profile's peak and bandwidth; it and
FLOPs are scaled by one factor to fit the median of everything below, which our model is not.

{len(rows) - len(found)} more configurations are left out: the machine was never left alone while they were timed.

The measured latency lies above the stated upper bound in {above} of {len(found)} cases ({above / len(found):.1%}),
where the bound's level allows 2.5%.

{table(found)}
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", nargs="*", default=MODELS)
    parser.add_argument("--count", type=int, default=20, help="configurations of each model")
    parser.add_argument("--seconds", type=float, default=6.0, help="of timing for each, at most")
    parser.add_argument("--rows", type=Path, default=Path("build/bench-cost"), help="folder that keeps what was timed")
    options = parser.parse_args()
    load = os.getloadavg()[0]
    with shown() as progress:
        target = calibrated(get_target("host"), progress)
        options.rows.mkdir(parents=True, exist_ok=True)
        found, pace = list[Row](), Pace.of(target)
        pace.settle(LOOK)
        for model in options.models:
            kept = options.rows / f"{state_of()}-{name_of({'source': model})}-{options.count}.json"
            if not kept.exists():
                made = list[Row]()
                for index, row in enumerate(rows(model, options.count, options.seconds, target, pace)):
                    said = f"{row.model}: {row.measured:.2f} ms, {row.predicted[OURS]:.2f} predicted"
                    progress(said, index / options.count)
                    made.append(row)
                write_json(kept, [asdict(row) for row in made])
            found += [Row(**row) for row in json.loads(kept.read_text())]
    command = "make bench-cost" if tuple(options.models) == MODELS else "python benchmarks/cost.py"
    text = page(found, command, load)
    PAGE.write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
