"""Sensitivity on small models: the shortcuts change nothing, repair helps, and a stopped survey goes on."""

import json

import pytest
import torch
import zoo

from chipfit.ir.apply import mask
from chipfit.ir.configuration import Configuration
from chipfit.search.sensitivity import (
    Probe,
    Sensitivity,
    Survey,
    candidates,
    interpolated,
    measured_widths,
    widths,
)

pytestmark = pytest.mark.usefixtures("single_precision")


def llama():
    generator = torch.Generator().manual_seed(3)
    rows = torch.randint(0, zoo.VOCABULARY, (12, 1, zoo.TOKENS), generator=generator)
    return zoo.imported("llama"), [(row,) for row in rows]


def test_widths_are_whole_vectors_where_there_are_several():
    assert measured_widths(1536, 16) == [1536, 1152, 768, 384]
    assert measured_widths(3, 16) == [3, 2, 1]
    assert measured_widths(32, 16) == [32, 24, 16, 8]
    assert widths(1536, 16, 768) == [1536, 1344, 1152, 960, 768]
    assert widths(3, 16, 2) == [3, 2]


def test_losses_between_measured_widths_are_interpolated():
    losses = {64: 0.0, 48: 0.01, 32: 0.04}
    assert [interpolated(losses, width) for width in (64, 56, 48, 32)] == [0.0, 0.005, 0.01, 0.04]
    assert interpolated(losses, 40) == pytest.approx(0.02)


def test_running_only_what_is_behind_the_change_gives_the_same_loss():
    graph, examples = llama()
    axes, blocks = candidates(graph)
    probe = Probe.on(graph, examples)
    whole = Probe(probe.graph, probe.inputs)
    assert probe.head
    vars(whole)["reference"] = {probe.head.input.name: probe.reference[probe.head.input.name]}
    assert axes
    assert blocks
    for name, axis in axes.items():
        changed = mask(probe.graph, Configuration({name: tuple(range(axis.size // 2))}))
        assert probe.loss(changed) == pytest.approx(whole.loss(changed), rel=1e-4, abs=1e-7)


def test_nothing_changed_costs_nothing():
    graph, examples = llama()
    probe = Probe.on(graph, examples)
    assert probe.loss(probe.graph) == pytest.approx(0.0, abs=1e-6)


def test_losses_are_of_the_axes_and_blocks():
    graph, examples = llama()
    found = Survey(graph, examples, 16).measure()
    axes, blocks = candidates(graph)
    assert set(found.levels) == set(axes)
    assert set(found.drops) == set(blocks)
    for name, levels in found.levels.items():
        assert (levels[0].loss, len(levels[0].kept)) == (0.0, axes[name].size)
        assert all(level.loss > 0 for level in levels[1:])
    assert all(loss > 0 for loss in found.drops.values())


def test_repair_lowers_the_losses():
    graph, examples = llama()
    plain, repaired = (Survey(graph, examples, 16, drop=False, repair=repair).measure() for repair in (False, True))
    totals = [sum(level.loss for levels in one.levels.values() for level in levels) for one in (plain, repaired)]
    assert totals[1] < totals[0]


def test_only_what_the_passes_can_do_is_measured():
    graph, examples = llama()
    assert Survey(graph, examples, 16, narrow=False).measure().levels == {}
    assert Survey(graph, examples, 16, drop=False).measure().drops == {}


def test_stopped_survey_goes_on(tmp_path):
    graph, examples = llama()
    whole = Survey(graph, examples, 16).measure()
    checkpoint = tmp_path / "checkpoint.json"
    half = whole.to_json()
    first, *_ = half["levels"]
    half["levels"] = {first: [[half["levels"][first][0][0], 123.0]]}
    half["drops"] = {}
    checkpoint.write_text(json.dumps(half))
    found = Survey(graph, examples, 16).measure(checkpoint)
    assert found.levels[first][0].loss == 123.0
    assert found.drops == pytest.approx(whole.drops)
    assert Sensitivity.from_json(json.loads(checkpoint.read_text())) == found
