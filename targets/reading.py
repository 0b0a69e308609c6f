"""Chip profiles read: flat TOML files, one a chip, checked against the figures that their family declares.

A family file (`cpu.toml`) declares under `[figures]` each figure with its one unit, its bounds, and either `required`
or a default that its chips inherit. A chip file (`cortex-a76.toml`) names its family and gives figures, each with
`value`, `unit`, `source` and `status`; or it names another chip as its `base` and gives what differs. Adding a chip is
adding a file: nothing lists them.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from types import MappingProxyType
from typing import Any

from chipfit.errors import UserError
from chipfit.targets.profile import STATUSES, UNITS, Family, Figure, Profile, Rule
from chipfit.targets.toml_file import TomlFile, complaint, read_toml

HEADER = ("name", "summary", "family", "base", "triple", "arch")
FIGURE = ("value", "unit", "source", "status")
RULE = ("unit", "least", "most", "about")
KEBAB_CASE = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")


def read_family(path: Path) -> Family:
    """The family that a file declares; UserError where the declaration itself is wrong."""
    return _family(read_toml(path))


def read_profile(
    path: Path, families: Mapping[str, Family], bases: Mapping[str, Profile] = MappingProxyType({})
) -> Profile:
    """The chip that a file describes, what its base and family give filled in; UserError naming file, line and fix."""
    file = read_toml(path)
    name = _chip_name(file)
    _check_new(file, f"chip {name!r}", bases.get(name))
    return _profile(file, families, bases)


def read_folder(folders: Iterable[Path]) -> tuple[Mapping[str, Family], Mapping[str, Profile]]:
    """All families and chips of some folders, by name; UserError if two files describe one, or a base is unknown."""
    files = [read_toml(path) for folder in folders for path in sorted(folder.glob("*.toml"))]
    families: dict[str, Family] = {}
    chips: dict[str, TomlFile] = {}
    for file in files:
        if is_family(file):
            family = _family(file)
            _check_new(file, f"family {family.name!r}", families.get(family.name))
            families[family.name] = family
        else:
            name = _chip_name(file)
            _check_new(file, f"chip {name!r}", chips.get(name))
            chips[name] = file
    profiles: dict[str, Profile] = {}
    for name in _bases_first(chips):
        profiles[name] = _profile(chips[name], families, profiles)
    return families, profiles


def is_family(file: TomlFile) -> bool:
    """Whether a file declares a family: it names neither itself nor what it belongs to."""
    return not {"name", "family", "base"} & set(file.data)


def check_complete(profile: Profile, family: Family) -> None:
    """UserError if a figure that the family requires is missing."""
    missing = sorted(name for name, rule in family.rules.items() if rule.required and name not in profile.figures)
    if missing:
        hints = "; ".join(f"{name} ({family.rules[name].about}, in {family.rules[name].unit})" for name in missing)
        path = profile.path or Path(f"{profile.name}.toml")
        raise complaint(path, 1, f"a {family.name} chip needs these figures too: {hints}.")


def _check_new(file: TomlFile, what: str, known: Family | Profile | TomlFile | None) -> None:
    if known and known.path and known.path.resolve() != file.path.resolve():
        raise file.wrong(f"{what} is already described by {known.path}; rename one.", "name")


def _bases_first(chips: Mapping[str, TomlFile]) -> Iterable[str]:
    """The chips' names, each after its base's."""
    bases = {name: file.data.get("base") for name, file in chips.items()}
    for name, base in bases.items():
        if base is not None and base not in chips:
            raise _unknown_base(chips[name], chips)
    try:
        return tuple(TopologicalSorter({name: [base] if base else [] for name, base in bases.items()}).static_order())
    except CycleError as error:
        first = min(error.args[1])
        problem = f"base {bases[first]!r} leads back to {first!r}; give one of them a family instead of a base."
        raise chips[first].wrong(problem, "base") from error


def _unknown_base(file: TomlFile, known: Iterable[str]) -> UserError:
    return file.wrong(f"base {file.data['base']!r} is unknown; use one of {', '.join(sorted(known))}.", "base")


def _chip_name(file: TomlFile) -> str:
    """The name in a chip's file, whose header is checked."""
    file.check_keys("a chip", file.data, required=("name", "summary"), optional=(*HEADER[2:], "figures"))
    for key in HEADER:
        if key in file.data and not (isinstance(file.data[key], str) and file.data[key]):
            raise file.wrong(f"{key} = {file.data[key]!r} is no text; write it in quotes.", key)
    name = str(file.data["name"])
    if not KEBAB_CASE.fullmatch(name):
        raise file.wrong(f"name {name!r} is not in lower case with hyphens; write it as 'my-chip-2'.", "name")
    if ("family" in file.data) == ("base" in file.data):
        raise file.wrong("a chip names either its family or its base; give one of the two.", "base", "family")
    return name


def _profile(file: TomlFile, families: Mapping[str, Family], bases: Mapping[str, Profile]) -> Profile:
    start = _start(file, families, bases)
    family = families[start.family]
    given = {name: _figure(file, family, name, table) for name, table in _tables(file, FIGURE).items()}
    header = {key: file.data[key] for key in ("name", "summary", "triple", "arch") if key in file.data}
    figures = {**start.figures, **given}
    _check_derived(file, figures)
    return replace(start, figures=figures, path=file.path, **header)


