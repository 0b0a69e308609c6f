"""TVM's runtime, without its compiler and without torch."""

from __future__ import annotations

import ctypes
import importlib.util
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

from chipfit.errors import UserError


@cache
def ffi() -> Any:
    """The `tvm_ffi` package with TVM's runtime loaded into it.

    `import tvm` would load the compiler as well, and `tvm_ffi` imports torch wherever it is installed: seconds and
    hundreds of megabytes that running a library does not need.
    """
    with hidden("torch"):
        import tvm_ffi
    found = importlib.util.find_spec("tvm")
    if found is None or found.origin is None:
        raise UserError("Running a library needs TVM's runtime; install apache-tvm.")
    ctypes.CDLL(str(Path(found.origin).parent / "lib" / "libtvm_runtime.so"), mode=ctypes.RTLD_GLOBAL)
    return tvm_ffi


@contextmanager
def hidden(package: str) -> Iterator[None]:
    """Makes importing a package fail meanwhile, unless it is already imported."""
    if package in sys.modules:
        yield
        return
    sys.modules[package] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        del sys.modules[package]
