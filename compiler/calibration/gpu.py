"""Calibration of this machine's GPU, NVIDIA's or AMD's: kernels of PyTorch, one by one.

No code of chipfit's runs on a GPU yet, so it is the vendor's kernels that are timed, as PyTorch calls them.
"""

from __future__ import annotations

import datetime
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.utils.benchmark import Timer

from chipfit.calibration.kept import keep
from chipfit.errors import UserError
from chipfit.frontend.importer import import_model
from chipfit.ir.configuration import Configuration
from chipfit.ir.fusion import planned
from chipfit.ir.shapes import what_if
from chipfit.ir.work import work
from chipfit.passes.base import Progress, silent
from chipfit.targets.calibrate import Calibration
from chipfit.targets.calibrate_gpu import TimedKernel, fit_gpu
from chipfit.targets.registry import Target

SECONDS = 0.2  # of calls of each kernel
SIDE = 1024


class Double(nn.Module):
    """The least that a kernel can do with a number."""

    def forward(self, x: Tensor) -> Tensor:
        return x + x


@dataclass(frozen=True)
class Case:
    """A module that is one kernel, on (1, rows, columns) of a type."""

    name: str
    build: Callable[[], nn.Module]
    rows: int
    columns: int
    dtype: torch.dtype
    held_out: bool


def product(rows: int, inner: int, columns: int, dtype: torch.dtype, held_out: bool) -> Case:
    name = f"{rows} x {inner} x {columns} {str(dtype).removeprefix('torch.')}"
    return Case(name, lambda: nn.Linear(inner, columns, bias=False), rows, inner, dtype, held_out)


def sums(rows: int, held_out: bool) -> Case:
    return Case(f"sum {rows} x {SIDE}", Double, rows, SIDE, torch.float32, held_out)


FITTED = (
    *((1, 4096, 4096), (1, 11008, 4096), (16, 512, 512), (64, 4096, 11008), (128, 768, 3072), (512, 1024, 1024)),
    *((1000, 500, 3000), (2048, 2048, 2048), (4096, 4096, 4096)),
)
HELD_OUT = (
    (1, 4096, 11008),
    (32, 2048, 2048),
    (256, 4096, 1024),
    (300, 900, 700),
    (1024, 4096, 4096),
    (3000, 2000, 1500),
)
CASES = (
    *(product(*sizes, dtype, False) for sizes in FITTED for dtype in (torch.float16, torch.float32)),
    *(product(*sizes, dtype, True) for sizes in HELD_OUT for dtype in (torch.float16, torch.float32)),
    *(sums(rows, False) for rows in (1, 1024, 65536)),
    *(sums(rows, True) for rows in (8, 16384)),
)


def calibrate(
    target: Target, progress: Progress = silent, cases: Sequence[Case] = CASES, device: torch.device | None = None
) -> Calibration:
    """Times the kernels on this machine's GPU, fits the efficiencies and keeps them. Takes half a minute.

    Raises UserError where PyTorch finds no GPU.
    """
    if device is None and not torch.cuda.is_available():
        raise UserError(f"PyTorch finds no GPU here, so {target.name} can't be calibrated: run this where it is.")
    place = device or torch.device("cuda")
    timed = list(measured(cases, place, progress))
    name = torch.cuda.get_device_name(place) if place.type == "cuda" else place.type
    found = fit_gpu(target.profile, timed, name, datetime.date.today())
    keep(target, found)
    return found


def measured(cases: Sequence[Case], device: torch.device, progress: Progress) -> Iterator[TimedKernel]:
    for index, case in enumerate(cases):
        progress(f"calibrating: {case.name}", index / len(cases))
        module, x = case.build().to(case.dtype), torch.randn(1, case.rows, case.columns, dtype=case.dtype)
        graph = import_model(module, (x,))
        (kernel,), shapes = planned(graph), what_if(graph, Configuration(), 1)
        milliseconds = least_ms(module.to(device), x.to(device))
        yield TimedKernel(case.name, kernel, work(kernel, shapes), milliseconds, case.held_out)


def least_ms(module: nn.Module, x: Tensor) -> float:
    """Of many calls, which follow each other without waiting: the timer waits for the GPU at the end of a block."""
    with torch.inference_mode():
        timer = Timer("module(x)", globals={"module": module, "x": x})
        return 1e3 * min(timer.blocked_autorange(min_run_time=SECONDS).times)
