"""What calibration found out about chips, in the user's cache.

The name of a file changes with the chip and with the code that makes kernels, as it was fitted on these.
"""

from __future__ import annotations

import hashlib
import os
from functools import cache
from importlib.metadata import version
from pathlib import Path

import chipfit.targets
from chipfit.errors import UserError
from chipfit.targets.calibrate import Calibration, cache_folder, to_toml
from chipfit.targets.detect import identity
from chipfit.targets.reading import read_folder, read_profile
from chipfit.targets.registry import FOLDERS, Target


class DisturbedError(UserError):
    """The times that a calibration took are none that a chip has."""


def recalled(target: Target) -> Target:
    """The chip with its measured coefficients if it has been calibrated before, else as it is."""
    if target.status == "calibrated" or not delta_path(target).is_file():
        return target
    delta = read_profile(delta_path(target), read_folder(FOLDERS)[0])
    return target.with_profile(target.profile.with_figures(delta.figures))


def keep(target: Target, found: Calibration) -> None:
    """Raises DisturbedError for figures that no chip has: what `recalled` could not read is not kept."""
    path = delta_path(target)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    partial.write_text(to_toml(target.profile, found.figures))
    try:
        read_profile(partial, read_folder(FOLDERS)[0])
    except UserError as error:
        partial.unlink()
        raise DisturbedError(
            f"{target.name} can't be calibrated by these times, it was busy: run it again ({error})"
        ) from error
    os.replace(partial, path)


def delta_path(target: Target) -> Path:
    """Where the coefficients of a chip as its file has it are kept: of the host for this processor."""
    figures = repr(sorted(target.profile.figures.items()))
    chip = identity() if target.is_host else hashlib.sha256(figures.encode()).hexdigest()[:16]
    return cache_folder() / "targets" / f"{target.name}-{chip}-{kernels_digest()}.toml"


@cache
def kernels_digest() -> str:
    """Changes with whatever changes kernels or how their work is counted: generators, tiles, fusion, probes, TVM."""
    place = Path(__file__).parent
    root = place.parent
    files = [*(root / "codegen").glob("*.py"), *(root / "ir").glob("*.py"), *place.glob("probe*.py")]
    files += Path(chipfit.targets.__path__[0]).glob("*.py")
    digest = hashlib.sha256(version("apache-tvm").encode())
    for file in sorted(files):
        digest.update(file.read_bytes())
    return digest.hexdigest()[:16]
