"""The strategies that exist: every class of a module in this folder, and any in a file that the user names."""

from __future__ import annotations

import hashlib
import importlib
import inspect
import pkgutil
from collections.abc import Mapping
from pathlib import Path

import chipfit.search.strategies
from chipfit.errors import UserError
from chipfit.frontend.function import load_module
from chipfit.passes.pipeline import Pipeline
from chipfit.search.strategies.base import Strategy


def available_strategies() -> Mapping[str, type[Strategy]]:
    """Name -> class, by name."""
    found: dict[str, type[Strategy]] = {}
    for info in pkgutil.iter_modules(chipfit.search.strategies.__path__, "chipfit.search.strategies."):
        for cls in vars(importlib.import_module(info.name)).values():
            own = inspect.isclass(cls) and issubclass(cls, Strategy) and cls.__module__ == info.name
            if own and not inspect.isabstract(cls):
                found[cls.name] = cls
    return {name: found[name] for name in sorted(found)}


def get_strategy(name: str, pipeline: Pipeline) -> type[Strategy]:
    """The strategy of that name, or FILE.py:CLASS.

    Raises UserError if there is none, or if the pipeline lacks a pass that it chooses for.
    """
    known = available_strategies()
    file, _, own = name.rpartition(":")
    found = _from_file(file, own) if file.endswith(".py") else known.get(name)
    if found is None:
        raise UserError(f"There is no strategy {name}; the strategies are {', '.join(known)}, and FILE.py:CLASS.")
    for needed in found.needs:
        if all(one.name != needed for one in pipeline.passes):
            raise UserError(f"The strategy {name} chooses for {needed}: name that in --passes too.")
    return found


def code_of(strategy: type[Strategy]) -> str:
    """The hash of the file that a strategy is in: what an edited one chose before is no longer its choice."""
    return hashlib.sha256(Path(inspect.getfile(strategy)).read_bytes()).hexdigest()


def _from_file(file: str, name: str) -> type[Strategy]:
    found = getattr(load_module(file), name, None)
    if not (inspect.isclass(found) and issubclass(found, Strategy) and not inspect.isabstract(found)):
        raise UserError(f"{file} has no strategy {name}: give a class of it that derives from chipfit's Strategy.")
    return found
