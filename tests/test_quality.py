"""How many examples are judged at a time, and that a score doesn't depend on it."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from chipfit import quality
from chipfit.frontend.data import Metric
from chipfit.frontend.importer import import_model
from chipfit.quality import BATCH, MOST, score, together


@pytest.mark.parametrize(("width", "size"), [(10, MOST), (2**16, 64), (2**24, BATCH)])
def test_small_models_are_judged_on_more_examples_at_a_time(width: int, size: int) -> None:
    class Spread(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.expand(-1, width) + 1

    assert together(import_model(Spread(), (torch.randn(1, 1),))) == size


def test_a_model_that_mixes_its_examples_is_judged_as_it_was_traced() -> None:
    class Centred(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x - x.mean(0, keepdim=True)

    graph = import_model(Centred(), (torch.randn(6, 4),))
    assert not graph.batch
    assert together(graph) == 1


def test_a_score_is_the_same_however_many_are_judged_together(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    graph, images = import_model(nn.Linear(4, 2).eval(), (torch.randn(1, 4),)), torch.randn(300, 4)
    metric = Metric("mean", unit="", higher_is_better=True, score=lambda predict: float(predict(images).mean()))
    found = []
    for size in (1, 7, 256):
        monkeypatch.setattr(quality, "together", lambda _graph, size=size: size)
        found.append(score(graph, metric)[0])
    assert found == pytest.approx([found[0]] * 3, rel=1e-6)
