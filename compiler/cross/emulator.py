"""Another chip's library as a function: by an emulator of its machine, or anything else that runs its programs."""

from __future__ import annotations

import os
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from chipfit.codegen.arrays import Array
from chipfit.codegen.runtime import read_record
from chipfit.cross.toolchain import RUNNER

VARIABLE = "CHIPFIT_EMULATOR"  # a program that runs the program of another machine that its arguments are


@dataclass(frozen=True)
class Emulated:
    """`library(*arrays)` gives a tuple of arrays, in a process of its own each time: for numbers, not for timing."""

    folder: Path
    emulator: str

    def __call__(self, *arrays: Array) -> tuple[Array, ...]:
        """Raises RuntimeError with what the runner said if it fails."""
        with tempfile.TemporaryDirectory() as place:
            files = [str(Path(place, f"in{index}.npy")) for index in range(len(arrays))]
            for file, array in zip(files, arrays, strict=True):
                np.save(file, np.ascontiguousarray(array))
            command = [self.emulator, str(self.folder / RUNNER), str(self.folder), place, "--", *files]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                raise RuntimeError(f"The library's runner failed: {done.stderr.strip()}")
            count = len(read_record(self.folder)["outputs"])
            return tuple(np.load(Path(place, f"{index}.npy")) for index in range(count))


def emulated(folder: Path) -> Emulated | None:
    """The library in `folder`, None where no emulator is set up."""
    emulator = os.environ.get(VARIABLE)
    return Emulated(folder, emulator) if emulator else None
