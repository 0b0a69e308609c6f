"""The cross compiler: zig's clang from PyPI, which links for any machine without a system root of its own."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from chipfit.errors import UserError

GLIBC = "2.28"  # the oldest that TVM's wheels for aarch64 run on (manylinux_2_28)
SOURCE = Path(__file__).with_name("runner.cc")
RUNNER = "runner"
RUNTIME = ("libtvm_ffi.so", "libtvm_runtime.so")  # found on the chip when the runner starts
OPTIONS = ("-std=c++17", "-O2", "-s", "-fno-sanitize=all")


def linker(triple: str) -> Callable[..., None]:
    """What TVM's `export_library` calls with the library's path and its object files."""

    def link(output: str, objects: Sequence[str], **_: Any) -> None:
        compile_for(triple, "cc", "-shared", "-o", output, *objects)

    return link


def build_runner(triple: str, folder: Path) -> None:
    """Compiles the program that runs a library on the chip into `folder`."""
    build(triple, folder / RUNNER)


@cache
def remote_runner(triple: str) -> bytes:
    """The same program as a library, for a server on the chip to load."""
    with tempfile.TemporaryDirectory() as place:
        out = Path(place, "runner.so")
        build(triple, out, "-shared", "-fPIC")
        return out.read_bytes()


def build(triple: str, out: Path, *options: str) -> None:
    from tvm_ffi import libinfo

    with tempfile.TemporaryDirectory() as place:
        include = Path(libinfo.find_include_path())
        functions = re.findall(r"\b(TVMFFI\w+)\(", (include / "tvm/ffi/c_api.h").read_text())
        stubs = [stub(triple, name, functions, Path(place)) for name in RUNTIME]
        headers = [f"-I{include}", f"-I{libinfo.find_dlpack_include_path()}"]
        given = (*OPTIONS, *options, *headers, str(SOURCE), "-Wl,--no-as-needed", *stubs)
        compile_for(triple, "c++", *given, "-o", str(out))


def stub(triple: str, name: str, functions: Sequence[str], folder: Path) -> str:
    """A library to link against that has these functions with nothing in them: the real one is on the chip."""
    source, out = folder / f"{name}.c", folder / name
    source.write_text("".join(f"void {function}(void) {{}}\n" for function in sorted(set(functions))))
    compile_for(triple, "cc", "-shared", f"-Wl,-soname,{name}", "-o", str(out), str(source))
    return str(out)


def compile_for(triple: str, tool: str, *arguments: str) -> None:
    """Runs zig's `cc` or `c++` for a machine. Raises UserError if it is not installed."""
    if importlib.util.find_spec("ziglang") is None:
        raise UserError(f"Linking for {triple} needs a cross compiler: pip install ziglang.")
    command = [sys.executable, "-m", "ziglang", tool, "-target", f"{triple}.{GLIBC}", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"The cross compiler failed:\n{done.stderr}")
