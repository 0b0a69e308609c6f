"""The plain roofline: peak and bandwidth as the profile states them, for chips whose kernels nobody has timed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from chipfit.ir.kernel import Kernel
from chipfit.ir.work import Work
from chipfit.targets.energy import MEMORY, Traffic
from chipfit.targets.profile import Profile


@dataclass(frozen=True)
class Roofline:
    """Each kernel takes the longer of computing and moving bytes (Williams et al., CACM 52(4), 2009).

    A lower bound of time, often by a factor; so it is `uncalibrated` and states no interval.
    """

    profile: Profile
    status: str = "uncalibrated"
    granularity: int = 1
    cold: None = None
    storage: None = None

    def call_ms(self, input_bytes: int) -> float:
        return 0.0

    def terms(self, kernel: Kernel, work: Work) -> Mapping[str, float]:
        """Milliseconds under the name of the unit that limits the kernel."""
        compute = 1e3 * work.flops / self.peak
        memory = 1e3 * (work.bytes_read + work.bytes_written) / self.profile.si("memory_bandwidth")
        return {"compute": compute} if compute > memory else {"memory": memory}

    def traffic(self, kernel: Kernel, work: Work) -> Traffic:
        return {MEMORY: work.bytes_read + work.bytes_written}

    @property
    def peak(self) -> float:
        """Operations per second in fp32, or in fp16 on a chip that gives no fp32 figure."""
        return self.profile.si("fp32_peak" if "fp32_peak" in self.profile.figures else "fp16_peak")

    def interval(self, latency_ms: float) -> None:
        return None
