"""What a library's runner reads on the chip: its arguments in order, the weights packed as the kernels want them."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from chipfit.codegen.arrays import ALIGNMENT, Array, prepared, read_tensors
from chipfit.codegen.runtime import CONSTANTS, read_record

PLAN, DATA = "arguments.txt", "arguments.bin"


def write_arguments(folder: Path, weights: Path | Mapping[str, Array]) -> None:
    """Writes `arguments.txt` and `arguments.bin` beside the library in `folder`.

    A line of the first is `input`, `weight`, `place` or `output`, numpy's name of the type, the offset in bytes of a
    weight in the second or of a place in the arena (else 0), and the shape. Raises UserError if the weights are not the
    compiled model's.
    """
    record = read_record(folder)
    given = weights if isinstance(weights, Mapping) else read_tensors(weights)
    constants = read_tensors(folder / CONSTANTS)
    packed = (prepared(entry, given, constants) for entry in record["weights"])
    partial = folder / f"{DATA}.partial"
    with partial.open("wb") as file:
        lines = [f"threads {record['threads']}", f"arena {record['arena_bytes']}"]
        lines += [slot_line("input", entry) for entry in record["inputs"]]
        lines += [line("weight", array.dtype, offset, array.shape) for array, offset in placed(file, packed)]
        lines += [line("place", np.dtype(p["dtype"]), p["offset"], p["shape"]) for p in record["places"]]
        lines += [slot_line("output", entry) for entry in record["outputs"]]
    os.replace(partial, folder / DATA)
    (folder / PLAN).write_text("\n".join(lines) + "\n")


def placed(file: BinaryIO, arrays: Iterator[Array]) -> Iterator[tuple[Array, int]]:
    """Writes arrays one after another, each where a vector may start; yields each with its offset."""
    for array in arrays:
        file.write(bytes(-file.tell() % ALIGNMENT))
        offset = file.tell()
        file.write(np.ascontiguousarray(array).data)
        yield array, offset


def slot_line(kind: str, entry: Mapping[str, Any]) -> str:
    return line(kind, np.dtype(entry["dtype"]), 0, entry["shape"])


def line(kind: str, dtype: np.dtype[Any], offset: int, shape: tuple[int, ...]) -> str:
    return " ".join(map(str, (kind, dtype.str, offset, *shape)))
