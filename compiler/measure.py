"""Timing that can be trusted on a shared machine: everything to be compared runs interleaved, in one process."""

from __future__ import annotations

import gc
import math
import os
import platform
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

BLOCKS = 8  # of rounds, by which an error is told
SETTLE = 0.02  # seconds of rest before each call, in which other runtimes' threads stop spinning


@dataclass(frozen=True)
class Timing:
    """Milliseconds of one callable, in the order of the rounds; round i ran right beside round i of the others."""

    samples: tuple[float, ...]

    @property
    def best_ms(self) -> float:
        return min(self.samples)

    @property
    def median_ms(self) -> float:
        return statistics.median(self.samples)


@dataclass(frozen=True)
class MachineState:
    """What else could have moved a timing: threads allowed, load average over a minute, processor."""

    threads: int
    load: float
    processor: str


def interleave(
    callables: Mapping[str, Callable[[], object]], rounds: int = 50, seconds: float = 10.0
) -> Mapping[str, Timing]:
    """Times each once a round in turn, at least three rounds, until `rounds` or `seconds` are used up.

    One warm-up round goes untimed, and the garbage collector is off. The order turns by one each round, so that no
    callable always follows the same one. Each timed call comes after SETTLE seconds of rest and an untimed call of the
    same callable, so that another's spinning threads and what it left in the caches don't count.
    """
    for function in callables.values():
        function()
    samples: dict[str, list[float]] = {name: [] for name in callables}
    names, end = list(callables), time.perf_counter() + seconds
    with _no_garbage_collection():
        for done in range(rounds):
            if done >= 3 and time.perf_counter() >= end:
                break
            turn = done % len(names)
            for name in names[turn:] + names[:turn]:
                time.sleep(SETTLE)
                callables[name]()
                samples[name].append(milliseconds(callables[name]))
    return {name: Timing(tuple(times)) for name, times in samples.items()}


def paired_ratio(timings: Mapping[str, Timing], name: str, baseline: str) -> float:
    """Median over rounds of how long `name` took by how long `baseline` took beside it: load cancels out."""
    pairs = zip(timings[name].samples, timings[baseline].samples, strict=True)
    return statistics.median(mine / other for mine, other in pairs)


def paired_error(timings: Mapping[str, Timing], name: str, baseline: str) -> float:
    """The standard error of `paired_ratio`, relative: from the medians of consecutive rounds taken together.

    What disturbs one round disturbs those after it too, so single rounds would tell too small an error.
    """
    pairs = zip(timings[name].samples, timings[baseline].samples, strict=True)
    ratios = [mine / other for mine, other in pairs]
    size = max(1, len(ratios) // BLOCKS)
    medians = [statistics.median(ratios[start : start + size]) for start in range(0, len(ratios) - size + 1, size)]
    return statistics.stdev(medians) / math.sqrt(len(medians)) / statistics.median(ratios)


def machine_state(threads: int) -> MachineState:
    """The state to report with timings that ran on `threads` threads."""
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else float("nan")
    return MachineState(threads, load, platform.processor() or platform.machine())


def milliseconds(function: Callable[[], object]) -> float:
    """Of one call."""
    start = time.perf_counter()
    function()
    return 1e3 * (time.perf_counter() - start)


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    was_enabled = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()
