"""Python's own reference text, on every machine that runs Python: training and held-out windows of tokens.

Whole topics are held out. The topics quote each other, so training text drops every paragraph that shares eight words
in a row with held-out text.
"""

import hashlib
import math
from collections.abc import Callable, Iterable, Sequence
from functools import cache
from pydoc_data.topics import topics

import torch
import torch.nn.functional as F
from torch import Tensor

HELD_OUT_PERCENT = 15
SHARED_WORDS = 8

Predict = Callable[[Tensor], Tensor]
Decode = Callable[[Sequence[int]], str]


def is_held_out(topic: str) -> bool:
    """Decided by the topic's name alone, so that the split is the same on every machine."""
    return int(hashlib.sha256(topic.encode()).hexdigest(), 16) % 100 < HELD_OUT_PERCENT


def grams(text: str, words: int = SHARED_WORDS) -> set[tuple[str, ...]]:
    """Every run of `words` words in `text`."""
    split = text.split()
    return {tuple(split[start : start + words]) for start in range(len(split) - words + 1)}


def _paragraphs(names: Iterable[str]) -> list[str]:
    """The paragraphs of these topics, in the topics' order, each once."""
    return list(dict.fromkeys(text for name in names for text in topics[name].split("\n\n") if text.strip()))


@cache
def held_out_text() -> str:
    return "\n\n".join(_paragraphs(name for name in sorted(topics) if is_held_out(name)))


@cache
def training_text() -> str:
    """The other topics, less what held-out text also says."""
    known = set[tuple[str, ...]]().union(*(grams(text) for text in held_out_text().split("\n\n")))
    others = _paragraphs(name for name in sorted(topics) if not is_held_out(name))
    return "\n\n".join(text for text in others if not grams(text) & known)


def windows(tokens: Sequence[int], length: int) -> Tensor:
    """Consecutive windows [n, length] of a token sequence; a shorter rest is left out."""
    count = len(tokens) // length
    return torch.tensor(tokens[: count * length]).view(count, length)


def bits_per_character(predict: Predict, tokens: Tensor, decode: Decode, batch: int = 8) -> float:
    """Cross-entropy of windows [n, length] under `predict` (ids [b, length] to logits [b, length, vocabulary]).

    Each token but a window's first is scored from those before it; their bits are divided by the characters that they
    spell, which makes the figure comparable between tokenizers.
    """
    nats, characters = 0.0, 0
    for ids in torch.split(tokens, batch):
        logits = predict(ids)[:, :-1].float()
        nats += F.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten(), reduction="sum").item()
        characters += sum(len(decode(row)) for row in ids[:, 1:].tolist())
    return nats / math.log(2) / characters
