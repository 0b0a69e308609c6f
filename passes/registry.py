"""The passes that exist: those in this package and those that installed distributions announce as entry points."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import re
from collections.abc import Iterator, Mapping
from importlib.metadata import EntryPoint, entry_points

import chipfit.passes
from chipfit.errors import UserError
from chipfit.passes.base import Pass

GROUP = "chipfit.passes"
KEBAB_CASE = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")


def available_passes() -> Mapping[str, type[Pass]]:
    """Pass name -> its class, by name. Raises `UserError` if two owners claim one name or a plug-in can't be loaded."""
    found: dict[str, tuple[str, type[Pass]]] = {}
    for owner, cls in (*_own_passes(), *_plugged_in_passes()):
        if cls.name in found:
            raise UserError(
                f"Two passes are named {cls.name}, by {found[cls.name][0]} and by {owner}; uninstall or rename one."
            )
        found[cls.name] = (owner, cls)
    return {name: found[name][1] for name in sorted(found)}


def _own_passes() -> Iterator[tuple[str, type[Pass]]]:
    for info in pkgutil.iter_modules(chipfit.passes.__path__, "chipfit.passes."):
        module = importlib.import_module(info.name)
        for cls in vars(module).values():
            own = inspect.isclass(cls) and issubclass(cls, Pass) and cls.__module__ == info.name
            if own and not inspect.isabstract(cls):
                yield info.name, cls


def _plugged_in_passes() -> Iterator[tuple[str, type[Pass]]]:
    for entry in entry_points(group=GROUP):
        owner = entry.dist.name if entry.dist else entry.value
        yield owner, _load(entry, owner)


def _load(entry: EntryPoint, owner: str) -> type[Pass]:
    try:
        cls = entry.load()
    except (ImportError, AttributeError) as error:
        raise UserError(f"The plug-in {entry.value} of {owner} can't be loaded: {error}; uninstall it.") from error
    if not (inspect.isclass(cls) and issubclass(cls, Pass)):
        raise UserError(f"The plug-in {entry.value} of {owner} is no subclass of chipfit's Pass; uninstall it.")
    if not KEBAB_CASE.fullmatch(getattr(cls, "name", "")):
        raise UserError(f"The pass {entry.value} of {owner} has no kebab-case name; uninstall it.")
    return cls
