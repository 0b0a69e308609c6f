from __future__ import annotations

import importlib.util
import math
from pydoc_data.topics import topics

import pytest
import torch
from torch import Tensor

from chipfit.examples import reference_text, smollm2
from chipfit.examples.reference_text import SHARED_WORDS, bits_per_character, grams, is_held_out, windows

needs_wheel = pytest.mark.skipif(importlib.util.find_spec(smollm2.WHEEL) is None, reason="SmolLM2 is not installed")


def test_no_training_paragraph_says_what_held_out_text_says() -> None:
    held_out = set[tuple[str, ...]]()
    for topic, text in topics.items():
        if is_held_out(topic):
            for paragraph in text.split("\n\n"):
                held_out |= grams(paragraph)
    training = [grams(paragraph) for paragraph in reference_text.training_text().split("\n\n")]
    assert held_out
    assert not any(gram & held_out for gram in training)


def test_there_is_enough_of_both() -> None:
    whole = sum(map(len, topics.values()))
    assert 0.5 * whole < len(reference_text.training_text()) < whole
    assert 0.05 * whole < len(reference_text.held_out_text()) < 0.3 * whole


def test_grams_are_runs_of_words() -> None:
    assert grams("one two  three\nfour", 3) == {("one", "two", "three"), ("two", "three", "four")}
    assert grams("too short", SHARED_WORDS) == set()


def test_windows_are_consecutive() -> None:
    assert windows(list(range(10)), 4).tolist() == [[0, 1, 2, 3], [4, 5, 6, 7]]


def test_a_model_that_knows_nothing_needs_all_bits_of_a_token() -> None:
    def predict(ids: Tensor) -> Tensor:
        return torch.zeros(*ids.shape, 32)

    tokens = torch.arange(60).view(3, 20) % 32
    found = bits_per_character(predict, tokens, lambda ids: "ab" * len(ids), batch=2)
    assert found == pytest.approx(math.log2(32) / 2)


def test_each_token_is_scored_from_those_before_it() -> None:
    def predict(ids: Tensor) -> Tensor:
        return 100 * torch.nn.functional.one_hot((ids + 1) % 32, 32).float()

    tokens = torch.arange(60).view(3, 20) % 32
    assert bits_per_character(predict, tokens, lambda ids: "a" * len(ids)) == pytest.approx(0)


@needs_wheel
def test_the_network_is_known_from_the_header_alone() -> None:
    network, (ids,) = smollm2.model(weights=False)
    tensors = [*network.parameters(), *network.buffers(), ids]
    assert all(tensor.is_meta for tensor in tensors)
    assert network(ids).shape == (1, smollm2.LENGTH, 49152)
    assert "model.layers.29.mlp.down_proj.weight" in dict(network.named_parameters())
    assert sum(parameter.numel() for parameter in network.parameters()) == 134_515_008
