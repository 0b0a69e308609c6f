"""distill: train what is left to answer as the uncompressed teacher does, without labels."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass
from typing import ClassVar

import torch

from chipfit.errors import UserError
from chipfit.ir.graph import Graph
from chipfit.passes.allocator import keeping_freed_memory
from chipfit.passes.base import Context, Inputs, Pass, PassResult, PreconditionError
from chipfit.passes.batching import batch_size, endless_batches, first_batches
from chipfit.passes.matching import Comparison
from chipfit.passes.statistics import at_batch
from chipfit.passes.training import Settings, Training

JUDGED_EXAMPLES = 8  # validation examples, as many as a batch if that is more
SAMPLES = 128  # images or tokens: as many are judged at least, and from so many in a step the usual rate holds
NUMBERS = (torch.int32, torch.int64)  # types of tokens
REPORT = "distill.json"
FEW = 3 / 4  # power of the part of SAMPLES that there is
LOWEST_RATE = 1e-4  # where the formula, made for up to a billion parameters, goes to zero


@dataclass(frozen=True)
class Report:
    """What recovery did: optimiser steps, seconds in them, and the validation loss against the teacher."""

    steps: int
    seconds: float
    loss_before: float
    loss_after: float
    batch: int


@dataclass(frozen=True)
class Distill(Pass):
    """Recover against the teacher: the divergence of logits (relative error of other outputs) plus `hidden` times the
    relative error of the values that both have after each residual block, a pruned width on its kept channels.

    `seconds` 0 takes the time that the compilation gives, `steps` a fixed number instead: then a run can be repeated.
    `learning_rate` 0 follows from the number of parameters and the size of a step, `batch` 0 is as many examples as
    keep a step busy, up to 128. `positions` is the share of a text's positions for which logits are made.
    """

    name: ClassVar[str] = "distill"
    summary: ClassVar[str] = "train the compressed model to answer as the uncompressed one does, without labels"
    seconds: float = 0.0
    steps: int = 0
    learning_rate: float = 0.0
    hidden: float = 1.0
    temperature: float = 1.0
    positions: float = 0.5
    batch: int = 0
    accumulate: int = 1

    def __post_init__(self) -> None:
        if min(self.seconds, self.steps, self.learning_rate, self.hidden, self.batch) < 0:
            raise UserError(
                "distill needs seconds, steps, learning_rate, hidden and batch of at least 0; raise the negative one."
            )
        if min(self.temperature, self.positions, self.accumulate) <= 0 or self.positions > 1:
            raise UserError("distill needs a temperature and accumulate above 0, and positions from 0 to 1.")

    def requires(self, graph: Graph, context: Context) -> None:
        if not context.train or not context.validation:
            raise PreconditionError("it needs training and validation inputs; give data with --data.")
        if not self.steps and not math.isfinite(self.seconds or context.seconds):
            raise PreconditionError("it doesn't know when to stop; give it seconds or steps.")

    def run(self, graph: Graph, context: Context) -> PassResult:
        with keeping_freed_memory():
            recovered, report = recover(graph, context, self)
        if context.workdir:
            (context.workdir / REPORT).write_text(json.dumps(asdict(report)))
        return PassResult(recovered, report.loss_after < report.loss_before)


def usual_rate(parameters: int, samples: int) -> float:
    """AdamW's rate for a model of so many trained parameters and steps of so many samples.

    Half of what Kaplan et al. 2020 (arXiv 2001.08361, equation D.1) found good for training from scratch; of the rates
    tried it was the best for MiniLM and next to it for SmolLM2 and ResNet-20. With few samples in a step it falls, by a
    power between the square root (Malladi et al. 2022, arXiv 2205.10287) and proportion: EfficientNet-lite0 recovers
    best at a tenth to a twentieth of it with four images, and not at all at a fifth where little was lost.
    """
    few = math.pow(min(1.0, samples / SAMPLES), FEW)
    return few * max(LOWEST_RATE, 0.5 * (0.003239 - 0.0001395 * math.log(parameters)))


def samples_per_example(inputs: Inputs) -> int:
    """The tokens of a text, the largest of the inputs that number something; 1 for an image, in bytes too."""
    return max((tensor.shape[1:].numel() for tensor in inputs if tensor.dtype in NUMBERS), default=1)


def recover(graph: Graph, context: Context, options: Distill) -> tuple[Graph, Report]:
    """The graph with the best weights that training found, which may be those it had."""
    size = batch_size(context.teacher, options.batch, context.train, context.validation)
    batch, samples = size or 1, samples_per_example(context.train[0])
    private = graph.with_state({name: tensor.detach().clone() for name, tensor in graph.state.items()})
    comparison = Comparison(
        teacher=at_batch(context.teacher, size),
        student=at_batch(private, size),
        configuration=context.configuration,
        analysed=context.teacher,
        hidden=options.hidden,
        temperature=options.temperature,
        positions=options.positions,
    )
    judged = first_batches(context.validation, batch, max(JUDGED_EXAMPLES, SAMPLES // samples))
    names = [name for name, parameter in private.parameters.items() if parameter.role != "constant"]
    named = dict(comparison.module.named_parameters(remove_duplicate=False))
    trained = {name: named[name] for name in names if name in named and named[name].requires_grad}
    parameters = sum(parameter.numel() for parameter in trained.values())
    rate = options.learning_rate or usual_rate(parameters, samples * batch * options.accumulate)
    course = Training(
        settings=Settings(options.steps, options.seconds or context.seconds, rate, options.accumulate, context.seed),
        tensors={name: comparison.student.state[name] for name in names},
        trained=trained,
        batches=endless_batches(context.train, batch, context.seed),
        loss=comparison.training_loss,
        judge=lambda: comparison.validation_loss(judged),
        folder=context.workdir,
        progress=context.progress,
    ).run()
    found = {name: comparison.student.state[name] for name in names}
    return graph.with_state(found), Report(course.done, course.seconds, course.before, course.best, batch)
