"""Padded positions are told from the rest, and no repair is fitted on them."""

import pytest
import torch
import zoo

from chipfit.ir.apply import rebatch
from chipfit.passes.padding import relevant_rows
from chipfit.passes.statistics import Statistics

LENGTHS = (3, zoo.TOKENS, 5)


def padded(other_words: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Texts of several lengths, and other words where they are padded."""
    mask = torch.arange(zoo.TOKENS) < torch.tensor(LENGTHS)[:, None]
    words = torch.randint(1, zoo.VOCABULARY, mask.shape, generator=torch.Generator().manual_seed(5))
    return torch.where(mask, words, other_words), mask.long()


def test_padding_is_irrelevant() -> None:
    inputs = padded()
    found = relevant_rows(rebatch(zoo.imported("bert"), len(LENGTHS)), inputs)
    assert found is not None
    assert found.tolist() == inputs[1].bool().tolist()


@pytest.mark.parametrize("name", ["llama", "resnet"])
def test_all_is_relevant_in_other_models(name: str) -> None:
    graph = zoo.imported(name)
    (value,) = graph.forward.inputs
    shape = value.shape
    inputs = torch.randn(shape) if value.type.dtype.is_floating_point else torch.zeros(shape, dtype=torch.int64)
    assert relevant_rows(graph, (inputs,)) is None


@pytest.mark.usefixtures("single_precision")
def test_statistics_do_not_see_padding() -> None:
    graph = zoo.imported("bert")
    grams = [
        Statistics(graph, [tuple(part[None] for part in row) for row in zip(*padded(word), strict=True)], parts=1)
        for word in (0, 7)
    ]
    names = list(grams[0].layers)
    first, second = (one.grams(names) for one in grams)
    for name in names:
        torch.testing.assert_close(first[name], second[name], rtol=1e-4, atol=1e-4)
