"""What several rooms' tests share: one calibration of this machine, kept apart from the user's own; exact numbers."""

from __future__ import annotations

import math
import os

import pytest

MUCH = 60_000  # values of input: a probe of more is left out


@pytest.fixture(scope="session")
def calibrated_host(tmp_path_factory):
    """The environment of a process for which this machine is calibrated, though hastily and on small probes."""
    from chipfit.calibration import host
    from chipfit.calibration.probes import PROBES
    from chipfit.targets.registry import get_target

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        patch.setattr(host, "LOOK", 0.1)
        few = [probe for probe in PROBES if math.prod(probe.shape) < MUCH and "MB" not in probe.name]
        host.calibrate(get_target("host"), probes=few, seconds=0.0)
        yield dict(os.environ)


@pytest.fixture
def single_precision(monkeypatch):
    """Numbers to the last digit, whatever the processor's bfloat16 can do."""
    from chipfit.passes import precision

    monkeypatch.setattr(precision, "fast_bfloat16", lambda: False)
