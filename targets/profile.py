"""What a chip is: figures, each with its unit, its source, and how far it can be trusted."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType

STATUSES = ("datasheet", "derived", "measured", "unverified")

# What one of each unit is in seconds, bytes, hertz, operations; counts and ratios are themselves.
UNITS: Mapping[str, float] = MappingProxyType(
    {
        **dict.fromkeys(("core", "bit", "register", "thread", "FLOP/cycle", "MAC/cycle", "W", "ratio"), 1.0),
        **{"B": 1.0, "KiB": 2.0**10, "MiB": 2.0**20, "GiB": 2.0**30, "GB": 1e9},
        **{"GHz": 1e9, "GB/s": 1e9, "GFLOP/s": 1e9, "TFLOP/s": 1e12, "TOP/s": 1e12},
        **{"us": 1e-6, "ns": 1e-9, "ps": 1e-12},
        **{"nm": 1e-9, "B/cycle": 1.0, "pJ/B": 1e-12},
    }
)


@dataclass(frozen=True)
class Figure:
    """One number about a chip and where it comes from; `status` is one of `STATUSES`."""

    value: float
    unit: str
    source: str
    status: str

    @property
    def si(self) -> float:
        """The value in base units: seconds, bytes, hertz, operations per second."""
        return self.value * UNITS[self.unit]


@dataclass(frozen=True)
class Rule:
    """What a family demands of one figure."""

    unit: str
    least: float
    most: float
    about: str
    required: bool = False
    default: Figure | None = None


@dataclass(frozen=True)
class Family:
    """A kind of chip; `path` is the file that declares it."""

    name: str
    rules: Mapping[str, Rule]
    path: Path | None = field(default=None, compare=False)


@dataclass(frozen=True)
class Profile:
    """One chip, described by the file `path`.

    `triple` and `arch` are LLVM's names of the machine and the processor, empty where LLVM knows none; `features` what
    the processor has whether or not LLVM knows it of that name.
    """

    name: str
    family: str
    summary: str
    figures: Mapping[str, Figure]
    triple: str = ""
    arch: str = ""
    features: tuple[str, ...] = ()
    path: Path | None = field(default=None, compare=False)

    def si(self, figure: str) -> float:
        """The figure's value in base units; KeyError if this chip's family or file does not give it."""
        return self.figures[figure].si

    def with_figures(self, figures: Mapping[str, Figure]) -> Profile:
        return replace(self, figures={**self.figures, **figures})
