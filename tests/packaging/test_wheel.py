"""The wheel that a user installs holds every package, the data files and the command."""

import os
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
SETUPTOOLS = PROJECT["tool"]["setuptools"]
FOLDERS = SETUPTOOLS["package-dir"]

IMPORT_ALL = """
import importlib, pkgutil, sys
import chipfit
assert chipfit.__file__.startswith(sys.argv[1]), chipfit.__file__
modules = [module.name for module in pkgutil.walk_packages(chipfit.__path__, "chipfit.", onerror=print)]
for name in modules:
    importlib.import_module(name)
print(len(modules))
"""


def packages_in_tree() -> set[str]:
    """Every folder with an `__init__.py`, under the name that it is imported as."""
    found = set()
    for package, folder in FOLDERS.items():
        for path in (ROOT / folder).rglob("__init__.py"):
            found.add(".".join((package, *path.parent.relative_to(ROOT / folder).parts)))
    return found


def python(*args: str, cwd: Path, **env: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, *args]
    return subprocess.run(command, cwd=cwd, env={**os.environ, **env}, capture_output=True, text=True, check=False)


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel built offline from a copy of the sources, so that no earlier build's leftovers get in."""
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for folder in FOLDERS.values():
        shutil.copytree(ROOT / folder, source / folder, ignore=shutil.ignore_patterns("__pycache__"))
    for file in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / file, source)
    built = python("-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", str(out), ".", cwd=source)
    assert built.returncode == 0, built.stderr
    return next(out.glob("chipfit-*.whl"))


@pytest.fixture(scope="session")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("installed")
    done = python("-m", "pip", "install", "--no-deps", "--no-compile", "--target", str(place), str(wheel), cwd=place)
    assert done.returncode == 0, done.stderr
    return place


def test_package_list_equals_the_tree() -> None:
    assert set(SETUPTOOLS["packages"]) == packages_in_tree()


def test_wheel_holds_all_modules_and_data(wheel: Path) -> None:
    held = set(zipfile.ZipFile(wheel).namelist())
    for package, folder in FOLDERS.items():
        for path in (ROOT / folder).rglob("*"):
            if path.suffix in {".py", ".toml", ".typed", ".safetensors"}:
                assert f"{package.replace('.', '/')}/{path.relative_to(ROOT / folder)}" in held


def test_wheel_holds_nothing_else(wheel: Path) -> None:
    tops = {name.split("/")[0] for name in zipfile.ZipFile(wheel).namelist()}
    assert tops == {"chipfit", f"chipfit-{PROJECT['project']['version']}.dist-info"}


def test_every_module_imports_from_the_wheel(installed: Path) -> None:
    done = python("-c", IMPORT_ALL, str(installed), cwd=installed, PYTHONPATH=str(installed))
    assert done.returncode == 0, done.stderr
    assert int(done.stdout.split()[-1]) > len(SETUPTOOLS["packages"])


def test_the_command_runs_from_the_wheel(installed: Path) -> None:
    done = python(str(installed / "bin/chipfit"), "--help", cwd=installed, PYTHONPATH=str(installed))
    assert done.returncode == 0, done.stderr
    assert "compile" in done.stdout


@pytest.mark.parametrize("folder", sorted(set(FOLDERS.values())))
def test_a_second_copy_is_refused(folder: str) -> None:
    done = python("-c", f"import {folder}", cwd=ROOT)
    assert done.returncode != 0
    assert "a second copy would double its registries" in done.stderr
