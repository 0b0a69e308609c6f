"""What calibration keeps can be read again."""

import pytest

from chipfit.calibration.kept import DisturbedError, delta_path, keep, recalled
from chipfit.targets.calibrate import Calibration
from chipfit.targets.profile import Figure
from chipfit.targets.registry import get_target


def found(factor: float) -> Calibration:
    figures = {"interval_factor": factor, "launch_time": 2.0}
    units = {"interval_factor": "ratio", "launch_time": "us"}
    return Calibration(
        {name: Figure(value, units[name], "made up", "measured") for name, value in figures.items()}, (), ()
    )


def test_figures_that_no_chip_has_are_not_kept(monkeypatch, tmp_path):
    """As where a neighbour was busy while a few probes were timed."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    chip = get_target("cortex-a76")
    with pytest.raises(DisturbedError, match="cortex-a76 can't be calibrated by these times"):
        keep(chip, found(1315.8))
    assert recalled(chip) is chip
    assert not list(delta_path(chip).parent.iterdir())
    keep(chip, found(1.2))
    assert recalled(chip).profile.figures["interval_factor"].value == 1.2
