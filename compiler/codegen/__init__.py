"""Compilation to a shared library. Importing it is light, because the runtime does."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from chipfit.codegen.runtime import Library

if TYPE_CHECKING:
    from torch import Tensor

    from chipfit.ir.graph import Graph
    from chipfit.targets.registry import Target

__all__ = ["Library", "compile_graph"]


def compile_graph(graph: Graph, target: Target, out: Path, inputs: Sequence[Tensor] | None = None) -> Library:
    """See `chipfit.codegen.library.compile_graph`, which needs torch and TVM's compiler."""
    from chipfit.codegen import library

    return library.compile_graph(graph, target, out, inputs)
