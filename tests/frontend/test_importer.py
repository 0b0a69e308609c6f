import pytest
import torch
import torch.nn.functional as F
import zoo
from torch import Tensor, nn

from chipfit.errors import UserError
from chipfit.frontend.importer import import_model
from chipfit.ir.emit import run
from chipfit.ir.graph import Graph


class Function(nn.Module):
    """A module around a function of the module and its inputs."""

    def __init__(self, function, **members):
        super().__init__()
        self.function = function
        for name, member in members.items():
            setattr(self, name, member)

    def forward(self, *inputs):
        return self.function(self, *inputs)


def kinds(graph: Graph) -> list[str]:
    return [node.kind for node in graph.forward.nodes]


def same_numbers(model: nn.Module, graph: Graph, inputs: tuple[Tensor, ...]) -> None:
    with torch.no_grad():
        expected = zoo.outputs_of(model(*(tensor.clone() for tensor in inputs)))
    torch.testing.assert_close(tuple(run(graph, *inputs).values()), expected)


@pytest.mark.parametrize("name", zoo.ZOO)
def test_a_graph_computes_what_its_model_does(name):
    model, inputs = zoo.ZOO[name]()
    graph = zoo.imported(name)
    assert graph.batch == 2
    same_numbers(model, graph, zoo.at_batch(inputs, graph.batch))


@pytest.mark.parametrize("name", zoo.ZOO)
def test_no_bookkeeping_is_left(name):
    graph = zoo.imported(name)
    dropped = {"alias", "clone", "contiguous", "detach", "dropout", "view", "_unsafe_view", "lift_fresh_copy"}
    assert dropped.isdisjoint(kinds(graph))
    assert not [kind for kind in kinds(graph) if kind.endswith("_") and not kind.endswith("__")]
    for node in graph.forward.nodes:
        assert not {"device", "layout", "pin_memory"} & {key for key, _ in node.kwargs}
        assert node.kind != "to" or node.inputs[0].type != node.outputs[0].type


def test_values_that_nothing_reads_are_gone():
    graph = import_model(Function(lambda self, x: (x * 2, x.exp())[0], unused=nn.Linear(3, 3)), (torch.ones(2, 3),))
    assert kinds(graph) == ["mul"]
    assert not graph.parameters


def test_layers_stay_whole():
    assert {"linear", "scaled_dot_product_attention"} <= set(kinds(zoo.imported("llama")))
    assert {"conv2d", "batch_norm"} <= set(kinds(zoo.imported("resnet")))
    assert "lstm" in kinds(zoo.imported("lstm"))


@pytest.mark.parametrize("name", ["resnet", "efficientnet"])
def test_batch_norm_comes_in_evaluation_mode(name):
    model, inputs = zoo.ZOO[name]()
    graph = import_model(model.train(), inputs)
    assert {node.args[5] for node in graph.forward.nodes if node.kind == "batch_norm"} == {False}


def test_tied_parameters_are_one():
    head = zoo.imported("llama").parameters["network.model.embed_tokens.weight"]
    assert head.aliases == ("network.lm_head.weight",)
    assert "network.lm_head.weight" not in zoo.imported("llama").parameters


def test_roles():
    graph = zoo.imported("llama")
    assert graph.parameters["mask"].role == "constant"
    assert zoo.imported("resnet").parameters["0.1.running_mean"].role == "buffer"
    lifted = import_model(Function(lambda self, x: x + torch.tensor([1.0, 2.0])), (torch.ones(2, 2),))
    assert [parameter.role for parameter in lifted.parameters.values()] == ["constant"]


def test_modules_are_named_as_in_the_model():
    modules = {node.module for node in zoo.imported("llama").forward.nodes if node.kind == "linear"}
    assert "network.model.layers.1.self_attn.q_proj" in modules


def test_state_shares_storage_with_the_model():
    model, inputs = zoo.ZOO["resnet"]()
    graph = import_model(model, inputs)
    parameters = dict(model.named_parameters())
    assert graph.state["0.0.weight"].data_ptr() == parameters["0.0.weight"].data_ptr()
    assert not graph.state["0.0.weight"].requires_grad


def test_a_model_on_meta_gives_the_same_structure():
    model, inputs = zoo.ZOO["llama-eager"]()
    graph = import_model(model.to("meta"), tuple(tensor.to("meta") for tensor in inputs))
    assert graph == zoo.imported("llama-eager")
    assert all(tensor.is_meta for tensor in graph.state.values())


MIXING = {
    "mean": lambda self, x: x - x.mean(0),
    "first": lambda self, x: x + x[:1],
    "neighbour": lambda self, x: x + x.roll(1, 0),
    "place": lambda self, x: x + torch.arange(float(len(x)))[:, None],
    "total": lambda self, x: x.sum(),
}


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("name", MIXING)
def test_a_model_that_mixes_its_examples_has_no_batch(name, batch):
    inputs = (torch.randn(batch, 4),)
    model = Function(MIXING[name])
    graph = import_model(model, inputs)
    assert graph.batch is None
    same_numbers(model, graph, inputs)


