"""Data that comes as Debian packages, which `make data` unpacks without root."""

import os
from pathlib import Path

from chipfit.errors import UserError

ROOTS = (Path("build/data"), Path("/"))


def folder(package: str, place: str, variable: str) -> Path:
    """Where a package's data lies: the folder that `variable` names, else `place` in `build/data` or as installed."""
    named = os.environ.get(variable)
    for candidate in (Path(named),) if named else [root / place for root in ROOTS]:
        if candidate.is_dir():
            return candidate
    raise UserError(f"The data of Debian's {package} is not there: run `make data`, install it, or give --data.")
