"""Timing that can be trusted on a shared machine: everything to be compared runs interleaved, in one process."""

from __future__ import annotations

import gc
import math
import os
import statistics
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from types import MappingProxyType

BLOCKS = 8  # of rounds, by which an error is told
CALM = 1.1  # what a round's baseline may take, of what it takes in the fastest tenth of the rounds
COPIES = 8  # of a library, at most, that are timed
ENDLESS = sys.maxsize  # rounds: until the time is over
FEWEST = 3  # rounds, at least
HELD = 2**30  # bytes, about, that copies may take together
PATIENCE = 15.0  # seconds at most of waiting for a calm machine
REST = 0.3  # seconds of little work, in which it may become one
SETTLE = 0.02  # seconds of rest before a callable's turn, in which other runtimes' threads stop spinning
WARM = 0.02  # seconds of calls, at least one, that go untimed in a turn: so long the first ones are slower
TIMED = 0.02  # seconds of calls, at least one, that are timed in a turn


@dataclass(frozen=True)
class Timing:
    """Milliseconds of one callable, one for each round; round i ran right beside round i of the others."""

    samples: tuple[float, ...]

    @property
    def best_ms(self) -> float:
        return min(self.samples)

    @property
    def median_ms(self) -> float:
        return statistics.median(self.samples)


def interleave(
    callables: Mapping[str, Callable[[], object]], rounds: int = 50, seconds: float = 10.0
) -> Mapping[str, Timing]:
    """Gives each a turn a round, at least FEWEST rounds, until `rounds` or `seconds` are used up.

    One warm-up round goes untimed, and the garbage collector is off. The order turns by one each round, so that no
    callable always follows the same one. In a turn come SETTLE seconds of rest, calls for WARM seconds, and calls for
    TIMED seconds, of which the median is the round's sample: the latency of calls that follow one another. After a rest
    or another model, a network of 2.7 ms was seen to take 3.4 ms in its second call and to need eight.
    """
    for function in callables.values():
        function()
    samples: dict[str, list[float]] = {name: [] for name in callables}
    names, end = list(callables), time.perf_counter() + seconds
    with _no_garbage_collection():
        for done in range(rounds):
            if done >= FEWEST and time.perf_counter() >= end:
                break
            turn = done % len(names)
            for name in names[turn:] + names[:turn]:
                samples[name].append(turn_ms(callables[name]))
    return {name: Timing(tuple(times)) for name, times in samples.items()}


def over_copies(
    load: Callable[[], Mapping[str, Callable[[], object]]],
    copies: int,
    seconds: float,
    calm_ms: Mapping[str, float] = MappingProxyType({}),
    patience: float = PATIENCE,
) -> Mapping[str, Timing]:
    """What `load` gives timed for `seconds` in all, loaded anew for so many copies.

    Before each it is waited for a calm machine, `patience` seconds in all: until those in `calm_ms` take no longer.
    Where in memory a library happens to lie moves its latency: the ratio of two ResNet-20s by 1.5%, as much as between
    processes, where it moves by 0.6% while they stay where they are. So the earlier copies are held until the end.
    """
    held, timings = list[Mapping[str, Callable[[], object]]](), list[Mapping[str, Timing]]()
    for _ in range(copies):
        held.append(load())
        patience -= wait_for_calm(held[-1], calm_ms, patience)
        timings.append(interleave(held[-1], rounds=ENDLESS, seconds=seconds / copies))
    return joined(*timings)


def wait_for_calm(
    callables: Mapping[str, Callable[[], object]], calm_ms: Mapping[str, float], patience: float
) -> float:
    """Hands work over until none takes longer than on a calm machine, `patience` seconds at most; how long it took.

    The host of a virtual machine moves a processor that stays busy to where there is room, which may be another die:
    on an AMD EPYC a word to the other one and back took 370 ns then instead of 80, EfficientNet-lite0 2.6 ms instead of
    1.9. They came back together once in 2 s of handing over, once in 12 s of sleep, and not at all in 18 s of work.
    """
    waited = 0.0
    while waited < patience and any(turn_ms(callables[name]) > most for name, most in calm_ms.items()):
        hand_over(REST)
        waited += REST
    return waited


