"""The op table: one record per op, found by walking this package for modules with `OPS`.

A new op is a new record in a new or fitting file. Ops without a record that ATen tags pointwise are pointwise; all
others are opaque: they run and are costed by their bytes, and every dimension that they touch is frozen.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterable, Mapping
from functools import cache

from chipfit.ir.graph import Node
from chipfit.ir.ops.opaque import OPAQUE
from chipfit.ir.ops.pointwise import POINTWISE
from chipfit.ir.ops.record import Op
from chipfit.ir.ops.signature import is_pointwise

__all__ = ["Op", "is_opaque", "lookup", "table"]


@cache
def table() -> Mapping[str, Op]:
    """Op name -> record."""
    modules = [importlib.import_module(f"{__name__}.{found.name}") for found in pkgutil.iter_modules(__path__)]
    return collect((module.__name__, getattr(module, "OPS", ())) for module in modules)


def collect(modules: Iterable[tuple[str, Iterable[Op]]]) -> Mapping[str, Op]:
    """The records of named modules as one table. Raises ValueError for a name that is taken."""
    found: dict[str, Op] = {}
    owners: dict[str, str] = {}
    for module, ops in modules:
        for op in ops:
            if op.name in found:
                raise ValueError(f"The op {op.name} has a record in {owners[op.name]} and another in {module}.")
            found[op.name], owners[op.name] = op, module
    return found


def lookup(node: Node) -> Op:
    return table().get(node.kind) or (POINTWISE if is_pointwise(node.op) else OPAQUE)


def is_opaque(node: Node) -> bool:
    return lookup(node).opaque
