"""`chipfit bench --uncompressed`: an artifact beside the model that it was made from."""

import json

import pytest

from chipfit import bench, cli
from chipfit.artifact import Artifact, write_manifest
from chipfit.bench import OURS, UNCOMPRESSED
from chipfit.codegen.library import compile_graph
from chipfit.frontend.importer import import_model
from chipfit.frontend.source import load_source
from chipfit.ir import store
from chipfit.ir.apply import rebatch
from chipfit.measure import Timing
from chipfit.targets.registry import get_target

SOURCE = """
import torch
from torch import nn

def model(width=WIDTH):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(16, width), nn.ReLU(), nn.Linear(width, 4)).eval(), (torch.zeros(1, 16),)
"""


@pytest.fixture
def source(tmp_path):
    file = tmp_path / "net.py"
    file.write_text(SOURCE.replace("WIDTH", "64"))
    return file


@pytest.fixture
def artifact(source, tmp_path):
    """Made from the source, though nothing was compressed."""
    folder, loaded = tmp_path / "artifact", load_source(f"{source}:model")
    graph = import_model(loaded.model, loaded.example_inputs)
    deployed = rebatch(graph, 1)
    compile_graph(deployed, get_target("host"), folder)
    store.save(deployed, folder)
    lineage = {"source": f"{source}:model", "model": store.digest(graph)}
    write_manifest(
        folder, {"lineage": lineage, "baseline": {"latency_ms": None}, "certificate": {"latency_ratio": 0.5}}
    )
    return folder


def test_the_certificate_is_checked_beside_the_uncompressed_model(artifact):
    found = bench.bench_model(str(artifact), (), seconds=0.2, uncompressed=True)
    assert [row["runtime"] for row in found["rows"]] == [OURS, UNCOMPRESSED]
    assert all(row["max_abs_error"] < 1e-5 for row in found["rows"])
    assert found["certificate"]["recorded_latency_ratio"] == 0.5
    assert found["certificate"]["latency_ratio"] > 0
    assert found["certificate"]["relative_error"] >= 0
    json.dumps(found)


def test_a_busy_machine_is_given_time_to_calm_down(artifact, monkeypatch):
    """The record has 2 ms for the uncompressed model; for the first two rounds it takes 3."""
    taken = [Timing((3.0,) * 9)] * 2 + [Timing((2.0,) * 9)] * 9
    monkeypatch.setattr(bench, "over_copies", lambda load, *_: dict.fromkeys(load(), taken.pop(0)))
    write_manifest(artifact, Artifact.open(artifact).manifest | {"baseline": {"latency_ms": 2.0}})
    bench.bench_model(str(artifact), (), uncompressed=True)
    assert len(taken) == 8


def test_what_cannot_be_had_any_more_is_one_sentence(artifact, source, capsys):
    command = ["bench", str(artifact), "--uncompressed", "--against", ""]
    source.write_text(SOURCE.replace("WIDTH", "32"))
    assert cli.run(command) == 2
    assert "is not the model any more that" in capsys.readouterr().err
    record = json.loads((artifact / "manifest.json").read_text())
    write_manifest(artifact, {**record, "lineage": {}})
    assert cli.run(command) == 2
    assert "was made from a model in memory" in capsys.readouterr().err
    assert cli.run(["bench", "resnet20", "--uncompressed"]) == 2
    assert "resnet20 is no artifact" in capsys.readouterr().err
