"""`FILE.py:NAME` as a function of the user's, whose mistakes are told in one sentence."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

from chipfit.errors import UserError


def load_module(file: str) -> ModuleType:
    """The Python file as a module; files beside it can be imported by it. Raises UserError where it can't be run."""
    path = Path(file)
    if not path.is_file():
        raise UserError(f"There is no file {file}: check the path.")
    spec = importlib.util.spec_from_file_location(str(path.resolve()), path)  # a name that hides no other module
    if spec is None or spec.loader is None:
        raise UserError(f"{file} is not a Python file: give one that ends in .py.")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where dataclasses look for it
    with _blamed_on(file), _beside(path):
        spec.loader.exec_module(module)
    return module


def function(module: ModuleType, name: str, file: str) -> Callable[..., Any]:
    """The module's function of that name, its errors turned into UserErrors that name it."""
    found = getattr(module, name, None)
    if not callable(found):
        raise UserError(f"{file} has no function {name or '(none was named)'}: write FILE.py:FUNCTION with one it has.")

    def called(*args: Any, **kwargs: Any) -> Any:
        with _blamed_on(f"{file}:{name}"), _beside(Path(file)):
            return found(*args, **kwargs)

    called.__wrapped__ = found  # type: ignore[attr-defined]  # so that its signature can be read
    return called


@contextmanager
def _blamed_on(what: str) -> Iterator[None]:
    """The user's code may raise anything; to the user it is one sentence, with the original as its cause."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        reason = (str(error).splitlines() or [""])[0]
        raise UserError(f"{what} raised {type(error).__name__}: {reason.rstrip('.')}; correct it.") from error


@contextmanager
def _beside(path: Path) -> Iterator[None]:
    folder = str(path.resolve().parent)
    sys.path.insert(0, folder)
    try:
        yield
    finally:
        sys.path.remove(folder)
