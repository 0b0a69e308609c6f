import string
from dataclasses import replace

import pytest
import torch
import zoo
from hypothesis import given, settings
from hypothesis import strategies as st

from chipfit.ir.graph import EntryPoint, Graph, Node, Parameter, TensorType, Value
from chipfit.ir.text import canonical_text, from_text, to_text


@pytest.mark.parametrize("name", zoo.ZOO)
def test_real_models_round_trip(name):
    graph = zoo.imported(name)
    parsed = from_text(to_text(graph))
    assert parsed == graph
    assert list(parsed.parameters) == list(graph.parameters)
    assert to_text(parsed) == to_text(graph)
    assert all(tensor.is_meta for tensor in parsed.state.values())
    assert {key: TensorType.of(tensor) for key, tensor in parsed.state.items()} == {
        key: parameter.value.type for key, parameter in graph.parameters.items()
    }


names = st.text(min_size=1, max_size=8) | st.sampled_from(
    ["linear_3", "split.0", "x y", "%41;", "a=b[1]:#\n", "é\u2028"]
)
dtypes = st.sampled_from([torch.float32, torch.bfloat16, torch.bool, torch.int64, torch.float8_e4m3fn, torch.complex64])
types = st.builds(TensorType, st.lists(st.integers(0, 9999), max_size=3).map(tuple), dtypes)
scalars = (
    st.integers()
    | st.floats(allow_nan=False)
    | st.booleans()
    | st.none()
    | st.text()
    | dtypes
    | st.sampled_from([torch.channels_last, torch.contiguous_format, torch.preserve_format])
)
words = st.text(string.ascii_letters + "_", min_size=1, max_size=6)


@st.composite
def graphs(draw) -> Graph:
    """Graphs whose nodes have any arguments; only the references between them make sense."""
    fresh = iter(draw(st.lists(names, min_size=12, max_size=12, unique=True)))
    value = lambda: Value(next(fresh), draw(types))  # noqa: E731
    roles = draw(st.lists(st.sampled_from(["parameter", "buffer", "constant"]), max_size=2))
    held = [Parameter(value(), role, tuple(draw(st.lists(names, max_size=2)))) for role in roles]
    inputs = tuple(value() for _ in range(draw(st.integers(0, 2))))
    known = [*inputs, *(parameter.value for parameter in held)]
    nodes = []
    for _ in range(draw(st.integers(1, 3))):
        leaves = scalars | st.sampled_from(known) if known else scalars
        arguments = st.recursive(leaves, lambda inner: st.lists(inner, max_size=3).map(tuple), max_leaves=5)
        args = tuple(draw(st.lists(arguments, max_size=3)))
        kwargs = tuple(draw(st.dictionaries(words, arguments, max_size=2)).items())
        outputs = tuple(value() for _ in range(draw(st.integers(1, 2))))
        nodes.append(Node("aten.op.default", args, kwargs, outputs, draw(st.just("") | names)))
        known += outputs
    entry = EntryPoint("forward", inputs, tuple(nodes), nodes[-1].outputs)
    batch = draw(st.none() | st.integers(2, 64))
    return Graph({"forward": entry}, {parameter.name: parameter for parameter in held}, {}, batch)


def strict(graph: Graph) -> str:
    """Equality by representation, since Python calls 1, 1.0 and True equal."""
    return repr(graph)


@settings(max_examples=60, deadline=None)
@given(graphs())
def test_any_graph_round_trips(graph):
    assert strict(from_text(to_text(graph))) == strict(graph)


def test_what_it_looks_like():
    lines = to_text(zoo.imported("two-inputs")).splitlines()
    assert lines[0] == "graph batch=2"
    assert lines[1] == "parameter @image.0.weight: f32[8,3,3,3]"
    assert "entry forward(%picture: f32[2,3,16,16], %vector: f32[2,5])" in lines
    assert "  %linear: f32[2,8] = aten.linear.default(%vector, @vector.weight, @vector.bias) # vector" in lines
    assert lines[-1] == "  return %linear_2, %mul"
    tied = "parameter @network.model.embed_tokens.weight: f32[64,32] also @network.lm_head.weight"
    assert tied in to_text(zoo.imported("llama"))


def test_not_a_number_survives():
    x = Value("x", TensorType((2,), torch.float32))
    node = Node("aten.mul.Tensor", (x, float("nan")), (), (Value("y", x.type),))
    graph = Graph({"forward": EntryPoint("forward", (x,), (node,), node.outputs)}, {}, {})
    assert "(%x, nan)" in to_text(graph)
    assert to_text(from_text(to_text(graph))) == to_text(graph)


def test_canonical_text_forgets_names_and_modules_only():
    graph = zoo.imported("two-inputs")
    entry = graph.forward
    renamed = to_text(graph).replace("%relu", "%other").replace(" # vector", " # elsewhere")
    assert canonical_text(from_text(renamed)) == canonical_text(graph)
    swapped = replace(entry, outputs=entry.outputs[::-1])
    assert canonical_text(graph.with_entry(swapped)) != canonical_text(graph)


GOOD = """graph batch=2
parameter @w: f32[2]
entry forward(%x: f32[2])
  %y: f32[2] = aten.mul.Tensor(%x, @w)
  return %y
"""
BAD = {
    "unknown value": ("(%x, @w)", "(%z, @w)", 4),
    "unknown parameter": ("(%x, @w)", "(%x, @v)", 4),
    "dtype": ("@w: f32", "@w: g32", 2),
    "cut short": ("(%x, @w)", "(%x, @w", 4),
    "no result": ("  return %y\n", "", 3),
    "no header": ("graph batch", "batch", 1),
}


def test_the_good_text_is_good():
    assert to_text(from_text(GOOD)) == GOOD


@pytest.mark.parametrize("name", BAD)
def test_an_unreadable_line_is_named(name):
    old, new, line = BAD[name]
    with pytest.raises(ValueError, match=f"Line {line} of the graph's text should have"):
        from_text(GOOD.replace(old, new))


def test_an_empty_text_is_refused():
    with pytest.raises(ValueError, match="Line 1"):
        from_text("")
