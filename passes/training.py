"""The training loop: AdamW at a rate that is tried first, under a warm-up and a cosine; the best weights seen count."""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from chipfit.passes.base import Inputs, Progress, silent

WARM_UP = 10  # steps
SLOWER = 1.1  # an average step is than the fastest of the timed ones
TIMED = 4  # steps, after which the number of steps is fixed where a time was asked for
TRIED = 1 / 8  # part of the steps that a rate is tried for
RATES = 1, 1 / 4, 1 / 16, 1 / 64  # parts of the learning rate, tried in turn
GAIN = 0.01  # of the loss, by which it must fall for a rate to be taken
JUDGED = 1 / 2, 3 / 4, 1  # parts of the steps after which the validation loss is taken, once a rate is
BETAS = (0.9, 0.95)
CLIP = 1.0  # norm of the gradient
CHECKPOINT_SECONDS = 120.0
FILE = "checkpoint.safetensors"


@dataclass(frozen=True)
class Settings:
    """`steps` 0: as many as fit into `seconds`. `accumulate` batches make a step."""

    steps: int
    seconds: float
    learning_rate: float
    accumulate: int
    seed: int


@dataclass(frozen=True)
class Course:
    """Where a run is: steps done and planned (0: not known yet), seconds in all, of one judgement, of the fastest step
    and of the steps before planning, how often it was judged, losses.

    Then the index of the rate that is tried, or was taken (past the last: none is low enough), and after how many steps
    it began.
    """

    done: int = 0
    planned: int = 0
    seconds: float = 0.0
    judging: float = 0.0
    fastest: float = math.inf
    warm: float = 0.0
    judged: int = 0
    before: float = math.nan
    best: float = math.inf
    index: int = 0
    is_taken: bool = False
    since: int = 0

    @property
    def finished(self) -> bool:
        """Where nothing is lost there is nothing to recover."""
        return self.best == 0 or self.index == len(RATES) or 0 < self.planned <= self.done

    @property
    def ends(self) -> int:
        """After how many steps the rate will have fallen to zero, 0 if it is not known yet."""
        return self.planned if self.is_taken else self.planned and self.since + math.ceil(TRIED * self.planned)

    @property
    def is_due(self) -> bool:
        """Whether the validation loss is to be taken, never before it is known how many steps there are."""
        return self.planned > 0 and (self.done >= self.ends or (self.is_taken and self.done in self._judged_after))

    @property
    def unjudged(self) -> int:
        """How many judgements are still to come, at most."""
        if not self.is_taken:
            return len(JUDGED) + len(RATES) - self.judged
        return sum(self.done < due for due in self._judged_after)

    @property
    def _judged_after(self) -> list[int]:
        return [math.ceil(part * self.planned) for part in JUDGED]

    @property
    def rate(self) -> float:
        """The part of the learning rate that the next step takes."""
        return RATES[self.index] * rate(self.done - self.since, self.ends and self.ends - self.since)


