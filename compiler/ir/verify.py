"""What must hold of every graph, before and after each pass."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from chipfit.ir.emit import resolve
from chipfit.ir.graph import EntryPoint, Graph, Node, TensorType, Value


@dataclass(frozen=True)
class Scalar:
    """A plain argument; its type keeps 1, 1.0 and True apart, which Python calls equal."""

    kind: type
    value: Any


class InvalidGraph(Exception):  # noqa: N818 - the public name
    """The graph breaks a rule of the representation; the message names the place."""


def verify(graph: Graph) -> None:
    """Raises InvalidGraph unless names are unique and defined before use, tensors and types agree with the record."""
    for name, parameter in graph.parameters.items():
        if parameter.name != name:
            raise InvalidGraph(f"Parameter {name} holds a value named {parameter.name}.")
        tensor = graph.state.get(name)
        if tensor is None or TensorType.of(tensor) != parameter.value.type:
            found = "nothing" if tensor is None else TensorType.of(tensor)
            raise InvalidGraph(f"Parameter {name} is recorded as {parameter.value.type} but holds {found}.")
    for name, entry in graph.entries.items():
        if entry.name != name:
            raise InvalidGraph(f"Entry point {name} calls itself {entry.name}.")
        verify_entry(graph, entry)


def verify_entry(graph: Graph, entry: EntryPoint) -> None:
    known = {name: parameter.value for name, parameter in graph.parameters.items()}
    declare(known, entry.inputs)
    for node in entry.nodes:
        if not node.outputs:
            raise InvalidGraph(f"A node {node.op} has no outputs.")
        check_reads(known, node.inputs, node.name)
        check_types(node)
        declare(known, node.outputs)
    check_reads(known, entry.outputs, f"the result of {entry.name}")


def declare(known: dict[str, Value], values: Iterable[Value]) -> None:
    for value in values:
        if value.name in known:
            raise InvalidGraph(f"Two values are named {value.name}.")
        known[value.name] = value


def check_reads(known: dict[str, Value], values: Iterable[Value], reader: str) -> None:
    for value in values:
        if value.name not in known:
            raise InvalidGraph(f"{reader} reads {value.name}, which is neither a parameter nor computed before.")
        if known[value.name] != value:
            raise InvalidGraph(f"{reader} reads {value.name} as {value.type}, but it is {known[value.name].type}.")


def check_types(node: Node) -> None:
    """The recorded output types against those that the op gives for its arguments."""
    recorded = tuple(value.type for value in node.outputs)
    try:
        computed = output_types(node.op, anonymous(node.args), tuple((key, anonymous(arg)) for key, arg in node.kwargs))
    except (RuntimeError, TypeError, ValueError, IndexError, AttributeError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InvalidGraph(f"{node.name} = {node.op} can't be applied to its arguments: {reason}") from error
    if computed != recorded:
        raise InvalidGraph(f"{node.name} = {node.op} is recorded as {recorded} but gives {computed}.")


def anonymous(arg: Any) -> Any:
    """The argument with each value replaced by its type, so that equal calls are equal."""
    if isinstance(arg, Value):
        return arg.type
    return tuple(anonymous(item) for item in arg) if isinstance(arg, tuple) else Scalar(type(arg), arg)


@lru_cache(maxsize=65536)
def output_types(op: str, args: tuple[Any, ...], kwargs: tuple[tuple[str, Any], ...]) -> tuple[TensorType, ...]:
    """The types of an op's outputs, computed on fake tensors."""

    def fake(arg: Any) -> Any:
        if isinstance(arg, TensorType):
            return torch.empty(arg.shape, dtype=arg.dtype)
        return [fake(item) for item in arg] if isinstance(arg, tuple) else arg.value

    with FakeTensorMode(), torch.no_grad():
        result = resolve(op)(*(fake(arg) for arg in args), **{key: fake(arg) for key, arg in kwargs})
    results = [result] if isinstance(result, Tensor) else result
    return tuple(TensorType.of(tensor) for tensor in results)
