"""Calibration of this machine end to end on two tiny probes, and how timings find the kernels that they belong to."""

from pathlib import Path

import pytest

from chipfit import display
from chipfit.calibration.host import UNDISTURBED, calibrate, calibrated
from chipfit.calibration.kept import DisturbedError, delta_path, recalled
from chipfit.calibration.probe_nets import linears
from chipfit.calibration.probes import PROBES, Probe
from chipfit.calibration.subjects import attributed
from chipfit.targets.calibrate import Calibration, Sample
from chipfit.targets.profile import Figure
from chipfit.targets.registry import get_target

TINY = (
    Probe("fitted", lambda: linears(16, 40, 8), (1, 4, 16)),
    Probe("held out", lambda: linears(24, 16), (1, 4, 24), held_out=True),
)


def test_the_host_is_calibrated_once_and_remembered(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    host = get_target("host")
    assert recalled(host).status == "uncalibrated"
    result = calibrate(host, probes=TINY)
    assert [name for name, held_out, _, _ in result.rows if held_out] == ["held out"]
    assert delta_path(host).is_relative_to(tmp_path)
    known = calibrated(host)
    assert known.status == "calibrated"
    assert known.profile.figures["launch_time"] == result.figures["launch_time"]
    assert [path.suffix for path in delta_path(host).parent.iterdir()] == [".toml"]
    assert known.profile.figures[UNDISTURBED].value in (0, 0.5, 1)


def test_a_machine_too_busy_to_calibrate_stays_uncalibrated(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A first compilation goes on: what it measures corrects the estimates."""

    def disturbed(*_: object, **__: object) -> None:
        raise DisturbedError("busy")

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr("chipfit.calibration.host.calibrate", disturbed)
    told: list[str] = []
    found = calibrated(get_target("host"), lambda what, fraction: told.append(what))
    assert found.status == "uncalibrated"
    assert told == ["too busy to calibrate host: its costs stay uncalibrated"]


@pytest.mark.parametrize(("share", "warned"), [(0.2, True), (0.9, False)])
def test_a_calibration_that_was_disturbed_says_so(
    share: float, warned: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    figures = {name: Figure(share, "ratio", "test", "measured") for name in (UNDISTURBED, "error_median", "error_p95")}
    found = Calibration(figures, (Sample("net", (), {}, 2.0, True),), (1.0,))
    display.calibration(found)
    printed = capsys.readouterr().out
    assert f"{share:.0%} of all graphs" in printed
    assert ("Calibrate again" in printed) is warned
    assert display.calibration_json(found)[UNDISTURBED] == share


def test_a_chip_that_is_not_this_machine_stays_uncalibrated() -> None:
    chip = get_target("cortex-a76")
    assert calibrated(chip) is chip


def test_stock_functions_are_told_apart_from_ours_and_layout_changes_left_out() -> None:
    calls = [
        {"value": "x", "kernel": "packimage"},
        {"value": "a", "kernel": "conv"},
        {"value": "b", "stock": ["aten.sin.default"]},
        {"value": "c", "stock": ["aten.cos.default"]},
        {"value": "d", "kernel": "conv"},
        {"value": "e", "stock": ["aten.sin.default"]},
    ]
    times = [("packimage_0", 1.0), ("conv_1", 2.0), ("fused_sin", 4.0), ("cos", 8.0), ("conv_1", 16.0), ("sin", 32.0)]
    found = list(attributed(calls, times))
    assert found == [(("a",), 2.0), (("b", "c"), 12.0), (("d",), 16.0), (("e",), 32.0)]


def test_probes_have_names_of_their_own_and_some_are_held_out() -> None:
    assert len({probe.name for probe in PROBES}) == len(PROBES)
    assert 4 <= sum(probe.held_out for probe in PROBES) < len(PROBES) / 2
