"""The text form of pipelines, and the runner's checks around every pass."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from chipfit.errors import UserError
from chipfit.ir.configuration import Configuration
from chipfit.ir.graph import EntryPoint, Graph, Node, TensorType, Value
from chipfit.passes.base import Context, Pass, PassError, PassResult, PostconditionError, PreconditionError
from chipfit.passes.pipeline import Pipeline, Step, parse

X, Y = (Value(name, TensorType((2, 3), torch.float32)) for name in "xy")
GRAPH = Graph({"forward": EntryPoint("forward", (X,), (Node("aten.relu.default", (X,), (), (Y,)),), (Y,))}, {}, {}, 2)
CONTEXT = Context(teacher=GRAPH)


@dataclass(frozen=True)
class Toy(Pass):
    """Does nothing; its fields have every type that an option may have."""

    name: ClassVar[str] = "toy"
    summary: ClassVar[str] = "does nothing"
    flag: bool = False
    count: int = 3
    share: float = 0.5
    text: str = "plain"

    def run(self, graph: Graph, context: Context) -> PassResult:
        return PassResult(graph, False)


@dataclass(frozen=True)
class Bare(Toy):
    name: ClassVar[str] = "no-options"


PASSES = {"toy": Toy, "bare": Bare}
TOYS = st.builds(
    Toy, st.booleans(), st.integers(), st.floats(allow_nan=False), st.text(st.characters(exclude_categories=["Cs"]))
)


@given(st.lists(TOYS, max_size=3))
def test_text_round_trips(passes: list[Toy]) -> None:
    pipeline = Pipeline(tuple(passes))
    assert parse(str(pipeline), PASSES) == pipeline


@pytest.mark.parametrize("spec", ["", "toy", "toy,toy{count=7}", 'toy{flag=true,text="a,{b}\\"c"},toy{share=1e-05}'])
def test_canonical_text_prints_as_it_was_read(spec: str) -> None:
    assert str(parse(spec, PASSES)) == spec


def test_spaces_and_empty_braces_are_read() -> None:
    assert parse(" toy { count = 4 , flag=true } , toy{}", PASSES) == Pipeline((Toy(flag=True, count=4), Toy()))


FORM = "write name or name{option=value,...}, with commas between passes."


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("toy,", f"The pipeline 'toy,' can't be read at its end; {FORM}"),
        ("toy{count=1", f"The pipeline 'toy{{count=1' can't be read at 'toy{{count=1'; {FORM}"),
        ("toy,,toy", f"The pipeline 'toy,,toy' can't be read at ',toy'; {FORM}"),
        ("toy{count}", "The option list of toy 'count' can't be read at 'count'; write option=value,...."),
        ("tyo", "There is no pass named tyo; the passes are toy, bare."),
        ("toy{speed=1}",
         "Pass toy has no option speed; its options are flag (bool), count (int), share (float), text (str)."),
        ("toy{count=1,count=2}", "Pass toy was given the option count twice; give it once."),
        ("toy{count=few}", "The option count of pass toy must be a whole number, not few."),
        ("toy{share=half}", "The option share of pass toy must be a number, not half."),
        ("toy{flag=yes}", "The option flag of pass toy must be true or false, not yes."),
    ],
)  # fmt: skip
def test_errors_say_what_to_write(spec: str, message: str) -> None:
    with pytest.raises(UserError) as error:
        parse(spec, PASSES)
    assert str(error.value) == message


def test_observer_sees_each_step_and_configuration_is_handed_on() -> None:
    chosen = Configuration(dropped=frozenset({"block"}))

    @dataclass(frozen=True)
    class Chooses(Toy):
        def run(self, graph: Graph, context: Context) -> PassResult:
            return PassResult(graph, True, chosen)

    @dataclass(frozen=True)
    class Expects(Toy):
        def requires(self, graph: Graph, context: Context) -> None:
            assert context.configuration == chosen

    steps: list[Step] = []
    result = Pipeline((Chooses(), Expects())).run(GRAPH, CONTEXT, steps.append)
    assert (result.modified, result.configuration) == (True, chosen)
    assert [(s.index, s.total, type(s.done), s.result.modified) for s in steps] == [
        (0, 2, Chooses, True),
        (1, 2, Expects, False),
    ]


def broken(graph: Graph) -> Graph:
    """The graph with an output that nothing computes."""
    lost = Value("lost", Y.type)
    return graph.with_entry(replace(graph.forward, outputs=(lost,)))


def failing(where: str, error: Exception) -> Toy:
    def fail(self: Toy, *_: object) -> None:
        raise error

    return type("Failing", (Toy,), {where: fail, "name": "failing"})()


@pytest.mark.parametrize(
    ("where", "raised", "expected", "message"),
    [
        ("requires", PreconditionError("give it data."), PreconditionError,
         "Pass failing can't run (run before it: toy): give it data."),
        ("run", ZeroDivisionError("oh"), PassError,
         "Pass failing failed (run before it: toy): ZeroDivisionError: oh"),
        ("ensures", PostconditionError("it grew."), PostconditionError,
         "Pass failing broke its promise (run before it: toy): it grew."),
        ("ensures", KeyError("oh"), PostconditionError,
         "Pass failing broke its promise (run before it: toy): KeyError: 'oh'"),
        ("run", UserError("Your mistake."), UserError, "Your mistake."),
        ("run", OSError("disk full"), OSError, "disk full"),
    ],
)  # fmt: skip
def test_errors_name_the_pass_and_those_before(
    where: str, raised: Exception, expected: type[Exception], message: str
) -> None:
    with pytest.raises(expected) as error:
        Pipeline((Toy(), failing(where, raised))).run(GRAPH, CONTEXT)
    assert type(error.value) is expected
    assert str(error.value) == message


def test_precondition_is_the_users_error_and_others_are_ours() -> None:
    assert issubclass(PreconditionError, UserError)
    assert not issubclass(PostconditionError, UserError)


def test_graph_is_verified_before_and_after() -> None:
    with pytest.raises(PreconditionError, match=r"Pass toy can't run \(run before it: no other pass\): InvalidGraph"):
        Pipeline((Toy(),)).run(broken(GRAPH), CONTEXT)

    @dataclass(frozen=True)
    class Breaks(Toy):
        def run(self, graph: Graph, context: Context) -> PassResult:
            return PassResult(broken(graph), True)

    with pytest.raises(PostconditionError, match="Pass toy broke its promise"):
        Pipeline((Breaks(),)).run(GRAPH, CONTEXT)
