"""How long a library takes where nothing else runs, found on a machine where something always does.

A neighbour on the same core's other thread makes everything half as slow again, and leaves it alone for milliseconds
only: a call of 200 ms never runs undisturbed, but each of its kernels does once in a while. When that is, a small
product tells that is timed before and after.
"""

from __future__ import annotations

import math
import tempfile
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import nn

from chipfit.codegen import Library, compile_graph
from chipfit.codegen.arrays import Array
from chipfit.frontend.importer import import_model
from chipfit.ir.apply import rebatch
from chipfit.measure import milliseconds
from chipfit.targets.registry import Target

SHORT_MS = 0.5  # calls that are over sooner do run undisturbed now and then
PASS_MS = 10.0  # of calls between two looks at the machine's pace
PASSES, FEW = 12, 3  # undisturbed ones that suffice, and with fewer of which a time is still too long
RECENT = 60.0  # seconds
CALM = 1.1  # times its best that the product may take on a machine that counts as undisturbed
ROWS, WIDTH, LAYERS = 128, 512, 4  # of the product: a millisecond on two cores


@dataclass
class Pace:
    """The small product, and what it took of late.

    Its best is that of the last minute: the clock of a shared machine drifts by a tenth from one minute to another.
    """

    library: Library
    input: Array
    recent: deque[tuple[float, float]] = field(default_factory=deque)  # (when, milliseconds)

    @staticmethod
    def of(target: Target) -> Pace:
        layers = nn.Sequential(*(nn.Linear(WIDTH, WIDTH) for _ in range(LAYERS)))
        x = torch.randn(1, ROWS, WIDTH)
        with tempfile.TemporaryDirectory(prefix="chipfit-pace-") as folder:
            library = compile_graph(rebatch(import_model(layers, (x,)), 1), target, Path(folder) / "library")
        return Pace(library, x.numpy())

    def settle(self, seconds: float) -> None:
        """Looks out for the best time for that long."""
        end = time.perf_counter() + seconds
        while time.perf_counter() < end:
            self.now()

    def now(self) -> float:
        """Milliseconds of the product at this moment."""
        found, at = min(milliseconds(lambda: self.library(self.input)) for _ in range(2)), time.perf_counter()
        self.recent.append((at, found))
        while self.recent[0][0] < at - RECENT:
            self.recent.popleft()
        return found

    @property
    def best_ms(self) -> float:
        return min(ms for _, ms in self.recent)

    def is_calm(self, found: float) -> bool:
        return found <= CALM * self.best_ms


@dataclass
class Least:
    """The least times seen of a call, of taking its inputs and of each kernel, in milliseconds."""

    call_ms: float = math.inf
    take_ms: float = math.inf
    kernels: list[tuple[str, float]] = field(default_factory=list)
    passes: int = 0

    def add(self, call_ms: float, take_ms: float, kernels: Sequence[tuple[str, float]]) -> None:
        self.call_ms, self.take_ms = min(self.call_ms, call_ms), min(self.take_ms, take_ms)
        pairs = zip(kernels, self.kernels or kernels, strict=True)
        self.kernels = [(name, min(ms, known)) for (name, ms), (_, known) in pairs]
        self.passes += 1

    @property
    def milliseconds(self) -> float:
        """Of a call: the least seen of a short one; of a long one the sum of the least of its parts.

        Nothing but kernels and the taking of inputs is in that sum: what goes by in between is about 5 us a call and
        half of one a kernel.
        """
        return self.call_ms if self.is_short else self.take_ms + sum(ms for _, ms in self.kernels)

    @property
    def is_short(self) -> bool:
        return self.call_ms < SHORT_MS


@dataclass
class Stopwatch:
    """Times a library: the least of all passes, and how many of them began or ended undisturbed."""

    library: Library
    inputs: Sequence[Array]
    pace: Pace
    wanted: int = PASSES  # undisturbed ones of a visit
    least: Least = field(default_factory=Least)
    calm_passes: int = 0
    visited: int = 0  # undisturbed passes of earlier visits
    pace_ms: float = math.inf  # the best of the product meanwhile

    def return_later(self) -> None:
        """Ends a visit: what was seen stays, and the next `run` asks for as many passes again."""
        self.visited, self.calm_passes = self.visited + self.calm_passes, 0

    def run(self, seconds: float) -> None:
        """Goes on until enough passes were undisturbed, or for that long."""
        end = time.perf_counter() + seconds
        before = self.pace.now()
        while not self.least.passes or (not self.is_done and time.perf_counter() < end):
            self.least.add(*self._pass())
            after = self.pace.now()
            self.pace_ms = min(self.pace_ms, before, after)
            self.calm_passes += self.pace.is_calm(before) or self.pace.is_calm(after)
            before = after

    def _pass(self) -> tuple[float, float, Sequence[tuple[str, float]]]:
        """The least of some calls, after one that brings weights and code back into the caches."""
        first = milliseconds(lambda: self.library(*self.inputs))
        repeats = max(1, round(PASS_MS / first))
        call = min(milliseconds(lambda: self.library(*self.inputs)) for _ in range(repeats))
        take = min(milliseconds(lambda: self.library.take(self.inputs)) for _ in range(repeats))
        return call, take, self.library.kernel_times(repeats)

    @property
    def is_done(self) -> bool:
        return self.calm_passes >= self.wanted

    @property
    def is_calm(self) -> bool:
        """Whether it ran undisturbed often enough for its time to be its own."""
        return self.visited + self.calm_passes >= FEW

    @property
    def milliseconds(self) -> float:
        """Of a call."""
        return self.least.milliseconds

    @property
    def is_short(self) -> bool:
        return self.least.is_short
