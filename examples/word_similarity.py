"""Two tests of sentence embeddings against people's judgement, from the test data inside the wheel `gensim`.

Lee50 (Lee, Pincombe and Welsh 2005): 50 news texts, and how alike each two of them are. WordSim353 (Finkelstein et al.
2002): 353 pairs of words. Scores are correlations with the people's mean judgement, so 1 is perfect.
"""

import importlib.util
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path

import torch
from scipy.stats import spearmanr
from torch import Tensor

from chipfit.errors import UserError

Embed = Callable[[Sequence[str]], Tensor]  # texts -> embeddings [n, d] of length 1


def folder() -> Path:
    """Where the installed wheel keeps its test data; gensim itself is not imported and needs no dependencies."""
    found = importlib.util.find_spec("gensim")
    if found is None or found.origin is None:
        raise UserError("The word similarity tests are not installed: run `pip install --no-deps gensim==4.4.0`.")
    return Path(found.origin).parent / "test" / "test_data"


@cache
def lee50() -> tuple[list[str], Tensor]:
    """The 50 texts, and how alike people found each two of them: [50, 50] in [0, 1]."""
    texts = (folder() / "lee.cor").read_text(encoding="latin-1").splitlines()
    rows = (folder() / "similarities0-1.txt").read_text().splitlines()
    return texts, torch.tensor([[float(figure) for figure in row.split()] for row in rows])


@cache
def wordsim353() -> tuple[list[tuple[str, str]], Tensor]:
    """The 353 pairs of words, and how alike people found them: [353] in [0, 10]."""
    lines = (folder() / "wordsim353.tsv").read_text(encoding="utf-8").splitlines()
    rows = [line.split("\t") for line in lines if not line.startswith("#")]
    return [(first, second) for first, second, _ in rows], torch.tensor([float(row[2]) for row in rows])


def words() -> set[str]:
    """Every word of WordSim353 in lower case, to be left out of training."""
    return {word.lower() for pair in wordsim353()[0] for word in pair}


def lee50_correlation(embed: Embed) -> float:
    """Pearson's correlation over the 1,225 pairs of different texts."""
    texts, judged = lee50()
    embeddings = embed(texts)
    above = torch.ones_like(judged).triu(1).bool()
    return float(torch.corrcoef(torch.stack([(embeddings @ embeddings.T)[above], judged[above]]))[0, 1])


def wordsim353_correlation(embed: Embed) -> float:
    """Spearman's rank correlation over the 353 pairs."""
    pairs, judged = wordsim353()
    first, second = (embed([pair[side] for pair in pairs]) for side in (0, 1))
    return float(spearmanr((first * second).sum(1), judged).statistic)
