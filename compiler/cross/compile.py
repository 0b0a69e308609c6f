"""Compile for a chip that is not here: build, link, add its runner, and check the numbers where it can be emulated."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from torch import Tensor

from chipfit.codegen.check import check, probe
from chipfit.codegen.library import numpy_weights, written
from chipfit.cross.arguments import DATA, write_arguments
from chipfit.cross.emulator import emulated
from chipfit.cross.toolchain import build_runner, linker
from chipfit.errors import UserError
from chipfit.ir.graph import Graph
from chipfit.targets.registry import Target


def cross_compile(graph: Graph, target: Target, out: Path, inputs: Sequence[Tensor] | None = None) -> None:
    """Writes the library and its runner to `out`, for the machine of the target's triple.

    Where `CHIPFIT_EMULATOR` names an emulator, its numbers are compared with PyTorch's on `inputs`, or on made-up ones.
    Raises WrongResult if they differ, UserError if the target is none that LLVM links for.
    """
    triple = target.profile.triple
    if not triple:
        raise UserError(f"Target {target.name} names no machine to compile for, so chipfit can only cost it.")
    with written(graph, target, out, linker(triple)) as made:
        build_runner(triple, made)
        check_emulated(made, graph, inputs)
        (made / DATA).unlink(missing_ok=True)  # of these weights, which are not yet the final ones


def check_emulated(folder: Path, graph: Graph, inputs: Sequence[Tensor] | None = None) -> float | None:
    """Writes the library's arguments for the graph's weights; its error by an emulator, None where there is none."""
    write_arguments(folder, numpy_weights(graph))
    library = emulated(folder)
    return check(library, graph, probe(graph) if inputs is None else inputs) if library else None