def test_the_batch_given_is_kept_where_it_is_large_enough():
    graph = import_model(nn.Linear(4, 2), (torch.zeros(3, 4),))
    assert graph.batch == 3


def test_inputs_without_a_common_batch():
    graph = import_model(Function(lambda self, x, y: x @ y), (torch.randn(2, 3), torch.randn(3, 2)))
    assert graph.batch is None


IN_PLACE = {
    "chain": lambda self, x: F.relu_(x * 2).add_(1).mul_(x),
    "read before and after": lambda self, x: (lambda y: (y.exp(), y.add_(1), y * 3)[2] + y)(x * 2),
    "copy apart": lambda self, x: (lambda y: y.clone().add_(1) + y)(x * 2),
    "cast apart": lambda self, x: (lambda y: y.to(torch.float32, copy=True).add_(1) + y)(x * 2),
    "view": lambda self, x: (lambda y: (y[:, :2].mul_(3), y)[1])(x * 2),
    "through a view": lambda self, x: (lambda y: (y.add_(1), y.view(-1))[1].reshape(x.shape) + y)(x * 2),
    "slice assignment": lambda self, x: (lambda y: (y[:, 1:].copy_(x[:, :-1]), y)[1])(torch.zeros_like(x)),
    "broadcast assignment": lambda self, x: (lambda y: (y[:, 1:].copy_(x[:, :1]), y)[1])(torch.zeros_like(x)),
    "input": lambda self, x: x.mul_(2) + 1,
    "lower precision": lambda self, x: (lambda y: y.add_(x).float())(x.half()),
    "dropout": lambda self, x: F.dropout(x * 2, 0.5, self.training).add_(1),
    "no grad": lambda self, x: no_grad_double(x),
}


def no_grad_double(x):
    y = x + 1
    with torch.no_grad():
        z = y.mul_(2)
    return y + z


@pytest.mark.parametrize("name", IN_PLACE)
def test_writes_in_place_become_new_values(name):
    inputs = (torch.randn(2, 4),)
    model = Function(IN_PLACE[name]).eval()
    graph = import_model(model, inputs)
    assert not [node.op for node in graph.forward.nodes if node.kind.endswith("_")]
    same_numbers(model, graph, inputs)


def test_functionalised_programs_keep_their_layers():
    class Sliced(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.norm, self.linear = nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Linear(5, 6)

        def forward(self, x):
            y = self.norm(self.conv(x))
            y[:, :1] += 1
            y = self.linear(y)
            return F.scaled_dot_product_attention(y, y, y)

    model = Sliced().eval()
    graph = import_model(model, (torch.randn(2, 3, 5, 5),))
    assert {"conv2d", "batch_norm", "linear", "scaled_dot_product_attention"} <= set(kinds(graph))
    same_numbers(model, graph, (torch.randn(2, 3, 5, 5),))


def test_dimensions_count_from_the_front():
    graph = import_model(Function(lambda self, x: x.transpose(-1, -2).mean(-1).unsqueeze(-1)), (torch.randn(2, 3, 4),))
    assert [node.args[1:] for node in graph.forward.nodes] == [(2, 1), ((2,),), (2,)]


def test_a_parameter_and_an_input_of_one_name():
    model = Function(lambda self, x: x * self.args_0, args_0=nn.Parameter(torch.randn(4)))
    graph = import_model(model, (torch.randn(2, 4),))
    same_numbers(model, graph, (torch.randn(2, 4),))


def autocast(self, x):
    with torch.autocast("cpu", torch.bfloat16):
        return x @ x.transpose(-1, -2)


def branch_on_data(self, x):
    return x if x.sum() > 0 else -x


def count(self, x):
    self.calls.add_(1)
    return x + self.calls


REFUSED = {
    "export": (branch_on_data, "doesn't export with torch.export: Could not guard on data-dependent expression"),
    "number": (lambda self, x: x * x.sum().item(), "aten.item.default gives a number that depends on its data"),
    "shape": (lambda self, x: x.nonzero(), "aten.nonzero.default gives a shape that depends on its data"),
    "nothing": (lambda self, x: None, "returns no tensor"),
    "autocast": (autocast, "switches autocast on"),
    "buffer": (count, "writes to its buffer calls"),
    "complex": (lambda self, x: (x * 1j).real, "complex number"),
    "control flow": (lambda self, x: torch.cond(x.sum() > 0, torch.sin, torch.cos, (x,)), "cond"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_a_graph_cannot_hold_is_refused_in_one_sentence(name, capfd):
    function, message = REFUSED[name]
    with pytest.raises(UserError) as caught:
        import_model(Function(function, calls=nn.Buffer(torch.zeros(4))), (torch.randn(2, 4),))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("inputs", [(), (3,), (torch.ones(2), None)])
def test_inputs_must_be_tensors(inputs):
    with pytest.raises(UserError, match="example inputs must be tensors"):
        import_model(nn.Identity(), inputs)
