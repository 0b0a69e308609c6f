"""Times our libraries in bfloat16 and int8 beside OpenVINO in the same and writes docs/benchmarks/precision.md."""

import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from latency import name_of
from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process
from torch import Tensor, nn

from chipfit.calibration.subjects import attributed
from chipfit.codegen import Library, compile_graph
from chipfit.codegen.check import probe, relative_error
from chipfit.codegen.runtime import read_record
from chipfit.frontend.importer import import_model
from chipfit.frontend.source import load_source
from chipfit.ir.apply import can_rebatch, rebatch
from chipfit.ir.emit import emit
from chipfit.measure import Timing, interleave, paired_ratio
from chipfit.passes.base import Context
from chipfit.passes.bfloat16 import Bfloat16
from chipfit.passes.fold_batch_norm import folded
from chipfit.passes.quantize import Quantize
from chipfit.peers import ONNX, Call, onnx_file, openvino, torch_eager, version_of
from chipfit.targets.detect import processor
from chipfit.targets.registry import get_target

MODELS = ("benchmarks/models.py:resnet18", "minilm", "smollm2")
THREADS = (1, 2)
SECONDS = 15.0
SHOWN = 4  # kernels that a loss is explained by
QUANTIZED = ("benchmarks/models.py:resnet18",)  # for OpenVINO in int8 too
OURS, THEIRS, INT8, THEIR_INT8 = "chipfit bfloat16", "OpenVINO bfloat16", "chipfit int8", "OpenVINO int8"
COLUMNS = ("chipfit float32", OURS, INT8, "OpenVINO float32", THEIRS, THEIR_INT8)
PAIRS = ((OURS, THEIRS), (INT8, THEIR_INT8))
CHECKED = (OURS, INT8, THEIRS, THEIR_INT8)
PAGE = Path(__file__).parents[1] / "docs" / "benchmarks" / "precision.md"


@dataclass(frozen=True)
class Result:
    """Timings, errors relative to the outputs' scale against torch in float32, and our kernels in bfloat16 with the
    share of each, the longest first."""

    source: str
    timings: Mapping[str, Timing]
    errors: Mapping[str, float]
    kernels: Sequence[tuple[str, float]]

    def ratio(self, ours: str, theirs: str) -> float | None:
        """None where theirs wasn't timed."""
        return paired_ratio(self.timings, ours, theirs) if theirs in self.timings else None


class Once(CalibrationDataReader):  # type: ignore[misc]
    """The example input, by which numbers are rounded."""

    def __init__(self, given: Mapping[str, Any]) -> None:
        self.rest = [given]

    def get_next(self) -> Mapping[str, Any] | None:
        return self.rest.pop() if self.rest else None


def quantized_openvino(module: nn.Module, inputs: Sequence[Tensor], threads: int, folder: Path) -> Call:
    """By ONNX Runtime's static quantisation, from which OpenVINO takes int8; the rest is in bfloat16 as in ours."""
    whole, ready, place = onnx_file(module, tuple(inputs), folder), folder / "ready.onnx", folder / "rounded"
    place.mkdir()
    quant_pre_process(whole, ready)
    names = [given.name for given in onnx.load(ready).graph.input]
    reader = Once({name: tensor.numpy() for name, tensor in zip(names, inputs, strict=True)})
    quantize_static(ready, place / ONNX, reader, per_channel=True, activation_type=QuantType.QUInt8)
    return openvino(module, tuple(inputs), threads, place, "bf16")


