"""Run a compiled library: numpy and TVM's runtime alone, neither torch nor the compiler."""

from __future__ import annotations

import ctypes
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import numpy.typing as npt

from chipfit.codegen.arrays import ALIGNMENT, Array, aligned, placed, read_tensors, together
from chipfit.codegen.ffi import ffi
from chipfit.codegen.threads import start_threads
from chipfit.errors import UserError

LIBRARY, RECORD, CONSTANTS = "library.so", "library.json", "constants.safetensors"
CPU, POOLED = 1, 2  # DLPack's kDLCPU, the VM's pooling allocator
LARGE = 2**16  # bytes from which on handing over an input is quicker than copying it


@dataclass(frozen=True, slots=True)
class Slot:
    """An input or output as the caller sees it; `dtype` is numpy's name.

    The elements of an input with `rows` are numbers of rows of a table of so many.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    rows: int | None = None


class Library:
    """A compiled model: `library(*arrays)` gives a tuple of arrays. One call at a time."""

    def __init__(self, module: Any, record: Mapping[str, Any], weights: Sequence[Array], threads: int) -> None:
        self.inputs = tuple(slot(entry) for entry in record["inputs"])
        self.outputs = tuple(slot(entry) for entry in record["outputs"])
        self.threads = threads
        self.memory_bytes = int(record["memory_bytes"])  # weights as they are packed, inputs, outputs and the arena
        self._machine = module["vm_load_executable"]()
        self._machine["vm_initialization"](CPU, 0, POOLED)
        self._buffers = tuple(aligned(np.zeros(entry.shape, entry.dtype)) for entry in self.inputs)
        self._weights = tuple(map(aligned, weights))
        self._copied = tuple(ffi().from_dlpack(buffer) for buffer in self._buffers)
        self._arena = tuple(placed(record))
        self._fixed = tuple(ffi().from_dlpack(array) for array in (*self._weights, *self._arena))
        self._machine["save_function"]("main", "bound", 1, *self._copied, *self._fixed)
        self._bound, self._main = self._machine["bound"], self._machine["main"]
        self._run: Callable[[], Any] = self._bound
        self._part = start_threads(threads)

    @staticmethod
    def load(folder: Path, weights: Path | Mapping[str, Array], threads: int | None = None) -> Library:
        """The library in `folder` with its weights, a safetensors file or arrays by their PyTorch names.

        `threads` is by default what the library was compiled for. Raises UserError if a file is missing or damaged,
        or if the weights are not those of the model that was compiled.
        """
        record = read_record(folder)
        given = weights if isinstance(weights, Mapping) else read_tensors(weights)
        constants = read_tensors(folder / CONSTANTS)
        packed = together(record["weights"], given, constants)
        count = record["threads"] if threads is None else threads
        if record["matrix_unit"]:
            allow_matrix_unit()
        return Library(ffi().load_module(str(folder / LIBRARY)), record, packed, count)

    def __call__(self, *arrays: npt.ArrayLike) -> tuple[Array, ...]:
        """Raises UserError if the inputs differ in number or shape from those that the library was compiled for."""
        self.take(arrays)
        self._part()
        results = map(np.from_dlpack, self._run())
        pairs = zip(self.outputs, results, strict=True)
        return tuple(found if found.shape == entry.shape else found.reshape(entry.shape) for entry, found in pairs)

    def take(self, arrays: Sequence[npt.ArrayLike]) -> None:
        """Makes these the inputs of what runs next: large ones are read where they lie if they can be, the rest copied.

        Raises UserError as a call does.
        """
        if len(arrays) != len(self.inputs):
            raise UserError(f"This library takes {len(self.inputs)} inputs, not {len(arrays)}; pass exactly those.")
        read = list(self._copied)
        for index, (entry, buffer, given) in enumerate(zip(self.inputs, self._buffers, arrays, strict=True)):
            array = checked(entry, np.asarray(given))
            there = seen(array) if array.nbytes >= LARGE and array.dtype == buffer.dtype else None
            if there is None:
                np.copyto(buffer, array, casting="same_kind")
            else:
                read[index] = there
        alike = all(mine is other for mine, other in zip(read, self._copied, strict=True))
        self._run = self._bound if alike else partial(self._main, *read, *self._fixed)

    def kernel_times(self, repeats: int = 10) -> list[tuple[str, float]]:
        """(kernel, milliseconds) in the order of execution, the least of some runs on the last inputs."""
        runs = [self._timed() for _ in range(repeats)]
        names = [name for name, _ in runs[0]]
        return [(name, min(run[index][1] for run in runs)) for index, name in enumerate(names)]

    def _timed(self) -> list[tuple[str, float]]:
        times: list[tuple[str, float]] = []
        started = 0.0

        def watch(_function: Any, name: str, before: bool, *_: Any) -> int:
            nonlocal started
            if before:
                started = perf_counter()
            elif not name.startswith("vm.builtin"):
                times.append((name, 1e3 * (perf_counter() - started)))
            return 0

        self._machine["set_instrument"](ffi().convert(watch))
        self._part()
        try:
            self._run()
        finally:
            self._machine["set_instrument"](None)
        return times


def slot(entry: Mapping[str, Any]) -> Slot:
    return Slot(entry["name"], tuple(entry["shape"]), entry["dtype"], entry.get("rows"))


def checked(entry: Slot, array: Array) -> Array:
    if array.shape != entry.shape:
        raise UserError(f"Input {entry.name} has shape {array.shape}, but the library takes {entry.shape}.")
    if array.dtype != entry.dtype and not np.can_cast(array.dtype, entry.dtype, "same_kind"):
        raise UserError(f"Input {entry.name} is {array.dtype}, but the library takes {entry.dtype}.")
    if entry.rows is not None and array.size and not 0 <= array.min() <= array.max() < entry.rows:
        raise UserError(
            f"Input {entry.name} has elements from {array.min()} to {array.max()}, but the model has a table of "
            f"{entry.rows} rows for them; pass numbers from 0 to {entry.rows - 1}."
        )
    return array


def read_record(folder: Path) -> dict[str, Any]:
    try:
        record: dict[str, Any] = json.loads((folder / RECORD).read_text())
    except (OSError, ValueError) as error:
        raise UserError(f"{folder} holds no readable {RECORD} ({error}); compile the model again.") from error
    return record


def seen(array: Array) -> Any:
    """An array as TVM's kernels read it where it lies; None where it must be copied to be read.

    TVM takes none that can't be written, though nothing writes to it.
    """
    if not array.flags.writeable:
        return None
    try:
        return ffi().from_dlpack(array, require_alignment=ALIGNMENT, require_contiguous=True)
    except RuntimeError:  # it has no type of its own for what isn't aligned or not contiguous
        return None


def allow_matrix_unit() -> None:
    """Asks Linux to let this process use AMX's tiles, as it must be asked once (Documentation/arch/x86/xstate.rst)."""
    arch_prctl, request_permission, tile_data = 158, 0x1023, 18
    if ctypes.CDLL(None, use_errno=True).syscall(arch_prctl, request_permission, tile_data):
        raise UserError("This system does not let programs use AMX, which the library needs; compile it again here.")
