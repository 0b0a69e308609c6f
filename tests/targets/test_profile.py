"""Chip profiles: what is shipped reads, and every way to get a file wrong is named with its file, line and fix."""

from pathlib import Path

import pytest

from chipfit.errors import UserError
from chipfit.targets.profile import STATUSES, check_complete, read_folder
from chipfit.targets.registry import FOLDERS, get_target, target_names

FAMILY = """summary = "a toy"
[figures]
cores = { unit = "core", least = 1, most = 64, required = true, about = "cores" }
clock = { unit = "GHz", least = 0.1, most = 10, about = "clock", value = 2, source = "guess", status = "unverified" }
"""
CHIP = """name = "chip"
family = "toy"
summary = "a chip"
[figures]
cores = { value = 4, unit = "core", source = "datasheet page 1", status = "datasheet" }
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "toy.toml").write_text(FAMILY)
    (tmp_path / "chip.toml").write_text(CHIP)
    return tmp_path


def test_shipped_chips_are_complete_and_sourced() -> None:
    families, profiles = read_folder(FOLDERS)
    assert {"host", "cortex-a76", "h100-sxm", "ascend-910b3"} <= set(profiles)
    for name, profile in profiles.items():
        if name != "host":
            check_complete(profile, families[profile.family])
        assert all(figure.source and figure.status in STATUSES for figure in profile.figures.values())


def test_derived_peaks_follow_from_the_other_figures() -> None:
    a76, ascend = get_target("cortex-a76").profile, get_target("ascend-910b3").profile
    assert a76.si("fp32_peak") == pytest.approx(a76.si("cores") * a76.si("clock") * a76.si("flop_per_cycle"))
    cube = ascend.si("cube_cores") * ascend.si("clock") * 2 * 16**3
    assert ascend.si("fp16_peak") == pytest.approx(cube, rel=0.01)


def test_chips_that_nobody_timed_are_uncalibrated() -> None:
    assert all(get_target(name).status == "uncalibrated" for name in target_names() if name != "host")


def test_a_new_file_is_a_new_chip(folder: Path) -> None:
    (folder / "other.toml").write_text(CHIP.replace('"chip"', '"other"'))
    assert target_names([folder]) == ("chip", "other")
    profile = get_target("other", [folder]).profile
    assert profile.si("clock") == 2e9
    assert profile.figures["clock"].status == "unverified"


@pytest.mark.parametrize("name", ["h100-smx", "H100-SXM"])
def test_an_unknown_target_names_the_closest(name: str) -> None:
    with pytest.raises(UserError, match="did you mean h100-sxm"):
        get_target(name)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("cores =", "cors =", r"chip.toml:5: a toy chip has no figure 'cors'; it knows clock, cores"),
        ('unit = "core"', 'unit = "GHz"', r"chip.toml:5: cores is in 'GHz'; give it in 'core'"),
        (', unit = "core"', "", r"chip.toml:\d: cores lacks 'unit'; add it"),
        ("value = 4", "value = -4", r"chip.toml:5: cores = -4 is impossible; it lies between 1 and 64 core"),
        ("value = 4", "value = nan", r"chip.toml:5: cores = nan is impossible"),
        ("value = 4", 'value = "4"', r"chip.toml:5: cores = '4' is impossible"),
        ('"datasheet" }', '"guessed" }', r"chip.toml:5: cores has status 'guessed'; use one of datasheet"),
        ('"datasheet page 1"', '""', r"chip.toml:5: cores has no source"),
        ("cores = {", "cores = 4 #", r"chip.toml:5: cores is a bare value"),
        ('family = "toy"', 'family = "cup"', r"chip.toml:2: family 'cup' is unknown; use one of toy"),
        ('summary = "a chip"', 'colour = "red"', r"chip.toml:3: a chip has no key 'colour'"),
        ('summary = "a chip"', "", r"chip.toml:1: a chip lacks 'summary'; add it"),
        ('summary = "a chip"', 'name = "x"', r"chip.toml: not a valid profile: .*line 3"),
    ],
)
def test_a_wrong_chip_file_is_refused(folder: Path, old: str, new: str, message: str) -> None:
    assert old in CHIP
    (folder / "chip.toml").write_text(CHIP.replace(old, new))
    with pytest.raises(UserError, match=message):
        read_folder([folder])


def test_a_doubled_chip_is_refused(folder: Path) -> None:
    (folder / "twin.toml").write_text(CHIP)
    with pytest.raises(UserError, match=r"twin.toml:1: chip 'chip' is already described by chip.toml; rename one"):
        read_folder([folder])


def test_a_missing_figure_is_refused(folder: Path) -> None:
    (folder / "chip.toml").write_text(CHIP.split("[figures]")[0])
    with pytest.raises(UserError, match=r"chip.toml:1: a toy chip needs these figures too: cores \(cores, in core\)"):
        get_target("chip", [folder])


def test_a_wrong_family_file_is_refused(folder: Path) -> None:
    (folder / "toy.toml").write_text(FAMILY.replace(", most = 64", ""))
    with pytest.raises(UserError, match=r"toy.toml:\d: cores lacks 'most'; add it"):
        read_folder([folder])
