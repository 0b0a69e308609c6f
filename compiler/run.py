"""Runs an artifact with numpy and TVM's runtime alone: neither torch nor the compiler is imported."""

from __future__ import annotations

import platform
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from chipfit.artifact import Artifact
from chipfit.codegen.arrays import Array
from chipfit.codegen.runtime import Library, Slot
from chipfit.errors import UserError

WEIGHTS = "weights.safetensors"  # as `chipfit.ir.store` names it, which imports torch


def run_artifact(folder: Path, file: Path | None, output: Path | None) -> dict[str, Any]:
    """Runs once on the arrays in `file` (zeros if None) and writes the outputs to `output` if that is given."""
    artifact = Artifact.open(folder)
    machine = artifact.manifest["target"]["machine"]
    if machine != platform.machine():
        raise UserError(f"{folder} is for {machine}: copy it there and call its `runner` (docs/boards.md).")
    library = Library.load(artifact.folder, artifact.folder / WEIGHTS)
    given = read_inputs(file, library.inputs) if file else zeros(library.inputs)
    library(*given)  # the first call also allocates
    start = time.perf_counter()
    results = dict(zip((slot.name for slot in library.outputs), library(*given), strict=True))
    latency = 1e3 * (time.perf_counter() - start)
    if output:
        write_outputs(output, results)
    outputs = [{"name": name, **summary(array)} for name, array in results.items()]
    return {"artifact": str(folder), "threads": library.threads, "latency_ms": latency, "outputs": outputs}


def zeros(slots: tuple[Slot, ...]) -> list[Array]:
    return [np.zeros(slot.shape, slot.dtype) for slot in slots]


def read_inputs(file: Path, slots: tuple[Slot, ...]) -> list[Array]:
    """The arrays of an npz file by the library's input names, or in its order if it names none of them."""
    if not file.is_file():
        raise UserError(f"There is no input file {file}: check the path.")
    try:
        with np.load(file, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
    except (ValueError, OSError, AttributeError) as error:
        raise UserError(f"{file} is not an npz file of plain arrays: write it with numpy.savez ({error}).") from error
    names = [slot.name for slot in slots]
    if set(arrays) == set(names):
        return [arrays[name] for name in names]
    if len(arrays) == len(names) and all(name == f"arr_{index}" for index, name in enumerate(arrays)):
        return list(arrays.values())
    raise UserError(f"{file} holds {', '.join(arrays) or 'nothing'}, but the model takes {', '.join(names)}.")


def write_outputs(file: Path, results: Mapping[str, Array]) -> None:
    with file.open("wb") as stream:
        np.savez(stream, **results)  # type: ignore[arg-type]


def summary(array: Array) -> dict[str, Any]:
    figures = {"min": float(array.min()), "max": float(array.max()), "mean": float(array.mean())}
    return {"shape": list(array.shape), "dtype": array.dtype.name, **figures}
