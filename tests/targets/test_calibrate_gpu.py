"""Fitting a GPU's efficiencies to made-up times: those that made them are found again."""

from __future__ import annotations

import datetime
import math
import random
from collections.abc import Mapping

import pytest
import torch
from torch import nn

from chipfit.frontend.importer import import_model
from chipfit.ir.configuration import Configuration
from chipfit.ir.fusion import planned
from chipfit.ir.shapes import what_if
from chipfit.ir.work import work
from chipfit.targets.calibrate_gpu import TERMS, TimedKernel, fit_gpu, predict
from chipfit.targets.gpu import GpuModel
from chipfit.targets.profile import Figure, Profile
from chipfit.targets.registry import get_target

TRUE = {"matrix_efficiency": 0.7, "memory_efficiency": 0.8, "launch_time": 8.0, "l2_bytes_per_cycle": 30.0}
SIZES = ((1, 64, 64), (1, 4096, 4096), (128, 768, 3072), (512, 1024, 1024), (2048, 2048, 2048), (4096, 4096, 4096))


def kernel(rows: int, inner: int, columns: int, held_out: bool) -> TimedKernel:
    graph = import_model(nn.Linear(inner, columns, bias=False), (torch.randn(1, rows, inner),))
    (found,) = planned(graph)
    done = work(found, what_if(graph, Configuration(), 1))
    return TimedKernel(f"{rows} {inner} {columns}", found, done, 1.0, held_out)


def timed(profile: Profile, noise: float) -> list[TimedKernel]:
    chance = random.Random(0)
    kernels = [kernel(*sizes, held_out) for held_out in (False, True) for sizes in SIZES]
    times = predict(profile, kernels)
    return [
        TimedKernel(one.name, one.kernel, one.work, ms * math.exp(chance.gauss(0, noise)), one.held_out)
        for one, ms in zip(kernels, times, strict=True)
    ]


def with_true(profile: Profile, figures: Mapping[str, float]) -> Profile:
    return profile.with_figures(
        {name: Figure(value, TERMS[name][0], "made up", "measured") for name, value in figures.items()}
    )


@pytest.mark.parametrize(("noise", "within"), [(0.0, 0.02), (0.03, 0.2)])
def test_known_efficiencies_are_found_again(noise: float, within: float) -> None:
    chip = get_target("a100").profile
    found = fit_gpu(chip, timed(with_true(chip, TRUE), noise), "made up", datetime.date(2026, 11, 29))
    fitted = {name: found.figures[name].value for name in ("matrix_efficiency", "memory_efficiency", "launch_time")}
    assert fitted == pytest.approx({name: TRUE[name] for name in fitted}, rel=within)
    assert found.median_error <= max(3 * noise, 0.02)


def test_a_calibrated_gpu_says_so_and_has_an_interval() -> None:
    chip = get_target("a100").profile
    assert GpuModel(chip).status == "uncalibrated"
    assert GpuModel(chip).interval(2.0) is None
    found = fit_gpu(chip, timed(with_true(chip, TRUE), 0.05), "made up", datetime.date(2026, 11, 29))
    model = GpuModel(chip.with_figures(found.figures))
    assert model.status == "calibrated"
    low, high = model.interval(2.0) or (0.0, 0.0)
    assert low < 2.0 < high
