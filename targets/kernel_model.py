"""What a chip family's model says about one kernel, with its weights in a cache and with weights from memory."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from scipy.special import lambertw

from chipfit.ir.kernel import Kernel
from chipfit.ir.work import Work
from chipfit.targets.energy import Traffic
from chipfit.targets.profile import Profile
from chipfit.targets.storage import Storage

Interval = tuple[float, float]
FACTOR = "interval_factor"  # the figure that calibration alone gives


class KernelModel(Protocol):
    """What a chip family says about one kernel."""

    @property
    def status(self) -> str: ...

    @property
    def granularity(self) -> int:
        """What widths are worth being multiples of on this chip."""

    @property
    def storage(self) -> Storage | None:
        """How codegen lays out weights and images; None where all is taken to lie as PyTorch has it."""

    @property
    def cold(self) -> Cold | None:
        """The same for weights that come from memory; None where the model knows no difference."""

    def call_ms(self, input_bytes: int) -> float:
        """Milliseconds that a call takes besides its kernels."""

    def terms(self, kernel: Kernel, work: Work) -> Mapping[str, float]:
        """Milliseconds by what they are spent on; their sum is the kernel's time."""

    def traffic(self, kernel: Kernel, work: Work) -> Traffic:
        """Bytes that the kernel moves at each level of memory."""

    def interval(self, latency_ms: float) -> Interval | None:
        """Where the measured latency lies if that is predicted."""


def interval_around(profile: Profile, latency_ms: float) -> Interval | None:
    """Where a latency lies that is predicted; None where no calibration says how far off it may be."""
    if FACTOR not in profile.figures:
        return None
    factor = profile.si(FACTOR)
    return latency_ms / factor, latency_ms * factor


@dataclass(frozen=True)
class Cold:
    """What kernels cost whose weights come from memory, and the bytes of weights that the caches can hold."""

    model: KernelModel
    cache_bytes: float

    def share(self, weight_bytes: float) -> float:
        return cold_share(weight_bytes, self.cache_bytes)


def cold_share(weight_bytes: float, cache_bytes: float) -> float:
    """The share of weights, all read once in each call, that a cache no longer holds when they are read again.

    Of a cache that replaces lines at random, a line is still there after m misses with probability exp(-m / lines). All
    that misses is m = (1 - h) weights, so h = exp(-(1 - h) r) at r = weights / cache, which Lambert's W solves. Caches
    that are shared and hashed over slices behave so: on Sapphire Rapids the rate falls slowly from 60 MB to 400 MB.
    """
    ratio = weight_bytes / cache_bytes
    return 0.0 if ratio <= 1 else float(1 + lambertw(-ratio * math.exp(-ratio)).real / ratio)
