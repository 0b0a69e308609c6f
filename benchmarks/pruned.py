"""Times randomly pruned networks beside other runtimes and writes docs/benchmarks/pruned.md.

Every axis that a search may cut gets a random width, so channel counts are multiples of nothing. Weights are what they
are: only latency is looked at. inductor is left out, since it takes a minute for each of so many networks.
"""

import argparse
import random
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from statistics import geometric_mean

from cells import Cells, Record, at_once, conditions, interruptible, prepare, table
from latency import MODELS, name_of

from chipfit.bench import OURS
from chipfit.codegen import compile_graph
from chipfit.codegen.check import probe
from chipfit.codegen.library import numpy_weights
from chipfit.codegen.runtime import Library
from chipfit.frontend.importer import import_model
from chipfit.frontend.source import load_source
from chipfit.ir.apply import apply, can_rebatch, rebatch
from chipfit.ir.configuration import Configuration
from chipfit.ir.emit import emit
from chipfit.ir.graph import Graph
from chipfit.measure import Timing, interleave
from chipfit.passes.fold_batch_norm import folded
from chipfit.peers import PEERS, onnx_file
from chipfit.search.sensitivity import candidates
from chipfit.targets.registry import get_target

AGAINST = ("torch", "onnxruntime", "openvino")
LEAST = 0.3  # of a width
SECONDS = 6.0  # of timing for each network
ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "build" / "bench-pruned"
READY = FOLDER / "ready"
PAGE = ROOT / "docs" / "benchmarks" / "pruned.md"


@dataclass(frozen=True)
class Network:
    """The network that a seed makes of a model."""

    source: str
    seed: int
    threads: int

    @property
    def key(self) -> str:
        return f"{self.model}-{self.threads}-{self.seed:02d}"

    @property
    def model(self) -> str:
        return named(self.source)


def named(source: str) -> str:
    return name_of({"source": source})


@cache
def whole(source: str) -> tuple[Graph, int]:
    """A model without its batch norms, and the batch that it is deployed at."""
    loaded = load_source(source)
    return folded(import_model(loaded.model, loaded.example_inputs)), len(loaded.example_inputs[0])


def cut(source: str, configuration: Configuration) -> Graph:
    graph, batch = whole(source)
    small = apply(graph, configuration)
    return rebatch(small, batch) if can_rebatch(small) else small


def random_configuration(graph: Graph, seed: int) -> Configuration:
    chance = random.Random(seed)
    axes, _ = candidates(graph)
    widths = {name: chance.randint(max(1, round(LEAST * axis.size)), axis.size) for name, axis in axes.items()}
    return Configuration({name: tuple(sorted(chance.sample(range(axes[name].size), n))) for name, n in widths.items()})


def graph_of(network: Network) -> Graph:
    return cut(network.source, random_configuration(whole(network.source)[0], network.seed))


def prepared(network: Network) -> Path:
    """A folder with our library and the file that ONNX Runtime and OpenVINO read, made unless it is there."""
    folder = READY / network.key
    if folder.exists():
        return folder
    graph = graph_of(network)
    inputs = probe(graph)
    with at_once(folder) as made:
        compile_graph(graph, get_target("host").with_cores(network.threads), made / "library", inputs)
        onnx_file(emit(graph), inputs, made)
    return folder


def timed(graph: Graph, threads: int, folder: Path) -> Mapping[str, Timing]:
    inputs, module = probe(graph), emit(graph)
    arrays = [tensor.numpy() for tensor in inputs]
    library = Library.load(folder / "library", numpy_weights(graph), threads)
    calls = {name: PEERS[name](module, inputs, threads, folder) for name in AGAINST}
    return interleave({OURS: lambda: library(*arrays), **calls}, rounds=1000, seconds=SECONDS)


def made(network: Network) -> Record:
    folder = prepared(network)
    medians = {name: one.median_ms for name, one in timed(graph_of(network), network.threads, folder).items()}
    shutil.rmtree(folder)
    return {"model": network.model, "threads": network.threads, "seed": network.seed, "medians_ms": medians}


def ratio(record: Record) -> float:
    """Our median by the best other runtime's."""
    return record["medians_ms"][OURS] / min(ms for name, ms in record["medians_ms"].items() if name != OURS)


def results(found: Sequence[Record]) -> str:
    columns = ("model", "networks", "geometric mean", "best", "worst", "above 1.10")
    names = [name for name in map(named, MODELS) if any(one["model"] == name for one in found)]
    rows = []
    for name in [*names, "all"]:
        ratios = [ratio(one) for one in found if name in (one["model"], "all")]
        figures = (geometric_mean(ratios), min(ratios), max(ratios))
        slow = sum(each > 1.1 for each in ratios)
        rows.append((name, str(len(ratios)), *(f"{figure:.2f}" for figure in figures), str(slow)))
    return table(columns, rows)


def page(found: Sequence[Record]) -> str:
    threads = sorted({one["threads"] for one in found})
    parts = [
        f"## {n} thread{'s' * (n > 1)}\n\n{results([one for one in found if one['threads'] == n])}" for n in threads
    ]
    intro = f"""# Latency of randomly pruned networks

`make bench-pruned`: {conditions(found)}

Every width that a search may cut is drawn evenly from {LEAST:.0%} to all of it. Figures are our median time by the
fastest of {", ".join(AGAINST)}, all interleaved in one process for {SECONDS:g} s; batch 1, float32. inductor is left
out: it takes a minute for each network."""
    return "\n\n".join([intro, *parts]) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", nargs="*", default=MODELS, help="only networks made of these")
    parser.add_argument("--count", type=int, default=20, help="random networks of each model")
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    cells = Cells(FOLDER / "cells.jsonl")
    networks = [Network(m, seed, options.threads) for seed in range(options.count) for m in options.models]
    prepare(cells.missing(networks), prepared)
    cells.fill(networks, made)
    text = page(cells.found())
    PAGE.write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    interruptible(main)
