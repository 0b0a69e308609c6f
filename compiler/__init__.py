"""chipfit: hardware-aware model compression, compiled and measured."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if __name__ != "chipfit":
    raise ImportError("Import this package as `chipfit`, not as `compiler`: a second copy would double its registries.")

if TYPE_CHECKING:
    from chipfit.api import compile as compile  # noqa: A004

__all__ = ["compile"]


def __getattr__(name: str) -> Any:
    """`chipfit.compile`, imported when it is asked for: running a library needs neither torch nor the compiler."""
    if name == "compile":
        from chipfit.api import compile  # noqa: A004

        return compile
    raise AttributeError(f"chipfit has no {name}.")
