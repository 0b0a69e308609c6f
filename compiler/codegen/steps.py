"""Pointwise nodes as the steps of an epilogue."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from chipfit.codegen.spec import Epilogue, Operand, Result, Step, StepArg
from chipfit.codegen.vector import POINTWISE
from chipfit.codegen.views import Unsupported
from chipfit.ir.graph import Arg, Node, Value

Bind = Callable[[Value], Operand]  # how an operand is laid out for the kernel; raises Unsupported


class Steps:
    """Collects the steps and operands of one kernel; `values` are the operands in order."""

    def __init__(self, bind: Bind, accumulator: str = "") -> None:
        self.bind = bind
        self.steps: list[Step] = []
        self.values: list[Value] = []
        self.operands: list[Operand] = []
        self.results = {accumulator: -1} if accumulator else {}

    def add(self, node: Node) -> None:
        """Appends a node's step. Raises Unsupported for what no kernel does."""
        op, arguments = spelled(node)
        self.steps.append(Step(op, tuple(self.argument(argument) for argument in arguments)))
        self.results[node.name] = len(self.steps) - 1

    def prepare(self, op: str, value: Value, operand: Operand) -> None:
        """Combines the accumulator with a value (a scale, a bias) before any node's step."""
        self.values.append(value)
        self.operands.append(operand)
        self.steps.append(Step(op, ("acc", len(self.values) - 1)))
        self.results = dict.fromkeys(self.results, len(self.steps) - 1)

    def argument(self, argument: Arg) -> StepArg:
        if not isinstance(argument, Value):
            return float(argument)  # type: ignore[arg-type]
        if argument.name not in self.results:
            return self.operand(argument)
        index = self.results[argument.name]
        return "acc" if index == len(self.steps) - 1 else Result(index)

    def operand(self, value: Value) -> int:
        if value in self.values:
            return self.values.index(value)
        self.operands.append(self.bind(value))
        self.values.append(value)
        return len(self.values) - 1

    @property
    def epilogue(self) -> Epilogue:
        return Epilogue(tuple(self.steps), tuple(self.operands))


def spelled(node: Node) -> tuple[str, Sequence[Arg]]:
    """The step that a node is, and its arguments with defaults filled in."""
    op, args, named = node.kind, tuple(node.args), dict(node.kwargs)
    if op == "gelu":
        approximate = named.pop("approximate", args[1] if len(args) > 1 else "none")
        op, args = ("gelu_tanh" if approximate == "tanh" else "gelu"), args[:1]
    elif op in ("hardtanh", "clamp"):
        op, args = bounded(op, args, named)
    elif op == "leaky_relu":
        args = (*args, named.pop("negative_slope", 0.01))[:2]
    elif op == "rsub" and len(args) > 2:
        named["alpha"] = args[2]
    elif op == "pow" and args[1] == 2:
        op, args = "square", args[:1]
    if named or op not in POINTWISE or any(not is_number(arg) and not isinstance(arg, Value) for arg in args):
        raise Unsupported(f"{node.op} with {node.args[1:]} {named}")
    return op, args


def bounded(op: str, args: tuple[Arg, ...], named: dict[str, Arg]) -> tuple[str, tuple[Arg, ...]]:
    """hardtanh and clamp as one of clamp, clamp_min and clamp_max."""
    names, defaults = (("min_val", "max_val"), (-1.0, 1.0)) if op == "hardtanh" else (("min", "max"), (None, None))
    given = [*args[1:], *(None,) * (3 - len(args))]
    low, high = (
        named.pop(name, default) if value is None else value
        for name, default, value in zip(names, defaults, given, strict=True)
    )
    if low is None or high is None:
        return ("clamp_max", (args[0], high)) if low is None else ("clamp_min", (args[0], low))
    return "clamp", (args[0], low, high)


def is_number(argument: Arg) -> bool:
    return isinstance(argument, int | float) and not isinstance(argument, bool)
