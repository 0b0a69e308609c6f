"""Budgets: what a model may cost on its chip, absolute or relative to the uncompressed model there."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from chipfit.errors import UserError

# Unit -> factor to the base unit of the quantity: milliseconds, bytes, millijoules.
UNITS: Mapping[str, Mapping[str, float]] = {
    "latency": {"s": 1e3, "ms": 1.0, "us": 1e-3},
    "memory": {"B": 1.0, "KB": 1e3, "MB": 1e6, "GB": 1e9, "KiB": 2.0**10, "MiB": 2.0**20, "GiB": 2.0**30},
    "size": {"B": 1.0, "KB": 1e3, "MB": 1e6, "GB": 1e9, "KiB": 2.0**10, "MiB": 2.0**20, "GiB": 2.0**30},
    "energy": {"J": 1e3, "mJ": 1.0, "uJ": 1e-3},
}
FORM = re.compile(r"(?P<quantity>\w+)=(?P<number>[-+]?[0-9.]+(?:e[-+]?[0-9]+)?)(?P<unit>%|[a-zA-Z]+)")


@dataclass(frozen=True)
class Limit:
    """One quantity's upper bound: a share of the uncompressed model's (`relative`), or ms, bytes, mJ."""

    quantity: str
    value: float
    relative: bool

    def absolute(self, baseline: Mapping[str, float]) -> float:
        return self.value * baseline[self.quantity] if self.relative else self.value

    def __str__(self) -> str:
        if self.relative:
            return f"{self.quantity}={self.value * 100:.4g}%"
        unit, factor = _readable_unit(self.quantity, self.value)
        return f"{self.quantity}={self.value / factor:.4g}{unit}"


@dataclass(frozen=True)
class Budget:
    """Limits that all hold at once; at least one, each quantity once."""

    limits: tuple[Limit, ...]

    def absolute(self, baseline: Mapping[str, float]) -> dict[str, float]:
        """Quantity -> bound in ms, bytes or mJ, given the uncompressed model's own figures."""
        return {limit.quantity: limit.absolute(baseline) for limit in self.limits}

    @property
    def in_milliseconds(self) -> bool:
        """Whether it limits latency itself, not its share of the uncompressed model's."""
        return any(limit.quantity == "latency" and not limit.relative for limit in self.limits)

    def __str__(self) -> str:
        return " ".join(map(str, self.limits))


def parse_budget(texts: Iterable[str]) -> Budget:
    """`("latency=60%", "memory=64MB")` as a Budget; a UserError says what can't be read or can't be."""
    limits = tuple(parse_limit(text) for text in texts)
    if not limits:
        raise UserError("No budget is given: say for example --budget latency=50%.")
    named = [limit.quantity for limit in limits]
    doubled = next((name for name in named if named.count(name) > 1), None)
    if doubled:
        raise UserError(f"The budget names {doubled} twice: give it once.")
    return Budget(limits)


def parse_limit(text: str) -> Limit:
    match = FORM.fullmatch(text.strip())
    if not match:
        raise UserError(f"The budget '{text}' can't be read: write QUANTITY=NUMBER and a unit or %, as in latency=60%.")
    quantity, number, unit = match["quantity"], _number(text, match["number"]), match["unit"]
    if quantity not in UNITS:
        raise UserError(f"The budget '{text}' names no known quantity: use one of {', '.join(UNITS)}.")
    if number <= 0:
        raise UserError(f"The budget '{text}' must be above zero.")
    if unit == "%":
        return Limit(quantity, number / 100, relative=True)
    if unit not in UNITS[quantity]:
        raise UserError(f"The budget '{text}' has an unknown unit: {quantity} takes %, {', '.join(UNITS[quantity])}.")
    return Limit(quantity, number * UNITS[quantity][unit], relative=False)


def parse_share(text: str) -> float:
    """`94%` as 0.94: the part of the teacher's quality to keep."""
    match = re.fullmatch(r"([0-9.]+)%", text.strip())
    share = _number(text, match[1]) / 100 if match else 0.0
    if not 0 < share <= 1:
        raise UserError(f"'{text}' is no share of quality: write a percentage above 0% and up to 100%, as in 94%.")
    return share


def _number(text: str, digits: str) -> float:
    try:
        return float(digits)
    except ValueError:
        raise UserError(f"'{digits}' in '{text}' is not a number.") from None


def _readable_unit(quantity: str, value: float) -> tuple[str, float]:
    """The largest decimal unit that does not exceed the value."""
    decimal = {unit: factor for unit, factor in UNITS[quantity].items() if not unit.endswith("iB")}
    fitting = [(factor, unit) for unit, factor in decimal.items() if factor <= value]
    factor, unit = max(fitting) if fitting else min((factor, unit) for unit, factor in decimal.items())
    return unit, factor