def hand_over(seconds: float) -> None:
    """Passes a baton round among this process's processors for so long: each sleeps until the one before wakes it."""
    if not hasattr(os, "sched_setaffinity"):
        time.sleep(seconds)
        return
    places, end = sorted(os.sched_getaffinity(0)), time.perf_counter() + seconds
    batons = [threading.Semaphore(index == 0) for index in range(len(places))]

    def run(index: int) -> None:
        os.sched_setaffinity(0, {places[index]})  # of this thread alone
        is_over = False
        while not is_over:
            batons[index].acquire()
            is_over = time.perf_counter() >= end
            batons[(index + 1) % len(places)].release()

    threads = [threading.Thread(target=run, args=(index,)) for index in range(len(places))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def repeated(
    take: Callable[[], Mapping[str, Timing]], is_enough: Callable[[Mapping[str, Timing]], bool], most: int
) -> Mapping[str, Timing]:
    """All that `take` gives, called until that is enough and at most so often."""
    found = take()
    for _ in range(most - 1):
        if is_enough(found):
            break
        found = joined(found, take())
    return found


def joined(*timings: Mapping[str, Timing]) -> Mapping[str, Timing]:
    """All rounds, one after the other."""
    return {name: Timing(tuple(chain(*(timing[name].samples for timing in timings)))) for name in timings[0]}


def copies_of(size: int) -> int:
    """How many copies may be held of what takes so many bytes."""
    return max(1, min(COPIES, HELD // max(size, 1)))


def calm(timings: Mapping[str, Timing], *names: str) -> Mapping[str, Timing]:
    """Only the rounds, at least FEWEST, in which nothing slowed the machine down: each took as long as it must.

    A shared machine has states (see `wait_for_calm`). ResNet-20 takes 0.146 ms or, for seconds on end, 0.199, and what
    is made of it the same 0.05 ms more, narrow or not: the ratio of one state is not that of the other. Both sides of a
    ratio are asked, since noise that comes and goes between them makes a round in which one alone was fast no calmer:
    asked of the baseline alone, SmolLM2's ratio came out 7% above that of the medians.
    """
    samples = [timings[name].samples for name in names]
    least = [sorted(each)[len(each) // 10] for each in samples]
    slowness = [max(ms / fast for ms, fast in zip(found, least, strict=True)) for found in zip(*samples, strict=True)]
    most = max(CALM, *sorted(slowness)[:FEWEST])
    taken = [index for index, slower in enumerate(slowness) if slower <= most]
    return {name: Timing(tuple(timing.samples[index] for index in taken)) for name, timing in timings.items()}


def median_when_calm(timings: Mapping[str, Timing], baseline: str) -> float:
    """Milliseconds of the baseline over the calm rounds."""
    return calm(timings, baseline)[baseline].median_ms


def ratio_when_calm(timings: Mapping[str, Timing], name: str, baseline: str) -> tuple[float, float]:
    """`paired_ratio` and `paired_error` over the calm rounds."""
    undisturbed = calm(timings, name, baseline)
    return paired_ratio(undisturbed, name, baseline), paired_error(undisturbed, name, baseline)


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


def turn_ms(function: Callable[[], object]) -> float:
    """The median of calls for TIMED seconds, after a rest and calls that warm it up."""
    time.sleep(SETTLE)
    _called(function, WARM)
    return statistics.median(_called(function, TIMED))


def _called(function: Callable[[], object], seconds: float) -> list[float]:
    """Calls again and again, at least once, for so long; the milliseconds of each call."""
    end = time.perf_counter() + seconds
    found = [milliseconds(function)]
    while time.perf_counter() < end:
        found.append(milliseconds(function))
    return found


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
