"""A strategy by its name, or the user's own as FILE.py:CLASS."""

from __future__ import annotations

import inspect

from chipfit.errors import UserError
from chipfit.frontend.function import load_module
from chipfit.search.strategies.base import Strategy
from chipfit.search.strategies.registry import get_strategy


def named_strategy(text: str) -> type[Strategy]:
    """Raises UserError where there is none."""
    file, _, name = text.rpartition(":")
    return _from_file(file, name) if file.endswith(".py") else get_strategy(text)


def _from_file(file: str, name: str) -> type[Strategy]:
    found = getattr(load_module(file), name, None)
    if not (inspect.isclass(found) and issubclass(found, Strategy) and not inspect.isabstract(found)):
        raise UserError(f"{file} has no strategy {name}: give a class of it that derives from chipfit's Strategy.")
    return found
