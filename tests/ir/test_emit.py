import pytest
import torch
import zoo

from chipfit.frontend.importer import import_model
from chipfit.ir.emit import collect, emit, run
from chipfit.ir.graph import Graph
from chipfit.ir.text import canonical_text


def batched(name: str):
    model, inputs = zoo.ZOO[name]()
    return model, zoo.at_batch(inputs, zoo.imported(name).batch)


@pytest.mark.parametrize("name", zoo.ZOO)
def test_an_emitted_module_computes_trains_and_comes_back(name):
    model, inputs = batched(name)
    graph = import_model(model, zoo.ZOO[name]()[1])
    module = emit(graph)
    expected, outputs = zoo.outputs_of(model(*inputs)), zoo.outputs_of(module(*inputs))
    torch.testing.assert_close(outputs, expected)
    sum(output.square().sum() for output in outputs).backward()
    sum(output.square().sum() for output in expected).backward()
    gradients = {key: parameter.grad for key, parameter in model.named_parameters() if parameter.grad is not None}
    torch.testing.assert_close({key: p.grad for key, p in module.named_parameters()}, gradients, atol=1e-5, rtol=1e-4)
    assert canonical_text(import_model(module, inputs)) == canonical_text(graph)


@pytest.mark.parametrize("name", zoo.ZOO)
def test_names_are_those_of_the_model(name):
    model, _ = zoo.ZOO[name]()
    state = emit(zoo.imported(name)).state_dict()
    assert set(state) <= set(model.state_dict())
    missing = set(model.state_dict()) - set(state)
    assert not {key for key in missing if not key.endswith("num_batches_tracked")}


def test_tied_names_stay_one_parameter():
    module = emit(zoo.imported("llama"))
    head = module.get_parameter("network.lm_head.weight")
    assert head is module.get_parameter("network.model.embed_tokens.weight")


def test_a_name_that_is_tied_in_a_module_made_earlier_stays_the_alias():
    class Tied(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.deep = torch.nn.Sequential(torch.nn.Sequential(torch.nn.Linear(4, 4)))
            self.flat = torch.nn.Linear(4, 4)
            self.flat.weight = self.deep[0][0].weight

        def forward(self, x):
            return self.flat(self.deep(x))

    graph = import_model(Tied(), (torch.ones(2, 4),))
    assert graph.parameters["deep.0.0.weight"].aliases == ("flat.weight",)
    assert canonical_text(import_model(emit(graph), (torch.ones(2, 4),))) == canonical_text(graph)


def test_state_is_shared_and_constants_are_not_saved():
    graph = zoo.imported("llama")
    module = emit(graph)
    name = "network.model.layers.0.mlp.up_proj.weight"
    assert module.get_parameter(name).data_ptr() == graph.state[name].data_ptr()
    assert module.get_buffer("mask").data_ptr() == graph.state["mask"].data_ptr()
    assert "mask" not in module.state_dict()


def test_training_normalises_by_the_batch_and_updates_the_statistics():
    model, inputs = batched("resnet")
    graph = import_model(model, zoo.ZOO["resnet"]()[1])
    graph = graph.with_state({name: tensor.clone() for name, tensor in graph.state.items()})
    module = emit(graph, training=True)
    expected = model.train()(*inputs)
    torch.testing.assert_close(module(*inputs), expected)
    buffers = {key: buffer for key, buffer in model.named_buffers() if not key.endswith("num_batches_tracked")}
    torch.testing.assert_close(dict(module.named_buffers()), buffers)


def test_collect_takes_copies_of_the_trained_tensors():
    model, inputs = zoo.ZOO["resnet"]()
    graph = import_model(model, inputs)
    module = emit(graph.with_state({name: tensor.clone() for name, tensor in graph.state.items()}))
    with torch.no_grad():
        module.get_parameter("0.0.weight").add_(1)
    collected = collect(graph, module)
    torch.testing.assert_close(collected.state["0.0.weight"], graph.state["0.0.weight"] + 1)
    assert collected.state["0.0.weight"].data_ptr() != module.get_parameter("0.0.weight").data_ptr()
    assert collected == graph
    assert not any(tensor.requires_grad for tensor in collected.state.values())


def test_several_outputs_are_a_tuple():
    _, inputs = batched("two-inputs")
    assert len(emit(zoo.imported("two-inputs"))(*inputs)) == 2


def intermediate(graph: Graph, kind: str) -> str:
    return next(node.name for node in graph.forward.nodes if node.kind == kind)


def test_run_keeps_what_is_named():
    _, inputs = batched("resnet")
    graph = zoo.imported("resnet")
    kept = intermediate(graph, "conv2d")
    values = run(graph, *inputs, keep=[kept])
    expected = torch.nn.functional.conv2d(inputs[0], graph.state["0.0.weight"], padding=1)
    assert list(values) == [graph.forward.outputs[0].name, kept]
    torch.testing.assert_close(values[kept], expected)


def test_run_starts_from_given_values():
    _, inputs = batched("llama")
    graph = zoo.imported("llama")
    start, result = intermediate(graph, "silu"), graph.forward.outputs[0].name
    needs_more = next(node for node in graph.forward.nodes if node.name == start).inputs[0].name
    full = run(graph, *inputs, keep=[start, needs_more])
    torch.testing.assert_close(run(graph, *inputs, given={start: full[start]})[result], full[result])
    changed = run(graph, *inputs, given={start: full[start] + 1})[result]
    assert not torch.allclose(changed, full[result])
    with pytest.raises(KeyError):
        run(graph, given={start: full[start]})


def test_run_needs_no_inputs_behind_given_values():
    _, inputs = batched("resnet")
    graph = zoo.imported("resnet")
    start, result = intermediate(graph, "flatten"), graph.forward.outputs[0].name
    full = run(graph, *inputs, keep=[start])
    torch.testing.assert_close(run(graph, given={start: full[start]})[result], full[result])


def test_a_value_that_is_given_and_kept_comes_back():
    _, inputs = batched("resnet")
    graph = zoo.imported("resnet")
    start = intermediate(graph, "flatten")
    given = torch.zeros(2, 16)
    assert run(graph, *inputs, keep=[start], given={start: given})[start] is given


def test_run_overrides_parameters_for_once():
    _, inputs = batched("resnet")
    graph = zoo.imported("resnet")
    result = graph.forward.outputs[0].name
    head = {key: torch.zeros_like(value) for key, value in graph.state.items() if value.shape[:1] == (10,)}
    assert run(graph, *inputs, overrides=head)[result].abs().max() == 0
    assert run(graph, *inputs)[result].abs().max() > 0
