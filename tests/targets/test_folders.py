"""Chips in a user's own folder, package or file: found without touching ours, and told apart from them."""

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from chipfit.errors import UserError
from chipfit.targets.folders import SHIPPED, VARIABLE, all_folders
from chipfit.targets.registry import get_target, target_names

CHIP = """name = "{name}"
base = "cortex-a76"
summary = "mine"
"""
FAMILY = """[figures]
fp16_peak = { unit = "TFLOP/s", least = 0.1, most = 1000, required = true, about = "fp16 peak" }
memory_bandwidth = { unit = "GB/s", least = 1, most = 10000, required = true, about = "memory bandwidth" }
"""
MEMBER = """name = "first-dsp"
family = "dsp"
summary = "a chip of a family of its own"
[figures]
fp16_peak = { value = 1, unit = "TFLOP/s", source = "made up", status = "unverified" }
memory_bandwidth = { value = 10, unit = "GB/s", source = "made up", status = "unverified" }
"""


def chip(folder: Path, name: str) -> Path:
    folder.mkdir(exist_ok=True)
    path = folder / f"{name}.toml"
    path.write_text(CHIP.format(name=name))
    return path


def refusal() -> str:
    with pytest.raises(UserError) as error:
        target_names()
    return str(error.value)


def test_folders_of_the_variable_are_searched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    chip(tmp_path / "one", "mine")
    chip(tmp_path / "two", "yours")
    monkeypatch.setenv(VARIABLE, os.pathsep.join([str(tmp_path / "one"), "", str(tmp_path / "two"), str(SHIPPED)]))
    assert all_folders() == (SHIPPED.resolve(), tmp_path / "one", tmp_path / "two")
    assert {"mine", "yours", "cortex-a76"} <= set(target_names())
    assert get_target("mine").cpu == get_target("cortex-a76").cpu


def test_a_folder_that_is_not_there_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, str(tmp_path / "none"))
    message = f"CHIPFIT_TARGETS names {tmp_path}/none, which is no folder: correct the variable or make the folder."
    assert refusal() == message


@pytest.mark.parametrize("name", ["cortex-a76", "cpu"])
def test_a_name_of_ours_is_refused_with_both_files(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / f"{name}.toml").write_text(FAMILY if name == "cpu" else CHIP.format(name=name))
    monkeypatch.setenv(VARIABLE, str(tmp_path))
    kind = "family" if name == "cpu" else "chip"
    first = SHIPPED.resolve() / f"{name}.toml"
    assert refusal() == f"{tmp_path}/{name}.toml:1: {kind} {name!r} is already described by {first}; rename one."


def test_a_family_of_the_users_own_is_costed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "dsp.toml").write_text(FAMILY)
    (tmp_path / "first-dsp.toml").write_text(MEMBER)
    monkeypatch.setenv(VARIABLE, str(tmp_path))
    target = get_target("first-dsp")
    assert (target.family, target.status) == ("dsp", "uncalibrated")
    assert target_names()[0] == "host"


# A chip by its file


def test_a_file_is_a_target(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    chip(tmp_path, "mine")
    for name in ("mine.toml", "./mine.toml", str(tmp_path / "mine.toml")):
        assert get_target(name).name == "mine"
    with pytest.raises(UserError, match="Target 'mine' is unknown"):
        get_target("mine")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("none.toml", "There is no file none.toml: check the path."),
        ("./none", "There is no file none: check the path."),
        ("cortex-a76.toml", "cortex-a76.toml:1: chip 'cortex-a76' is already described by {ours}; rename one."),
        ("lost.toml", "lost.toml:2: base 'cortex-a67' is unknown; use one of a100, "),
    ],
)
def test_a_wrong_file_is_refused(name: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    chip(tmp_path, "cortex-a76")
    (tmp_path / "lost.toml").write_text(CHIP.format(name="lost").replace("a76", "a67"))
    with pytest.raises(UserError) as error:
        get_target(name)
    assert str(error.value).startswith(message.format(ours=SHIPPED.resolve() / "cortex-a76.toml"))


# Chips of a package


def install(site: Path, module: str) -> None:
    """What an installer leaves of a distribution with one package and one entry point."""
    package = site / "acme_chips"
    chip(package, "acme-1")
    (package / "__init__.py").write_text("raise RuntimeError('nobody needs to run this')")
    info = site / "acme_chips-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: acme-chips\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[chipfit.targets]\nacme = {module}\n")


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.syspath_prepend(tmp_path)
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        del sys.modules[name]


def test_chips_of_a_package_are_found(site: Path) -> None:
    install(site, "acme_chips")
    assert "acme-1" in target_names()
    assert get_target("acme-1").family == "cpu"


@pytest.mark.parametrize("module", ["acme_chip", "acme_chip.more"])
def test_a_package_without_its_module_is_named(site: Path, module: str) -> None:
    install(site, module)
    message = f"The chips {module} of acme-chips can't be found: there is no such module; uninstall it."
    assert refusal() == message
