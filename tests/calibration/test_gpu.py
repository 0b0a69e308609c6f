"""Calibration of a GPU, run on the processor in its stead: the same modules, timer and fit."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from chipfit.calibration.gpu import CASES, calibrate, product, sums
from chipfit.calibration.kept import recalled
from chipfit.errors import UserError
from chipfit.targets.registry import get_target

SMALL = (
    *(product(*sizes, torch.float32, False) for sizes in ((64, 256, 256), (1, 512, 512), (256, 256, 128))),
    *(sums(rows, False) for rows in (1, 64)),
    product(128, 256, 256, torch.float32, True),
)


def test_what_was_timed_is_fitted_and_remembered(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr("chipfit.calibration.gpu.SECONDS", 0.01)
    chip = get_target("jetson-orin")
    found = calibrate(chip, cases=SMALL, device=torch.device("cpu"))
    assert [name for name, held_out, _, _ in found.rows if held_out] == ["128 x 256 x 256 float32"]
    known = recalled(chip)
    assert (chip.status, known.status) == ("uncalibrated", "calibrated")
    assert "on cpu, kernels of PyTorch one by one" in known.profile.figures["matrix_efficiency"].source


def test_without_a_gpu_it_is_one_sentence() -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a GPU here")
    with pytest.raises(UserError, match="PyTorch finds no GPU here, so h100-sxm can't be calibrated"):
        calibrate(get_target("h100-sxm"))


def test_kernels_have_names_of_their_own_and_some_are_held_out() -> None:
    assert len({case.name for case in CASES}) == len(CASES)
    assert 10 <= sum(case.held_out for case in CASES) < len(CASES) / 2
