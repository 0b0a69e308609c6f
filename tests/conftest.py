"""What several rooms' tests share: one calibration of this machine, kept apart from the user's own; exact numbers."""

from __future__ import annotations

import os

import pytest


@pytest.fixture(scope="session")
def calibrated_host(tmp_path_factory):
    """The environment of a process for which this machine is calibrated, though only on a few probes."""
    from chipfit.calibration import calibrate
    from chipfit.probes import PROBES
    from chipfit.targets.registry import get_target

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        calibrate(get_target("host"), probes=PROBES)
        yield dict(os.environ)


@pytest.fixture
def single_precision(monkeypatch):
    """Numbers to the last digit, whatever the processor's bfloat16 can do."""
    from chipfit.passes import precision

    monkeypatch.setattr(precision, "fast_bfloat16", lambda: False)
