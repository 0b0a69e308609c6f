"""Times randomly pruned networks beside other runtimes and writes docs/benchmarks/pruned.md.

Every axis that a search may cut gets a random width, so channel counts are multiples of nothing. Weights are what they
are: only latency is looked at. inductor is left out, since it takes a minute for each of so many networks.
"""

import argparse
import json
import os
import random
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from datetime import date
from pathlib import Path
from statistics import geometric_mean

from latency import MODELS, name_of, processor

from chipfit.bench import OURS, SETTLE
from chipfit.codegen import compile_graph
from chipfit.codegen.check import probe
from chipfit.frontend.importer import import_model
from chipfit.frontend.source import load_source
from chipfit.ir.apply import apply, can_rebatch, rebatch
from chipfit.ir.configuration import Configuration
from chipfit.ir.emit import emit
from chipfit.ir.graph import Graph
from chipfit.measure import Timing, interleave
from chipfit.passes.fold_batch_norm import folded
from chipfit.peers import PEERS
from chipfit.search.sensitivity import candidates
from chipfit.stages import write_json
from chipfit.targets.registry import get_target

AGAINST = ("torch", "onnxruntime", "openvino")
LEAST = 0.3  # of a width
PAGE = Path(__file__).parents[1] / "docs" / "benchmarks" / "pruned.md"


def random_configuration(graph: Graph, seed: int) -> Configuration:
    chance = random.Random(seed)
    axes, _ = candidates(graph)
    widths = {name: chance.randint(max(1, round(LEAST * axis.size)), axis.size) for name, axis in axes.items()}
    return Configuration({name: tuple(sorted(chance.sample(range(axes[name].size), n))) for name, n in widths.items()})


def timed(graph: Graph, threads: int, seconds: float) -> Mapping[str, Timing]:
    inputs, module = probe(graph), emit(graph)
    arrays = [tensor.numpy() for tensor in inputs]
    with tempfile.TemporaryDirectory(prefix="chipfit-bench-") as folder:
        library = compile_graph(graph, get_target("host").with_cores(threads), Path(folder) / "library", inputs)
        calls = {name: PEERS[name](module, inputs, threads, Path(folder)) for name in AGAINST}
        return interleave({OURS: lambda: library(*arrays), **calls}, rounds=1000, seconds=seconds, settle=SETTLE)


def ratios(source: str, seeds: Sequence[int], threads: int, seconds: float) -> Iterator[tuple[int, float]]:
    """Seed by seed our median by the best other runtime's."""
    loaded = load_source(source)
    graph = folded(import_model(loaded.model, loaded.example_inputs))
    for seed in seeds:
        small = apply(graph, random_configuration(graph, seed))
        small = rebatch(small, len(loaded.example_inputs[0])) if can_rebatch(small) else small
        medians = {name: timing.median_ms for name, timing in timed(small, threads, seconds).items()}
        yield seed, medians.pop(OURS) / min(medians.values())


def measure(source: str, count: int, threads: int, seconds: float, kept: Path) -> None:
    """Adds to the file `kept`, seed by seed, what it doesn't hold of the first `count` random networks."""
    known = json.loads(kept.read_text()) if kept.exists() else {}
    missing = [seed for seed in range(count) if str(seed) not in known]
    for seed, ratio in ratios(source, missing, threads, seconds) if missing else ():
        known[str(seed)] = ratio
        write_json(kept, known)
        print(f"{name_of({'source': source})} {seed}: {ratio:.2f}", flush=True)


def place(folder: Path, source: str, threads: int) -> Path:
    return folder / f"{name_of({'source': source})}-{threads}.json"


def table(results: Mapping[str, Sequence[float]]) -> str:
    lines = [
        "| model | networks | geometric mean | best | worst | above 1.10 |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    everything = [ratio for found in results.values() for ratio in found]
    for name, found in [*results.items(), ("all", everything)]:
        slow = sum(ratio > 1.1 for ratio in found)
        figures = f"{len(found)} | {geometric_mean(found):.2f} | {min(found):.2f} | {max(found):.2f} | {slow}"
        lines.append(f"| {name_of({'source': name})} | {figures} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", nargs="*", default=MODELS)
    parser.add_argument("--count", type=int, default=20, help="random networks of each model")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=6.0, help="of timing for each")
    parser.add_argument("--kept", type=Path, default=Path("build/bench-pruned"), help="folder; nothing is timed twice")
    options = parser.parse_args()
    load = os.getloadavg()[0]
    options.kept.mkdir(parents=True, exist_ok=True)
    for model in options.models:
        measure(model, options.count, options.threads, options.seconds, place(options.kept, model, options.threads))
    files = {model: place(options.kept, model, options.threads) for model in MODELS}
    results = {model: list(json.loads(file.read_text()).values()) for model, file in files.items() if file.exists()}
    command = f"python benchmarks/pruned.py --count {options.count} --threads {options.threads}"
    text = f"""# Latency of randomly pruned networks

`{command} --seconds {options.seconds:g}` until {date.today()}:
{processor()}, batch 1, float32. Load average before it: {load:.1f}.

Up to {options.count} networks of each model, every width that a search may cut drawn evenly from {LEAST:.0%} to all of
it. Figures are our median time by the fastest of {", ".join(AGAINST)}, all interleaved in one
process. inductor is left out: it takes a minute for each network.

{table(results)}
"""
    PAGE.write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
