from __future__ import annotations

import math
from contextlib import suppress
from dataclasses import replace
from functools import cache
from itertools import cycle, repeat
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from zoo import ZOO

from chipfit.errors import UserError
from chipfit.frontend.importer import import_model
from chipfit.ir.apply import apply
from chipfit.ir.axes import analyse
from chipfit.ir.blocks import find_blocks
from chipfit.ir.configuration import Configuration
from chipfit.ir.graph import Graph
from chipfit.passes import training
from chipfit.passes.base import Context, Inputs, PreconditionError
from chipfit.passes.batching import batch_size, endless_batches, first_batches
from chipfit.passes.distill import Distill, recover, samples_per_example, usual_rate
from chipfit.passes.matching import NORMALISED, Comparison, find_head, shared_exits
from chipfit.passes.training import RATES, WARM_UP, Settings, Training, rate

STEPS = Distill(steps=12, learning_rate=1e-3, batch=8)


@cache
def teacher(name: str) -> Graph:
    model, inputs = ZOO[name]()
    return import_model(model, inputs)


@cache
def examples(name: str, count: int, seed: int) -> list[Inputs]:
    generator = torch.Generator().manual_seed(seed)

    def like(tensor: Tensor) -> Tensor:
        if tensor.is_floating_point():
            return torch.randn(tensor.shape, generator=generator)
        if (tensor == 1).all():
            return tensor  # a mask
        return torch.randint(0, int(tensor.max()) + 1, tensor.shape, generator=generator)

    _, inputs = ZOO[name]()
    return [tuple(like(tensor) for tensor in inputs) for _ in range(count)]


def halved(name: str, *kinds: str) -> Configuration:
    """Every exact axis of these kinds (of all, if none is named) at every other index."""
    axes = [axis for axis in analyse(teacher(name)).axes.values() if axis.state == "exact" and axis.size > 1]
    return Configuration({a.name: tuple(range(0, a.size, 2)) for a in axes if not kinds or a.kind in kinds})


def context(name: str, configuration: Configuration, workdir: Path | None = None) -> Context:
    return Context(
        teacher=teacher(name),
        configuration=configuration,
        train=examples(name, 128, 0),
        validation=examples(name, 16, 1),
        workdir=workdir,
    )


def same(one: Graph, other: Graph) -> bool:
    return all(torch.equal(tensor, other.state[name]) for name, tensor in one.state.items())


@pytest.mark.parametrize("name", ["llama", "bert", "resnet", "two-inputs", "lstm"])
def test_recovery_brings_any_model_nearer_to_its_teacher(name: str) -> None:
    configuration = halved(name)
    student = apply(teacher(name), configuration)
    before = {key: tensor.clone() for key, tensor in student.state.items()}
    recovered, report = recover(student, context(name, configuration), replace(STEPS, steps=20, batch=16))
    assert report.loss_after < report.loss_before
    assert not same(recovered, student)
    assert all(torch.equal(tensor, student.state[key]) for key, tensor in before.items()), "the input has changed"
    assert recovered.forward is student.forward


def test_a_perfect_student_has_no_loss_and_stays_as_it_is() -> None:
    result = STEPS.run(teacher("llama"), context("llama", Configuration()))
    assert not result.modified
    assert same(result.graph, teacher("llama"))


def test_weights_that_training_spoils_are_not_kept() -> None:
    configuration = halved("llama", "ffn")
    student = apply(teacher("llama"), configuration)
    recovered, report = recover(student, context("llama", configuration), replace(STEPS, learning_rate=30.0))
    assert same(recovered, student)
    assert report.loss_after == report.loss_before


