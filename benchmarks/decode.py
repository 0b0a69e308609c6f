"""Times one decoding step of SmolLM2 with weights in fewer bits and writes docs/benchmarks/decode.md.

All libraries run interleaved in one process, on equal threads, on the same token and cache, with llama.cpp beside them.
"""

import os
import tempfile
from collections.abc import Callable, Mapping
from datetime import date
from importlib.metadata import version
from pathlib import Path

import llama

from chipfit.codegen import compile_graph
from chipfit.examples import smollm2, smollm2_decode
from chipfit.frontend.importer import import_model
from chipfit.ir.graph import Graph
from chipfit.measure import Timing, interleave, paired_ratio
from chipfit.passes.base import Context
from chipfit.passes.bfloat16 import Bfloat16
from chipfit.passes.quantize import Quantize
from chipfit.targets.detect import processor
from chipfit.targets.registry import get_target

THREADS = (1, 2)
SECONDS = 30.0
WHOLE = "float32"
PAGE = Path(__file__).parents[1] / "docs" / "benchmarks" / "decode.md"


def graphs() -> Mapping[str, Graph]:
    graph = import_model(*smollm2_decode.model())
    passes = {"bfloat16": Bfloat16(), "int8": Quantize(), "int4, groups of 32": Quantize(bits=4)}
    context = Context(teacher=graph)
    return {WHOLE: graph} | {name: one.run(graph, context).graph for name, one in passes.items()}


def steps(variants: Mapping[str, Graph], threads: int, folder: Path) -> Mapping[str, Callable[[], object]]:
    _, inputs = smollm2_decode.model()
    arrays, target = [tensor.numpy() for tensor in inputs], get_target("host").with_cores(threads)
    libraries = {name: compile_graph(graph, target, folder / name, inputs) for name, graph in variants.items()}
    calls: dict[str, Callable[[], object]] = {n: (lambda made=made: made(*arrays)) for n, made in libraries.items()}
    for name in llama.FORMATS:
        file = llama.requantized(smollm2.gguf(), name, folder)
        calls[f"llama.cpp {name}"] = llama.decoding_step(file, threads, smollm2_decode.LENGTH - 1)
    return calls


def section(threads: int, timings: Mapping[str, Timing]) -> str:
    lines = ["| weights | median ms | best ms | tokens a second | speed |", "| --- | ---: | ---: | ---: | ---: |"]
    for name, timing in timings.items():
        figures = f"{timing.median_ms:.1f} | {timing.best_ms:.1f} | {1e3 / timing.median_ms:.1f}"
        lines.append(f"| {name} | {figures} | {1 / paired_ratio(timings, name, WHOLE):.2f} |")
    return f"## {threads} thread{'s' * (threads > 1)}\n\n" + "\n".join(lines)


def main() -> None:
    load, sections, variants = os.getloadavg()[0], [], graphs()
    for threads in THREADS:
        with tempfile.TemporaryDirectory(prefix="chipfit-bench-") as folder:
            calls = steps(variants, threads, Path(folder))
            sections.append(section(threads, interleave(calls, rounds=1000, seconds=SECONDS)))
    intro = f"""# Decoding with weights in fewer bits

`make bench-decode` on {date.today()}: {processor()}, TVM {version("apache-tvm")}, llama-cpp-python
{version("llama-cpp-python")}. Load average before it: {load:.1f}.

One step of SmolLM2-135M over a cache of {smollm2_decode.LENGTH} positions, whose tensors ours reads where they lie and
writes anew; llama.cpp keeps its cache, and its logits are copied out. Speed is the median over rounds of how many
times our float32's it is, both run one after the other in one process."""
    text = "\n\n".join([intro, *sections]) + "\n"
    PAGE.write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
