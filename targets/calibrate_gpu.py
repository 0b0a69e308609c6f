"""From timed kernels to a GPU's profile delta: how near kernels come to its peaks, and what starting one takes."""

from __future__ import annotations

import datetime
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
from scipy.optimize import least_squares

from chipfit.ir.kernel import Kernel
from chipfit.ir.work import Work
from chipfit.targets.calibrate import Calibration, Sample, errors, told
from chipfit.targets.gpu import GpuModel
from chipfit.targets.profile import Figure, Profile

# What is fitted: the figure, its unit, and the bounds within which it is sought, all on a logarithmic scale.
TERMS: Mapping[str, tuple[str, float, float]] = MappingProxyType(
    {
        "matrix_efficiency": ("ratio", 0.01, 1.0),
        "memory_efficiency": ("ratio", 0.01, 1.0),
        "launch_time": ("us", 0.1, 1e3),
        "l2_bytes_per_cycle": ("B/cycle", 1.0, 4096.0),
    }
)


@dataclass(frozen=True)
class TimedKernel:
    """A kernel that was timed alone."""

    name: str
    kernel: Kernel
    work: Work
    measured_ms: float
    held_out: bool


def fit_gpu(profile: Profile, timed: Sequence[TimedKernel], device: str, today: datetime.date) -> Calibration:
    """Least squares on the logarithm of predicted over measured time, over the kernels that aren't held out."""
    fitted = [one for one in timed if not one.held_out]
    source = f"calibration of {today} on {device}, kernels of PyTorch one by one"

    def figures(logs: np.ndarray) -> dict[str, Figure]:
        pairs = zip(TERMS.items(), np.exp(logs).tolist(), strict=True)
        return {name: Figure(value, unit, source, "measured") for (name, (unit, *_)), value in pairs}

    def residuals(logs: np.ndarray) -> np.ndarray:
        predicted = predict(profile.with_figures(figures(logs)), fitted)
        return np.array([math.log(ms / one.measured_ms) for ms, one in zip(predicted, fitted, strict=True)])

    least, most = (np.log([bounds[side] for _, *bounds in TERMS.values()]) for side in (0, 1))
    start = (least + most) / 2
    # Steps wide enough to be seen past the choice of tiles, which makes the model piecewise.
    found = least_squares(residuals, start, bounds=(least, most), loss="soft_l1", f_scale=0.1, diff_step=0.01)
    samples = tuple(Sample(one.name, (), {}, one.measured_ms, one.held_out) for one in timed)
    predicted = tuple(predict(profile.with_figures(figures(found.x)), timed))
    off = errors(samples, predicted, f"{source}: {told(samples)}")
    return Calibration({**figures(found.x), **off}, samples, predicted)


def predict(profile: Profile, timed: Sequence[TimedKernel]) -> list[float]:
    """Milliseconds of each."""
    model = GpuModel(profile)
    return [math.fsum(model.terms(one.kernel, one.work).values()) for one in timed]
