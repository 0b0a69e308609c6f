"""DATA: example inputs to calibrate on, recover on and judge by. Labels are never needed."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from chipfit.errors import UserError
from chipfit.frontend.function import function, load_module

Example = tuple[Tensor, ...]  # the model's inputs, batch first
Predict = Callable[..., Any]  # input tensors of any batch -> the model's output tensor (or a tuple of them)

HELD_OUT_EVERY = 10  # of examples that come without a split
SYNTHETIC = 72  # examples made where no DATA is given
ROUNDS = 12


@dataclass(frozen=True)
class Metric:
    """What the user judges quality by: `score(predict)` on data of its own, that training never sees.

    A score in several named parts counts by their mean, and each part is reported beside it.
    """

    name: str
    unit: str
    higher_is_better: bool
    score: Callable[[Predict], float | Mapping[str, float]]


@dataclass(frozen=True)
class Data:
    """Examples to train on, examples to judge agreement with the teacher on, and the user's metric if there is one."""

    train: Sequence[Example]
    heldout: Sequence[Example]
    metric: Metric | None = None
    synthetic: bool = False  # made up from the model: then quality is only agreement on made-up inputs

    @property
    def training(self) -> Sequence[Example]:
        """What repair, search and recovery are fitted to."""
        return self.train if self.metric else self.train[: -self._kept_back] or self.train

    @property
    def validation(self) -> Sequence[Example]:
        """What recovery picks its best weights by; quality is judged on none of it.

        Without a metric the held-out examples judge quality. The weights are then picked by the last of those to train
        on: neighbours are often alike, as the pages of a book, and shall not be on both sides.
        """
        return self.heldout if self.metric else self.train[-self._kept_back :]

    @property
    def _kept_back(self) -> int:
        return max(1, len(self.train) // HELD_OUT_EVERY)


def batches(examples: Sequence[Example], size: int) -> Iterator[Example]:
    """`size` examples at a time, joined along the batch; the rest is left out."""
    for start in range(0, len(examples) - size + 1, size):
        yield tuple(torch.cat(parts) for parts in zip(*examples[start : start + size], strict=True))


def batched(predict: Predict, size: int) -> Callable[..., Tensor]:
    """`predict` of exactly `size` examples as a function of any number of them; the last call is padded."""

    def wrapped(*inputs: Tensor) -> Tensor:
        count = len(inputs[0])
        padded = [torch.cat([part, part[-1:].expand(-count % size, *part.shape[1:])]) for part in inputs]
        outputs = [predict(*chunk) for chunk in zip(*(torch.split(part, size) for part in padded), strict=True)]
        return torch.cat([out[0] if isinstance(out, tuple) else out for out in outputs])[:count]

    return wrapped


def load_data(text: str | None, inputs: Example, teacher: Predict | None = None, seed: int = 0) -> Data:
    """The data that DATA names: `jsonl:FILE`, `npz:FILE` or `FILE.py:loader`; None makes some up.

    `inputs` are the model's example inputs, which say what an example looks like. Made-up text is sampled from
    `teacher`; any other made-up input has the example's statistics. Raises UserError where DATA doesn't fit the model.
    """
    if text is None:
        return _synthetic(inputs, teacher, seed)
    scheme, _, rest = text.partition(":")
    if scheme not in READERS:
        return as_data(_loaded(text), inputs, text)
    rows = READERS[scheme](_existing(rest), inputs)
    return as_data(Data([r for i, r in enumerate(rows) if i % HELD_OUT_EVERY], rows[::HELD_OUT_EVERY]), inputs, text)


def _existing(name: str) -> Path:
    path = Path(name)
    if not path.is_file():
        raise UserError(f"There is no data file {name}: check the path.")
    return path


def _read_jsonl(path: Path, inputs: Example) -> list[Example]:
    """One example a line: an object with one array per model input, in the model's order, without the batch."""
    rows = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        try:
            arrays = list(json.loads(line).values())
            rows.append(tuple(torch.tensor(a, dtype=i.dtype)[None] for a, i in zip(arrays, inputs, strict=True)))
        except (ValueError, TypeError, AttributeError) as error:
            wanted = f"an object with {len(inputs)} array(s), one for each input of the model"
            raise UserError(f"{path}, line {number}: each line must be {wanted} ({error}).") from error
    return rows


def _read_npz(path: Path, inputs: Example) -> list[Example]:
    """One array per model input, in the model's order, batch first."""
    try:
        with np.load(path, allow_pickle=False) as archive:
            arrays = [torch.from_numpy(archive[name]) for name in archive.files]
    except (ValueError, OSError, TypeError) as error:
        raise UserError(f"{path} is not an npz file of plain arrays: write it with numpy.savez ({error}).") from error
    if len(arrays) != len(inputs) or len({len(array) for array in arrays}) != 1:
        raise UserError(f"{path} must hold {len(inputs)} array(s) of equally many examples, one for each model input.")
    columns = [torch.split(array.to(like.dtype), 1) for array, like in zip(arrays, inputs, strict=True)]
    return list(zip(*columns, strict=True))


READERS: Mapping[str, Callable[[Path, Example], list[Example]]] = {"jsonl": _read_jsonl, "npz": _read_npz}


def _loaded(text: str) -> Any:
    file, _, name = text.rpartition(":")
    if not file.endswith(".py"):
        raise UserError(f"Data must be given as jsonl:FILE, npz:FILE or FILE.py:loader, not as {text!r}.")
    return function(load_module(file), name, file)()


def as_data(result: Any, inputs: Example, text: str) -> Data:
    """What a loader returned as Data that fits the model; `text` names the loader in errors."""
    if isinstance(result, Mapping) and {"train", "heldout"} <= set(result):
        result = Data(result["train"], result["heldout"], result.get("metric"))
    if not isinstance(result, Data):
        raise UserError(f"{text} must return a mapping with `train` and `heldout`, sequences of input tuples.")
    _check(result, inputs, text)
    return result


def _check(data: Data, inputs: Example, text: str) -> None:
    """Every example has the model's inputs, up to the batch."""
    for part, examples in (("train", data.train), ("heldout", data.heldout)):
        if not len(examples):
            raise UserError(f"{text} has no examples to use as {part}: give at least two examples.")
        for row in range(len(examples)):
            _check_example(examples[row], inputs, f"{text}: {part} example {row}")


def _check_example(example: Example, inputs: Example, where: str) -> None:
    if len(example) != len(inputs):
        raise UserError(f"{where} has {len(example)} tensor(s), but the model takes {len(inputs)}.")
    for position, (got, want) in enumerate(zip(example, inputs, strict=True)):
        if got.shape[1:] != want.shape[1:] or got.dtype != want.dtype:
            is_, should = (f"{str(t.dtype).removeprefix('torch.')}{list(t.shape[1:])}" for t in (got, want))
            raise UserError(f"{where}, input {position} is {is_} per example, but the model takes {should}.")


def _synthetic(inputs: Example, teacher: Predict | None, seed: int) -> Data:
    generator = torch.Generator().manual_seed(seed)
    outputs = teacher(*inputs) if teacher else None
    if teacher and _reads_text(inputs, outputs):
        rows: list[Example] = [(row[None],) for row in _sampled_text(teacher, inputs[0], generator)]
    else:
        rows = [tuple(map(partial(_like, generator=generator), inputs)) for _ in range(SYNTHETIC)]
    return Data([r for i, r in enumerate(rows) if i % HELD_OUT_EVERY], rows[::HELD_OUT_EVERY], synthetic=True)


def _reads_text(inputs: Example, outputs: Any) -> bool:
    """One input of token ids [batch, length], and logits [batch, length, vocabulary] for each."""
    ids = inputs[0]
    shaped = isinstance(outputs, Tensor) and outputs.dim() == 3 and outputs.shape[:2] == ids.shape
    return len(inputs) == 1 and not ids.is_floating_point() and shaped


def _like(example: Tensor, generator: torch.Generator) -> Tensor:
    """One example: normal with the given one's mean and deviation; whole numbers are drawn from the given ones."""
    shape = (1, *example.shape[1:])
    if not example.is_floating_point():
        picks = torch.randint(example.numel(), shape, generator=generator)
        return example.flatten()[picks]
    deviation = float(example.std()) if example.numel() > 1 else 0.0
    return torch.randn(shape, generator=generator, dtype=example.dtype) * (deviation or 1.0) + example.mean()


@torch.no_grad()
def _sampled_text(teacher: Predict, ids: Tensor, generator: torch.Generator) -> Tensor:
    """Token ids [SYNTHETIC, length] sampled from the model by Jacobi iteration (Song et al. 2021, arXiv 2002.03629).

    Every round redraws all positions at once from the last round's text with the same Gumbel noise; after n rounds the
    first n tokens are an exact sample, later ones nearly so. That costs n forward passes instead of one a token.
    """
    vocabulary = teacher(ids).shape[-1]
    text = torch.randint(vocabulary, (SYNTHETIC, ids.shape[1]), generator=generator)
    for row in range(SYNTHETIC):
        uniform = torch.rand(ids.shape[1] - 1, vocabulary, generator=generator)
        noise = -torch.log(-torch.log(uniform.clamp(1e-20, 1 - 1e-7)))
        for _ in range(ROUNDS):
            text[row, 1:] = (teacher(text[row : row + 1])[0, :-1] + noise).argmax(-1)
    return text
