"""How long a library takes where nothing else runs, found on a machine where something always does.

A neighbour on the same core's other thread makes everything half as slow again, and leaves it alone for milliseconds
only: a call of 200 ms never runs undisturbed, but each of its kernels does once in a while.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from chipfit.codegen import Library
from chipfit.codegen.runtime import Array
from chipfit.measure import interleave

SHORT_MS = 5.0  # calls that are over sooner do run undisturbed now and then


@dataclass
class Stopwatch:
    """The least times seen so far of a library's calls, inputs and kernels, in milliseconds."""

    library: Library
    inputs: Sequence[Array]
    call_ms: float = math.inf
    copy_ms: float = math.inf
    kernels: list[tuple[str, float]] = field(default_factory=list)

    def run(self, seconds: float) -> None:
        """Times calls, then kernels one by one, for that long each."""
        calls = {"call": lambda: self.library(*self.inputs), "copy": lambda: self.library.take(self.inputs)}
        found = interleave(calls, rounds=10**6, seconds=seconds)
        self.call_ms = min(self.call_ms, found["call"].best_ms)
        self.copy_ms = min(self.copy_ms, found["copy"].best_ms)
        end = time.perf_counter() + seconds
        while True:
            times = self.library.kernel_times(1)
            pairs = zip(times, self.kernels or times, strict=True)
            self.kernels = [(name, min(ms, known)) for (name, ms), (_, known) in pairs]
            if time.perf_counter() >= end:
                break

    @property
    def milliseconds(self) -> float:
        """Of a call: the least seen of a short one; of a long one the sum of the least of its parts."""
        return self.call_ms if self.call_ms < SHORT_MS else self.copy_ms + sum(ms for _, ms in self.kernels)
