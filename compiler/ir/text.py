"""The graph as text that people read and `from_text` parses back. Tensors stay outside.

    graph batch=2
    parameter @head.weight: f32[10,64] also @tied.weight
    entry forward(%x: f32[2,64])
      %linear: f32[2,10] = aten.linear.default(%x, @head.weight, none) # head
      return %linear

`%` marks a value, `@` a parameter; `# head` names the PyTorch module that a node came from. Characters of a name that
would end it are written as `%` and their code point in hexadecimal and `;`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import replace

import torch

from chipfit.ir.graph import Arg, EntryPoint, Graph, Node, Parameter, Value, map_values
from chipfit.ir.notation import Line, dtype_text, escape, type_text, unescape

ROLES = ("parameter", "buffer", "constant")


def to_text(graph: Graph) -> str:
    lines = [f"graph batch={'none' if graph.batch is None else graph.batch}"]
    lines += [_parameter(parameter) for parameter in graph.parameters.values()]
    for entry in graph.entries.values():
        lines += _entry(entry, graph.parameters)
    return "\n".join(lines) + "\n"


def canonical_text(graph: Graph) -> str:
    """The text without what a trip through PyTorch may change: value names, module names, the parameters' order."""
    entries = {entry.name: _renamed(entry) for entry in graph.entries.values()}
    parameters = {name: graph.parameters[name] for name in sorted(graph.parameters)}
    return to_text(replace(graph, entries=entries, parameters=parameters))


def _renamed(entry: EntryPoint) -> EntryPoint:
    """The entry point with its values numbered in order and its modules forgotten."""
    values = [*entry.inputs, *(value for node in entry.nodes for value in node.outputs)]
    names = {value.name: replace(value, name=f"v{i}") for i, value in enumerate(values)}

    def rename(items: tuple[Value, ...]) -> tuple[Value, ...]:
        return tuple(names.get(value.name, value) for value in items)

    nodes = []
    for node in entry.nodes:
        args = tuple(map_values(arg, names) for arg in node.args)
        kwargs = tuple((key, map_values(arg, names)) for key, arg in node.kwargs)
        nodes.append(Node(node.op, args, kwargs, rename(node.outputs)))
    return EntryPoint(entry.name, rename(entry.inputs), tuple(nodes), rename(entry.outputs))


def _parameter(parameter: Parameter) -> str:
    also = "".join(f" also @{escape(alias)}" for alias in parameter.aliases)
    return f"{parameter.role} @{escape(parameter.name)}: {type_text(parameter.value.type)}{also}"


def _entry(entry: EntryPoint, parameters: Mapping[str, Parameter]) -> Iterable[str]:
    yield f"entry {entry.name}({', '.join(_declared(value) for value in entry.inputs)})"
    for node in entry.nodes:
        args = [_argument(arg, parameters) for arg in node.args]
        args += [f"{key}={_argument(arg, parameters)}" for key, arg in node.kwargs]
        module = f" # {escape(node.module)}" if node.module else ""
        yield f"  {', '.join(_declared(value) for value in node.outputs)} = {node.op}({', '.join(args)}){module}"
    yield "  return " + ", ".join(_argument(value, parameters) for value in entry.outputs)


def _declared(value: Value) -> str:
    return f"%{escape(value.name)}: {type_text(value.type)}"


def _argument(argument: Arg, parameters: Mapping[str, Parameter]) -> str:
    match argument:
        case Value():
            return ("@" if argument.name in parameters else "%") + escape(argument.name)
        case tuple():
            return f"[{', '.join(_argument(item, parameters) for item in argument)}]"
        case str():
            return json.dumps(argument)
        case torch.dtype():
            return dtype_text(argument)
        case torch.memory_format():
            return str(argument).removeprefix("torch.")
        case _:
            return str(argument).lower()  # numbers, true, false, none


def from_text(text: str) -> Graph:
    """The graph that `to_text` printed, its state on the meta device. Raises ValueError naming an unreadable line."""
    return _Reader(text).graph()


class _Reader:
    """Reads a graph line by line; values are known by name once they are declared."""

    def __init__(self, text: str) -> None:
        self.lines = [Line(line, i) for i, line in enumerate(text.splitlines() or [""], 1) if line.strip() or i == 1]
        self.parameters: dict[str, Parameter] = {}
        self.values: dict[str, Value] = {}

    def graph(self) -> Graph:
        header = self.lines.pop(0)
        header.take("graph")
        header.take("batch")
        header.take("=")
        batch = header.next()
        while self.lines and self.lines[0].peek() in ROLES:
            self.parameter(self.lines.pop(0))
        entries = {}
        while self.lines:
            entry = self.entry()
            entries[entry.name] = entry
        types = {name: parameter.value.type for name, parameter in self.parameters.items()}
        state = {name: torch.empty(kind.shape, dtype=kind.dtype, device="meta") for name, kind in types.items()}
        return Graph(entries, self.parameters, state, None if batch == "none" else int(batch))

    def parameter(self, line: Line) -> None:
        role, value = line.take(*ROLES), line.declared()
        aliases = []
        while line.skip("also"):
            aliases.append(line.name())
        self.parameters[value.name] = Parameter(value, role, tuple(aliases))

    def entry(self) -> EntryPoint:
        header = self.lines.pop(0)
        header.take("entry")
        name = header.next()
        header.take("(")
        inputs = header.declarations(")")
        self.values = {value.name: value for value in inputs}
        nodes = []
        while self.lines and self.lines[0].peek() != "return":
            nodes.append(self.node(self.lines.pop(0)))
            self.values.update((value.name, value) for value in nodes[-1].outputs)
        if not self.lines:
            raise header.error("a matching return line")
        return EntryPoint(name, inputs, tuple(nodes), self.returned(self.lines.pop(0)))

    def node(self, line: Line) -> Node:
        outputs = line.declarations("=")
        op = line.next()
        line.take("(")
        args: list[Arg] = []
        kwargs: list[tuple[str, Arg]] = []
        while not line.skip(")"):
            token = line.next()
            if line.skip("="):
                kwargs.append((token, self.argument(line, line.next())))
            else:
                args.append(self.argument(line, token))
            line.skip(",")
        module = unescape(line.next().removeprefix("# ")) if line.peek() else ""
        return Node(op, tuple(args), tuple(kwargs), outputs, module)

    def argument(self, line: Line, token: str) -> Arg:
        if token == "[":
            items: list[Arg] = []
            while not line.skip("]"):
                items.append(self.argument(line, line.next()))
                line.skip(",")
            return tuple(items)
        return self.value(line, token) if token[0] in "%@" else line.literal(token)

    def value(self, line: Line, token: str) -> Value:
        name = unescape(token[1:])
        if token[0] == "@" and name in self.parameters:
            return self.parameters[name].value
        if token[0] == "%" and name in self.values:
            return self.values[name]
        raise line.error(f"a value that is declared before it is read, not {token},")

    def returned(self, line: Line) -> tuple[Value, ...]:
        line.take("return")
        values = []
        while line.peek():
            values.append(self.value(line, line.next()))
            line.skip(",")
        return tuple(values)
