"""Chip profiles: flat TOML files, one a chip, checked against the figures that their family declares.

A family file (`cpu.toml`) declares under `[figures]` each figure with its one unit, its bounds, and either `required`
or a default that its chips inherit. A chip file (`cortex-a76.toml`) names its family and gives figures, each with
`value`, `unit`, `source` and `status`. Adding a chip is adding a file: nothing lists them.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

from chipfit.errors import UserError

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
    name: str
    rules: Mapping[str, Rule]


@dataclass(frozen=True)
class Profile:
    """One chip. `triple` and `arch` are LLVM's names of the machine and the processor, empty where LLVM knows none."""

    name: str
    family: str
    summary: str
    figures: Mapping[str, Figure]
    triple: str = ""
    arch: str = ""

    def si(self, figure: str) -> float:
        """The figure's value in base units; KeyError if this chip's family or file does not give it."""
        return self.figures[figure].si

    def with_figures(self, figures: Mapping[str, Figure]) -> Profile:
        return replace(self, figures={**self.figures, **figures})


@dataclass(frozen=True)
class _Source:
    """A file as text and as data, to say where in it something is wrong."""

    path: Path
    text: str
    data: Mapping[str, Any]

    def wrong(self, key: str, problem: str) -> UserError:
        pattern = re.compile(rf'^\s*(\[.*\.?"?{re.escape(key)}"?\]|"?{re.escape(key)}"?\s*=)')
        numbers = [number for number, line in enumerate(self.text.splitlines(), 1) if pattern.match(line)]
        return UserError(f"{self.path.name}:{numbers[0] if numbers else 1}: {problem}")


def read_family(path: Path) -> Family:
    """The family that a file declares; UserError where the declaration itself is wrong."""
    source = _read(path)
    _check_keys(source, "the family", source.data, required=("figures",), optional=("summary",))
    rules = {name: _rule(source, name, table) for name, table in source.data["figures"].items()}
    return Family(path.stem, rules)


def read_profile(path: Path, families: Mapping[str, Family]) -> Profile:
    """The chip that a file describes, its family's defaults filled in; UserError naming file, line and fix."""
    source = _read(path)
    _check_keys(
        source, "a chip", source.data, required=("name", "family", "summary"), optional=("figures", "triple", "arch")
    )
    family = families.get(source.data["family"])
    if family is None:
        known = ", ".join(sorted(families))
        raise source.wrong("family", f"family {source.data['family']!r} is unknown; use one of {known}.")
    given = {name: _figure(source, family, name, table) for name, table in source.data.get("figures", {}).items()}
    defaults = {name: rule.default for name, rule in family.rules.items() if rule.default}
    header = {key: str(source.data[key]) for key in ("name", "summary", "triple", "arch") if key in source.data}
    return Profile(family=family.name, figures={**defaults, **given}, **header)


def read_folder(folders: Iterable[Path]) -> tuple[Mapping[str, Family], Mapping[str, Profile]]:
    """All families and chips of some folders, by name; UserError if two files describe one chip."""
    paths = [path for folder in folders for path in sorted(folder.glob("*.toml"))]
    is_family = {path: "family" not in _read(path).data for path in paths}
    families = {path.stem: read_family(path) for path in paths if is_family[path]}
    profiles: dict[str, Profile] = {}
    origin: dict[str, Path] = {}
    for path in (path for path in paths if not is_family[path]):
        profile = read_profile(path, families)
        if profile.name in profiles:
            first = origin[profile.name].name
            raise _read(path).wrong("name", f"chip {profile.name!r} is already described by {first}; rename one.")
        profiles[profile.name], origin[profile.name] = profile, path
    return families, profiles


def check_complete(profile: Profile, family: Family) -> None:
    """UserError if a figure that the family requires is missing."""
    missing = sorted(name for name, rule in family.rules.items() if rule.required and name not in profile.figures)
    if missing:
        hints = "; ".join(f"{name} ({family.rules[name].about}, in {family.rules[name].unit})" for name in missing)
        raise UserError(f"{profile.name}.toml:1: a {family.name} chip needs these figures too: {hints}.")


def _read(path: Path) -> _Source:
    try:
        text = path.read_text(encoding="utf-8")
        return _Source(path, text, tomllib.loads(text))
    except tomllib.TOMLDecodeError as error:
        raise UserError(f"{path.name}: not a valid profile: {error}.") from error


def _check_keys(
    source: _Source, owner: str, table: Mapping[str, Any], required: tuple[str, ...], optional: tuple[str, ...] = ()
) -> None:
    for key in table:
        if key not in required + optional:
            known = ", ".join(required + optional)
            raise source.wrong(key, f"{owner} has no key {key!r}; it knows {known}.")
    for key in required:
        if key not in table:
            raise source.wrong(owner, f"{owner} lacks {key!r}; add it.")


def _rule(source: _Source, name: str, table: Mapping[str, Any]) -> Rule:
    bounds = ("unit", "least", "most", "about")
    _check_keys(source, name, table, required=bounds, optional=("required", "value", "source", "status"))
    rule = Rule(table["unit"], table["least"], table["most"], table["about"], table.get("required", False))
    if "value" not in table:
        return rule
    default = {key: table.get(key, "") for key in ("value", "unit", "source", "status")}
    return replace(rule, default=_checked(source, name, rule, default))


def _figure(source: _Source, family: Family, name: str, table: Mapping[str, Any]) -> Figure:
    if name not in family.rules:
        known = ", ".join(sorted(family.rules))
        raise source.wrong(name, f"a {family.name} chip has no figure {name!r}; it knows {known}.")
    if not isinstance(table, Mapping):
        raise source.wrong(name, f"{name} is a bare value; write {{ value, unit, source, status }}.")
    _check_keys(source, name, table, required=("value", "unit", "source", "status"))
    return _checked(source, name, family.rules[name], table)


def _checked(source: _Source, name: str, rule: Rule, table: Mapping[str, Any]) -> Figure:
    value = table["value"]
    if table["unit"] != rule.unit or rule.unit not in UNITS:
        raise source.wrong(name, f"{name} is in {table['unit']!r}; give it in {rule.unit!r}.")
    if isinstance(value, bool) or not isinstance(value, int | float) or not rule.least <= value <= rule.most:
        raise source.wrong(
            name, f"{name} = {value!r} is impossible; it lies between {rule.least} and {rule.most} {rule.unit}."
        )
    if table["status"] not in STATUSES:
        raise source.wrong(name, f"{name} has status {table['status']!r}; use one of {', '.join(STATUSES)}.")
    if not table["source"]:
        raise source.wrong(name, f"{name} has no source; say where the figure comes from.")
    return Figure(float(value), rule.unit, table["source"], table["status"])
