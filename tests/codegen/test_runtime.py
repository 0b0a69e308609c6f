"""Libraries run without torch and the compiler, and say in a sentence what is wrong with what they are given."""

import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import zoo
from torch import Tensor, nn

from chipfit.codegen import Library, check, compile_graph
from chipfit.codegen.library import write_weights
from chipfit.codegen.runtime import CONSTANTS, LARGE, LIBRARY, RECORD
from chipfit.errors import UserError
from chipfit.frontend.importer import import_model
from chipfit.ir.apply import rebatch
from chipfit.ir.emit import run
from chipfit.ir.graph import Graph
from chipfit.targets.registry import get_target

RUN = """
import sys
from pathlib import Path
import numpy as np
from chipfit.codegen.runtime import Library
folder = Path(sys.argv[1])
library = Library.load(folder, folder / "weights.safetensors", threads=1)
(result,) = library(np.load(folder / "input.npy"))
np.save(folder / "result.npy", result)
loaded = {"torch", "tvm", "chipfit.ir", "chipfit.targets"} & set(sys.modules)
assert not loaded, loaded
"""


@pytest.fixture(scope="module")
def graph() -> Graph:
    return rebatch(zoo.imported("llama"), 1)


@pytest.fixture(scope="module")
def folder(graph: Graph, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("compiled") / "library"
    compile_graph(graph, get_target("host"), folder)
    write_weights(graph, folder / "weights.safetensors")
    return folder


@pytest.fixture
def library(folder: Path) -> Library:
    return Library.load(folder, folder / "weights.safetensors", threads=1)


@pytest.fixture
def tokens(graph: Graph) -> Any:
    return check.probe(graph)[0].numpy()


def arrays(graph: Graph) -> Mapping[str, Any]:
    return {name: tensor.numpy() for name, tensor in graph.state.items()}


def test_a_fresh_process_needs_neither_torch_nor_the_compiler(graph: Graph, folder: Path, tokens: Any) -> None:
    np.save(folder / "input.npy", tokens)
    subprocess.run([sys.executable, "-c", RUN, str(folder)], check=True)
    (expected,) = run(graph, *check.probe(graph)).values()
    assert check.relative_error(np.load(folder / "result.npy"), expected.numpy()) < check.TOLERANCE


def test_nothing_half_written_lies_beside_the_library(folder: Path) -> None:
    assert {path.name for path in folder.parent.iterdir()} == {"library"}
    assert {LIBRARY, RECORD, CONSTANTS, "weights.safetensors"} <= {path.name for path in folder.iterdir()}


def test_results_outlive_the_next_call(library: Library, tokens: Any) -> None:
    (first,) = library(tokens)
    copy = first.copy()
    (second,) = library((tokens + 1) % zoo.VOCABULARY)
    assert np.array_equal(first, copy)
    assert not np.array_equal(first, second)


class Sum(nn.Module):
    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return x + 2 * y


@pytest.mark.parametrize("form", ["as it is", "starting between vectors", "every other column", "read only", "float64"])
def test_large_inputs_are_read_however_they_lie(form: str, tmp_path: Path) -> None:
    x, y = torch.randn(1, 200, 128), torch.randn(1, 200, 128)
    assert x.nbytes > LARGE
    library = compile_graph(rebatch(import_model(Sum(), (x, y)), 1), get_target("host"), tmp_path / "library")
    given = (
        np.zeros(x.numel() + 1, np.float32)[1:].reshape(x.shape) if form == "starting between vectors" else x.numpy()
    )
    given[...] = x.numpy()
    given = np.repeat(given, 2, -1)[..., ::2] if form == "every other column" else given
    given = given.astype(np.float64) if form == "float64" else given
    if form == "read only":
        given.flags.writeable = False
    for factor in (1.0, 3.0):
        (result,) = library(given, factor * y.numpy())
        assert np.allclose(result, (x + 2 * factor * y).numpy(), atol=1e-5)
        assert np.array_equal(given, x.numpy())


def test_threads_do_not_change_the_numbers(folder: Path, graph: Graph, tokens: Any) -> None:
    results = [Library.load(folder, arrays(graph), threads)(tokens)[0] for threads in (1, 2)]
    assert np.array_equal(*results)


def test_integers_of_another_width_are_taken(library: Library, tokens: Any) -> None:
    assert np.array_equal(library(tokens)[0], library(tokens.astype(np.int32))[0])


def test_kernel_times_are_of_the_kernels(library: Library, tokens: Any) -> None:
    library(tokens)
    times = library.kernel_times(repeats=2)
    assert all(milliseconds > 0 for _, milliseconds in times)
    assert sum(name.startswith("matmul") for name, _ in times) == 22
    assert sum(name.startswith("attention") for name, _ in times) == 3


def test_wrong_inputs_are_refused(library: Library, tokens: Any) -> None:
    with pytest.raises(UserError, match="takes 1 inputs, not 2"):
        library(tokens, tokens)
    with pytest.raises(UserError, match=r"has shape \(8,\), but the library takes \(1, 8\)"):
        library(tokens[0])
    with pytest.raises(UserError, match="is float64, but the library takes int64"):
        library(tokens * 0.5)


@pytest.mark.parametrize("wrong", [-1, zoo.VOCABULARY])
def test_tokens_that_are_none_are_refused(library: Library, tokens: Any, wrong: int) -> None:
    tokens = tokens.copy()
    tokens[0, 3] = wrong
    with pytest.raises(UserError, match=f"a table of {zoo.VOCABULARY} rows"):
        library(tokens)


class Lookup(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.randn(10, 4))

    def forward(self, rows: Tensor) -> Tensor:
        return self.table[rows]


def test_no_memory_beyond_a_table_is_read(tmp_path: Path) -> None:
    net, rows = Lookup(), torch.tensor([1, 2, 3])
    library = compile_graph(import_model(net, (rows,)), get_target("host"), tmp_path / "library", (rows,))
    (found,) = library(rows.numpy() + 10**9)
    assert np.array_equal(found, net.table.detach()[[9, 9, 9]].numpy())


def test_wrong_weights_are_refused(folder: Path, graph: Graph) -> None:
    weights = dict(arrays(graph))
    name = next(name for name, tensor in weights.items() if "q_proj" in name and tensor.ndim == 2)
    with pytest.raises(UserError, match=f"Weight {name} is float32"):
        Library.load(folder, weights | {name: weights[name][:-1]})
    del weights[name]
    with pytest.raises(UserError, match=f"no tensor {name}"):
        Library.load(folder, weights)


def test_missing_and_damaged_files_are_named(folder: Path, graph: Graph, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=f"no readable {RECORD}"):
        Library.load(tmp_path, arrays(graph))
    (tmp_path / "weights.safetensors").write_bytes(b"no tensors")
    with pytest.raises(UserError, match="no readable safetensors file"):
        Library.load(folder, tmp_path / "weights.safetensors")
