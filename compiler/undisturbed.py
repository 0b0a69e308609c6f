"""How long a library takes where nothing else runs, found on a machine where something always does.

A neighbour on the same core's other thread makes everything half as slow again, and leaves it alone for milliseconds
only: a call of 200 ms never runs undisturbed, but each of its kernels does once in a while. When that is, a small
product tells that is timed before and after.
"""

from __future__ import annotations

import math
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import nn

from chipfit.codegen import Library, compile_graph
from chipfit.codegen.runtime import Array
from chipfit.frontend.importer import import_model
from chipfit.ir.apply import rebatch
from chipfit.measure import milliseconds
from chipfit.targets.registry import Target

SHORT_MS = 5.0  # calls that are over sooner do run undisturbed now and then
PASS_MS = 10.0  # of calls between two looks at the machine's pace
PASSES = 12  # undisturbed ones that suffice
CALM = 1.1  # times its best that the product may take on a machine that counts as undisturbed
ROWS, WIDTH, LAYERS = 128, 512, 4  # of the product: a millisecond on two cores


@dataclass
class Pace:
    """The small product, and the least time that it ever took."""

    library: Library
    input: Array
    best_ms: float = math.inf

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
        found = min(milliseconds(lambda: self.library(self.input)) for _ in range(2))
        self.best_ms = min(self.best_ms, found)
        return found

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


@dataclass
class Stopwatch:
    """Times a library: passes that began or ended undisturbed, and all of them in case none did."""

    library: Library
    inputs: Sequence[Array]
    pace: Pace
    calm: Least = field(default_factory=Least)
    any: Least = field(default_factory=Least)

    def run(self, seconds: float) -> None:
        """Goes on until enough passes were undisturbed, or for that long."""
        end = time.perf_counter() + seconds
        before = self.pace.now()
        while not self.any.passes or (not self.is_done and time.perf_counter() < end):
            found = self._pass()
            after = self.pace.now()
            self.any.add(*found)
            if self.pace.is_calm(before) or self.pace.is_calm(after):
                self.calm.add(*found)
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
        return self.calm.passes >= PASSES

    @property
    def found(self) -> Least:
        return self.calm if self.calm.passes else self.any

    @property
    def milliseconds(self) -> float:
        """Of a call: the least seen of a short one; of a long one the sum of the least of its parts."""
        least = self.found
        return least.call_ms if least.call_ms < SHORT_MS else least.take_ms + sum(ms for _, ms in least.kernels)
