"""What several rooms' tests share: a calibration of this machine, kept apart from the user's own; exact numbers."""

from __future__ import annotations

import datetime
import os

import pytest

RATIOS = {"error_median": 0.1, "error_p95": 0.5, "interval_factor": 4.0}


@pytest.fixture(scope="session")
def calibrated_host(tmp_path_factory):
    """The environment of a process for which this machine is calibrated: by its peaks, as timing it takes minutes."""
    from chipfit.calibration.kept import keep
    from chipfit.targets.calibrate import Calibration
    from chipfit.targets.cpu import derived_seconds
    from chipfit.targets.profile import UNITS, Figure
    from chipfit.targets.reading import read_folder
    from chipfit.targets.registry import FOLDERS, get_target

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        host = get_target("host")
        rules, source = read_folder(FOLDERS)[0][host.family].rules, f"made up on {datetime.date.today()}"
        seconds = {**derived_seconds(host.profile), "launch_time": 1e-6}
        values = RATIOS | {name: value / UNITS[rules[name].unit] for name, value in seconds.items()}
        figures = {name: Figure(value, rules[name].unit, source, "measured") for name, value in values.items()}
        keep(host, Calibration(figures, (), ()))
        yield dict(os.environ)


@pytest.fixture
def single_precision(monkeypatch):
    """Numbers to the last digit, whatever the processor's bfloat16 can do."""
    from chipfit.passes import precision

    monkeypatch.setattr(precision, "fast_bfloat16", lambda: False)
