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
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

import chipfit.targets
from chipfit.codegen import compile_graph
from chipfit.codegen.runtime import RECORD
from chipfit.frontend.importer import import_model
from chipfit.ir.apply import rebatch
from chipfit.ir.configuration import Configuration
from chipfit.ir.graph import Graph
from chipfit.ir.kernels import work
from chipfit.ir.shapes import what_if
from chipfit.passes.base import Progress, silent
from chipfit.probes import PROBES, Probe
from chipfit.targets.amounts import DISPATCH, Amounts, amounts
from chipfit.targets.calibrate import Calibration, Sample, cache_folder, fit, to_toml
from chipfit.targets.cost import full_plan
from chipfit.targets.cpu import CALL, INPUT, terms_of
from chipfit.targets.detect import identity
from chipfit.targets.profile import Figure
from chipfit.targets.reading import read_folder, read_profile
from chipfit.targets.registry import FOLDERS, Target
from chipfit.undisturbed import PASSES, Pace, Stopwatch

SECONDS = 150.0  # of timing at most: it ends as soon as every probe ran undisturbed often enough
BRIEF_SECONDS = 60.0  # likewise where it holds up what the user asked for
TURN = 0.3  # seconds of one probe before the next has its turn: calm moments come and go
UNDISTURBED = "undisturbed_probes"  # the figure that says how many did
ENOUGH = 0.5  # of them, for the times to be the machine's own
PACE = "pace"  # the figure that says what the small product took at best meanwhile
LOOK = 5.0  # seconds in which to see how fast the machine can be


def calibrated(target: Target, progress: Progress = silent) -> Target:
    """The host with its measured coefficients, calibrated now if it never was; any other target as it is."""
    if not target.is_host:
        return target
    known = recalled(target)
    if known.status == "uncalibrated":
        calibrate(target, progress, seconds=BRIEF_SECONDS)
        known = recalled(target)
    return known


def recalled(target: Target) -> Target:
    """The host with its measured coefficients if it has been calibrated before; else, and any other, as it is."""
    path = delta_path()
    if not target.is_host or not path.is_file():
        return target
    delta = read_profile(path, read_folder(FOLDERS)[0])
    return target.with_profile(target.profile.with_figures(delta.figures))


def calibrate(
    target: Target, progress: Progress = silent, probes: Sequence[Probe] = PROBES, seconds: float = SECONDS
) -> Calibration:
    """Compiles and times the probes on this machine, fits the coefficients and keeps them in the user's cache.

    Takes a minute on two cores, and at most `seconds` more where it has to wait for moments at which nothing else runs.
    The machine should be otherwise idle: the least of many timings stands for each kernel, but a kernel that never ran
    undisturbed is priced too high.
    """
    subjects = compiled(target, Pace.of(target), progress, probes)
    timed(subjects, seconds, progress)
    return kept(subjects, target)


def compiled(
    target: Target, pace: Pace, progress: Progress, probes: Sequence[Probe] = PROBES, wanted: int = PASSES
) -> list[Subject]:
    """The probes, ready to be timed, each for so many undisturbed passes a visit."""
    subjects = []
    with tempfile.TemporaryDirectory() as folder:
        for index, probe in enumerate(probes):
            progress("calibrating: compiling the probes", index / len(probes))
            subjects.append(prepared(probe, target, pace, Path(folder) / str(index), wanted))
    progress("calibrating: seeing how fast this machine is", 0.0)
    pace.settle(LOOK)
    return subjects


def kept(subjects: Sequence[Subject], target: Target) -> Calibration:
    """Fits the coefficients to what was timed, and keeps them in the user's cache."""
    units = {name: rule.unit for name, rule in read_folder(FOLDERS)[0][target.family].rules.items()}
    samples = [sample for subject in undisturbed(subjects) for sample in subject.samples()]
    today = datetime.date.today()
    result = fit(samples, {name: units[name] for name in terms_of(units)}, today)
    result = replace(result, figures={**result.figures, **circumstances(subjects, today)})
    path = delta_path()
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    partial.write_text(to_toml(target.profile, result.figures))
    os.replace(partial, path)
    return result


def timed(subjects: Sequence[Subject], seconds: float, progress: Progress) -> None:
    """In turns, each probe until it ran undisturbed often enough, or until the time is up."""
    end, pending = time.perf_counter() + seconds, list(subjects)
    while pending:
        for subject in pending:
            subject.watch.run(TURN)
        progress("calibrating: timing the probes", 1 - len(pending) / len(subjects))
        late = time.perf_counter() >= end
        pending = [subject for subject in pending if not subject.watch.is_done and not late]


