"""Times one decoding step of SmolLM2 with float32 and with int8 weights and writes docs/benchmarks/decode.md.

Both libraries run interleaved in one process, on equal threads, on the same token and cache.
"""

import os
import tempfile
from collections.abc import Mapping
from datetime import date
from importlib.metadata import version
from pathlib import Path

from latency import processor

from chipfit.bench import SETTLE
from chipfit.codegen import Library, compile_graph
from chipfit.examples import smollm2_decode
from chipfit.frontend.importer import import_model
from chipfit.measure import Timing, interleave, paired_ratio
from chipfit.passes.base import Context
from chipfit.passes.quantize import Quantize
from chipfit.targets.registry import get_target

THREADS = (1, 2)
SECONDS = 30.0
WHOLE = "float32"
PAGE = Path(__file__).parents[1] / "docs" / "benchmarks" / "decode.md"


def libraries(threads: int, folder: Path) -> Mapping[str, Library]:
    model, inputs = smollm2_decode.model()
    graph = import_model(model, inputs)
    graphs = {WHOLE: graph, "int8": Quantize().run(graph, Context(teacher=graph)).graph}
    target = get_target("host").with_cores(threads)
    return {name: compile_graph(one, target, folder / name, inputs) for name, one in graphs.items()}


def timed(threads: int) -> Mapping[str, Timing]:
    _, inputs = smollm2_decode.model()
    arrays = [tensor.numpy() for tensor in inputs]
    with tempfile.TemporaryDirectory(prefix="chipfit-bench-") as folder:
        calls = {name: (lambda made=made: made(*arrays)) for name, made in libraries(threads, Path(folder)).items()}
        return interleave(calls, rounds=1000, seconds=SECONDS, settle=SETTLE)


def section(threads: int, timings: Mapping[str, Timing]) -> str:
    lines = ["| weights | median ms | best ms | tokens a second | speed |", "| --- | ---: | ---: | ---: | ---: |"]
    for name, timing in timings.items():
        figures = f"{timing.median_ms:.1f} | {timing.best_ms:.1f} | {1e3 / timing.median_ms:.1f}"
        lines.append(f"| {name} | {figures} | {1 / paired_ratio(timings, name, WHOLE):.2f} |")
    return f"## {threads} thread{'s' * (threads > 1)}\n\n" + "\n".join(lines)


def main() -> None:
    load = os.getloadavg()[0]
    sections = [section(threads, timed(threads)) for threads in THREADS]
    intro = f"""# Decoding with weights in fewer bits

`make bench-decode` on {date.today()}: {processor()}, TVM {version("apache-tvm")}. Load average before it: {load:.1f}.

One step of SmolLM2-135M over a cache of {smollm2_decode.LENGTH} positions, all cache tensors copied in and out. Speed
is the median over rounds of how many times float32's it is, both run one after the other."""
    text = "\n\n".join([intro, *sections]) + "\n"
    PAGE.write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
