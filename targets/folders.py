"""Where chip files lie: this folder, those that the user names, and those of installed packages."""

from __future__ import annotations

import os
from collections.abc import Iterator
from importlib.metadata import EntryPoint, entry_points
from importlib.util import find_spec
from pathlib import Path

from chipfit.errors import UserError

SHIPPED = Path(__file__).parent
VARIABLE = "CHIPFIT_TARGETS"
GROUP = "chipfit.targets"


def all_folders() -> tuple[Path, ...]:
    """Ours first, each once. Raises UserError if the user or a package names one that isn't there."""
    found = (SHIPPED, *_named_folders(), *_plugged_in_folders())
    return tuple(dict.fromkeys(folder.resolve() for folder in found))


def _named_folders() -> Iterator[Path]:
    for name in filter(None, os.environ.get(VARIABLE, "").split(os.pathsep)):
        if not Path(name).is_dir():
            raise UserError(f"{VARIABLE} names {name}, which is no folder: correct the variable or make the folder.")
        yield Path(name)


def _plugged_in_folders() -> Iterator[Path]:
    for entry in entry_points(group=GROUP):
        yield from _folders_of(entry)


def _folders_of(entry: EntryPoint) -> list[Path]:
    """The folder of the module that a package announces, found without running the module."""
    owner = entry.dist.name if entry.dist else entry.value
    try:
        spec = find_spec(entry.value)
    except ImportError:
        spec = None
    if spec and spec.submodule_search_locations:
        return [Path(place) for place in spec.submodule_search_locations]
    if spec and spec.origin:
        return [Path(spec.origin).parent]
    raise UserError(f"The chips {entry.value} of {owner} can't be found: there is no such module; uninstall it.")
