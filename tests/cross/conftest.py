"""The emulator of 64-bit ARM that `scripts/aarch64.sh` sets up; without it these tests are skipped."""

from pathlib import Path

import pytest

RUN = Path(__file__).parents[2] / "build/aarch64/run"


@pytest.fixture
def emulator(monkeypatch):
    if not RUN.exists():
        pytest.skip("there is no emulator: run scripts/aarch64.sh")
    monkeypatch.setenv("CHIPFIT_EMULATOR", str(RUN))
    return RUN
