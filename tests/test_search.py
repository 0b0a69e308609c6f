"""`chipfit search`: fronts and regret of a small model on several chips, none of which is here."""

import json
import xml.etree.ElementTree as ET

import pytest
import torch
import zoo

from chipfit import cli, fronts
from chipfit.frontend.data import Data
from chipfit.frontend.importer import import_model
from chipfit.ir.apply import apply
from chipfit.passes.base import silent
from chipfit.passes.pipeline import parse
from chipfit.picture import picture
from chipfit.stages import Stages
from chipfit.study import Study
from chipfit.targets.registry import get_target

CHIPS = ("cortex-a76", "h100-sxm", "ascend-910b3")
PASSES = "prune-axes,drop-blocks,compensate"


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    model, inputs = zoo.llama()
    rows = torch.randint(0, zoo.VOCABULARY, (12, 1, zoo.TOKENS), generator=torch.Generator().manual_seed(3))
    data = Data(train=[(row,) for row in rows], heldout=[(row,) for row in rows])
    return Study(import_model(model, inputs), inputs, data, parse(PASSES), Stages(tmp_path_factory.mktemp("w")), silent)


@pytest.fixture(scope="module")
def found(study):
    return fronts.compare("llama", study, [get_target(name) for name in CHIPS])


def test_fronts_fall(study, found):
    assert list(found.fronts) == list(CHIPS)
    for name, front in found.fronts.items():
        assert front.status == "uncalibrated"
        assert len(front.points) > 3
        losses, latencies = ([getattr(one, key) for one in front.points] for key in ("quality_loss", "latency_ms"))
        assert losses == sorted(losses)
        assert latencies == sorted(latencies, reverse=True)
        model = get_target(name).cost_model
        for point in front.points:
            cost = model.cost(apply(study.teacher, point.configuration))
            assert (point.latency_ms, point.weight_bytes) == (pytest.approx(cost.latency_ms), cost.weight_bytes)


def test_regret_is_of_other_chips(found):
    for a in CHIPS:
        assert found.regret[a][a] == 1.0
        assert all(found.regret[a][b] >= 1.0 for b in CHIPS)


def test_sensitivity_is_measured_once_for_all_chips(study, found):
    assert len(list(study.stages.root.glob("sensitivity-*"))) == 1
    assert found.sensitivity_seconds == study.curves.seconds > 0


SOURCE = """
import torch
from torch import nn

def model():
    torch.manual_seed(0)
    body = nn.Sequential(nn.Conv2d(3, 32, 3, padding=1), nn.ReLU(), nn.Conv2d(32, 32, 3, padding=1), nn.ReLU())
    model = nn.Sequential(*body, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 10))
    return model.eval(), (torch.zeros(1, 3, 8, 8),)
"""


def test_command_prints_what_scripts_read(tmp_path, capsys):
    (tmp_path / "net.py").write_text(SOURCE)
    chips = [part for name in CHIPS for part in ("--target", name)]
    command = ["search", f"{tmp_path}/net.py:model", *chips, "--passes", PASSES, "--out", str(tmp_path / "out")]
    assert cli.run([*command, "--json"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert set(data) == {"targets", "regret", "sensitivity_seconds"}
    assert list(data["targets"]) == list(CHIPS)
    for target in data["targets"].values():
        assert set(target) == {"front", "seconds", "status"}
        assert all(set(p) == {"latency_ms", "quality_loss", "weight_bytes", "configuration"} for p in target["front"])
    assert json.loads((tmp_path / "out/search.json").read_text()) == data
    drawn = ET.parse(tmp_path / "out/fronts.svg").getroot()
    assert len(drawn.findall("{http://www.w3.org/2000/svg}polyline")) == len(CHIPS)
    assert cli.run(command) == 0
    out = capsys.readouterr().out
    assert out.count("uncalibrated") >= 2 * len(CHIPS)
    assert "chosen for" in out


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ("--target moon", "Target 'moon' is unknown"),
        ("--target cortex-a76 --target cortex-a76", "The target cortex-a76 is named twice: name each once."),
        ("--passes shrink", "There is no pass named shrink"),
    ],
)
def test_mistakes_are_one_sentence(options, sentence, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert cli.run(["search", "resnet20", *options.split()]) == 2
    assert sentence in capsys.readouterr().err


def test_picture_of_nothing_and_of_zeros_is_a_picture():
    for lines in ({}, {"a": [(0.5, 0.0)]}, {"a < b": [(0.25, 0.5), (1.0, 0.5)]}):
        ET.fromstring(picture("title & more", ("x", "y"), lines))