def rate(done: int, planned: int) -> float:
    """Factor of the learning rate for the step after `done` steps: linear warm-up, then a cosine to zero."""
    warm = (done + 1) / min(WARM_UP, max(1, planned // 4) if planned else WARM_UP)
    return min(1.0, warm, (1 + math.cos(math.pi * done / planned)) / 2 if planned else 1.0)


@dataclass
class Training:
    """One run over `tensors`, all of which `loss` reads and training may change in place.

    First a rate is tried, warmed up and let fall to zero in a part of the steps: the highest that lowers the validation
    loss is taken for the others, and lowered where the loss rises again. The less was lost the lower it must be:
    SmolLM2 had lost 0.063 nats, and 73 steps left 0.063 at the usual rate, 0.061 at a quarter and 0.054 at a sixteenth,
    but of ResNet-20's 0.035 nats 300 steps left 0.010, 0.012 and 0.017. The highest, not what is best after the trial:
    that was the quarter for ResNet-20, too.

    `loss` gives the loss of a batch with gradients, `judge` the validation loss. A run is determined by its settings
    and batches if `steps` is given; with `seconds` by the machine's speed in the first steps, too.
    """

    settings: Settings
    tensors: Mapping[str, Tensor]
    trained: Mapping[str, Tensor]
    batches: Iterator[Inputs]
    loss: Callable[[Inputs, torch.Generator], Tensor]
    judge: Callable[[], float]
    folder: Path | None = None
    progress: Progress = silent
    course: Course = field(default_factory=Course)

    def __post_init__(self) -> None:
        parameters = list(self.trained.values())
        self.optimizer = torch.optim.AdamW(parameters, betas=BETAS, weight_decay=0.0, fused=True)
        self.best = {name: tensor.detach().clone() for name, tensor in self.tensors.items()}
        self._saved = self._started = time.perf_counter()

    def run(self) -> Course:
        """Trains to the end, from the checkpoint if there is one, and leaves the best weights in `tensors`."""
        self._resume()
        self._started = time.perf_counter() - self.course.seconds
        if math.isnan(self.course.before):
            before = self.judge()
            self.course = Course(before=before, best=before, planned=self.settings.steps, judging=self._elapsed)
        while not self.course.finished:
            began = self._elapsed
            self._step()
            fastest = min(self.course.fastest, self._elapsed - began)
            done = replace(self.course, done=self.course.done + 1, seconds=self._elapsed, fastest=fastest)
            self.course = self._planned(done)
            self.progress("distilling", self.course.done / self.course.planned if self.course.planned else 0.0)
            if self.course.is_due:
                self._judge()
            if self.folder and time.perf_counter() - self._saved > CHECKPOINT_SECONDS:
                self._save(self.folder / FILE)
        self._restore()
        if self.folder:
            (self.folder / FILE).unlink(missing_ok=True)
        self.course = replace(self.course, seconds=self._elapsed)
        return self.course

    @property
    def _elapsed(self) -> float:
        return time.perf_counter() - self._started

    def _planned(self, course: Course) -> Course:
        """With a number of steps as soon as their time is known: what the judgements to come leave of the seconds.

        The first step builds kernels for every shape and can take as long as ten, so the fastest one counts until there
        are enough for a mean.
        """
        if self.settings.steps or course.done < TIMED:
            return course
        left = max(0.0, self.settings.seconds - course.seconds - course.unjudged * course.judging)
        if not course.planned:
            return replace(course, warm=course.seconds, planned=course.done + int(left / (course.fastest * SLOWER)))
        if course.done < 2 * TIMED:
            return course
        per_step = (course.seconds - course.warm - course.judged * course.judging) / (course.done - TIMED)
        return replace(course, planned=course.done + int(left / max(per_step, course.fastest)))

    def _step(self) -> None:
        generator = torch.Generator().manual_seed(self.settings.seed + self.course.done)
        for _ in range(self.settings.accumulate):
            torch.autograd.backward([self.loss(next(self.batches), generator) / self.settings.accumulate])
        norm = torch.nn.utils.clip_grad_norm_(self.trained.values(), CLIP)
        for group in self.optimizer.param_groups:
            group["lr"] = self.settings.learning_rate * self.course.rate
        if torch.isfinite(norm):  # one overflow must not spoil every weight
            self.optimizer.step()
        self.optimizer.zero_grad()

    def _judge(self) -> None:
        loss, course = self.judge(), self.course
        is_good = loss <= course.best * (1.0 if course.is_taken else 1 - GAIN)  # NaN is not, and not the best either
        if loss < course.best:
            for name, tensor in self.tensors.items():
                self.best[name].copy_(tensor.detach())
        self.course = replace(course, judged=course.judged + 1, best=min(course.best, loss))
        if not is_good:
            self._lower()
        elif not course.is_taken:
            self.course = replace(self.course, is_taken=True, since=course.done)

    def _lower(self) -> None:
        """Back to the best weights, and on from there at a lower rate: this one is too high for the model."""
        self._restore()
        self.optimizer.state.clear()
        self.course = replace(self.course, index=self.course.index + 1, since=self.course.done)

    def _restore(self) -> None:
        for name, tensor in self.tensors.items():
            tensor.data.copy_(self.best[name])

    def _save(self, path: Path) -> None:
        """Everything that the rest of the run depends on, in one file that is renamed into place."""
        moments = {
            f"moment/{name}/{key}": tensor
            for name, parameter in self.trained.items()
            for key, tensor in self.optimizer.state[parameter].items()
        }
        now = {f"now/{name}": tensor.detach() for name, tensor in self.tensors.items()}
        best = {f"best/{name}": tensor for name, tensor in self.best.items()}
        partial = path.with_suffix(".partial")
        save_file(now | best | moments, partial, {"course": json.dumps(asdict(self.course))})
        os.replace(partial, path)
        self._saved = time.perf_counter()

    def _resume(self) -> None:
        path = self.folder / FILE if self.folder else None
        if path is None or not path.exists():
            return
        with safe_open(path, "pt") as file:
            self.course = Course(**json.loads(file.metadata()["course"]))
            for name, tensor in self.tensors.items():
                tensor.data.copy_(file.get_tensor(f"now/{name}"))
                self.best[name].copy_(file.get_tensor(f"best/{name}"))
            moments = [key.rpartition("/") for key in file.keys() if key.startswith("moment/")]  # noqa: SIM118
            for place, _, key in moments:  # none right after a rate was lowered
                parameter = self.trained[place.removeprefix("moment/")]
                self.optimizer.state[parameter][key] = file.get_tensor(f"{place}/{key}")
        for _ in range(self.course.done * self.settings.accumulate):
            next(self.batches)
