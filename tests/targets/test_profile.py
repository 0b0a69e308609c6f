"""Chip profiles: what is shipped reads, and every way to get a file wrong is named with its file, line and fix."""

from pathlib import Path

import pytest

from chipfit.errors import UserError
from chipfit.targets.reading import read_folder
from chipfit.targets.registry import get_target, target_names

FAMILY = """summary = "a toy"
[figures]
cores = { unit = "core", least = 1, most = 64, required = true, about = "cores" }
clock = { unit = "GHz", least = 0.1, most = 10, about = "clock", value = 2, source = "guess", status = "unverified" }
peak = { unit = "GFLOP/s", least = 1, most = 100, about = "peak" }
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


def test_a_target_like_no_other_is_answered_with_where_all_are() -> None:
    with pytest.raises(UserError, match="'9999' is unknown: `chipfit targets list`"):
        get_target("9999")


def test_a_family_of_chips_is_no_target_but_names_its_members() -> None:
    with pytest.raises(UserError, match=r"did you mean h100-pcie or h100-sxm\?"):
        get_target("H100")


CASES = {
    "an unknown figure": ("cores =", "cors =", "5: a toy chip has no figure 'cors'; it knows clock, cores, peak."),
    "another unit": ('unit = "core"', 'unit = "GHz"', "5: cores is in 'GHz'; give it in 'core'."),
    "no unit": (', unit = "core"', "", "5: cores lacks 'unit'; add it."),
    "no source": (', source = "datasheet page 1"', "", "5: cores lacks 'source'; add it."),
    "an unknown key of a figure": (
        "value = 4", "value = 4, note = 1", "5: cores has no key 'note'; it knows value, unit, source, status."
    ),
    "a negative value": ("value = 4", "value = -4", "5: cores = -4 is impossible; it lies between 1 and 64 core."),
    "no number": ("value = 4", "value = nan", "5: cores = nan is impossible; it lies between 1 and 64 core."),
    "a text for a value": ("value = 4", 'value = "4"', "5: cores = '4' is impossible; it lies between 1 and 64 core."),
    "an unknown status": (
        '"datasheet" }', '"guessed" }',
        "5: cores has status 'guessed'; use one of datasheet, derived, measured, unverified."
    ),
    "an empty source": ('"datasheet page 1"', '""', "5: cores has no source; say where the figure comes from."),
    "a bare value": ("cores = {", "cores = 4 #", "5: cores is a bare value; write { value, unit, source, status }."),
    "bare figures": (
        "[figures]\ncores = {", "figures = 4 # {", "4: figures is a bare value; write them below a line [figures]."
    ),
    "an unknown family": ('family = "toy"', 'family = "cup"', "2: family 'cup' is unknown; use one of toy."),
    "an unknown base": ('family = "toy"', 'base = "chop"', "2: base 'chop' is unknown; use one of chip."),
    "itself as base": (
        'family = "toy"', 'base = "chip"',
        "2: base 'chip' leads back to 'chip'; give one of them a family instead of a base."
    ),
    "neither family nor base": (
        'family = "toy"', "", "1: a chip names either its family or its base; give one of the two."
    ),
    "family and base": (
        'family = "toy"', 'family = "toy"\nbase = "chip"',
        "3: a chip names either its family or its base; give one of the two."
    ),
    "an unknown key": (
        'summary = "a chip"', 'colour = "red"',
        "3: a chip has no key 'colour'; it knows name, summary, family, base, triple, arch, figures."
    ),
    "no summary": ('summary = "a chip"', "", "1: a chip lacks 'summary'; add it."),
    "a number for a text": (
        'summary = "a chip"', "summary = 4", "3: summary = 4 is no text; write it in quotes."
    ),
    "a name in capitals": (
        'name = "chip"', 'name = "My Chip"',
        "1: name 'My Chip' is not in lower case with hyphens; write it as 'my-chip-2'."
    ),
    "a doubled key": ('summary = "a chip"', 'name = "x"', "3: 'name' is given twice; keep one."),
    "a doubled figure": (
        "cores =", 'cores = { value = 1, unit = "core", source = "x", status = "derived" }\ncores =',
        "6: 'cores' is given twice; keep one."
    ),
    "a doubled key of a figure": ("value = 4", "value = 4, value = 5", "5: 'value' is given twice; keep one."),
    "a doubled section": ("[figures]", "[figures]\n[figures]", "5: 'figures' is given twice; keep one."),
    "a missing quote": ('"a chip"', '"a chip', "3: this is not TOML: Illegal character '\\n'; correct it."),
    "a wrong product": (
        "[figures]",
        '[figures]\npeak = { value = 9, unit = "GFLOP/s", source = "cores x clock x 1; one each", status = "derived" }',
        "5: peak = 9 is derived from cores x clock x 1, which is 8 GFLOP/s; correct it."
    ),
}  # fmt: skip


@pytest.mark.parametrize(("old", "new", "message"), list(CASES.values()), ids=list(CASES))
def test_a_wrong_chip_file_is_refused(folder: Path, old: str, new: str, message: str) -> None:
    assert old in CHIP
    (folder / "chip.toml").write_text(CHIP.replace(old, new))
    assert refusal(folder) == f"{folder}/chip.toml:{message}"


def test_a_doubled_chip_is_refused(folder: Path) -> None:
    (folder / "twin.toml").write_text(CHIP)
    first = f"{folder}/chip.toml"
    assert refusal(folder) == f"{folder}/twin.toml:1: chip 'chip' is already described by {first}; rename one."


def test_bases_that_lead_in_a_circle_are_refused(folder: Path) -> None:
    (folder / "chip.toml").write_text(CHIP.replace('family = "toy"', 'base = "other"'))
    (folder / "other.toml").write_text('name = "other"\nsummary = "another"\nbase = "chip"\n')
    message = "2: base 'other' leads back to 'chip'; give one of them a family instead of a base."
    assert refusal(folder) == f"{folder}/chip.toml:{message}"


def test_a_missing_figure_is_refused(folder: Path) -> None:
    (folder / "chip.toml").write_text(CHIP.split("[figures]")[0])
    with pytest.raises(UserError) as error:
        get_target("chip", [folder])
    assert str(error.value) == f"{folder}/chip.toml:1: a toy chip needs these figures too: cores (cores, in core)."


def test_a_file_that_is_no_text_is_refused(folder: Path) -> None:
    (folder / "chip.toml").write_bytes(b"\xff\xfe")
    assert refusal(folder) == f"{folder}/chip.toml is no text file; name a chip's TOML file."


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (", most = 64", "", "3: cores lacks 'most'; add it."),
        ('unit = "core"', 'unit = "piece"', "3: cores is in 'piece', which is unknown; use one of core, bit, "),
        ("least = 1,", "least = 99,", "3: cores has no bounds; give numbers, least no greater than most."),
        ("value = 2,", "value = 20,", "4: clock = 20 is impossible; it lies between 0.1 and 10 GHz."),
        ("summary =", "symmary =", "1: the family has no key 'symmary'; it knows figures, summary."),
    ],
)
def test_a_wrong_family_file_is_refused(folder: Path, old: str, new: str, message: str) -> None:
    assert old in FAMILY
    (folder / "toy.toml").write_text(FAMILY.replace(old, new))
    assert refusal(folder).startswith(f"{folder}/toy.toml:{message}")


def refusal(folder: Path) -> str:
    with pytest.raises(UserError) as error:
        read_folder([folder])
    return str(error.value)


# Chips on a base


OTHER = """name = "other"
base = "chip"
summary = "the same with more cores"
[figures]
cores = { value = 8, unit = "core", source = "datasheet page 2", status = "datasheet" }
"""


def test_a_chip_takes_from_its_base_what_it_does_not_give(folder: Path) -> None:
    (folder / "chip.toml").write_text(CHIP.replace("[figures]", 'triple = "x86_64-linux-gnu"\n[figures]'))
    (folder / "other.toml").write_text(OTHER)
    (folder / "a-third.toml").write_text(OTHER.replace("other", "a-third").replace('"chip"', '"other"'))
    for name in ("other", "a-third"):
        profile = get_target(name, [folder]).profile
        assert (profile.name, profile.family, profile.triple) == (name, "toy", "x86_64-linux-gnu")
        assert profile.si("cores") == 8
        assert profile.si("clock") == 2e9


def test_what_follows_from_a_changed_figure_must_change_too(folder: Path) -> None:
    peak = 'peak = { value = 8, unit = "GFLOP/s", source = "cores x clock", status = "derived" }\n'
    (folder / "chip.toml").write_text(CHIP + peak)
    (folder / "other.toml").write_text(OTHER)
    message = "5: peak = 8 is derived from cores x clock, which is 16 GFLOP/s; correct it."
    assert refusal(folder) == f"{folder}/other.toml:{message}"
    (folder / "other.toml").write_text(OTHER + peak.replace("value = 8", "value = 16"))
    assert get_target("other", [folder]).profile.si("peak") == 16e9
