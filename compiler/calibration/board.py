"""Calibration of a board over TVM's RPC: each probe is compiled for it here, and checked and timed there."""

from __future__ import annotations

import datetime
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from chipfit.calibration.kept import keep
from chipfit.calibration.probes import PROBES, Probe
from chipfit.calibration.subjects import Subject, fitted, subject
from chipfit.calibration.undisturbed import Least
from chipfit.codegen.arrays import Array
from chipfit.codegen.check import check
from chipfit.codegen.library import numpy_weights, written
from chipfit.codegen.runtime import read_record
from chipfit.cross.arguments import write_arguments
from chipfit.cross.board import Board, connected
from chipfit.cross.toolchain import linker
from chipfit.errors import UserError
from chipfit.passes.base import Progress, silent
from chipfit.targets.calibrate import Calibration, Sample
from chipfit.targets.cpu import CALL
from chipfit.targets.registry import Target

SECONDS = 1.0  # of calls of each probe, and as long again of calls that are timed kernel by kernel
MOST_WEIGHTS = 2**27  # bytes of a probe: a board's caches hold less, and its memory and network are small


def calibrate(
    target: Target,
    address: str,
    progress: Progress = silent,
    probes: Sequence[Probe] = PROBES,
    seconds: float = SECONDS,
) -> Calibration:
    """Times the probes on the board whose server listens at `HOST:PORT`, fits the coefficients and keeps them.

    Takes five seconds a probe and two a connection. Nothing else should run on the board. Raises UserError for a chip
    that nothing compiles for or a server that doesn't answer, WrongResult if the board's numbers are not PyTorch's.
    """
    if not target.profile.triple:
        raise UserError(f"Target {target.name} names no machine to compile for, so it can't be calibrated.")
    samples = list[Sample]()
    progress(f"calibrating {target.name}: waiting for the server at {address}", 0.0)
    with connected(address, target.profile.triple) as board:
        for index, probe in enumerate(probes):
            progress(f"calibrating {target.name}: {probe.name}", index / len(probes))
            made = subject(probe, target)
            if made.weight_bytes <= MOST_WEIGHTS:
                samples += there(made, target, board, seconds)
    found = fitted(samples, target, datetime.date.today())
    keep(target, found)
    return found


def there(made: Subject, target: Target, board: Board, seconds: float) -> Iterator[Sample]:
    """What a probe takes on the board. Its inputs lie in memory before a call, so taking them is no part of it."""
    least = Least()

    def run(*arrays: Array) -> Sequence[Array]:
        outputs, times = board(folder, arrays, seconds)
        least.add(times.call_ms, 0.0, times.kernels)
        return outputs

    with (
        tempfile.TemporaryDirectory() as place,
        written(made.graph, target, Path(place, "library"), linker(target.profile.triple)) as folder,
    ):
        write_arguments(folder, numpy_weights(made.graph))
        check(run, made.graph, [made.input])
        calls = read_record(folder)["kernels"]
    yield from made.samples(least, calls, {CALL: 1.0})
