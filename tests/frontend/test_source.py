"""SOURCE in all its forms, and what the user reads where it is wrong."""

from pathlib import Path

import pytest
import torch
from torch import nn
from transformers import BertConfig, BertModel, LlamaConfig, LlamaForCausalLM

from chipfit.errors import UserError
from chipfit.examples import resnet20
from chipfit.frontend.importer import import_model
from chipfit.frontend.source import built_in_names, load_source

GOOD = """
import torch
from beside import WIDTH

def net():
    return torch.nn.Linear(WIDTH, 2), torch.zeros(1, WIDTH)

def data():
    return {"train": [(torch.ones(1, WIDTH),)], "heldout": [(torch.ones(1, WIDTH),)]}

def lists():
    return [1]

def strings():
    return torch.nn.Linear(1, 1), ("a",)

def fails():
    raise RuntimeError("no luck\\nat all")
"""


@pytest.fixture
def python_file(tmp_path: Path) -> Path:
    (tmp_path / "beside.py").write_text("WIDTH = 3\n")
    file = tmp_path / "mine.py"
    file.write_text(GOOD)
    return file


def test_a_function_of_the_users_own_file(python_file: Path) -> None:
    source = load_source(f"{python_file}:net")
    assert source.name == "mine"
    assert source.model(*source.example_inputs).shape == (1, 2)
    assert source.lineage["files"][0]["name"] == "mine.py"
    assert source.data is not None
    assert len(source.data().train) == 1


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("{folder}/none.py:net", "There is no file {folder}/none.py: check the path."),
        ("{file}:nothing", "{file} has no function nothing: write FILE.py:FUNCTION with one it has."),
        ("{file}", "{file} has no function (none was named): write FILE.py:FUNCTION with one it has."),
        ("{file}:lists", "{file}:lists must return a torch module and a tuple of example tensors, batch first."),
        ("{file}:strings", "{file}:strings must return a torch module and a tuple of example tensors, batch first."),
        ("{file}:fails", "{file}:fails raised RuntimeError: no luck; correct it."),
        ("hf:{folder}/none", "There is no file or folder {folder}/none: check the path."),
        ("hf:{folder}", "{folder} is no Hugging Face checkpoint: it has no config.json."),
        ("gguf:", "There is no file or folder (none was named): check the path."),
        ("pt2:{file}", "{file} is no exported program: write it with torch.export.save(program, file)."),
    ],
)
def test_mistakes_are_told_in_one_sentence(python_file: Path, text: str, sentence: str) -> None:
    places = {"file": python_file, "folder": python_file.parent}
    with pytest.raises(UserError) as told:
        load_source(text.format(**places))
    assert str(told.value) == sentence.format(**places)


def test_a_file_that_does_not_run_is_blamed(tmp_path: Path) -> None:
    (tmp_path / "broken.py").write_text("def f(:\n")
    with pytest.raises(UserError, match=r"broken\.py raised SyntaxError: .*; correct it\."):
        load_source(f"{tmp_path}/broken.py:f")


def test_an_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(UserError, match=r"There is no model 'resnet21': give .*\(.*minilm, mobilenetv2, resnet20"):
        load_source("resnet21")


def test_built_in_names_are_the_examples_with_a_model() -> None:
    names = built_in_names()
    assert {"efficientnet_lite0", "minilm", "mobilenetv2", "resnet20", "smollm2"} <= set(names)
    assert not {"fashion_mnist", "reference_text", "train_resnet20", "word_similarity"} & set(names)


@pytest.mark.parametrize("name", built_in_names())
def test_every_built_in_gives_its_shapes_without_weights(name: str) -> None:
    source = load_source(name, weights=False)
    assert all(tensor.is_meta for tensor in source.model.parameters())
    result = source.model(*source.example_inputs)
    assert (result[0] if isinstance(result, tuple) else result).shape[0] == 1


def test_an_exported_program_takes_other_batches(tmp_path: Path) -> None:
    network, inputs = resnet20.model()
    torch.export.save(torch.export.export(network, inputs), tmp_path / "net.pt2")
    source = load_source(f"pt2:{tmp_path}/net.pt2")
    x = torch.randn(2, 1, 28, 28)
    torch.testing.assert_close(source.model(x), network(x))
    graph = import_model(source.model, source.example_inputs)
    assert graph.batch == 2
    assert set(graph.parameters) == set(import_model(network, inputs).parameters)


def llama() -> nn.Module:
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "vocab_size": 50}
    return LlamaForCausalLM(LlamaConfig(**sizes, num_attention_heads=4, num_key_value_heads=2)).eval()


def bert() -> nn.Module:
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "vocab_size": 50}
    return BertModel(BertConfig(**sizes, num_attention_heads=4), add_pooling_layer=False).eval()


@pytest.mark.parametrize("make", [llama, bert])
@pytest.mark.parametrize("weights", [True, False])
def test_a_hugging_face_checkpoint_keeps_numbers_and_names(make, weights: bool, tmp_path: Path) -> None:
    network = make()
    network.save_pretrained(tmp_path)
    source = load_source(f"hf:{tmp_path}", weights=weights)
    assert {name for name, _ in network.named_parameters()} <= {name for name, _ in source.model.named_parameters()}
    assert {parameter.is_meta for parameter in source.model.parameters()} == {not weights}
    if weights:
        ids = torch.randint(50, source.example_inputs[0].shape)
        mask = {"attention_mask": torch.ones_like(ids)}
        expected = network(ids, **mask).to_tuple()[0]
        torch.testing.assert_close(source.model(ids, *list(mask.values())[: len(source.example_inputs) - 1]), expected)
    graph = import_model(source.model, source.example_inputs)
    assert graph.batch == 2


def test_pickled_weights_are_never_read(tmp_path: Path) -> None:
    llama().config.save_pretrained(tmp_path)
    config = (tmp_path / "config.json").read_text().replace("{", '{"architectures": ["LlamaForCausalLM"],', 1)
    (tmp_path / "config.json").write_text(config)
    (tmp_path / "pytorch_model.bin").write_bytes(b"anything")
    with pytest.raises(UserError, match=r"has no \.safetensors file: convert the weights, since pickled ones"):
        load_source(f"hf:{tmp_path}")
