"""Times our libraries beside torch, torch.compile, ONNX Runtime and OpenVINO and writes docs/benchmarks/latency.md.

For each model all runtimes run interleaved in one process, on equal threads, on the same inputs, in float32.
"""

import argparse
import os
import platform
from collections.abc import Mapping, Sequence
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any

from chipfit.bench import OURS, SETTLE, bench_model
from chipfit.peers import PEERS, version_of
from chipfit.progress import shown

MODELS = ("resnet20", "mobilenetv2", "efficientnet_lite0", "minilm", "smollm2")
SECONDS_PER_MODEL = 25.0
PAGE = Path(__file__).parents[1] / "docs" / "benchmarks" / "latency.md"


def processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def page(results: Sequence[Mapping[str, Any]], load: float) -> str:
    """The whole page: how it was measured, wins and losses at a glance, and a row for every runtime and model."""
    runtimes = [OURS, *PEERS]
    return "\n\n".join(["# Latency beside other runtimes", conditions(results, load), *verdicts(results, runtimes)])


def conditions(results: Sequence[Mapping[str, Any]], load: float) -> str:
    versions = [f"{name} {version_of(name)}" for name in PEERS if name != "inductor"]
    versions += [f"TVM {version('apache-tvm')}", f"Python {platform.python_version()}"]
    threads = results[0]["threads"]
    return f"""`make bench` on {date.today()}: {processor()}, {threads} threads, batch 1, float32.
Load average before it: {load:.1f}. {", ".join(versions)}.

Models are compiled as they are: nothing is compressed. For each model all runtimes run interleaved in one process for
{SECONDS_PER_MODEL:.0f} s; every timed call comes after {1e3 * SETTLE:.0f} ms of rest and an untimed call of the same
runtime. Milliseconds: the median of all calls, the best in brackets. The error is the largest absolute difference of
our outputs from torch's."""


def verdicts(results: Sequence[Mapping[str, Any]], runtimes: Sequence[str]) -> list[str]:
    return ["\n".join(verdict(result) for result in results), table(results, runtimes) + "\n"]


def table(results: Sequence[Mapping[str, Any]], runtimes: Sequence[str]) -> str:
    lines = [["model", *runtimes, "our error"], ["---", *("---:" for _ in runtimes), "---:"]]
    for result in results:
        rows = {row["runtime"]: row for row in result["rows"]}
        times = [f"{rows[name]['median_ms']:.2f} ({rows[name]['best_ms']:.2f})" for name in runtimes]
        lines.append([result["source"], *times, f"{rows[OURS]['max_abs_error']:.0e}"])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def verdict(result: Mapping[str, Any]) -> str:
    """How the fastest other runtime compares."""
    medians = {row["runtime"]: row["median_ms"] for row in result["rows"]}
    ours = medians.pop(OURS)
    best = min(medians, key=lambda name: medians[name])
    won = ours <= medians[best]
    return f"- {result['source']}: {'won' if won else 'LOST'}, {medians[best] / ours:.2f} times the speed of {best}."


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", nargs="*", default=MODELS)
    parser.add_argument("--out", type=Path, default=PAGE)
    options = parser.parse_args()
    load = os.getloadavg()[0]
    with shown() as progress:
        results = [bench_model(name, list(PEERS), progress, SECONDS_PER_MODEL) for name in options.models]
    text = page(results, load)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
