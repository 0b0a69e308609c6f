"""`chipfit run`: the outputs are torch's, and a fresh process needs neither torch nor the compiler."""

import json
import platform
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from chipfit.artifact import write_manifest
from chipfit.codegen import compile_graph
from chipfit.errors import UserError
from chipfit.frontend.importer import import_model
from chipfit.ir import store
from chipfit.ir.apply import rebatch
from chipfit.run import WEIGHTS, run_artifact
from chipfit.targets.registry import get_target

X = torch.linspace(-1, 1, 24).view(1, 24)


@pytest.fixture(scope="module")
def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(24, 40), nn.ReLU(), nn.Linear(40, 5)).eval()


@pytest.fixture(scope="module")
def artifact(network: nn.Module, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run") / "artifact"
    graph = rebatch(import_model(network, (X,)), 1)
    compile_graph(graph, get_target("host"), folder)
    store.save(graph, folder)
    write_manifest(folder, {"target": {"machine": platform.machine()}})
    return folder


def test_the_weights_are_where_the_store_puts_them() -> None:
    assert WEIGHTS == store.STATE


def test_outputs_are_torchs(artifact: Path, network: nn.Module, tmp_path: Path) -> None:
    np.savez(tmp_path / "in.npz", X.numpy())
    result = run_artifact(artifact, tmp_path / "in.npz", tmp_path / "out.npz")
    with np.load(tmp_path / "out.npz") as written:
        (found,) = written.values()
    np.testing.assert_allclose(found, network(X).detach().numpy(), atol=1e-6)
    assert result["outputs"][0]["shape"] == [1, 5]


def test_a_fresh_process_loads_neither_torch_nor_the_compiler(artifact: Path) -> None:
    code = "import sys; from chipfit import cli; cli.run(['run', sys.argv[1], '--json']); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code, str(artifact)], capture_output=True, text=True, check=True)
    printed, modules = done.stdout[: done.stdout.rindex("}") + 1], done.stdout[done.stdout.rindex("}") + 1 :].split()
    assert json.loads(printed)["outputs"][0]["dtype"] == "float32"
    assert not {"torch", "tvm", "transformers", "networkx"} & set(modules)


@pytest.mark.parametrize(
    ("arrays", "sentence"),
    [
        ({"a": X.numpy(), "b": X.numpy()}, "holds a, b, but the model takes"),
        ({"arr_0": X.numpy()[:, :3]}, "has shape (1, 3), but the library takes (1, 24)"),
        ({}, "holds nothing, but the model takes"),
    ],
)
def test_wrong_inputs_are_told(artifact: Path, arrays: dict[str, np.ndarray], sentence: str, tmp_path: Path) -> None:
    np.savez(tmp_path / "in.npz", **arrays)
    with pytest.raises(UserError) as told:
        run_artifact(artifact, tmp_path / "in.npz", None)
    assert sentence in str(told.value)


def test_a_file_that_is_no_npz_is_told(artifact: Path, tmp_path: Path) -> None:
    (tmp_path / "in.npz").write_text("no arrays")
    with pytest.raises(UserError, match="is not an npz file of plain arrays"):
        run_artifact(artifact, tmp_path / "in.npz", None)
