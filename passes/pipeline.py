"""A sequence of passes, its text form `a,b{option=value}`, and the runner that checks every step."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import MISSING, dataclass, fields, replace
from typing import Any, get_type_hints

from chipfit.errors import UserError
from chipfit.ir.graph import Graph
from chipfit.ir.verify import verify
from chipfit.passes.base import Context, Pass, PassError, PassResult, PostconditionError, PreconditionError
from chipfit.passes.registry import available_passes

_QUOTED = r'"(?:[^"\\]|\\.)*"'
_PASS = re.compile(rf'\s*(?P<name>[\w-]+)\s*(?:\{{(?P<options>(?:[^{{}}"]|{_QUOTED})*)\}}\s*)?(?P<end>,|$)')
_OPTION = re.compile(rf'\s*(?P<name>\w+)\s*=\s*(?P<value>{_QUOTED}|[^\s,{{}}"]+)\s*(?P<end>,|$)')
_BARE = re.compile(r'[^\s,{}"]+')


@dataclass(frozen=True)
class Step:
    """One pass as it ran, for observers; `seconds` is its wall time without the checks."""

    index: int
    total: int
    done: Pass
    before: Graph
    result: PassResult
    seconds: float


Observer = Callable[[Step], None]


@dataclass(frozen=True)
class Pipeline:
    """Passes in the order in which they run; `str()` gives the text that `parse` reads back."""

    passes: tuple[Pass, ...]

    def __str__(self) -> str:
        return ",".join(to_text(one) for one in self.passes)

    def run(self, graph: Graph, context: Context, observe: Observer | None = None) -> PassResult:
        """Run every pass and check the graph before and after each.

        The result's configuration is the context's, as far as no pass replaced it. `observe` is called after each pass.
        Raises `PreconditionError`, `PostconditionError`, `PassError`, and lets `UserError` and `OSError` through.
        """
        modified, names = False, [one.name for one in self.passes]
        for index, one in enumerate(self.passes):
            started = graph
            result, seconds = run_pass(one, graph, context, names[:index])
            graph, modified = result.graph, modified or result.modified
            context = replace(context, configuration=result.configuration or context.configuration)
            if observe:
                observe(Step(index, len(self.passes), one, started, result, seconds))
        return PassResult(graph, modified, context.configuration)


def run_pass(one: Pass, graph: Graph, context: Context, before: Sequence[str]) -> tuple[PassResult, float]:
    """One pass between its checks, and its own seconds; `before` names the passes that ran earlier, for its errors."""
    with _blamed_on(one, before, PreconditionError):
        verify(graph)
        one.requires(graph, context)
    start = time.perf_counter()
    with _blamed_on(one, before, PassError):
        result = one.run(graph, context)
    seconds = time.perf_counter() - start
    with _blamed_on(one, before, PostconditionError):
        verify(result.graph)
        one.ensures(graph, result.graph, context)
    return result, seconds


@contextmanager
def _blamed_on(one: Pass, before: Sequence[str], kind: type[PassError]) -> Iterator[None]:
    try:
        yield
    except PassError as error:
        raise type(error)(error.problem, one.name, before) from error
    except (UserError, OSError):
        raise
    except Exception as error:
        raise kind(f"{type(error).__name__}: {error}", one.name, before) from error


def options(cls: type[Pass]) -> Mapping[str, type]:
    """Option name -> bool, int, float or str, in the order of the fields."""
    hints = get_type_hints(cls)
    return {field.name: hints[field.name] for field in fields(cls)}


def to_text(one: Pass) -> str:
    """`name{option=value,...}` with the options that differ from their defaults."""
    changed = [
        f"{field.name}={_print(getattr(one, field.name))}"
        for field in fields(one)
        if field.default is MISSING or getattr(one, field.name) != field.default
    ]
    return one.name + ("{" + ",".join(changed) + "}" if changed else "")


def _print(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str) and not _BARE.fullmatch(value):
        return json.dumps(value)
    return str(value)


def parse(spec: str, passes: Mapping[str, type[Pass]] | None = None) -> Pipeline:
    """The pipeline that `spec` describes, as in `prune-axes,compensate{samples=32},distill{seconds=200}`.

    Raises `UserError` for a text that is none, an unknown pass or option, and a value that an option can't take.
    """
    known = available_passes() if passes is None else passes
    found = _scan(_PASS, spec, "pipeline", "name or name{option=value,...}, with commas between passes")
    return Pipeline(tuple(_build(match["name"], match["options"] or "", known) for match in found))


def _scan(pattern: re.Pattern[str], text: str, what: str, form: str) -> list[re.Match[str]]:
    """`text` cut into matches that end in a comma, but for the last, which ends the text."""
    found: list[re.Match[str]] = []
    position, wanted = 0, bool(text.strip())
    while wanted:
        match = pattern.match(text, position)
        if match is None:
            place = repr(text[position:]) if text[position:] else "its end"
            raise UserError(f"The {what} {text!r} can't be read at {place}; write {form}.")
        found.append(match)
        position, wanted = match.end(), match["end"] == ","
    return found


def _build(name: str, text: str, known: Mapping[str, type[Pass]]) -> Pass:
    if name not in known:
        raise UserError(f"There is no pass named {name}; the passes are {', '.join(known)}.")
    cls = known[name]
    types, values = options(cls), dict[str, Any]()
    for match in _scan(_OPTION, text, f"option list of {name}", "option=value,..."):
        option, value = match["name"], match["value"]
        if option not in types:
            raise UserError(f"Pass {name} has no option {option}; {_offered(types)}.")
        if option in values:
            raise UserError(f"Pass {name} was given the option {option} twice; give it once.")
        values[option] = _convert(name, option, value, types[option])
    return cls(**values)


def _offered(types: Mapping[str, type]) -> str:
    listed = ", ".join(f"{option} ({kind.__name__})" for option, kind in types.items())
    return f"its options are {listed}" if listed else "it has no options"


def _convert(name: str, option: str, text: str, kind: type) -> Any:
    try:
        value = json.loads(text) if text.startswith('"') else text
        return {"true": True, "false": False}[value] if kind is bool else kind(value)
    except (ValueError, KeyError):
        words = {bool: "true or false", int: "a whole number", float: "a number"}.get(kind, "a text")
        raise UserError(f"The option {option} of pass {name} must be {words}, not {text}.") from None
