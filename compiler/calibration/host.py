"""Calibration of this machine: compile the probes, time their kernels in undisturbed moments, fit the cost model."""

from __future__ import annotations

import datetime
import json
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from chipfit.calibration.kept import DisturbedError, keep, recalled
from chipfit.calibration.probes import PROBES, Probe
from chipfit.calibration.subjects import Subject, fitted, subject
from chipfit.calibration.undisturbed import PASSES, Pace, Stopwatch
from chipfit.codegen import compile_graph
from chipfit.codegen.runtime import RECORD
from chipfit.passes.base import Progress, silent
from chipfit.targets.calibrate import Calibration, Sample
from chipfit.targets.cpu import CALL, INPUT
from chipfit.targets.profile import Figure
from chipfit.targets.registry import Target

SECONDS = 150.0  # of timing at most: it ends as soon as every probe ran undisturbed often enough
BRIEF_SECONDS = 60.0  # likewise where it holds up what the user asked for
TURN = 0.3  # seconds of one probe before the next has its turn: calm moments come and go
UNDISTURBED = "undisturbed_probes"  # the figure that says how many did
ENOUGH = 0.5  # of them, for the times to be the machine's own
PACE = "pace"  # the figure that says what the small product took at best meanwhile
LOOK = 5.0  # seconds in which to see how fast the machine can be


def calibrated(target: Target, progress: Progress = silent) -> Target:
    """A chip with its measured coefficients; the host is calibrated now if it never was, any other stays as it is.

    Where the host is too busy for that it stays as it is too, and the next one who asks tries again.
    """
    known = recalled(target)
    if target.is_host and known.status == "uncalibrated":
        try:
            calibrate(target, progress, seconds=BRIEF_SECONDS)
        except DisturbedError:
            progress(f"too busy to calibrate {target.name}: its costs stay uncalibrated", 1.0)
        known = recalled(target)
    return known


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
    return fit_and_keep(subjects, target)


def compiled(
    target: Target, pace: Pace, progress: Progress, probes: Sequence[Probe] = PROBES, wanted: int = PASSES
) -> list[Timed]:
    """The probes, ready to be timed, each for so many undisturbed passes a visit."""
    subjects = []
    with tempfile.TemporaryDirectory() as folder:
        for index, probe in enumerate(probes):
            progress("calibrating: compiling the probes", index / len(probes))
            subjects.append(prepared(probe, target, pace, Path(folder) / str(index), wanted))
    progress("calibrating: seeing how fast this machine is", 0.0)
    pace.settle(LOOK)
    return subjects


def fit_and_keep(subjects: Sequence[Timed], target: Target) -> Calibration:
    """Fits the coefficients to what was timed, and keeps them in the user's cache."""
    today = datetime.date.today()
    result = fitted([sample for one in undisturbed(subjects) for sample in one.samples()], target, today)
    result = replace(result, figures={**result.figures, **circumstances(subjects, today)})
    keep(target, result)
    return result


def timed(subjects: Sequence[Timed], seconds: float, progress: Progress) -> None:
    """In turns, each probe until it ran undisturbed often enough, or until the time is up."""
    end, pending = time.perf_counter() + seconds, list(subjects)
    while pending:
        for one in pending:
            one.watch.run(TURN)
        progress("calibrating: timing the probes", 1 - len(pending) / len(subjects))
        late = time.perf_counter() >= end
        pending = [one for one in pending if not one.watch.is_done and not late]


def undisturbed(subjects: Sequence[Timed]) -> Sequence[Timed]:
    """The probes that ran undisturbed; every one where that is true of the lesser part, fitted or held out."""
    found = [one for one in subjects if one.watch.is_calm]
    calm, every = (Counter(one.subject.probe.held_out for one in some) for some in (found, subjects))
    return found if all(2 * calm[held_out] >= count for held_out, count in every.items()) else subjects


def circumstances(subjects: Sequence[Timed], today: datetime.date) -> Mapping[str, Figure]:
    """What part of the probes ran undisturbed, and how fast the machine was.

    Where the part is small all times are too long, by as much as a neighbour slows this machine down.
    """
    source, share = f"calibration of {today}", sum(one.watch.is_calm for one in subjects) / len(subjects)
    pace = min(one.watch.pace_ms for one in subjects)
    return {UNDISTURBED: Figure(share, "ratio", source, "measured"), PACE: Figure(1e3 * pace, "us", source, "measured")}


@dataclass(frozen=True)
class Timed:
    """A compiled probe, and how long its kernels take."""

    subject: Subject
    watch: Stopwatch
    calls: Sequence[Mapping[str, Any]]  # the library's record of its kernels

    def samples(self) -> Iterator[Sample]:
        fixed = {CALL: 1.0, INPUT: float(self.subject.input.nbytes)}
        return self.subject.samples(self.watch.least, self.calls, fixed)


def prepared(probe: Probe, target: Target, pace: Pace, folder: Path, wanted: int) -> Timed:
    made = subject(probe, target)
    library = compile_graph(made.graph, target, folder)
    calls = json.loads((folder / RECORD).read_text())["kernels"]
    return Timed(made, Stopwatch(library, [made.input.numpy()], pace, wanted), calls)