def trained(losses: list[float], steps: int, folder: Path | None = None) -> tuple[Training, list[float]]:
    """A run with validation losses that are made up, until there are no more, and the rate of each of its steps."""
    weight, rates, given = torch.nn.Parameter(torch.ones(1)), list[float](), iter(losses)

    def loss(inputs: Inputs, generator: torch.Generator) -> Tensor:
        rates.append(run.course.rate)
        return weight.sum()

    run = Training(
        Settings(steps=steps, seconds=0, learning_rate=0.1, accumulate=1, seed=0),
        tensors={"weight": weight},
        trained={"weight": weight},
        batches=repeat(()),
        loss=loss,
        judge=lambda: next(given),
        folder=folder,
    )
    with suppress(StopIteration):
        run.run()
    return run, rates


def test_a_rate_that_lowers_the_held_out_loss_is_taken_for_the_other_steps() -> None:
    run, rates = trained([1.0, 0.9, 0.8, 0.7, 0.6], steps=80)
    assert (run.course.done, run.course.best, run.course.index) == (80, 0.6, 0)
    assert rates == [*(rate(step, 10) for step in range(10)), *(rate(step, 70) for step in range(70))]


def test_lower_rates_are_tried_from_the_best_weights_where_one_lowers_nothing() -> None:
    run, rates = trained([1.0, 1.1, 0.995, 0.9, 0.8, 0.7, 0.6], steps=80)
    assert (run.course.done, run.course.best, run.course.index) == (80, 0.6, 2)
    tried = [part * rate(step, 10) for part in RATES[:3] for step in range(10)]
    assert rates == [*tried, *(RATES[2] * rate(step, 50) for step in range(50))]


def test_training_ends_where_no_rate_is_low_enough() -> None:
    run, rates = trained([1.0, *(2.0 for _ in RATES)], steps=80)
    assert (len(rates), run.course.best, run.tensors["weight"].item()) == (10 * len(RATES), 1.0, 1.0)


def test_losses_that_are_no_numbers_are_rises() -> None:
    run, _ = trained([1.0, math.nan, 0.9, math.nan, 0.8, 0.7], steps=80)
    assert (run.course.done, run.course.best, run.course.index) == (80, 0.7, 2)


def test_a_rate_that_proves_too_high_later_is_lowered_from_the_best_weights_on() -> None:
    run, rates = trained([1.0, 0.9, 0.95, 0.8, 0.7], steps=80)
    assert (run.course.done, run.course.best, run.course.index) == (80, 0.7, 1)
    assert rates[40:] == [RATES[1] * rate(step, 40) for step in range(40)]


def test_run_that_was_killed_right_after_its_rate_was_lowered_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, rates = trained([1.0, 1.1, 0.9, 0.8, 0.7, 0.6], steps=16)
    monkeypatch.setattr(training, "CHECKPOINT_SECONDS", 0.0)
    save = Training._save

    def save_until_lowered(run: Training, path: Path) -> None:
        save(run, path)
        if run.course.index == 1:
            raise StopIteration

    monkeypatch.setattr(Training, "_save", save_until_lowered)
    first = trained([1.0, 1.1], steps=16, folder=tmp_path)[1]
    monkeypatch.setattr(Training, "_save", save)
    resumed, others = trained([0.9, 0.8, 0.7, 0.6], steps=16, folder=tmp_path)
    assert [*first, *others] == rates
    assert resumed.tensors["weight"].item() == whole.tensors["weight"].item()


def test_what_was_found_before_the_loss_rose_is_not_lost() -> None:
    run, _ = trained([1.0, 0.5, 0.6, 0.7, 0.8], steps=8)
    assert (run.course.done, run.course.best) == (8, 0.5)
    assert run.tensors["weight"].item() == run.best["weight"].item() < 1


def test_a_batch_without_a_finite_gradient_is_skipped() -> None:
    weight = torch.nn.Parameter(torch.ones(1))
    run = Training(
        Settings(steps=4, seconds=0, learning_rate=0.1, accumulate=1, seed=0),
        tensors={"weight": weight},
        trained={"weight": weight},
        batches=cycle([(torch.ones(1),), (torch.full((1,), torch.nan),)]),
        loss=lambda inputs, generator: (weight * inputs[0]).sum(),
        judge=lambda: weight.item(),
    )
    assert run.run().best < 1


