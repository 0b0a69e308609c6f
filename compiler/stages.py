"""Stages: each writes its result under the hash of its inputs; a killed run resumes, a repeated one is free."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

PACKAGES = "chipfit", "chipfit.passes", "chipfit.targets"  # which lie in folders of their own before they're installed
DONE = "stage.json"  # written last: a folder without it is unfinished


@cache
def code() -> str:
    """A hash of chipfit's own modules: what a pass found isn't taken for what it finds once it was edited."""
    folders = (Path(import_module(package).__path__[0]) for package in PACKAGES)
    return sha256(*(file for folder in folders for file in sorted(folder.rglob("*.py"))))


def sha256(*files: Path) -> str:
    """Of what the files hold, one after the other."""
    found = hashlib.sha256()
    for file in files:
        with file.open("rb") as content:
            hashlib.file_digest(content, lambda: found)
    return found.hexdigest()


@dataclass(frozen=True)
class Done:
    """A finished stage: its folder and the key that later stages name as their input."""

    name: str
    key: str
    folder: Path

    def json(self, file: str = "result.json") -> Any:
        return json.loads((self.folder / file).read_text())


@dataclass(frozen=True)
class Stages:
    """The work directory of one run. `entered` is told each stage's name and whether it was found finished."""

    root: Path
    entered: Callable[[str, bool], None] = lambda name, found: None

    def run(self, name: str, inputs: dict[str, Any], make: Callable[[Path], None]) -> Done:
        """Calls `make(folder)` unless a finished folder exists for these inputs.

        An unfinished folder is handed to `make` again with what it holds, so a long stage can go on from its own
        checkpoints; whatever `make` writes elsewhere is not part of the stage.
        """
        key = self._key(name, inputs)
        folder = self._folder(name, key)
        found = (folder / DONE).exists()
        self.entered(name, found)
        if not found:
            folder.mkdir(parents=True, exist_ok=True)
            make(folder)
            write_json(folder / DONE, {"name": name, "inputs": inputs})
        return Done(name, key, folder)

    def growing(self, name: str, inputs: dict[str, Any]) -> Path:
        """The folder of a stage that is never finished: what is found in it counts, more is added."""
        folder = self._folder(name, self._key(name, inputs))
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def _folder(self, name: str, key: str) -> Path:
        return self.root / f"{name}-{key}"

    @staticmethod
    def _key(name: str, inputs: dict[str, Any]) -> str:
        return hashlib.sha256(json.dumps([code(), name, inputs], sort_keys=True).encode()).hexdigest()[:16]


def write_json(path: Path, data: Any) -> None:
    """Writes atomically: a reader sees the old file or the whole new one."""
    text = json.dumps(data, indent=1, sort_keys=True) + "\n"
    partial = path.with_name(path.name + ".partial")
    try:
        partial.write_text(text)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def replace_folder(new: Path, place: Path) -> None:
    """Moves the finished folder `new` to `place`, which may hold an older one; both on one file system."""
    old = place.with_name(place.name + ".old")
    shutil.rmtree(old, ignore_errors=True)
    if place.exists():
        os.replace(place, old)
    os.replace(new, place)
    shutil.rmtree(old, ignore_errors=True)
