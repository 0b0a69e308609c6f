"""Results that belong to one graph or entry point, computed once and gone with it."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import TypeVar

from chipfit.ir.graph import EntryPoint, Graph

Owner = TypeVar("Owner", Graph, EntryPoint)
Result = TypeVar("Result")


def per_graph(function: Callable[[Owner], Result]) -> Callable[[Owner], Result]:
    """Remembers the result in the object itself, as `functools.cached_property` would.

    Graphs never change, and a graph derived from another is a new object, so nothing remembered is ever stale.
    """
    key = f"{function.__module__}.{function.__qualname__}"

    @wraps(function)
    def remembered(graph: Owner) -> Result:
        if key not in graph.__dict__:
            graph.__dict__[key] = function(graph)
        result: Result = graph.__dict__[key]
        return result

    return remembered
