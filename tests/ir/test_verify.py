from dataclasses import replace

import pytest
import torch
import zoo

from chipfit.ir.graph import Graph, Node, TensorType, Value
from chipfit.ir.verify import InvalidGraph, verify

GRAPH = zoo.imported("two-inputs")


def with_nodes(nodes: list[Node]) -> Graph:
    return GRAPH.with_entry(replace(GRAPH.forward, nodes=tuple(nodes)))


def changed(kind: str, **fields: object) -> Graph:
    """The graph with the first node of a kind changed."""
    nodes = list(GRAPH.forward.nodes)
    place = next(i for i, node in enumerate(nodes) if node.kind == kind)
    nodes[place] = replace(nodes[place], **fields)
    return with_nodes(nodes)


@pytest.mark.parametrize("name", zoo.ZOO)
def test_imported_graphs_verify(name):
    verify(zoo.imported(name))


def test_use_before_definition():
    with pytest.raises(InvalidGraph, match="reads conv2d, which is neither a parameter nor computed before"):
        verify(with_nodes([GRAPH.forward.nodes[1], GRAPH.forward.nodes[0], *GRAPH.forward.nodes[2:]]))


def test_results_must_be_computed():
    with pytest.raises(InvalidGraph, match="the result of forward reads mul"):
        verify(with_nodes(list(GRAPH.forward.nodes[:-1])))


def test_doubled_names():
    first, second = (node for node in GRAPH.forward.nodes if node.kind == "relu")
    doubled = replace(second, outputs=(replace(second.outputs[0], name=first.name),))
    nodes = [doubled if node is second else node for node in GRAPH.forward.nodes]
    with pytest.raises(InvalidGraph, match="Two values are named relu"):
        verify(with_nodes(nodes))


def test_a_value_named_like_a_parameter():
    with pytest.raises(InvalidGraph, match=r"Two values are named head\.bias"):
        verify(changed("tanh", outputs=(Value("head.bias", TensorType((2, 8), torch.float32)),)))


def test_unknown_parameter():
    parameters = {name: held for name, held in GRAPH.parameters.items() if name != "head.weight"}
    with pytest.raises(InvalidGraph, match=r"reads head\.weight, which is neither"):
        verify(replace(GRAPH, parameters=parameters))


@pytest.mark.parametrize("tensor", [torch.zeros(4, 11), torch.zeros(4, 12, dtype=torch.float64)])
def test_state_of_another_type(tensor):
    with pytest.raises(InvalidGraph, match=r"Parameter head\.weight is recorded as"):
        verify(GRAPH.with_state({"head.weight": tensor}))


def test_missing_state():
    state = {name: tensor for name, tensor in GRAPH.state.items() if name != "head.weight"}
    with pytest.raises(InvalidGraph, match="holds nothing"):
        verify(replace(GRAPH, state=state))


@pytest.mark.parametrize("kind", [TensorType((2, 9), torch.float32), TensorType((2, 8), torch.float64)])
def test_recorded_type_that_the_op_does_not_give(kind):
    nodes = [node for node in GRAPH.forward.nodes if node.kind == "conv2d"]
    wrong = replace(nodes[0].outputs[0], type=kind)
    with pytest.raises(InvalidGraph, match=r"conv2d = aten\.conv2d\.default is recorded as"):
        verify(changed("conv2d", outputs=(wrong,)))


def test_a_reader_that_sees_another_type():
    tanh = next(node for node in GRAPH.forward.nodes if node.kind == "tanh")
    wrong = replace(tanh.inputs[0], type=TensorType((2, 9), torch.float32))
    with pytest.raises(InvalidGraph, match="tanh reads linear as"):
        verify(changed("tanh", args=(wrong,)))


def test_arguments_that_do_not_fit():
    with pytest.raises(InvalidGraph, match=r"mean = aten\.mean\.dim can't be applied to its arguments"):
        verify(changed("mean", args=(next(n for n in GRAPH.forward.nodes if n.kind == "mean").args[0], (7,))))


def test_an_op_that_is_not_there():
    with pytest.raises(InvalidGraph, match="can't be applied"):
        verify(changed("tanh", op="aten.no_such_op.default"))


def test_equal_numbers_of_different_types_are_told_apart():
    x = Value("x", TensorType((2,), torch.int64))

    def scaled(by: float, dtype: torch.dtype) -> Graph:
        node = Node("aten.mul.Tensor", (x, by), (), (Value("y", TensorType((2,), dtype)),))
        return Graph({"forward": replace(GRAPH.forward, inputs=(x,), nodes=(node,), outputs=node.outputs)}, {}, {})

    verify(scaled(2, torch.int64))
    verify(scaled(2.0, torch.float32))
    with pytest.raises(InvalidGraph):
        verify(scaled(2.0, torch.int64))
