"""The strategies that exist: every class of a module in this folder."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from collections.abc import Mapping
from pathlib import Path

import chipfit.search.strategies
from chipfit.errors import UserError
from chipfit.passes.pipeline import Pipeline
from chipfit.search.strategies.base import Strategy
from chipfit.stages import sha256


def available_strategies() -> Mapping[str, type[Strategy]]:
    """Name -> class, by name."""
    found: dict[str, type[Strategy]] = {}
    for info in pkgutil.iter_modules(chipfit.search.strategies.__path__, "chipfit.search.strategies."):
        for cls in vars(importlib.import_module(info.name)).values():
            own = inspect.isclass(cls) and issubclass(cls, Strategy) and cls.__module__ == info.name
            if own and not inspect.isabstract(cls):
                found[cls.name] = cls
    return {name: found[name] for name in sorted(found)}


def get_strategy(name: str) -> type[Strategy]:
    """The strategy of that name; UserError if there is none."""
    known = available_strategies()
    if name not in known:
        raise UserError(f"There is no strategy {name}; the strategies are {', '.join(known)}, and FILE.py:CLASS.")
    return known[name]


def ensure_passes(strategy: type[Strategy], pipeline: Pipeline) -> None:
    """Raises UserError if the pipeline lacks a pass that the strategy chooses for."""
    for needed in strategy.needs:
        if all(one.name != needed for one in pipeline.passes):
            raise UserError(f"The strategy {strategy.name} chooses for {needed}: name that in --passes too.")


def code_of(strategy: type[Strategy]) -> str:
    """The hash of the file that a strategy is in: what an edited one chose before is no longer its choice."""
    return sha256(Path(inspect.getfile(strategy)))
