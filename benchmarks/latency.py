"""Times our libraries beside torch, torch.compile, ONNX Runtime and OpenVINO and writes docs/benchmarks/codegen.md.

For each model all runtimes run interleaved in one process, on equal threads, on the same inputs, in float32.
"""

import argparse
import os
import platform
from collections.abc import Mapping, Sequence
from datetime import date
from importlib.metadata import version
from pathlib import Path
from statistics import geometric_mean
from typing import Any

from chipfit.bench import OURS, bench_model
from chipfit.measure import SETTLE, TIMED, WARM
from chipfit.peers import PEERS, version_of
from chipfit.progress import shown
from chipfit.targets.detect import processor

MODELS = (
    *("resnet20", "benchmarks/models.py:resnet18", "benchmarks/models.py:resnet50", "mobilenetv2"),
    *("efficientnet_lite0", "minilm", "smollm2", "smollm2_decode"),
)
SECONDS_PER_MODEL = 25.0
PAGE = Path(__file__).parents[1] / "docs" / "benchmarks" / "codegen.md"

Results = Sequence[Mapping[str, Any]]


def page(results: Mapping[int, Results], load: float) -> str:
    """The whole page: how it was measured, and for each number of threads wins, losses and a row for every model."""
    parts = ["# Latency beside other runtimes", conditions(load)]
    for threads, rows in results.items():
        parts += [f"## {threads} thread{'s' * (threads > 1)}", verdicts(rows), table(rows)]
    return "\n\n".join(parts) + "\n"


def conditions(load: float) -> str:
    versions = [f"{name} {version_of(name)}" for name in PEERS if name != "inductor"]
    versions += [f"TVM {version('apache-tvm')}", f"Python {platform.python_version()}"]
    return f"""`make bench-codegen` on {date.today()}: {processor()}, batch 1, float32.
Load average before it: {load:.1f}. {", ".join(versions)}.

Models are compiled as they are: nothing is compressed. For each model all runtimes run interleaved in one process for
{SECONDS_PER_MODEL:.0f} s. In its turn a runtime rests for {1e3 * SETTLE:.0f} ms, is called for {1e3 * WARM:.0f} ms
untimed, and is timed for {1e3 * TIMED:.0f} ms, at least one call each; the turn's figure is the median of its calls.
Milliseconds: the median over turns, the best in brackets. The error is the largest absolute difference of our outputs
from torch's."""


def name_of(result: Mapping[str, Any]) -> str:
    return str(result["source"]).rpartition(":")[2]


def table(results: Results) -> str:
    runtimes = [OURS, *PEERS]
    lines = [["model", *runtimes, "our error"], ["---", *("---:" for _ in runtimes), "---:"]]
    for result in results:
        rows = {row["runtime"]: row for row in result["rows"]}
        times = [f"{rows[name]['median_ms']:.2f} ({rows[name]['best_ms']:.2f})" for name in runtimes]
        lines.append([name_of(result), *times, f"{rows[OURS]['max_abs_error']:.0e}"])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def verdicts(results: Results) -> str:
    """How the fastest other runtime compares on each model, and the mean over all."""
    lines, ratios = [], []
    for result in results:
        medians = {row["runtime"]: row["median_ms"] for row in result["rows"]}
        ours = medians.pop(OURS)
        best = min(medians, key=lambda name: medians[name])
        ratios.append(ours / medians[best])
        won = "won" if ratios[-1] <= 1 else "LOST"
        lines.append(f"- {name_of(result)}: {won}, {ratios[-1]:.2f} of the time of {best}.")
    return "\n".join([*lines, f"- Geometric mean: {geometric_mean(ratios):.2f} of the fastest other runtime's time."])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", nargs="*", default=MODELS)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    options = parser.parse_args()
    load = os.getloadavg()[0]
    with shown() as progress:
        results = {
            threads: [bench_model(name, list(PEERS), progress, SECONDS_PER_MODEL, threads) for name in options.models]
            for threads in options.threads
        }
    text = page(results, load)
    PAGE.write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