def test_a_pruned_width_is_compared_on_its_kept_channels() -> None:
    configuration = halved("llama", "hidden")
    student = apply(teacher("llama"), configuration)
    comparison = Comparison(teacher("llama"), student, configuration, teacher("llama"), 1.0, 1.0, 1.0)
    width = analyse(teacher("llama")).axes[next(iter(configuration.widths))].size
    assert comparison.taps
    for kept in comparison.kept.values():
        assert [None if indices is None else indices.tolist() for indices in kept] == [
            None,
            None,
            list(range(0, width, 2)),
        ]


def test_blocks_that_were_dropped_are_not_compared() -> None:
    graph = teacher("llama")
    exits = shared_exits(graph, graph)
    block = next(block for block in find_blocks(graph).values() if block.kind == "attention")
    student = apply(graph, Configuration(dropped=frozenset({block.name})))
    assert set(exits) - set(shared_exits(graph, student)) == {block.exit}


def test_logits_are_told_from_embeddings() -> None:
    assert find_head(teacher("llama")) is not None
    assert find_head(teacher("resnet")) is not None
    assert find_head(teacher("bert")) is None


@pytest.mark.parametrize("batch", [NORMALISED, NORMALISED // 2])
def test_running_statistics_are_trained_too_where_a_batch_tells_them(batch: int) -> None:
    configuration = halved("resnet")
    student = apply(teacher("resnet"), configuration)
    recovered, _ = recover(student, context("resnet", configuration), replace(STEPS, batch=batch))
    means = [name for name in student.state if name.endswith("running_mean")]
    assert means
    kept = [torch.equal(recovered.state[name], student.state[name]) for name in means]
    assert kept == [batch < NORMALISED] * len(means)


def test_a_run_is_repeated_exactly_from_its_seed_and_steps() -> None:
    configuration = halved("llama")
    student = apply(teacher("llama"), configuration)
    given = context("llama", configuration)
    one, other, third = (recover(student, replace(given, seed=seed), STEPS)[0] for seed in (0, 0, 1))
    assert same(one, other)
    assert not same(one, third)


@pytest.mark.parametrize("killed_after", [2, 7])
def test_a_killed_run_goes_on_and_ends_the_same(
    killed_after: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    configuration = halved("llama")
    student = apply(teacher("llama"), configuration)
    whole, report = recover(student, context("llama", configuration), STEPS)
    monkeypatch.setattr(training, "CHECKPOINT_SECONDS", 0.0)
    seen: list[float] = []

    def kill(what: str, fraction: float) -> None:
        seen.append(fraction)
        if len(seen) == killed_after:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        recover(student, replace(context("llama", configuration, tmp_path), progress=kill), STEPS)
    assert [file.name for file in tmp_path.iterdir()] == [training.FILE]
    resumed, again = recover(student, replace(context("llama", configuration, tmp_path), progress=kill), STEPS)
    assert len(seen) == STEPS.steps + 1, "only the step that was not saved may be done twice"
    assert same(resumed, whole)
    assert (again.steps, again.loss_after) == (report.steps, report.loss_after)
    assert not list(tmp_path.iterdir())


def test_seconds_fix_the_number_of_steps() -> None:
    configuration = halved("llama", "ffn")
    student = apply(teacher("llama"), configuration)
    _, report = recover(student, context("llama", configuration), Distill(seconds=2.0, batch=8))
    assert report.steps >= training.TIMED


def test_the_learning_rate_warms_up_and_falls_to_zero() -> None:
    rates = [rate(done, 100) for done in range(101)]
    assert rates[0] == pytest.approx(1 / WARM_UP)
    assert rates[:WARM_UP] == sorted(rates[:WARM_UP])
    assert rates[WARM_UP:] == sorted(rates[WARM_UP:], reverse=True)
    assert rates[100] == pytest.approx(0)
    assert rate(3, 0) == pytest.approx(4 / WARM_UP), "steps that are not counted yet are warm-up"


def test_few_images_in_a_step_lower_the_learning_rate_as_many_tokens_do_not() -> None:
    image, tokens = torch.zeros(1, 3, 8, 8), torch.zeros(1, 200, dtype=torch.long)
    assert samples_per_example((image,)) == samples_per_example((image.to(torch.uint8),)) == 1
    assert samples_per_example((tokens, torch.zeros(1, 1, dtype=torch.long))) == 200
    assert usual_rate(1_000_000, 4 * 1) == pytest.approx(usual_rate(1_000_000, 16 * 1) / 4**0.75)
    assert usual_rate(1_000_000, 128 * 1) == usual_rate(1_000_000, 4 * 200)


def test_batches_fit_the_split_and_the_memory() -> None:
    assert batch_size(teacher("llama"), 0, range(1000)) == 128  # type: ignore[arg-type]
    assert batch_size(teacher("llama"), 0, range(1000), range(20)) == 20  # type: ignore[arg-type]
    assert batch_size(teacher("llama"), 4, range(1000)) == 4  # type: ignore[arg-type]
    assert batch_size(replace(teacher("llama"), batch=None), 4, range(9)) is None  # type: ignore[arg-type]


def test_each_epoch_sees_every_example_once_in_its_own_order() -> None:
    rows = [(torch.tensor([row]),) for row in range(6)]
    found = endless_batches(rows, 2, seed=0)
    epochs = [torch.cat([next(found)[0] for _ in range(3)]).tolist() for _ in range(2)]
    assert [sorted(epoch) for epoch in epochs] == [list(range(6))] * 2
    assert epochs[0] != epochs[1]
    assert [batch[0].tolist() for batch in first_batches(rows, 4, 6)] == [[0, 1, 2, 3]]


def test_what_cannot_run_says_why() -> None:
    whole = context("llama", Configuration())
    with pytest.raises(PreconditionError, match="training and validation inputs"):
        STEPS.requires(teacher("llama"), replace(whole, train=()))
    with pytest.raises(PreconditionError, match="when to stop"):
        Distill().requires(teacher("llama"), whole)
    Distill(seconds=1).requires(teacher("llama"), whole)
    Distill().requires(teacher("llama"), replace(whole, seconds=1.0))


@pytest.mark.parametrize(
    "options", [{"steps": -1}, {"positions": 1.5}, {"positions": 0.0}, {"learning_rate": -0.1}, {"temperature": -1.0}]
)
def test_options_that_cannot_be_are_refused(options: dict[str, float]) -> None:
    with pytest.raises(UserError, match="distill needs"):
        Distill(**options)  # type: ignore[arg-type]


class Padded(nn.Module):
    """Embeds ids, refines each position by itself and takes the mean of those that the mask keeps."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.wide, self.back = nn.Embedding(20, 8), nn.Linear(8, 16), nn.Linear(16, 8)

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        x = self.table(ids)
        x = x + self.back(torch.relu(self.wide(x)))
        return (x * mask[:, :, None]).sum(1)


def test_what_stands_where_a_text_is_padded_costs_nothing():
    torch.manual_seed(0)
    mask = torch.tensor([[1.0, 1, 0, 0], [1, 1, 1, 0]])
    ids = torch.randint(0, 20, (2, 4))
    teacher = import_model(Padded().eval(), (ids, mask))
    student = teacher.with_state({"wide.weight": teacher.state["wide.weight"] * 0.5})
    comparison = Comparison(teacher, student, Configuration(), teacher, hidden=1.0, temperature=1.0, positions=1.0)
    assert comparison.taps
    padded = [(torch.where(mask > 0, ids, filler), mask) for filler in (3, 11)]
    losses = [comparison.training_loss(inputs, torch.Generator()).item() for inputs in padded]
    assert losses[0] == losses[1] > 0
