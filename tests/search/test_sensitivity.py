"""Sensitivity on small models: the shortcuts change nothing, repair helps, and a stopped survey goes on."""

import json

import pytest
import zoo

from chipfit.ir.apply import mask
from chipfit.ir.configuration import Configuration
from chipfit.passes.quantize import Quantize
from chipfit.search.beside import Beside
from chipfit.search.curves import Curve, Curves, interpolated, measured_widths, widths
from chipfit.search.known import Known
from chipfit.search.probe import Probe
from chipfit.search.sensitivity import Survey, candidates

pytestmark = pytest.mark.usefixtures("single_precision")


def llama():
    return sampled("llama", 12)


def sampled(network, count=40):
    graph = zoo.imported(network)
    return graph, zoo.examples(graph, count)


def test_widths_are_whole_vectors_where_there_are_several():
    assert measured_widths(1536) == [1536, 1152, 768, 384]
    assert measured_widths(3) == [3, 2, 1]
    assert widths(1536, 16, 768) == [1536, 1344, 1152, 960, 768]
    assert widths(3, 16, 2) == [3, 2]


def test_no_width_is_narrower_than_what_was_measured():
    assert measured_widths(200) == [200, 150, 100, 50]
    assert widths(200, 16, 50) == [200, 176, 144, 128, 96, 80, 64]
    assert widths(200, 1, 50) == [200, 175, 150, 125, 100, 75, 50]


def test_chips_take_their_widths_from_the_same_curve():
    curves = Curves({"a": Curve(tuple(range(200))[::-1], {200: 0.0, 150: 0.01, 100: 0.04, 50: 3000.0})}, {"b": 0.1})
    by_chip = {step: curves.offered(step) for step in (1, 16)}
    assert [len(level.kept) for level in by_chip[1].levels["a"]] == [200, 175, 150, 125, 100, 75, 50]
    assert [len(level.kept) for level in by_chip[16].levels["a"]] == [200, 176, 144, 128, 96, 80, 64]
    assert by_chip[16].levels["a"][1].kept == tuple(range(24, 200))
    assert by_chip[1].levels["a"][2].loss == 0.01
    assert 0.01 < by_chip[16].levels["a"][2].loss < by_chip[1].levels["a"][3].loss
    assert by_chip[1].drops == by_chip[16].drops == {"b": 0.1}


def test_losses_between_measured_widths_are_interpolated():
    losses = {64: 0.0, 48: 0.01, 32: 0.04}
    assert [interpolated(losses, width) for width in (64, 56, 48, 32)] == [0.0, 0.005, 0.01, 0.04]
    assert interpolated(losses, 40) == pytest.approx(0.02)


def test_repairs_are_fitted_to_none_of_the_examples_that_losses_are_measured_on():
    """However few there are; one alone has to do for both."""
    graph, examples = llama()
    survey = Survey(graph, examples)
    fitted, measured = ({id(one) for one in part} for part in (survey._unmeasured, survey._measured))
    assert not fitted & measured
    assert len(fitted) == len(measured) == len(examples) / 2
    alone = Survey(graph, examples[:1])
    assert alone._unmeasured == alone._measured == examples[:1]


def test_running_only_what_is_behind_the_change_gives_the_same_loss():
    graph, examples = llama()
    axes, blocks = candidates(graph)
    probe = Probe.on(graph, examples)
    whole = Probe(probe.graph, probe.inputs)
    assert probe.features
    vars(whole)["reference"] = {probe.features.name: probe.reference[probe.features.name]}
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
    found = Survey(graph, examples).measure()
    axes, blocks = candidates(graph)
    assert set(found.axes) == set(axes)
    assert set(found.drops) == set(blocks)
    assert found.seconds > 0
    for name, levels in found.offered(16).levels.items():
        assert (levels[0].loss, len(levels[0].kept)) == (0.0, axes[name].size)
        assert all(level.loss > 0 for level in levels[1:])
    assert all(loss > 0 for loss in found.drops.values())


def test_repair_lowers_the_losses():
    graph, examples = sampled("llama")
    plain, repaired = (Survey(graph, examples, drop=False, repair=repair).measure() for repair in (False, True))
    totals = [sum(sum(curve.losses.values()) for curve in one.axes.values()) for one in (plain, repaired)]
    assert totals[1] < totals[0]


