"""Libraries for 64-bit ARM: linked here, run in an emulator of a Cortex-A76, their numbers torch's."""

import json
import subprocess

import numpy as np
import pytest
import torch
from torch import nn

from chipfit.api import compile_source
from chipfit.calibration.kept import keep
from chipfit.calibration.probe_nets import encoder
from chipfit.codegen.check import TOLERANCE
from chipfit.codegen.library import numpy_weights
from chipfit.cross.arguments import write_arguments
from chipfit.cross.compile import cross_compile
from chipfit.cross.emulator import Emulated
from chipfit.errors import UserError
from chipfit.examples import minilm, resnet20, smollm2
from chipfit.explain import explain
from chipfit.frontend.importer import import_model
from chipfit.ir.apply import rebatch
from chipfit.passes.base import Context
from chipfit.passes.float16 import Float16
from chipfit.passes.fold_batch_norm import folded
from chipfit.passes.quantize import Quantize
from chipfit.targets.calibrate import Calibration
from chipfit.targets.cpu import derived_seconds
from chipfit.targets.profile import Figure
from chipfit.targets.registry import get_target

ARM = "cortex-a76"


def small():
    torch.manual_seed(0)
    layers = nn.Conv2d(3, 21, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(21, 5)
    return nn.Sequential(*layers).eval(), (torch.randn(1, 3, 16, 16),)


def first_layer():
    """SmolLM2 up to its first layer, and the last norm."""
    torch.manual_seed(0)
    network, _ = smollm2.model()
    network.model.layers, network.lm_head = network.model.layers[:1], nn.Identity()
    return network, (torch.randint(0, 40_000, (1, smollm2.LENGTH)),)


def compiled(source, folder):
    model, inputs = source()
    graph = folded(import_model(model, inputs))
    cross_compile(rebatch(graph, 1) if graph.batch else graph, get_target(ARM), folder, inputs)
    write_arguments(folder, numpy_weights(graph))
    return model, inputs


@pytest.mark.parametrize("source", [small, resnet20.model, minilm.model, first_layer])
def test_numbers_are_torchs(emulator, source, tmp_path):
    folder = tmp_path / "library"
    model, inputs = compiled(source, folder)
    with torch.no_grad():
        expected = model(*inputs).numpy()
    (found,) = Emulated(folder, str(emulator))(*(tensor.numpy() for tensor in inputs))
    assert np.abs(found - expected).max() <= TOLERANCE * np.abs(expected).max()


@pytest.mark.parametrize(("chosen", "unit"), [(Quantize(activations=True), "sdot"), (Float16(), "half")])
def test_fewer_bits_go_to_the_chips_own_units(emulator, tmp_path, chosen, unit):
    """A layer of MiniLM's sizes; compiling it compares the numbers within its precision's tolerance."""
    torch.manual_seed(0)
    inputs = (torch.randn(1, 128, 384),)
    graph = import_model(encoder(384, 12, 32, 1536).eval(), inputs)
    small = rebatch(chosen.run(graph, Context(teacher=graph)).graph, 1)
    cross_compile(small, get_target(ARM), tmp_path / "library", inputs)
    record = json.loads((tmp_path / "library/library.json").read_text())
    assert [kernel["tile"]["unit"] for kernel in record["kernels"] if kernel.get("kernel") == "matmul"] == [unit] * 6


def test_convolutions_in_int8_go_to_dot_products(emulator, tmp_path):
    torch.manual_seed(0)
    layers = nn.Conv2d(8, 21, 3, padding=1), nn.BatchNorm2d(21), nn.ReLU(), nn.Conv2d(21, 35, 3, 2), nn.ReLU()
    inputs = (torch.randn(1, 8, 14, 14),)
    graph = import_model(nn.Sequential(*layers).eval(), inputs)
    small = Quantize(activations=True).run(graph, Context(teacher=graph, calibration=[inputs])).graph
    cross_compile(rebatch(small, 1), get_target(ARM), tmp_path / "library", inputs)
    record = json.loads((tmp_path / "library/library.json").read_text())
    assert [kernel["tile"]["unit"] for kernel in record["kernels"] if kernel.get("kernel") == "conv"] == ["sdot"] * 2


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    """The small network, compiled and with its arguments."""
    folder = tmp_path_factory.mktemp("cross") / "library"
    compiled(small, folder)
    return folder


def test_every_file_is_for_the_chip(library):
    machines = {name: (library / name).read_bytes()[18] for name in ("library.so", "runner")}
    assert set(machines.values()) == {183}  # EM_AARCH64 in an ELF header


@pytest.mark.parametrize(
    ("inputs", "words"),
    [
        ([], "the model takes 1 inputs"),
        (["none.npy"], "is no .npy file"),
        (["narrow.npy"], "doesn't have the shape"),
        (["double.npy"], "doesn't hold <f4"),
    ],
)
def test_the_runner_says_what_is_wrong(emulator, library, tmp_path, inputs, words):
    np.save(tmp_path / "narrow.npy", np.zeros((1, 3, 16, 15), np.float32))
    np.save(tmp_path / "double.npy", np.zeros((1, 3, 16, 16), np.float64))
    files = [str(tmp_path / name) for name in inputs]
    command = [str(emulator), str(library / "runner"), str(library), str(tmp_path), "--", *files]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("Error: ")
    assert words in done.stderr


SOURCE = """
import torch
from torch import nn

def model():
    torch.manual_seed(0)
    convs = nn.Conv2d(3, 32, 3, padding=1), nn.ReLU(), nn.Conv2d(32, 32, 3, padding=1), nn.ReLU()
    network = nn.Sequential(*convs, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 5))
    return network.eval(), (torch.zeros(1, 3, 16, 16),)
"""


def test_the_main_job_says_what_was_not_run(emulator, tmp_path):
    (tmp_path / "net.py").write_text(SOURCE)
    passes = "prune-axes,compensate,distill{steps=4,batch=16}"
    out = tmp_path / "out"
    artifact = compile_source(f"{tmp_path / 'net.py'}:model", target=ARM, budget="latency=60%", passes=passes, out=out)
    record = artifact.manifest
    assert record["target"] == {
        "name": ARM,
        "status": "uncalibrated",
        "machine": "aarch64",
        "processor": get_target(ARM).profile.summary,
        "threads": get_target(ARM).cpu.threads,
    }
    assert record["baseline"]["latency_ms"] is None
    assert record["result"]["latency_ms"] is None
    assert record["certificate"]["limits"]["latency"]["by"] == "predicted, uncalibrated"
    assert record["certificate"]["latency_ratio"] <= 0.6
    assert record["max_abs_error"] <= TOLERANCE
    assert "not run" in (out / "report.md").read_text()
    assert {"library.so", "runner", "arguments.txt", "arguments.bin"} <= {file["path"] for file in record["files"]}
    assert json.loads((out / "library.json").read_text())["threads"] == 4


def test_milliseconds_on_a_calibrated_chip_are_met_by_the_upper_bound(tmp_path, monkeypatch):
    """A fifth above what is predicted, as a made-up calibration has it."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("CHIPFIT_EMULATOR", raising=False)
    chip = get_target(ARM)
    units = {"cycle": ("ns", 1e9), "byte": ("ps", 1e12)}
    figures = {"interval_factor": Figure(1.2, "ratio", "made up", "measured")}
    for name, seconds in derived_seconds(chip.profile).items():
        unit, scale = units[name.split("_")[-2]]
        figures[name] = Figure(seconds * scale, unit, "made up", "measured")
    keep(chip, Calibration(figures, (), ()))
    (tmp_path / "net.py").write_text(SOURCE)
    source, out = f"{tmp_path / 'net.py'}:model", tmp_path / "out"
    whole = explain(source, ARM).cost.latency_ms
    artifact = compile_source(
        source, target=ARM, budget=f"latency={0.9 * whole}ms", passes="prune-axes,compensate", out=out
    )
    certificate = artifact.manifest["certificate"]
    assert certificate["met"]
    assert certificate["limits"]["latency"]["by"] == "predicted upper bound, calibrated"
    assert certificate["latency_ratio"] * 1.2 <= 0.9
    assert artifact.manifest["target"]["status"] == "calibrated"


@pytest.mark.parametrize("name", ["ascend-910b3", "h100-sxm", "mi300x"])
def test_a_chip_that_nothing_compiles_for_is_one_sentence(name, tmp_path):
    with pytest.raises(UserError, match=f"can cost {name} but not compile for it yet"):
        compile_source("resnet20", target=name, budget="latency=60%", out=tmp_path / "out")
