"""TOML files that say where in them something is wrong: every complaint names the file, the line and the fix."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from chipfit.errors import UserError

# How Python's parser tells of what is given twice.
DOUBLED_VALUE = "Cannot overwrite a value"
DOUBLED_NAME = re.compile(r"Duplicate inline table key '(.*)'|Cannot declare \(.*'(.*)',?\) twice")
PLACE = re.compile(r" \(at (?:line (\d+), column \d+|end of document)\)$")


@dataclass(frozen=True)
class TomlFile:
    """A file as text and as data."""

    path: Path
    text: str
    data: Mapping[str, Any]

    def wrong(self, problem: str, *keys: str) -> UserError:
        """The complaint at the line of the first of these keys that the file gives, else at its first line."""
        lines = (number for key in keys for number in lines_of(self.text, key))
        return complaint(self.path, next(lines, 1), problem)

    def check_keys(
        self, owner: str, table: Mapping[str, Any], required: tuple[str, ...], optional: tuple[str, ...] = ()
    ) -> None:
        """UserError if a table lacks a key or has one that nobody knows; a figure's keys are sought at its own line."""
        for key in table:
            if key not in required + optional:
                known = ", ".join(required + optional)
                raise self.wrong(f"{owner} has no key {key!r}; it knows {known}.", owner, key)
        for key in required:
            if key not in table:
                raise self.wrong(f"{owner} lacks {key!r}; add it.", owner)


def read_toml(path: Path) -> TomlFile:
    """The file parsed; UserError if there is none or it is no TOML, naming what is given twice."""
    try:
        text = path.read_text(encoding="utf-8")
        return TomlFile(path, text, tomllib.loads(text))
    except FileNotFoundError as error:
        raise UserError(f"There is no file {path}: check the path.") from error
    except (UnicodeDecodeError, IsADirectoryError) as error:
        raise UserError(f"{path} is no text file; name a chip's TOML file.") from error
    except tomllib.TOMLDecodeError as error:
        raise unreadable(path, text, str(error)) from error


def complaint(path: Path, line: int, problem: str) -> UserError:
    return UserError(f"{path}:{line}: {problem}")


def unreadable(path: Path, text: str, message: str) -> UserError:
    """What the parser says, at the line of the key that it is about."""
    place = PLACE.search(message)
    line = int(place[1]) if place and place[1] else len(text.splitlines())
    reason = PLACE.sub("", message)
    if named := DOUBLED_NAME.search(reason):
        return complaint(path, line, f"{named[1] or named[2]!r} is given twice; keep one.")
    if reason == DOUBLED_VALUE:
        above = (pair for pair in keys_of(text) if pair[0] <= line)  # a value may end lines below its key
        line, key = max(above, default=(line, "a key"))
        return complaint(path, line, f"{key!r} is given twice; keep one.")
    return complaint(path, line, f"this is not TOML: {reason}; correct it.")


def lines_of(text: str, key: str) -> Iterator[int]:
    """The lines that give a key: `key = ...`, `[figures.key]`, or `key.value = ...`."""
    for number, name in keys_of(text):
        if key in name.split("."):
            yield number


def keys_of(text: str) -> Iterator[tuple[int, str]]:
    for number, line in enumerate(text.splitlines(), 1):
        if found := re.match(r"""\s*\[?\s*([\w."'-]+)\s*[]=]""", line):
            yield number, re.sub("""["']""", "", found[1])
