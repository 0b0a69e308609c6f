"""Compares the cost model's cycles for a Cortex-A76 with llvm-mca's and writes docs/benchmarks/arm.md.

Nothing runs on an ARM core here. llvm-mca schedules the loop that LLVM made of a kernel on its model of the core, with
every load a hit in the first-level cache: what it can tell is whether the cost model ranks kernels and widths rightly.
"""

import random
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import numpy as np
from cells import table
from pruned import cut, named, random_configuration, whole
from scipy.stats import spearmanr

from chipfit.calibration.subjects import kernel_amounts
from chipfit.codegen.inner_loops import MCA, Loop, assembly, mca_cycles, product_loops
from chipfit.codegen.library import fixed_values, tvm_target
from chipfit.codegen.lower import lower
from chipfit.codegen.program import Call, Generated
from chipfit.codegen.spec_images import ConvSpec
from chipfit.codegen.spec_matmuls import MatmulSpec
from chipfit.ir.configuration import Configuration
from chipfit.ir.fusion import kernels
from chipfit.ir.graph import Graph
from chipfit.ir.shapes import what_if
from chipfit.ir.work import work
from chipfit.targets.registry import Target, get_target

CHIP, MODEL = "cortex-a76", "neoverse-n1"  # LLVM schedules the first by an older core's model; the second is its twin
MODELS = ("resnet20", "benchmarks/models.py:resnet50", "mobilenetv2", "minilm")
CONFIGURATIONS, KERNELS = 3, 12  # random ones of each model, and kernels drawn of each
PAGE = Path(__file__).parents[1] / "docs" / "benchmarks" / "arm.md"


@dataclass(frozen=True)
class Row:
    """A kernel: cycles by the cost model on one core, and cycles by llvm-mca."""

    model: str
    kind: str
    predicted: float
    scheduled: float


def rows(source: str, target: Target) -> Iterator[Row]:
    """Of random kernels of random configurations; those that llvm-mca finds no product's loop in are left out."""
    for seed in range(1, CONFIGURATIONS + 1):
        graph = cut(source, random_configuration(whole(source)[0], seed))
        program = lower(graph, target.cpu, fixed_values(graph))
        calls = [call for call in program.calls if is_product(call)]
        needs, done = kernel_amounts(graph, target), multiply_adds(graph)
        for call in random.Random(seed).sample(calls, min(KERNELS, len(calls))):
            amounts = needs.get(call.name, {})
            cycles = sum(amount for term, amount in amounts.items() if term in ("matmul_cycle_time", "conv_cycle_time"))
            loops = loops_of(call, target)
            if loops and cycles:
                turns = done[call.name] / (loops[0].multiply_adds * call.kernel.tile.lanes)
                scheduled = turns * mca_cycles(loops[0], target.profile.triple, MODEL)
                yield Row(named(source), kind_of(call), cycles, scheduled)


def is_product(call: Call) -> bool:
    return isinstance(call.kernel, Generated) and isinstance(call.kernel.spec, MatmulSpec | ConvSpec)


def kind_of(call: Call) -> str:
    return type(call.kernel.spec).__name__.removesuffix("Spec").lower()


def loops_of(call: Call, target: Target) -> tuple[Loop, ...]:
    shapes = tuple(tensor.shape for tensor in (*call.arguments, *call.results))
    return product_loops(assembly(call.kernel, shapes, tvm_target(target)))


def multiply_adds(graph: Graph) -> Mapping[str, float]:
    """Of each kernel."""
    shapes = what_if(graph, Configuration())
    return {kernel.name: work(kernel, shapes).flops / 2 for kernel in kernels(graph.forward)}


def agreement(found: Sequence[Row]) -> tuple[str, ...]:
    """Rank correlation of cycles, their ratio, and its spread about the median."""
    predicted, scheduled = (np.array([getattr(one, name) for one in found]) for name in ("predicted", "scheduled"))
    ratio = predicted / scheduled
    spread, rank = np.abs(ratio / np.median(ratio) - 1), spearmanr(predicted, scheduled).statistic
    figures = (f"{np.median(ratio):.2f}", f"{np.median(spread):.1%}", f"{np.quantile(spread, 0.95):.1%}")
    return (str(len(found)), f"{rank:.3f}", *figures)


def page(found: Sequence[Row]) -> str:
    columns = ("model", "kernels", "rank", "ours / llvm-mca", "spread, median", "spread, 95th percentile")
    names = dict.fromkeys(one.model for one in found)
    lines = [(name, *agreement([one for one in found if one.model == name])) for name in names]
    kinds = dict.fromkeys(one.kind for one in found)
    lines += [(f"all, {kind}", *agreement([one for one in found if one.kind == kind])) for kind in kinds]
    return f"""# Cycles of a Cortex-A76, by the cost model and by llvm-mca

`make bench-arm` on {date.today()}: {len(found)} kernels of randomly pruned networks, compiled for {CHIP}, one core.
Nothing was run on ARM.

Ours are the cycles of the tiles that the cost model says are emitted, tails included. llvm-mca ({version()})
schedules the innermost loop that LLVM made of the kernel's largest tile on its model of the {MODEL}; its cycles of a
multiply-add times those of the kernel are the other figure, without tails and without a cache miss. Ranks are
Spearman's. Ours may be a constant factor off, which calibration would take out (this llvm-mca starts one vector's
multiply-add a cycle, where Arm's guide to the core says two): the spread is how far the ratio lies from its own median.
It is widest on ResNet-20, whose few channels are mostly tails.

{table(columns, [*lines, ("all", *agreement(found))])}
"""


def version() -> str:
    said = subprocess.run([MCA, "--version"], capture_output=True, text=True, check=True).stdout
    return next(line.strip() for line in said.splitlines() if "version" in line)


def main() -> None:
    target = get_target(CHIP).with_cores(1)
    text = page([one for source in MODELS for one in rows(source, target)])
    PAGE.write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