def undisturbed(subjects: Sequence[Subject]) -> Sequence[Subject]:
    """The probes that ran undisturbed; every one where that is true of the lesser part, fitted or held out."""
    found = [subject for subject in subjects if subject.watch.is_calm]
    enough = all(
        sum(one.probe.held_out is held_out for one in found) * 2 >= sum(s.probe.held_out is held_out for s in subjects)
        for held_out in (False, True)
    )
    return found if enough else subjects


def circumstances(subjects: Sequence[Subject], today: datetime.date) -> Mapping[str, Figure]:
    """What part of the probes ran undisturbed, and how fast the machine was.

    Where the part is small all times are too long, by as much as a neighbour slows this machine down.
    """
    source, share = f"calibration of {today}", sum(one.watch.is_calm for one in subjects) / len(subjects)
    pace = min(subject.watch.pace_ms for subject in subjects)
    return {UNDISTURBED: Figure(share, "ratio", source, "measured"), PACE: Figure(1e3 * pace, "us", source, "measured")}


def delta_path() -> Path:
    """Where this machine's coefficients are kept, for this processor and this version of the kernels."""
    return cache_folder() / "targets" / f"host-{identity()}-{kernels_digest()}.toml"


def kernels_digest() -> str:
    """Changes with whatever changes kernels or how their work is counted: generators, tiles, fusion, probes, TVM."""
    root = Path(__file__).parent
    files = [*(root / "codegen").glob("*.py"), root / "ir/fusion.py", root / "ir/kernels.py", *root.glob("probe*.py")]
    files += Path(chipfit.targets.__path__[0]).glob("*.py")
    digest = hashlib.sha256(version("apache-tvm").encode())
    for file in sorted(files):
        digest.update(file.read_bytes())
    return digest.hexdigest()[:16]


@dataclass(frozen=True)
class Subject:
    """A compiled probe, what its kernels need, and how long they take."""

    probe: Probe
    watch: Stopwatch
    needs: Mapping[str, Amounts]  # kernel -> its amounts
    calls: Sequence[Mapping[str, Any]]  # the library's record of its kernels
    weight_bytes: int

    def samples(self) -> Iterator[Sample]:
        """One for the probe as a whole, and if it takes part in the fit one for each kernel.

        Functions that TVM lowered in between are told apart from ours, not from each other. What a call takes besides
        its kernels is no part of a long one's time, which tells of its kernels alone.
        """
        fixed = {CALL: 1.0, INPUT: float(sum(array.nbytes for array in self.watch.inputs))}
        held_out, kernels = self.probe.held_out, tuple(self.needs.values())
        if held_out or self.watch.is_short:
            yield Sample(self.probe.name, kernels, fixed, self.watch.milliseconds, held_out, self.weight_bytes)
        for values, milliseconds in attributed(self.calls, self.watch.least.kernels):
            found = tuple(alone(self.needs[value]) for value in values if value in self.needs)
            if found and not held_out:
                name = f"{self.probe.name}: {' '.join(values)}"
                yield Sample(name, found, {}, milliseconds, False, self.weight_bytes)


def alone(needs: Amounts) -> Amounts:
    """What a kernel needs that is timed on its own."""
    return {term: amount for term, amount in needs.items() if term != DISPATCH}


def prepared(probe: Probe, target: Target, pace: Pace, folder: Path, wanted: int) -> Subject:
    torch.manual_seed(0)
    x = torch.randn(probe.shape)
    graph = rebatch(import_model(probe.build(), (x,)), probe.shape[0])
    library = compile_graph(graph, target, folder)
    calls = json.loads((folder / RECORD).read_text())["kernels"]
    weights = sum(tensor.nbytes for tensor in graph.state.values())
    watch = Stopwatch(library, [x.numpy()], pace, wanted)
    return Subject(probe, watch, kernel_amounts(graph, target), calls, weights)


def kernel_amounts(graph: Graph, target: Target) -> dict[str, Amounts]:
    """Kernel -> what it needs of each term, views left out."""
    shapes = what_if(graph, Configuration())
    needs = {kernel.name: amounts(kernel, work(kernel, shapes), target.cpu) for kernel, _ in full_plan(graph)}
    return {name: amount for name, amount in needs.items() if amount}


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