def _start(file: TomlFile, families: Mapping[str, Family], bases: Mapping[str, Profile]) -> Profile:
    """What a chip starts from: its base, or what its family gives every chip."""
    if "base" in file.data:
        if file.data["base"] not in bases:
            raise _unknown_base(file, bases)
        return bases[file.data["base"]]
    family = families.get(file.data["family"])
    if family is None:
        known = ", ".join(sorted(families))
        raise file.wrong(f"family {file.data['family']!r} is unknown; use one of {known}.", "family")
    return Profile("", family.name, "", {name: rule.default for name, rule in family.rules.items() if rule.default})


def _check_derived(file: TomlFile, figures: Mapping[str, Figure]) -> None:
    """UserError if a derived figure's source is a product of others and its value is not, to 2%.

    So a chip that changes a figure of its base can't inherit what followed from the old one.
    """
    for name, figure in figures.items():
        expected = _product(figure, figures)
        if figure.status == "derived" and expected and not math.isclose(figure.si, expected, rel_tol=0.02):
            follows = f"{expected / UNITS[figure.unit]:.4g} {figure.unit}"
            formula = figure.source.partition(";")[0]
            problem = f"{name} = {figure.value:g} is derived from {formula}, which is {follows}; correct it."
            raise file.wrong(problem, name, *formula.split())


def _product(figure: Figure, figures: Mapping[str, Figure]) -> float | None:
    """What a source such as `cores x clock x 16; a remark` comes to in base units; None if it is no such formula."""
    words = figure.source.partition(";")[0].split()
    value, factors, operators = 1.0, words[::2], ["x", *words[1::2]]
    if not set(factors) & set(figures) or len(factors) != len(operators) or not set(operators) <= {"x", "/"}:
        return None
    for factor, operator in zip(factors, operators, strict=True):
        if factor not in figures and not re.fullmatch(r"[0-9.]+", factor):
            return None
        one = figures[factor].si if factor in figures else float(factor)
        value = value * one if operator == "x" else value / one
    return value


def _family(file: TomlFile) -> Family:
    file.check_keys("the family", file.data, required=("figures",), optional=("summary",))
    return Family(
        file.path.stem, {name: _rule(file, name, table) for name, table in _tables(file, RULE).items()}, file.path
    )


def _tables(file: TomlFile, keys: tuple[str, ...]) -> Mapping[str, Mapping[str, Any]]:
    """The figures as they are written, each a table, of these keys."""
    figures = file.data.get("figures", {})
    if not isinstance(figures, Mapping):
        raise file.wrong("figures is a bare value; write them below a line [figures].", "figures")
    for name, table in figures.items():
        if not isinstance(table, Mapping):
            raise file.wrong(f"{name} is a bare value; write {{ {', '.join(keys)} }}.", name)
    return figures


def _rule(file: TomlFile, name: str, table: Mapping[str, Any]) -> Rule:
    file.check_keys(name, table, required=RULE, optional=("required", "value", "source", "status"))
    if table["unit"] not in UNITS:
        raise file.wrong(f"{name} is in {table['unit']!r}, which is unknown; use one of {', '.join(UNITS)}.", name)
    if not (_is_number(table["least"]) and _is_number(table["most"]) and table["least"] <= table["most"]):
        raise file.wrong(f"{name} has no bounds; give numbers, least no greater than most.", name)
    rule = Rule(table["unit"], table["least"], table["most"], table["about"], table.get("required", False))
    if "value" not in table:
        return rule
    default = {key: table.get(key, "") for key in FIGURE}
    return replace(rule, default=_checked(file, name, rule, default))


def _figure(file: TomlFile, family: Family, name: str, table: Mapping[str, Any]) -> Figure:
    if name not in family.rules:
        known = ", ".join(sorted(family.rules))
        raise file.wrong(f"a {family.name} chip has no figure {name!r}; it knows {known}.", name)
    file.check_keys(name, table, required=FIGURE)
    return _checked(file, name, family.rules[name], table)


def _checked(file: TomlFile, name: str, rule: Rule, table: Mapping[str, Any]) -> Figure:
    value = table["value"]
    if table["unit"] != rule.unit:
        raise file.wrong(f"{name} is in {table['unit']!r}; give it in {rule.unit!r}.", name)
    if not _is_number(value) or not rule.least <= value <= rule.most:
        bounds = f"between {rule.least} and {rule.most} {rule.unit}"
        raise file.wrong(f"{name} = {value!r} is impossible; it lies {bounds}.", name)
    if table["status"] not in STATUSES:
        raise file.wrong(f"{name} has status {table['status']!r}; use one of {', '.join(STATUSES)}.", name)
    if not (isinstance(table["source"], str) and table["source"]):
        raise file.wrong(f"{name} has no source; say where the figure comes from.", name)
    return Figure(float(value), rule.unit, table["source"], table["status"])


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