@pytest.mark.parametrize("network", ["llama", "resnet"])
def test_blocks_behind_a_dropped_one_make_up_for_some_of_its_loss(network):
    graph, examples = sampled(network)
    plain, repaired = (Survey(graph, examples, narrow=False, repair=repair).measure().drops for repair in (False, True))
    assert sum(repaired.values()) < sum(plain.values())


def test_losses_beside_dropped_blocks_are_those_of_the_whole():
    """Without repair exactly; with it the blocks are refitted once for all, so that little differs."""
    graph, examples = sampled("llama")
    blocks = list(candidates(graph)[1])
    dropped = frozenset(blocks[:2])
    for repair, accuracy in ((False, 1e-4), (True, 0.2)):
        survey = Survey(graph, examples, repair=repair)
        found, whole = survey.losses_beside(dropped), survey.loss(Configuration({}, dropped))
        assert set(found) == set(blocks)
        for block in blocks:
            other = survey.loss(Configuration({}, dropped ^ {block}))
            expected = max(0.0, whole - other if block in dropped else other - whole)
            assert found[block] == pytest.approx(expected, abs=accuracy * whole)


def test_only_what_the_passes_can_do_is_measured():
    graph, examples = llama()
    assert Survey(graph, examples, narrow=False).measure().axes == {}
    assert Survey(graph, examples, drop=False).measure().drops == {}


def test_stopped_survey_goes_on(tmp_path):
    graph, examples = llama()
    whole = Survey(graph, examples).measure()
    checkpoint = tmp_path / "checkpoint.json"
    first, *_ = whole.axes
    half = Curves({first: Curve(whole.axes[first].order, {len(whole.axes[first].order): 123.0})}, {}, seconds=1000.0)
    checkpoint.write_text(json.dumps(half.to_json()))
    found = Survey(graph, examples).measure(checkpoint)
    assert list(found.axes[first].losses.values()) == [123.0]
    assert found.drops == pytest.approx(whole.drops)
    assert found.seconds > 1000
    assert Curves.from_json(json.loads(checkpoint.read_text())) == found


def test_stopped_search_measures_no_block_in_context_again(tmp_path, monkeypatch):
    graph, examples = llama()
    measured, loss = list[str](), Beside.loss
    monkeypatch.setattr(Beside, "loss", lambda beside, name: measured.append(name) or loss(beside, name))
    blocks = list(candidates(graph)[1])
    dropped = frozenset(blocks[:2])
    whole = Survey(graph, examples).losses_beside(dropped)
    measured.clear()

    def stop_after_two(what, done):
        if done >= 2 / len(blocks):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Survey(graph, examples, known=Known(tmp_path / "known.json")).losses_beside(dropped, stop_after_two)
    assert Survey(graph, examples, known=Known(tmp_path / "known.json")).losses_beside(dropped) == pytest.approx(whole)
    assert measured == blocks, "each once"


def test_loss_of_what_is_removed_is_measured_once_whatever_is_rounded(monkeypatch):
    graph, examples = llama()
    measured, loss = list[str](), Probe.loss
    monkeypatch.setattr(Probe, "loss", lambda probe, changed: measured.append(changed) or loss(probe, changed))
    survey, dropped = Survey(graph, examples), frozenset(list(candidates(graph)[1])[:1])
    one, other = (survey.loss(Configuration({}, dropped, rounded)) for rounded in (None, frozenset({"a"})))
    assert one == other > 0
    assert len(measured) == 1


def test_rounding_is_measured_alone_and_of_a_whole():
    """By groups of weights; all of them together lose about what they lose one by one."""
    graph, examples = sampled("resnet")
    graph = graph.with_state({"7.weight": 100 * graph.state["7.weight"].detach()})  # answers that are sure of something
    survey = Survey(graph, examples, narrow=False, drop=False, rounding=Quantize(activations=True))
    found = survey.measure()
    assert found.rounded.keys() == survey.unmeasured.rounded.keys()
    assert all(name in one.weights and one.loss > 0 for name, one in found.rounded.items())
    weights = frozenset().union(*(one.weights for one in found.rounded.values()))
    whole, alone = survey.loss_of_rounding(weights), sum(one.loss for one in found.rounded.values())
    assert alone / 3 < whole < 3 * alone
    assert Curves.from_json(json.loads(json.dumps(found.to_json()))) == found
