"""The main job on a small network: what it writes, and that neither a kill nor bad luck loses anything."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from chipfit import measure, workbench
from chipfit.artifact import Artifact
from chipfit.cli import run
from chipfit.stages import DONE

SOURCE = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU())
        self.body = nn.Sequential(nn.Conv2d(32, 64, 3, padding=1), nn.BatchNorm2d(64), nn.ReLU(), nn.Conv2d(64, 32, 1))
        self.head = nn.Linear(32, 10)

    def forward(self, x):
        x = self.stem(x)
        x = torch.relu(x + self.body(x))
        return self.head(x.mean((2, 3)))

def model():
    torch.manual_seed(0)
    net = Net()
    net.head.weight.data *= 30  # answers that are sure of something, so that int8 moves them
    return net.eval(), (torch.zeros(1, 3, 16, 16),)

def data():
    rows = torch.randn(160, 1, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    return {"train": [(row,) for row in rows[:128]], "heldout": [(row,) for row in rows[128:]]}
"""
PASSES = "prune-axes,drop-blocks,compensate,distill{steps=4,batch=16}"


@pytest.fixture
def source(tmp_path, calibrated_host, monkeypatch):
    """A network, in a process that times it hastily: what is tested is the same however long it takes."""
    monkeypatch.setattr(workbench, "SECONDS", 0.1)
    monkeypatch.setattr(measure, "COPIES", 1)
    monkeypatch.setattr(workbench, "PATIENCE", 0.0)
    path = tmp_path / "net.py"
    path.write_text(SOURCE)
    return f"{path}:model"


def arguments(source, out, *options):
    passes = () if "--passes" in options else ("--passes", PASSES)
    return ["compile", source, "--out", str(out), *passes, *options]


def compiled(source, out, *options):
    assert run(arguments(source, out, *options)) == 0
    return Artifact.open(out).manifest


def weights(manifest):
    return next(file["sha256"] for file in manifest["files"] if file["path"] == "weights.safetensors")


def test_meets_a_latency_budget_and_records_everything(source, tmp_path):
    out = tmp_path / "out"
    budgets = ("latency=9900%", "size=60%", "energy=90%")  # size decides: how long a tenth of a ms takes, the noise
    options = [word for budget in budgets for word in ("--budget", budget)]
    manifest = compiled(source, out, *options, "--json")
    assert manifest["certificate"]["met"]
    assert set(manifest["certificate"]["limits"]) == {"latency", "size", "energy"}
    assert manifest["certificate"]["limits"]["energy"]["by"] == "predicted, uncalibrated"
    assert manifest["result"]["energy_mj"] <= 0.9 * manifest["baseline"]["energy_mj"]
    assert {chip["target"] for chip in manifest["chips"]["targets"]} > {"host", "h100-sxm"}
    assert manifest["certificate"]["latency_ratio"] <= 99
    assert "## Attempts" in (out / "report.md").read_text()
    assert manifest["certificate"]["attempts"]
    assert manifest["result"]["weight_bytes"] <= 0.6 * manifest["baseline"]["weight_bytes"]
    for costs in ("baseline", "result", "predicted"):
        assert {"latency_ms", "peak_memory_bytes", "weight_bytes", "energy_mj"} <= set(manifest[costs])
    assert manifest["baseline"]["quality"]["retention"] == 1.0
    assert 0 < manifest["result"]["quality"]["retention"] < 1
    assert [one["pass"].split("{")[0] for one in manifest["passes"]] == [
        name.split("{")[0] for name in PASSES.split(",")[:4]
    ]
    assert Artifact.open(out).verify() == []
    assert not [path for path in tmp_path.iterdir() if path.name.endswith((".new", ".old"))]


def test_precision_is_chosen_with_the_rest_and_recorded(source, tmp_path):
    """A quarter of the bytes are within reach of int8 alone, without anything removed, so nothing is recovered."""
    options = ("--budget", "size=40%", "--passes", f"{PASSES},quantize{{activations=true}}")
    manifest = compiled(source, tmp_path / "out", *options)
    chosen = manifest["configuration"]
    assert chosen["rounded"]
    assert not chosen["widths"]
    assert not chosen["dropped"]
    assert manifest["result"]["weight_bytes"] <= 0.4 * manifest["baseline"]["weight_bytes"]
    assert manifest["result"]["weight_bytes"] == manifest["predicted"]["weight_bytes"]
    assert manifest["before_recovery"] == {"quality": manifest["result"]["quality"]}
    assert manifest["result"]["quality"]["retention"] < 1
    assert {one["pass"].split("{")[0]: one["modified"] for one in manifest["passes"]} == {
        "prune-axes": False,
        "drop-blocks": False,
        "compensate": False,
        "distill": False,
        "quantize": True,
    }


def test_runs_without_torch(calibrated_host, source, tmp_path):
    out = tmp_path / "out"
    compiled(source, out, "--budget", "size=60%")
    np.savez(tmp_path / "x.npz", x=np.ones((1, 3, 16, 16), np.float32))
    code = (
        "import sys; sys.modules['torch'] = None\n"
        "from chipfit.cli import run\n"
        f"sys.exit(run(['run', {str(out)!r}, '--input', {str(tmp_path / 'x.npz')!r}, '--json']))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], env=calibrated_host, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["outputs"]


def killed_at(stage, environment, source, out):
    """Starts a compilation and kills it as soon as `stage` has begun; what is left of it is in the work directory."""
    process = subprocess.Popen(
        [str(Path(sys.executable).with_name("chipfit")), *arguments(source, out, "--budget", "size=60%")],
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    while process.poll() is None and not list(Path(f"{out}.work").glob(f"{stage}-*")):
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()


def finished_stages(out):
    return {path: path.stat().st_mtime_ns for path in Path(f"{out}.work").glob(f"*/{DONE}")}


def test_killed_at_every_stage_ends_with_the_same_result(calibrated_host, source, tmp_path):
    out = tmp_path / "out"
    for stage in ("sensitivity", "library", "prune-axes", "compensate", "distill", "compare"):
        before = finished_stages(out)
        killed_at(stage, calibrated_host, source, out)
        assert not out.exists()
        assert before.items() <= finished_stages(out).items()
    before = finished_stages(out)
    assert before
    resumed = compiled(source, out, "--budget", "size=60%")
    assert before.items() <= finished_stages(out).items()
    whole = compiled(source, tmp_path / "whole", "--budget", "size=60%")
    assert weights(resumed) == weights(whole)
    assert resumed["configuration"] == whole["configuration"]
    made = finished_stages(out)
    compiled(source, out, "--budget", "size=60%")
    assert finished_stages(out) == made, "a repeated run is free"


@pytest.mark.parametrize(
    ("options", "code", "words"),
    [
        (("--budget", "latency=1%"), 3, "the nearest feasible budget is latency="),
        (("--budget", "size=1%"), 3, "the nearest feasible budget is size="),
        (("--budget", "memory=1KB"), 3, "the nearest feasible budget is memory="),
        (("--budget", "size=60%", "--target", "cortex-a67"), 2, "or cortex-a76"),
    ],
)
def test_mistakes_are_one_sentence(source, tmp_path, capsys, options, code, words):
    out = tmp_path / "out"
    assert run(arguments(source, out, *options)) == code
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert last.startswith("Error: ")
    assert words in last
    assert not out.exists()
    assert not [stage for stage in finished_stages(out) if "sensitivity" in str(stage)], (
        "told before minutes were spent"
    )