def timed(source: str, threads: int) -> Result:
    loaded = load_source(source)
    graph = folded(import_model(loaded.model, loaded.example_inputs))
    graph = rebatch(graph, len(loaded.example_inputs[0])) if can_rebatch(graph) else graph
    inputs, target, module = probe(graph), get_target("host").with_cores(threads), emit(graph)
    arrays = [tensor.numpy() for tensor in inputs]
    with tempfile.TemporaryDirectory(prefix="chipfit-bench-") as scratch:
        folder = Path(scratch)
        whole = compile_graph(graph, target, folder / "whole", inputs)
        half = compile_graph(Bfloat16().run(graph, Context(teacher=graph)).graph, target, folder / "half", inputs)
        calls = {"chipfit float32": lambda: whole(*arrays), OURS: lambda: half(*arrays)}
        rounded = Quantize(activations=True).run(graph, Context(teacher=graph, calibration=[inputs])).graph
        mixed = Bfloat16().run(rounded, Context(teacher=graph)).graph
        int8 = compile_graph(mixed, target, folder / "int8", inputs)
        calls[INT8] = lambda: int8(*arrays)
        for name, precision in (("OpenVINO float32", "f32"), (THEIRS, "bf16")):
            calls[name] = openvino(module, inputs, threads, folder, precision)
        if source in QUANTIZED:
            calls[THEIR_INT8] = quantized_openvino(module, inputs, threads, folder)
        expected = torch_eager(module, inputs, threads, folder)()
        errors = {name: relative_error(np.asarray(call()[0]), expected[0]) for name, call in calls.items()}
        timings = interleave(calls, rounds=1000, seconds=SECONDS)
        return Result(source, timings, errors, longest(half, read_record(folder / "half")["kernels"]))


def longest(library: Library, calls: Sequence[Mapping[str, Any]]) -> Sequence[tuple[str, float]]:
    found = [(", ".join(values), ms) for values, ms in attributed(calls, library.kernel_times(30))]
    total = sum(ms for _, ms in found)
    return sorted(((name, ms / total) for name, ms in found), key=lambda each: -each[1])[:SHOWN]


def row(result: Result) -> str:
    known = {name: f"{timing.median_ms:.2f} ({timing.best_ms:.2f})" for name, timing in result.timings.items()}
    ratios = ["" if (ratio := result.ratio(*pair)) is None else f"{ratio:.2f}" for pair in PAIRS]
    mistakes = [f"{result.errors[name]:.1e}" if name in known else "" for name in CHECKED]
    cells = [name_of({"source": result.source}), *(known.get(name, "") for name in COLUMNS), *ratios, *mistakes]
    return f"| {' | '.join(cells)} |"


def causes(results: Sequence[Result]) -> list[str]:
    """Where ours is the slower, the kernels that take longest."""
    slow = [result for result in results if (result.ratio(OURS, THEIRS) or 0) > 1]
    lines = [
        f"- {name_of({'source': result.source})}: LOST in bfloat16; of our kernels' time "
        f"{', '.join(f'{name} takes {share:.0%}' for name, share in result.kernels)}."
        for result in slow
    ]
    return ["", *lines] if slow else []


def section(threads: int) -> str:
    results = [timed(source, threads) for source in MODELS]
    ratios = ("ours / theirs, bfloat16", "ours / theirs, int8")
    columns = ["model", *COLUMNS, *ratios, *(f"error, {name}" for name in CHECKED)]
    head = [f"| {' | '.join(columns)} |", f"| --- |{' ---: |' * (len(columns) - 1)}"]
    title = f"## {threads} thread{'s' * (threads > 1)}"
    return "\n".join([title, "", *head, *map(row, results), *causes(results)])


def main() -> None:
    load = os.getloadavg()[0]
    intro = f"""# bfloat16 and int8 beside OpenVINO

`make bench-precision` on {date.today()}: {processor()}, batch 1, openvino {version_of("openvino")}. Load average before
it: {load:.1f}.

Both multiply in bfloat16 on AMX; OpenVINO keeps activations in bfloat16 too, ours stay float32 between layers. Our int8
multiplies int8 by int8 in linear layers, whose rows are rounded as they come, and in convolutions, whose sources are
rounded by a number that the example input gave; the first convolution, which reads the image, is in bfloat16. OpenVINO
has int8 from ONNX Runtime {version_of("onnxruntime")}'s static quantisation (QDQ, a scale for each filter), for the
convolutional network alone. All run interleaved in one process; milliseconds are medians, the best in brackets; ratios
are medians over rounds. Errors are the largest difference from torch in float32, relative to the outputs' scale."""
    text = "\n\n".join([intro, *(section(threads) for threads in THREADS)]) + "\n"
    PAGE.write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
