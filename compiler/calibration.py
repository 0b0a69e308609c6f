"""Calibration of the host: compile the probes, time their kernels, fit the cost model, and keep the result.

The result lies in the user's cache under a name that changes with the processor and with the code that makes kernels,
so it is made once and never used for other kernels than it was fitted on.
"""

from __future__ import annotations

import datetime
import hashlib
import json
import os
import re
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

import chipfit.targets
from chipfit.codegen import Library, compile_graph
from chipfit.codegen.runtime import RECORD
from chipfit.frontend.importer import import_model
from chipfit.ir.apply import rebatch
from chipfit.ir.configuration import Configuration
from chipfit.ir.graph import Graph
from chipfit.ir.kernels import work
from chipfit.ir.shapes import what_if
from chipfit.measure import interleave
from chipfit.passes.base import Progress, silent
from chipfit.probes import PROBES, Probe
from chipfit.targets.calibrate import Calibration, Sample, cache_folder, fit, to_toml
from chipfit.targets.cost import full_plan
from chipfit.targets.cpu import CALL, INPUT, WATCH, Amounts, amounts, terms_of
from chipfit.targets.detect import identity
from chipfit.targets.profile import read_folder, read_profile
from chipfit.targets.registry import FOLDERS, Target

TIMED_SECONDS = 0.25  # for one probe, half of it kernel by kernel


def calibrated(target: Target, progress: Progress = silent) -> Target:
    """The host with its measured coefficients, calibrated now if it never was; any other target as it is."""
    if target.name != "host":
        return target
    known = recalled(target)
    if known.status == "uncalibrated":
        calibrate(target, progress)
        known = recalled(target)
    return known


def recalled(target: Target) -> Target:
    """The host with its measured coefficients if it has been calibrated before; else, and any other, as it is."""
    path = delta_path()
    if target.name != "host" or not path.is_file():
        return target
    delta = read_profile(path, read_folder(FOLDERS)[0])
    return target.with_profile(target.profile.with_figures(delta.figures))


def calibrate(target: Target, progress: Progress = silent, probes: Sequence[Probe] = PROBES) -> Calibration:
    """Compiles and times the probes on this machine, fits the coefficients and keeps them in the user's cache.

    Takes about a minute on two cores. The machine should be otherwise idle: the least of several timings stands for
    each kernel, but a kernel that never ran undisturbed is priced too high.
    """
    units = {name: rule.unit for name, rule in read_folder(FOLDERS)[0][target.family].rules.items()}
    samples: list[Sample] = []
    with tempfile.TemporaryDirectory() as folder:
        for index, probe in enumerate(probes):
            progress(f"calibrating: {probe.name}", index / len(probes))
            samples += timed(probe, target, Path(folder) / str(index))
    result = fit(samples, {name: units[name] for name in terms_of(units)}, datetime.date.today())
    path = delta_path()
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    partial.write_text(to_toml(target.profile, result.figures))
    os.replace(partial, path)
    return result


def delta_path() -> Path:
    """Where this machine's coefficients are kept, for this processor and this version of the kernels."""
    return cache_folder() / "targets" / f"host-{identity()}-{kernels_digest()}.toml"


def kernels_digest() -> str:
    """Changes with whatever changes kernels or how their work is counted: generators, tiles, fusion, probes, TVM."""
    root = Path(__file__).parent
    files = [*(root / "codegen").glob("*.py"), root / "ir/fusion.py", root / "ir/kernels.py", root / "probes.py"]
    files += Path(chipfit.targets.__path__[0]).glob("*.py")
    digest = hashlib.sha256(version("apache-tvm").encode())
    for file in sorted(files):
        digest.update(file.read_bytes())
    return digest.hexdigest()[:16]


def timed(probe: Probe, target: Target, folder: Path) -> Iterator[Sample]:
    """One sample for the probe as a whole, and if it takes part in the fit one for each of its kernels."""
    torch.manual_seed(0)
    x = torch.randn(probe.shape)
    graph = rebatch(import_model(probe.build(), (x,)), probe.shape[0])
    library = compile_graph(graph, target, folder)
    array = x.numpy()
    needs = kernel_amounts(graph, target)
    fixed = {CALL: 1.0, INPUT: float(array.nbytes)}
    whole = interleave({"probe": lambda: library(array)}, rounds=10**6, seconds=TIMED_SECONDS / 2)["probe"]
    yield Sample(probe.name, tuple(needs.values()), fixed, whole.best_ms, probe.held_out)
    if not probe.held_out:
        yield from kernel_samples(probe.name, library, folder, needs)


def kernel_amounts(graph: Graph, target: Target) -> dict[str, Amounts]:
    """Kernel -> what it needs of each term, views left out."""
    shapes = what_if(graph, Configuration())
    needs = {kernel.name: amounts(kernel, work(kernel, shapes), target.cpu) for kernel in full_plan(graph)}
    return {name: amount for name, amount in needs.items() if amount}


def kernel_samples(name: str, library: Library, folder: Path, needs: Mapping[str, Amounts]) -> Iterator[Sample]:
    """A sample for each kernel of ours, and for each run of functions that TVM lowered in between."""
    calls = json.loads((folder / RECORD).read_text())["kernels"]
    for values, milliseconds in attributed(calls, kernel_minima(library)):
        found = tuple(needs[value] for value in values if value in needs)
        if found:
            yield Sample(f"{name}: {' '.join(values)}", found, {WATCH: 1.0}, milliseconds, held_out=False)


def kernel_minima(library: Library) -> list[tuple[str, float]]:
    """(function, least milliseconds) in the order of execution, from as many runs as fit in the time for it."""
    best, end = library.kernel_times(5), time.perf_counter() + TIMED_SECONDS / 2
    while time.perf_counter() < end:
        again = library.kernel_times(5)
        best = [(name, min(ms, other)) for (name, ms), (_, other) in zip(best, again, strict=True)]
    return best


def attributed(
    calls: Sequence[Mapping[str, Any]], times: Sequence[tuple[str, float]]
) -> Iterator[tuple[tuple[str, ...], float]]:
    """(values computed, milliseconds) of each call in the library's record.

    A kernel of ours is one function, named after its kind. Stock calls become any number of functions with names of
    their own, so those between two kernels of ours are taken together. Changes of layout count as no kernel's.
    """
    rest = list(times)
    stock: list[str] = []
    for call in [*calls, {"value": "", "kernel": "none"}]:
        if "kernel" not in call:
            stock.append(call["value"])
            continue
        count = next((i for i, (name, _) in enumerate(rest) if is_kernel(name, call["kernel"])), len(rest))
        if stock:
            yield tuple(stock), sum(ms for _, ms in rest[:count])
        if count < len(rest) and not call["kernel"].endswith("image"):
            yield (call["value"],), rest[count][1]
        rest, stock = rest[count + 1 :], []


def is_kernel(function: str, kind: str) -> bool:
    return re.fullmatch(rf"{kind}_\d+", function) is not None
